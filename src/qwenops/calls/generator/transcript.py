"""From what was recognised to the turns of a call: speakers, times, confidence, and where personal data stands.

Neighbouring utterances of one speaker may become one turn, and a pause may end one; the spans of personal data are
counted in the text that comes out in the end.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qwenops.calls.generator.channel import Atom, Conditions, Heard
from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.words import Mark, Surface, Utterance
from qwenops.calls.schema import Role, Turn

_ZH_SECONDS, _EN_SECONDS = 0.21, 0.065
"""How long one character takes to say."""
_SHORTEST_TO_CHOP = 8
_LOWEST_CONFIDENCE, _HIGHEST_CONFIDENCE = 0.3, 0.995


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalSpan:
    """Personal data in a turn: characters `start` to `end` of its text."""

    turn: int
    start: int
    end: int
    kind: str
    surface: Surface
    value: str
    """The whole of it as it really is, made up like everything else: digits and letters without separators."""
    corrected: bool
    """Whether the speaker took it back."""
    intact: bool
    """Whether recognition left it as it was said, but for punctuation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What is left of a call in writing."""

    turns: tuple[Turn, ...]
    spans: tuple[PersonalSpan, ...]
    evidence: tuple[int, ...]
    """Turns in which the customer tells what the call is about."""
    word_error_rate: float
    duration_s: float
    confidence: float


@dataclass(slots=True, kw_only=True)
class _Growing:
    """A turn that is being put together."""

    role: Role
    lang: str
    atoms: list[Atom]
    main: bool
    wait_s: float
    errors: float
    units: float

    def goes_on(self, other: "_Growing") -> bool:
        """Say whether another part could belong to this turn; personal data of two utterances never touches."""
        touches = _edge(reversed(self.atoms)) is not None and _edge(other.atoms) is not None
        return self.role is other.role and self.lang == other.lang and not self.wait_s and not touches

    def join(self, other: "_Growing") -> None:
        """Take another part in."""
        self.atoms += [Atom(" "), *other.atoms] if self.lang == "en" else other.atoms
        self.main = self.main or other.main
        self.wait_s = other.wait_s
        self.errors += other.errors
        self.units += other.units


def _edge(atoms: Iterable[Atom]) -> Mark | None:
    """Return the mark of the first atom that is more than a pause."""
    return next((atom.mark for atom in atoms if atom.text.strip() and not atom.pause), None)


def said_of(utterances: Iterable[Utterance]) -> dict[Mark, str]:
    """Return what was said of each piece of personal data."""
    return {piece.mark: piece.text for each in utterances for piece in each.words if piece.mark is not None}


def write_down(heard: Sequence[Heard], said: Mapping[Mark, str], conditions: Conditions, dice: Dice) -> Transcript:
    """Put a call together.

    Args:
        heard: What was recognised, in order.
        said: What was said of each piece of personal data.
        conditions: How turns are cut and merged.
        dice: Chance.
    """
    turns: list[Turn] = []
    spans: list[PersonalSpan] = []
    evidence: list[int] = []
    clock_s = 0.4 + dice.share()
    for each in _cut(heard, conditions, dice):
        text, found = _text_of(each.atoms)
        if not text:
            continue
        number = len(turns)
        spans += [_span(number, place, text, mark, said[mark]) for place, mark in found if text[place].strip()]
        if each.main:
            evidence.append(number)
        length_s = 0.3 + len(text) * (_EN_SECONDS if each.lang == "en" else _ZH_SECONDS) * (0.8 + 0.4 * dice.share())
        begun_s, ended_s = round(clock_s, 2), round(clock_s + length_s, 2)
        turns.append(Turn(i=number, role=each.role, text=text, t0=begun_s, t1=ended_s, conf=_confidence(each, dice)))
        clock_s += length_s + each.wait_s + 0.1 + 0.9 * dice.share()
    units, errors = sum(each.units for each in heard), sum(each.errors for each in heard)
    return Transcript(
        turns=tuple(turns),
        spans=tuple(spans),
        evidence=tuple(evidence),
        word_error_rate=round(errors / units, 4) if units else 0.0,
        duration_s=round(clock_s, 2),
        confidence=round(sum(turn.conf or 0.0 for turn in turns) / max(1, len(turns)), 4),
    )


def _cut(heard: Iterable[Heard], conditions: Conditions, dice: Dice) -> Iterator[_Growing]:
    """Yield turns: utterances of one speaker merged, long ones cut at pauses."""
    growing: _Growing | None = None
    for each in heard:
        for first, part in _parts(each, conditions, dice):
            if growing is not None and first and growing.goes_on(part) and dice.happens(conditions.merged):
                growing.join(part)
                continue
            if growing is not None:
                yield growing
            growing = part
    if growing is not None:
        yield growing


def _parts(heard: Heard, conditions: Conditions, dice: Dice) -> Iterator[tuple[bool, _Growing]]:
    """Yield an utterance in parts that end at pauses outside of personal data, and which of them is the first."""
    atoms, start = heard.atoms, 0
    ends: list[int] = []
    for place, atom in enumerate(atoms):
        far = place - start >= _SHORTEST_TO_CHOP and len(atoms) - place > _SHORTEST_TO_CHOP
        if atom.pause and atom.mark is None and far and dice.happens(conditions.chopped):
            ends.append(place + 1)
            start = place + 1
    start = 0
    for end in (*ends, len(atoms)):
        share = (end - start) / len(atoms)
        part = _Growing(
            role=heard.role,
            lang=heard.lang,
            atoms=list(atoms[start:end]),
            main=heard.main,
            wait_s=heard.wait_s if end == len(atoms) else 0.0,
            errors=heard.errors * share,
            units=heard.units * share,
        )
        yield start == 0, part
        start = end


def _text_of(atoms: Sequence[Atom]) -> tuple[str, list[tuple[slice, Mark]]]:
    """Return the text of atoms without spaces at its ends, and where marks stand in it."""
    kept = list(atoms)
    while kept and not kept[0].text.strip():
        kept.pop(0)
    while kept and not kept[-1].text.strip():
        kept.pop()
    text = ""
    found: list[tuple[slice, Mark]] = []
    for atom in kept:
        start = len(text)
        text += atom.text
        if atom.mark is None or start == len(text):
            continue
        if found and found[-1][1] is atom.mark and found[-1][0].stop == start:
            start = found.pop()[0].start
        found.append((slice(start, len(text)), atom.mark))
    return text, found


def _span(turn: int, place: slice, text: str, mark: Mark, said: str) -> PersonalSpan:
    whole = text[place]
    start = place.start + len(whole) - len(whole.lstrip())  # a lost digit may leave a space at an end
    return PersonalSpan(
        turn=turn,
        start=start,
        end=start + len(whole.strip()),
        kind=mark.kind,
        surface=mark.surface,
        value=mark.value,
        corrected=mark.corrected,
        intact=_letters(whole) == _letters(said),
    )


def _letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalnum())


def _confidence(turn: _Growing, dice: Dice) -> float:
    """Return how sure the recognition is: the less, the more it got wrong, and not exactly so."""
    wrong = turn.errors / turn.units if turn.units else 0.0
    drawn = 0.97 - 0.7 * wrong + 0.03 * dice.normal()
    return round(min(max(drawn, _LOWEST_CONFIDENCE), _HIGHEST_CONFIDENCE), 3)
