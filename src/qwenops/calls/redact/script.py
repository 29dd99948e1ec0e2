"""A call as one string, in which everything is looked for: turn after turn, in letters and digits of one width.

Each character of the string stands for one character of the call, so places need no table to be found again. What has
been found before, in this run or an earlier one, is one character (`GONE`) that nothing is looked for across.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from qwenops.calls.redact.lexicon import HAN
from qwenops.calls.schema import Role

GONE = "\ue000"
"""Stands for personal data that is no longer there."""
TURN = "\ue001"
"""Stands between two turns."""

_FULL_WIDTH, _HALF_WIDTH, _NUM_WIDE = 0xFF01, 0x21, 94
_PLAIN = {
    **{_FULL_WIDTH + each: _HALF_WIDTH + each for each in range(_NUM_WIDE)},
    0x3000: 0x20,
    0x00A0: 0x20,
}
_WIDE = re.compile("[\uff01-\uff5e\u3000\u00a0]+")
_LARGE = re.compile("[A-Z]+")
_FOREIGN_DIGIT = re.compile(r"[^\D0-9]")
_HAN = re.compile(f"[{HAN}]")
_LATIN_WORD = re.compile(r"[a-z]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The turns of a call, joined by `TURN`."""

    text: str
    low: str
    """The same in small letters, character by character."""
    starts: tuple[int, ...]
    """Where each turn begins."""
    roles: tuple[Role, ...]
    chinese: bool
    """Whether any of it is Chinese."""
    latin: bool
    """Whether there is a word in it of Latin letters."""

    def turn_at(self, place: int) -> int:
        """Return the turn in which a character stands."""
        return bisect_right(self.starts, place) - 1

    def bounds(self, turn: int) -> tuple[int, int]:
        """Return where a turn begins, and where it ends."""
        last = turn + 1 == len(self.starts)
        return self.starts[turn], len(self.text) if last else self.starts[turn + 1] - 1

    def is_english(self, place: int) -> bool:
        """Whether what is said at a place is said in English."""
        start, end = self.bounds(self.turn_at(place))
        if not self.chinese:
            return self.latin
        return _HAN.search(self.low, start, end) is None and _LATIN_WORD.search(self.low, start, end) is not None

    def questions(self, pattern: re.Pattern[str]) -> list[int]:
        """Return the turns that ask something, by a pattern of small letters; customers answer."""
        asked = {self.turn_at(each.start()) for each in pattern.finditer(self.low)}
        return sorted(turn for turn in asked if self.roles[turn] is not Role.CUSTOMER)

    def answers(self, turn: int) -> list[int]:
        """Return the turns that may answer a question: of the next two, those of another voice."""
        role = self.roles[turn]
        return [
            each
            for each in range(turn + 1, min(turn + 3, len(self.starts)))
            if role is Role.UNKNOWN or self.roles[each] is not role
        ]


def script_of(texts: Sequence[str], roles: Sequence[Role]) -> Script:
    """Join the turns of a call."""
    starts, at = [], 0
    for text in texts:
        starts.append(at)
        at += len(text) + 1
    joined = _in_ascii(TURN.join([text.replace(TURN, GONE) for text in texts]))
    low = joined.lower() if joined.isascii() else _LARGE.sub(_small, joined)
    return Script(
        text=joined,
        low=low,
        starts=tuple(starts),
        roles=tuple(roles),
        chinese=_HAN.search(joined) is not None,
        latin=_LATIN_WORD.search(low) is not None,
    )


def _in_ascii(text: str) -> str:
    """Write full-width characters, and the digits of every script, as those of ASCII."""
    if text.isascii():
        return text
    text = _WIDE.sub(_narrow, text)
    return _FOREIGN_DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), text)


def _narrow(found: re.Match[str]) -> str:
    return found[0].translate(_PLAIN)


def _small(found: re.Match[str]) -> str:
    return found[0].lower()
