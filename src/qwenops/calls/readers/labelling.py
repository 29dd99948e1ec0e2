"""How the categories that stand in people's files become classes of a taxonomy.

Files say `资费争议`, `Billing / Plan fee`, `billing.plan_fee` or a word of their own. A category is found by code or by
name in either language, however it is spaced and cased, or through the user's own list; of a path, its last part
counts. What is found nowhere is a problem with the nearest names, never a guess.
"""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from qwenops.calls.classes import Taxonomy
from qwenops.calls.schema import Label, LabelSource
from qwenops.errors import ConfigError
from qwenops.text import LANGUAGES, Text, say

NO_TAXONOMY = "unnamed@0"
"""The taxonomy of labels that were read without one; their primary is the category as it stands in the file."""

_STEPS = re.compile("[/>|\\\\\uff0f\uff1e\uff5c\u2192]")
"""Between the parts of a path."""
_SEVERAL = re.compile("[;,\u3001\uff0c\uff1b]")
"""Between several categories."""
_SPACE = re.compile(r"[\s_-]+")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_CUE = re.compile("^[^:\uff1a]{1,12}[:\uff1a]\\s*")
"""Before the category in what a model was trained to answer: `类别:`."""
_NEAR = 3
_NEAR_ENOUGH = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a file says about a call, before it is known whether there is such a class."""

    categories: Sequence[str]
    """The main one first."""
    score: float = 1.0
    axes: Mapping[str, str] = field(default_factory=dict)
    annotator: str = ""
    decided_at: datetime | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelling:
    """A taxonomy by the words that files use for its classes; without one every word is taken as it is."""

    ref: str = NO_TAXONOMY
    codes: Mapping[str, str] = field(default_factory=dict)

    def label(self, judgement: Judgement, conversation_id: str) -> Label | Text | None:
        """Return the label that a judgement is, or what keeps it from being one; None where nothing is said."""
        codes: dict[str, None] = {}
        for category in judgement.categories:
            found = self.codes_of(category)
            if not found and category.strip():
                return self.unknown(category)
            codes |= dict.fromkeys(found)
        if not codes:
            return None
        primary, *secondary = codes
        return Label(
            conversation_id=conversation_id,
            taxonomy=self.ref,
            primary=primary,
            secondary=tuple(secondary),
            axes=judgement.axes,
            source=LabelSource.HUMAN,
            annotator=judgement.annotator,
            weight=judgement.score,
            decided_at=judgement.decided_at,
            note=judgement.note,
        )

    def codes_of(self, category: str) -> tuple[str, ...]:
        """Return the codes of a category, the main one first; empty where there is no such category."""
        words = _THOUGHT.sub("", category).strip()
        if not words:
            return ()
        if self.ref == NO_TAXONOMY:
            return (words,)
        for each in (words, _STEPS.split(words)[-1], _CUE.sub("", words)):
            if (code := self.codes.get(_plain(each))) is not None:
                return (code,)
        found = [self.codes.get(_plain(each)) for each in _SEVERAL.split(words) if each.strip()]
        return () if None in found else tuple(dict.fromkeys(each for each in found if each is not None))

    def unknown(self, category: str) -> Text:
        """Say that there is no such category, and which are near."""
        near = difflib.get_close_matches(_plain(category), self.codes, n=_NEAR, cutoff=_NEAR_ENOUGH)
        if not near:
            return say("{category!r} is no class of {taxonomy}.", category=category, taxonomy=self.ref)
        return say(
            "{category!r} is no class of {taxonomy}; near it are: {near}.",
            category=category,
            taxonomy=self.ref,
            near=", ".join(dict.fromkeys(self.codes[each] for each in near)),
        )


def labelling(taxonomy: Taxonomy | None, told: Sequence[str] = ()) -> Labelling:
    """Return how categories become classes of a taxonomy.

    A name that several classes have is none of them; their codes remain.

    Args:
        taxonomy: The taxonomy, or None to take categories as they are.
        told: The user's own words: `费用问题=billing.plan_fee`.

    Raises:
        ConfigError: One of these names no class.
    """
    if taxonomy is None:
        return Labelling()
    named: defaultdict[str, set[str]] = defaultdict(set)
    for code in taxonomy.leaves:
        for language in LANGUAGES:
            named[_plain(taxonomy.name_of(code, language))].add(code)
    codes = {name: next(iter(found)) for name, found in named.items() if len(found) == 1}
    codes |= {_plain(code): code for code in taxonomy.leaves}
    for each in told:
        word, _, code = (part.strip() for part in each.partition("="))
        if code not in taxonomy.leaves or not word:
            raise ConfigError(
                say("{told!r} names no class of {taxonomy}.", told=each, taxonomy=taxonomy.ref),
                hint=say(
                    "Write the word of the file and a code, for example 费用问题={code}.",
                    code=next(iter(taxonomy.leaves), ""),
                ),
            )
        codes[_plain(word)] = code
    return Labelling(ref=taxonomy.ref, codes=codes)


def _plain(words: str) -> str:
    """Return a name as it is compared: without case, width and spacing."""
    return _SPACE.sub("", unicodedata.normalize("NFKC", words).casefold())
