"""Lines out of bytes that arrive in pieces of any size: what server-sent events and NDJSON are made of.

Each byte is looked at a fixed number of times, however the pieces are cut, and a line has a longest length, so neither
a slow nor a hostile server costs more than it sends.
"""

from qwenops.errors import MalformedAnswerError
from qwenops.text import say

MAX_LINE_BYTES = 16 * 1024**2


class LineReader:
    """Cuts bytes into lines. A line ends with LF; where `carriage_return` is set, also with CR or CRLF.

    Args:
        max_line_bytes: A longer line is refused.
        carriage_return: Whether CR ends a line. It does so at once: an LF that follows later is passed over.
    """

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES, carriage_return: bool = False) -> None:
        """Start at the beginning of a line."""
        self._max_line_bytes = max_line_bytes
        self._carriage_return = carriage_return
        self._after_cr = False
        self._begun: list[bytes] = []
        """The pieces of the line that has not ended."""
        self._begun_bytes = 0

    @property
    def is_between(self) -> bool:
        """Whether the next byte begins a line, whatever it is."""
        return not (self._begun or self._after_cr)

    def push(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that are complete by now, without their ends.

        Raises:
            MalformedAnswerError: A line is longer than it may be.
        """
        if not data:
            return []
        if self._carriage_return:
            data = self._with_line_feeds(data)
        lines = data.split(b"\n")
        rest = lines.pop()
        if self._begun_bytes + len(data) > self._max_line_bytes:
            self._check(lines, rest)
        if lines and self._begun:
            self._begun.append(lines[0])
            lines[0] = b"".join(self._begun)
            self._begun.clear()
            self._begun_bytes = 0
        if rest:
            self._begun.append(rest)
            self._begun_bytes += len(rest)
        return lines

    def finish(self) -> bytes:
        """Return the line that has not ended; nothing more will come."""
        rest = b"".join(self._begun)
        self._begun.clear()
        self._begun_bytes = 0
        return rest

    def _with_line_feeds(self, data: bytes) -> bytes:
        """Return the same lines with LF at their ends, whatever they had."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
            if not data:
                return data
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data

    def _check(self, lines: list[bytes], rest: bytes) -> None:
        sizes = [len(line) for line in (*lines, rest)]
        sizes[0] += self._begun_bytes
        if max(sizes) > self._max_line_bytes:
            raise MalformedAnswerError(
                say("The server sent a line of more than {limit} bytes.", limit=self._max_line_bytes)
            )
