"""Server-sent events out of bytes that arrive in pieces of any size (WHATWG HTML, section 9.2).

Lines may end with LF, CRLF or CR; comments are passed over; several `data` lines make one event; a character may be
cut between two pieces, because bytes are handed on as bytes. Two things differ from what a browser does: an event
whose closing blank line is missing at the end counts (servers forget it), and `id` and `retry` mean nothing here,
because nobody connects again.
"""

from typing import NamedTuple

from qwenops.engines.lines import MAX_LINE_BYTES, LineReader
from qwenops.errors import MalformedAnswerError
from qwenops.text import say

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event. A tuple, because one is made for every token."""

    name: str
    """Empty unless the server gave one."""
    data: bytes
    """UTF-8, several `data` lines joined by LF."""


class EventReader:
    """Finds the events in one response.

    Args:
        max_event_bytes: An event whose lines are longer than this together is refused.
    """

    def __init__(self, *, max_event_bytes: int = MAX_LINE_BYTES) -> None:
        """Start at the beginning of a response."""
        self._lines = LineReader(max_line_bytes=max_event_bytes, carriage_return=True)
        self._max_event_bytes = max_event_bytes
        self._at_start = True
        self._name = ""
        self._data: list[bytes] = []
        self._num_bytes = 0

    def push(self, data: bytes) -> list[Event]:
        """Take the next bytes; return the events that are complete by now.

        Raises:
            MalformedAnswerError: An event is longer than it may be.
        """
        if self._is_one_event(data):
            self._at_start = False
            return [Event("", data[6:-2])]
        return self._take(self._lines.push(data))

    def _is_one_event(self, data: bytes) -> bool:
        """Whether a piece is one event and nothing else. Nearly all are, and each costs a core that others need."""
        return (
            data.startswith(b"data: ")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and len(data) <= self._max_event_bytes
            and not self._data
            and not self._name
            and self._lines.is_between
        )

    def finish(self) -> list[Event]:
        """Return the event that was not closed, if there is one; nothing more will come.

        Raises:
            MalformedAnswerError: It is longer than it may be.
        """
        return self._take([self._lines.finish(), b""])

    def _take(self, lines: list[bytes]) -> list[Event]:
        if self._at_start and lines:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        found: list[Event] = []
        for line in lines:
            if not line:
                if self._data:
                    found.append(Event(self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)))
                    self._data.clear()
                self._name = ""
                self._num_bytes = 0
            elif line.startswith(b"data:"):
                self._count(line)
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line.startswith(b":"):
                self._count(line)
                self._take_other(line)
        return found

    def _take_other(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(b"")
        elif field == b"event":
            self._name = value.removeprefix(b" ").decode(errors="replace")

    def _count(self, line: bytes) -> None:
        self._num_bytes += len(line)
        if self._num_bytes > self._max_event_bytes:
            raise MalformedAnswerError(
                say("The server sent an event of more than {limit} bytes.", limit=self._max_event_bytes)
            )
