"""Tell what a model thinks from what it says, while the text arrives in pieces.

Qwen3 thinks between `<think>` and `</think>` at the start of its answer. A tag may be cut anywhere between two pieces;
what could still become a tag is held back until it is clear.
"""

from dataclasses import dataclass
from enum import Enum

OPEN = "<think>"
CLOSE = "</think>"


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Speech:
    """A piece of the answer itself."""

    text: str


class _Place(Enum):
    BEFORE = "before"
    INSIDE = "inside"
    GAP = "gap"
    """Between the closing tag and the first character of the answer."""
    AFTER = "after"


class ReasoningSplitter:
    """Splits one answer.

    Args:
        inside: Whether the prompt already opened the tag, so that the answer starts with reasoning.
    """

    def __init__(self, *, inside: bool = False) -> None:
        """Start at the beginning of an answer."""
        self._place = _Place.INSIDE if inside else _Place.BEFORE
        self._held = ""
        self._begun = False

    @property
    def is_thinking(self) -> bool:
        """Whether the answer itself has not begun."""
        return self._place is not _Place.AFTER

    def push(self, text: str) -> list[Thought | Speech]:
        """Take the next piece of the answer; return what is clear by now."""
        if self._place is _Place.AFTER:
            return [Speech(text)] if text else []
        self._held += text
        found: list[Thought | Speech] = []
        if self._place is _Place.BEFORE:
            self._look_for_start()
        if self._place is _Place.INSIDE:
            self._take_thought(found)
        if self._place is _Place.GAP:
            self._held = self._held.lstrip()
            if self._held:
                self._place = _Place.AFTER
        if self._place is _Place.AFTER and self._held:
            found.append(Speech(self._held))
            self._held = ""
        return found

    def finish(self) -> list[Thought | Speech]:
        """Return what was held back: the answer is over."""
        held, self._held = self._held, ""
        if self._place is _Place.INSIDE:
            thought = held.rstrip()
            return [Thought(thought)] if thought else []
        return [Speech(held)] if held else []

    def _look_for_start(self) -> None:
        seen = self._held.lstrip()
        if seen.startswith(OPEN):
            self._place = _Place.INSIDE
            self._held = seen[len(OPEN) :]
        elif not OPEN.startswith(seen):
            self._place = _Place.AFTER

    def _take_thought(self, found: list[Thought | Speech]) -> None:
        if not self._begun:
            self._held = self._held.lstrip()
            self._begun = bool(self._held)
        thought, closed, rest = self._held.partition(CLOSE)
        if closed:
            self._place = _Place.GAP
            self._held = rest
            thought = thought.rstrip()
        else:
            keep = len(thought) - held_tag(thought, CLOSE)
            clear = thought[:keep].rstrip()
            self._held = thought[len(clear) :]
            thought = clear
        if thought:
            found.append(Thought(thought))


def held_tag(text: str, tag: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `tag`."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
