"""Where an answer ends at a stop string: pure text, used by every engine that decodes by itself."""

from collections.abc import Sequence


class StopStrings:
    """Cuts a stream of text at the first stop string and never lets a part of one out.

    Text that may be the beginning of a stop string is held back until it is decided.

    Args:
        stop: The strings to stop at; empty ones are ignored.
        include: Whether the stop string itself belongs to the answer.
    """

    def __init__(self, stop: Sequence[str], *, include: bool = False) -> None:
        """Start with nothing held back."""
        self._stop = tuple(each for each in stop if each)
        self._include = include
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Take the next piece; return what may be shown now. Look at `found` afterwards."""
        if not self._stop or not text or self.found is not None:
            return "" if self.found is not None else text
        held = self._held + text
        hits = [(at, each) for each in self._stop if (at := held.find(each)) >= 0]
        if hits:
            at, self.found = min(hits, key=lambda hit: (hit[0], len(hit[1])))
            self._held = ""
            return held[: at + len(self.found)] if self._include else held[:at]
        keep = self._undecided(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """Return what was held back, when the answer ended for another reason."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Return the length of the longest end of `text` that begins a stop string."""
        for size in range(min(len(text), max(map(len, self._stop)) - 1), 0, -1):
            end = text[-size:]
            if any(each.startswith(end) for each in self._stop):
                return size
        return 0
