"""A line of a pack: text with choices in square brackets and slots in braces, as authors write it.

    [我|咱]这个月多扣了{amount}

A choice may be empty and may hold slots; nothing else nests.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.words import Piece, Words, joined
from qwenops.text import Text, say

_MARKUP = re.compile(r"\[(?P<choice>[^\[\]]*)\]")
_SLOT = re.compile(r"\{(?P<slot>[a-z_]+)\}")
_LEFT_OVER = re.compile(r"[\[\]{}|]")

Fill = Callable[[str], Piece | Words]
"""Returns what stands in a slot."""


class LineError(Exception):
    """A line that cannot be read; whoever reads a pack makes a problem of it."""

    def __init__(self, reason: Text) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Slot:
    """A place that the generator fills."""

    name: str


Alternative = tuple[str | Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line, taken apart."""

    source: str
    """Author, language and place: `pine/zh/leaves.network.speed.said.3`."""
    text: str
    """As the author wrote it."""
    parts: tuple[tuple[Alternative, ...], ...]
    """What follows one another; of each part one alternative is said."""

    @property
    def slots(self) -> frozenset[str]:
        """Return the names of its slots."""
        return frozenset(
            piece.name
            for part in self.parts
            for alternative in part
            for piece in alternative
            if isinstance(piece, Slot)
        )

    def has(self, texts: tuple[str, ...]) -> bool:
        """Say whether one of these stands in it, in whatever case."""
        lowered = self.text.lower()
        return any(text in lowered for text in texts)


def parse_line(text: str, source: str) -> Line:
    """Take a line apart.

    Raises:
        LineError: Brackets or braces do not fit together, or the line is empty.
    """
    parts: list[tuple[Alternative, ...]] = []
    position = 0
    for found in _MARKUP.finditer(text):
        parts.append((_alternative(text[position : found.start()], text),))
        parts.append(tuple(_alternative(each, text) for each in found["choice"].split("|")))
        position = found.end()
    parts.append((_alternative(text[position:], text),))
    kept = tuple(part for part in parts if part != ((),))
    if not kept:
        raise LineError(say("The line is empty."))
    return Line(source=source, text=text, parts=kept)


def expand(line: Line, dice: Dice, fill: Fill) -> Words:
    """Return what is said: each choice made, each slot filled."""
    pieces: list[Piece] = []
    for part in line.parts:
        for each in dice.one_of(part):
            if isinstance(each, str):
                pieces.append(Piece(each))
                continue
            filled = fill(each.name)
            pieces.extend([filled] if isinstance(filled, Piece) else filled)
    return joined(pieces)


def _alternative(text: str, line: str) -> Alternative:
    pieces: list[str | Slot] = []
    position = 0
    for found in _SLOT.finditer(text):
        pieces.extend((text[position : found.start()], Slot(found["slot"])))
        position = found.end()
    pieces.append(text[position:])
    if any(isinstance(each, str) and _LEFT_OVER.search(each) for each in pieces):
        raise LineError(say("Brackets or braces do not fit together in {line!r}.", line=line))
    return tuple(each for each in pieces if each)
