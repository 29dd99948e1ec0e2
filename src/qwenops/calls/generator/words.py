"""What is said before anybody writes it down: pieces of text, some of which are personal data, in utterances.

A piece that is personal data carries a mark. Marks are things, not values: two pieces with the same number in them are
two marks, and whatever the speech recognition does to the text of a piece, its mark goes along.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from qwenops.calls.schema import Role


class Surface(StrEnum):
    """How personal data stands in a text."""

    DIGITS = "digits"
    """Written with digits, in one piece."""
    SPOKEN = "spoken"
    """Digits as words: 幺三八, one three eight."""
    SPLIT = "split"
    """In parts: over several turns, or broken off and corrected."""
    WORDS = "words"
    """Names, addresses and the like, which are words anyway."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mark:
    """That a piece of text is personal data."""

    kind: str
    """PHONE, ID_CARD and so on."""
    value: str
    """The whole of it, however much of it stands in the piece: digits and letters without anything between."""
    surface: Surface
    corrected: bool = False
    """Whether the speaker took it back."""


class Piece(NamedTuple):
    """Some text, all of it marked alike."""

    text: str
    mark: Mark | None = None


Words = tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What one speaker says in one go."""

    role: Role
    words: Words
    lang: str
    act: str
    """Which act of the plan it belongs to."""
    main: bool = False
    """Whether it tells what the call is about."""
    wait_s: float = 0.0
    """For how long nobody speaks afterwards."""

    @property
    def text(self) -> str:
        """All of it without marks."""
        return plain(self.words)


def plain(words: Iterable[Piece]) -> str:
    """Return the text of pieces."""
    return "".join(piece.text for piece in words)


def joined(pieces: Iterable[Piece]) -> Words:
    """Return pieces without empty ones, those that are next to each other and unmarked as one."""
    kept: list[Piece] = []
    for piece in pieces:
        if not piece.text:
            continue
        if kept and kept[-1].mark is None and piece.mark is None:
            kept[-1] = Piece(kept[-1].text + piece.text)
        else:
            kept.append(piece)
    return tuple(kept)
