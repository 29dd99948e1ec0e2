"""What the generator reads besides packs: what speech recognition mistakes, lists of names, facts about leaves.

Everything lies in `data/`: `asr/` (confusions and names), `leaves.yaml` (how frequent a leaf is, its usual words, what
it is mistaken for), `terms.yaml` (what the trade calls things) and `phrases.yaml` (sentences that belong to no author,
so they say nothing about the class).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenops.calls.generator.line import Line, parse_line
from qwenops.calls.generator.pack import read_yaml

DATA = Path(__file__).parent / "data"
LANGS = ("zh", "en")
NO_COMPLAINT, NOWHERE = "none", "other"
"""Under these names stand the words of calls that are no complaint, or belong nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusions:
    """What speech recognition mistakes for what, in one language."""

    words: Mapping[str, tuple[str, ...]]
    """Words of several characters (zh) or of one or two words (en)."""
    starts: Mapping[str, tuple[str, ...]]
    """Those words by their first character, the longest first."""
    chars: Mapping[str, tuple[str, ...]]
    fillers: tuple[str, ...]
    droppable: frozenset[str]

    def word_at(self, text: str, place: int) -> str:
        """Return the longest word of ours that stands at a place of a text; empty if there is none."""
        for word in self.starts.get(text[place], ()):
            if text.startswith(word, place) and not _cuts_latin(text, place, place + len(word)):
                return word
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafFacts:
    """What is known about a leaf apart from words that are said."""

    usual: tuple[str, ...]
    """The words by which anybody would know it, in lower case, Chinese and English ones."""
    mistaken: Mapping[str, float]
    """Leaves that annotators choose instead, with weights."""
    doubt: float
    """How much harder than the average leaf it is to annotate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """All of it."""

    confusions: Mapping[str, Confusions]
    names: Mapping[str, Mapping[str, Sequence[str]]]
    area_codes: Mapping[str, str]
    """Of China, by city."""
    leaves: Mapping[str, LeafFacts]
    """Complaints, the most frequent first."""
    terms: Mapping[str, Mapping[str, tuple[str, ...]]]
    """What the trade calls things, by language and leaf; `NO_COMPLAINT` and `NOWHERE` have theirs too."""
    phrases: Mapping[str, Mapping[str, tuple[Line, ...]]]
    """By language and purpose."""
    hashes: Mapping[str, str]
    """Of the files, by name."""


def load_lexicon(folder: Path = DATA) -> Lexicon:
    """Read what lies in `data/` apart from packs."""
    files = ("leaves.yaml", "terms.yaml", "phrases.yaml", "asr/zh.yaml", "asr/en.yaml", "asr/names.yaml")
    read = {name: read_yaml(folder / name) for name in files}
    data = {name: content for name, (content, _hash) in read.items()}
    names = data["asr/names.yaml"]
    return Lexicon(
        confusions={lang: _confusions(data[f"asr/{lang}.yaml"]) for lang in LANGS},
        names={
            lang: {name: several for name, several in names[lang].items() if name != "area_codes"} for lang in LANGS
        },
        area_codes=names["zh"]["area_codes"],
        leaves={code: _leaf(facts) for code, facts in data["leaves.yaml"]["leaves"].items()},
        terms={lang: _terms(data["terms.yaml"], lang) for lang in LANGS},
        phrases={
            lang: {
                name: tuple(parse_line(text, f"phrases/{lang}/{name}.{place}") for place, text in enumerate(several))
                for name, several in data["phrases.yaml"][lang].items()
            }
            for lang in LANGS
        },
        hashes={name: sha256 for name, (_content, sha256) in read.items()},
    )


def _confusions(data: Mapping[str, Any]) -> Confusions:
    words = {str(word): tuple(heard) for word, heard in {**data["words"], **data["latin"]}.items()}
    starts: dict[str, list[str]] = {}
    for word in sorted(words, key=len, reverse=True):
        starts.setdefault(word[0], []).append(word)
    return Confusions(
        words=words,
        starts={first: tuple(several) for first, several in starts.items()},
        chars={str(char): tuple(heard) for char, heard in data["chars"].items()},
        fillers=tuple(data["fillers"]),
        droppable=frozenset(data["droppable"]),
    )


def _terms(data: Mapping[str, Any], lang: str) -> dict[str, tuple[str, ...]]:
    several = {**data["leaves"], NO_COMPLAINT: data[NO_COMPLAINT], NOWHERE: data[NOWHERE]}
    return {name: tuple(by_lang[lang]) for name, by_lang in several.items()}


def _leaf(data: Mapping[str, Any]) -> LeafFacts:
    return LeafFacts(
        usual=tuple(each.lower() for each in (*data["zh"], *data["en"])),
        mistaken={code: float(weight) for code, weight in data["mistaken"].items()},
        doubt=float(data["doubt"]),
    )


def _cuts_latin(text: str, start: int, end: int) -> bool:
    """Say whether a part of a text begins or ends within a word of Latin letters."""
    before = start > 0 and _is_latin(text[start - 1]) and _is_latin(text[start])
    after = end < len(text) and _is_latin(text[end]) and _is_latin(text[end - 1])
    return before or after


def _is_latin(char: str) -> bool:
    return char.isascii() and char.isalpha()
