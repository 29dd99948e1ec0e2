"""Words that say which number comes: 身份证号, `card number`, 尾号."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from qwenops.calls.redact.lexicon import alternatives, table, words
from qwenops.calls.redact.script import GONE, TURN, Script
from qwenops.calls.redact.spans import Kind

FARTHEST = 90
"""Characters between a cue and its number."""
NEAR = 50
_ADJACENT = 8
_ASKED = 60
_AFTER = 12
_MOST_TURNS = 4
_BETTER = 30
"""A cue that names a kind goes before a nearer one that names none, so many characters farther at most."""
_LONG_WORD = 3
"""Characters of a cue that is known though one of them was misheard."""
_KINDS = (Kind.PHONE, Kind.LANDLINE, Kind.ID_CARD, Kind.BANK_CARD, Kind.ACCOUNT, Kind.ORDER, Kind.PASSPORT, Kind.PLATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A word that says which number comes."""

    kind: Kind
    start: int
    end: int
    weak: bool = False
    """It says that a number comes, and not of what kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a number from the words around it."""

    kind: Kind | None
    near: bool
    direct: bool
    """The cue stands beside the number, or is the question that it answers."""
    english: bool


def cues_of(script: Script) -> list[Cue]:
    """Return the cues of a call in their order."""
    found = []
    kinds = _kinds()
    for each in _pattern(chinese=script.chinese).finditer(script.low):
        kind = kinds.get(each[0])
        found.append(Cue(kind=kind or Kind.PHONE, start=each.start(), end=each.end(), weak=kind is None))
    return found


def about(script: Script, cues: Sequence[Cue], start: int, end: int) -> About:
    """Return what the cues say of the number that stands from `start` to `end`."""
    cue = _before(script, cues, start) or _after(script, cues, end)
    english = script.is_english(start)
    if cue is None:
        return About(kind=None, near=False, direct=False, english=english)
    if cue.start >= end:
        return About(kind=cue.kind, near=True, direct=False, english=english)
    distance = start - cue.end
    same = TURN not in script.low[cue.end : start]
    direct = not cue.weak and distance <= (_ADJACENT if same else _ASKED)
    return About(kind=cue.kind, near=distance <= NEAR, direct=direct, english=english)


def _before(script: Script, cues: Sequence[Cue], start: int) -> Cue | None:
    at = bisect_right(cues, start, key=lambda cue: cue.end) - 1
    if at < 0:
        return None
    nearest = cues[at]
    if start - nearest.end > FARTHEST or script.low.count(TURN, nearest.end, start) > _MOST_TURNS:
        return None
    if nearest.weak:
        for each in reversed(cues[max(0, at - 4) : at]):
            gap = script.low[each.end : nearest.start]
            if not each.weak and len(gap) <= _BETTER and GONE not in gap:
                return each
    return nearest


def _after(script: Script, cues: Sequence[Cue], end: int) -> Cue | None:
    at = bisect_right(cues, end - 1, key=lambda cue: cue.start)
    if at == len(cues) or cues[at].start - end > _AFTER or TURN in script.low[end : cues[at].start]:
        return None
    return cues[at]


@cache
def _kinds() -> dict[str, Kind]:
    return {said: kind for kind in _KINDS for word in words("cues", kind.value) for said in (word, *_misheard(word))}


def _misheard(word: str) -> Iterator[str]:
    """Yield what a long word may have been heard as: one character of it is another of the same sound."""
    if len(word) >= _LONG_WORD:
        sounds = table("speech", "homophones")
        for place, character in enumerate(word):
            for other in sounds.get(character, ""):
                yield word[:place] + other + word[place + 1 :]


@cache
def _pattern(*, chinese: bool) -> re.Pattern[str]:
    every = [*_kinds(), *words("cues", "weak")]
    english = alternatives([word for word in every if word[0].isascii()], begins=True)
    if not chinese:
        return re.compile(english)
    return re.compile(rf"{alternatives(word for word in every if not word[0].isascii())}|{english}")
