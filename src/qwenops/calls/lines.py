"""Lines of text files as people really have them, read as a stream.

Call centres send UTF-8 with and without a byte order mark, GB18030 (also as GBK and GB2312), UTF-16 from a
spreadsheet, files glued together from several of these, with CRLF, with lone CR, without a last newline, cut off by a
full disk. What a file is written in is found out once and said; a line that differs is read as what it is, with a
warning; a line that is neither carries a problem and never passes for text.

Memory stays flat: a line has a longest length, and what is longer is named and skipped.
"""

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

from qwenops.calls.problems import Problem, Severity
from qwenops.errors import InvalidDataError
from qwenops.options import show_bytes
from qwenops.text import Report, Text, say

STDIN = "-"
"""The path that stands for standard input."""
LONGEST_LINE_BYTES = 64 * 2**20
HEAD_BYTES = 2**18
"""How much is looked at to find out what a file is."""

_BLOCK_BYTES = 2**20
_THREE_BYTES = "\u0800"
"""From here on UTF-8 takes three bytes; what is below can be valid UTF-8 and valid GB18030 by chance."""
_USUAL = 0.8
"""Share of GB2312 among the characters of true Chinese; UTF-8 that was taken for GB18030 has about half."""
_ESCAPED = re.compile("[\udc80-\udcff]")


class Encoding(StrEnum):
    """What text files are written in."""

    UTF_8 = "UTF-8"
    GB18030 = "GB18030"
    UTF_16_LE = "UTF-16-LE"
    UTF_16_BE = "UTF-16-BE"


_MARKS = {
    codecs.BOM_UTF8: Encoding.UTF_8,
    codecs.BOM_UTF16_LE: Encoding.UTF_16_LE,
    codecs.BOM_UTF16_BE: Encoding.UTF_16_BE,
}
_UTF_16 = frozenset({Encoding.UTF_16_LE, Encoding.UTF_16_BE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line without its end."""

    number: int
    """From 1."""
    text: str
    offset: int
    """Where it begins, in bytes; of UTF-16, in bytes of the same text as UTF-8."""
    problem: Problem | None = None
    """An error: the text is not to be used. A warning: it is, and somebody should know."""

    @property
    def is_readable(self) -> bool:
        """Whether the text is what the file says."""
        return self.problem is None or self.problem.severity is Severity.WARNING


@dataclass(slots=True, kw_only=True, eq=False)
class Source:
    """An open file: its blocks of bytes, the beginning that was looked at, and what it is written in."""

    name: str
    head: bytes
    blocks: Iterator[bytes]
    """All of it, the head first."""
    encoding: Encoding | None = None
    """None as long as everything was ASCII."""
    report: Report | None = None

    @property
    def beginning(self) -> str:
        """The head as text, as far as it can be read."""
        codec = (self.encoding or Encoding.UTF_8).value
        return self.head.decode(codec, "replace").removeprefix("\ufeff")

    def found(self, encoding: Encoding) -> None:
        """Keep what the file turned out to be written in, and say it."""
        self.encoding = encoding
        if self.report is not None:
            self.report(0.0, say("{name} is written in {encoding}.", name=self.name, encoding=encoding.value))


def read_lines(path: Path, *, report: Report | None = None, stdin: io.BufferedIOBase | None = None) -> Iterator[Line]:
    """Yield the lines of a text file, or of standard input where `path` is `-`.

    Args:
        path: The file.
        report: Is told what the file is written in and how far reading is.
        stdin: What `-` stands for; the process's own where not given.

    Raises:
        InvalidDataError: The file cannot be opened or read, or is no text.
    """
    with opened(path, report=report, stdin=stdin) as source:
        yield from lines_of(source)


@contextlib.contextmanager
def opened(path: Path, *, report: Report | None = None, stdin: io.BufferedIOBase | None = None) -> Iterator[Source]:
    """Open a file, or standard input, and find out what it is written in.

    Raises:
        InvalidDataError: It cannot be opened or read, or is compressed.
    """
    name = str(path)
    with contextlib.ExitStack() as stack:
        size = 0
        if name == STDIN:
            raw = stdin or cast("io.BufferedIOBase", sys.stdin.buffer)
        else:
            try:
                raw = stack.enter_context(path.open("rb"))
                size = os.fstat(raw.fileno()).st_size
            except OSError as error:
                raise _unreadable(name, error) from error
        head = _head(raw, name)
        source = Source(name=name, head=head, blocks=_blocks(raw, head, name, size, report), report=report)
        encoding = encoding_of(head)
        if encoding is not None:
            source.found(encoding)
        yield source


def lines_of(source: Source) -> Iterator[Line]:
    """Yield the lines of an open file."""
    end = b"\r" if b"\r" in source.head[:-1] and b"\n" not in source.head else b"\n"
    for number, (offset, raw, length) in enumerate(_split(_as_bytes(source), end), start=1):
        yield _line(source, number, offset, raw, length)


def text_of(source: Source) -> Iterator[str]:
    """Yield the text of an open file in blocks; bytes that cannot be read are escaped, and `mended` knows them."""
    encoding = source.encoding or Encoding.UTF_8
    lost = "replace" if encoding in _UTF_16 else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding.value)(lost)
    is_first = True
    for block in source.blocks:
        text = decoder.decode(block)
        yield text.removeprefix("\ufeff") if is_first else text
        is_first = is_first and not text
    yield decoder.decode(b"", final=True)


def mended(source: Source, text: str) -> tuple[str, Encoding | None]:
    """Return part of what `text_of` yields as it was meant, and what that part is written in (None: it is unknown)."""
    encoding = source.encoding or Encoding.UTF_8
    if encoding in _UTF_16 or not _ESCAPED.search(text):
        return text, encoding
    return decoded(text.encode(encoding.value, "surrogateescape"), source.encoding)


def decoded(raw: bytes, known: Encoding | None) -> tuple[str, Encoding | None]:
    """Return a line as text and what it is written in; None: it is neither UTF-8 nor GB18030.

    Args:
        raw: The line's bytes.
        known: What the file is written in. A line of both by chance is what its file is.
    """
    utf8 = _strict(raw, "utf-8")
    if utf8 is not None and (known is not Encoding.GB18030 or _is_surely_utf8(utf8)):
        return utf8, Encoding.UTF_8
    chinese = _strict(raw, "gb18030")
    if chinese is not None and (known is Encoding.GB18030 or _is_usual(chinese)):
        return chinese, Encoding.GB18030
    return raw.decode("utf-8", "replace"), None


def encoding_of(head: bytes) -> Encoding | None:
    """Return what the beginning of a file is written in; None where it is ASCII, or cannot be told yet."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    lines = [line for line in head.split(b"\n") if not line.isascii()]
    num_utf8 = num_gb = 0
    for line in lines:
        utf8 = _strict(line, "utf-8", is_whole=False)
        if utf8 is not None:
            num_utf8 += _is_surely_utf8(utf8)
        else:
            chinese = _strict(line, "gb18030", is_whole=False)
            num_gb += chinese is not None and _is_usual(chinese)
    if not num_utf8 and not num_gb:
        return None
    return Encoding.GB18030 if num_gb > num_utf8 else Encoding.UTF_8


def _line(source: Source, number: int, offset: int, raw: bytes, length: int) -> Line:
    if length > LONGEST_LINE_BYTES:
        what = say(
            "The line has {size} and was skipped; the longest that is read has {most}.",
            size=show_bytes(length),
            most=show_bytes(LONGEST_LINE_BYTES),
        )
        return Line(number=number, text="", offset=offset, problem=_problem(source, number, what))
    raw = raw.rstrip(b"\r")
    text, problem = (raw.decode("ascii"), None) if raw.isascii() else _read(source, number, raw)
    text = text.removeprefix("\ufeff")
    if problem is None and "\0" in text:
        problem = _problem(source, number, say("The line holds NUL bytes: the file is damaged, or is no text."))
    return Line(number=number, text=text, offset=offset, problem=problem)


def _read(source: Source, number: int, raw: bytes) -> tuple[str, Problem | None]:
    """Return a line that is not ASCII, and what is wrong with it."""
    if source.encoding in _UTF_16:
        text = raw.decode("utf-8")
        lost = say("The line holds characters that are no UTF-16.") if "\ufffd" in text else None
        return text, None if lost is None else _problem(source, number, lost)
    text, encoding = decoded(raw, source.encoding)
    if encoding is None:
        return text, _problem(source, number, say("The line is neither UTF-8 nor GB18030."))
    if source.encoding is None and (encoding is not Encoding.UTF_8 or _is_surely_utf8(text)):
        source.found(encoding)
    if encoding is (source.encoding or encoding):
        return text, None
    what = say(
        "The line is written in {encoding}, the file in {usual}; it was read as what it is.",
        encoding=encoding.value,
        usual=source.encoding.value if source.encoding else "",
    )
    return text, _problem(source, number, what, Severity.WARNING)


def _problem(source: Source, number: int, what: Text, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(what=what, source=source.name, line=number, severity=severity)


def _strict(raw: bytes, codec: str, *, is_whole: bool = True) -> str | None:
    """Return bytes as text, or None where they are none; what is not whole may end within a character."""
    try:
        return codecs.getincrementaldecoder(codec)().decode(raw, final=is_whole)
    except UnicodeDecodeError:
        return None


def _is_surely_utf8(text: str) -> bool:
    return max(text, default="") >= _THREE_BYTES


def _is_usual(text: str) -> bool:
    """Whether the characters beyond ASCII are those that Chinese is mostly written with."""
    foreign = "".join(each for each in text if not each.isascii())
    return len(foreign.encode("gb2312", "ignore")) // 2 >= _USUAL * len(foreign)


def _as_bytes(source: Source) -> Iterator[bytes]:
    """Yield the blocks of a file, those of UTF-16 as UTF-8."""
    if source.encoding not in _UTF_16:
        yield from source.blocks
        return
    for text in text_of(source):
        yield text.encode("utf-8")


def _split(blocks: Iterator[bytes], end: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield where each line begins, its bytes (of a line that is too long the first), and how many there are."""
    begun: list[bytes] = []
    offset = length = 0
    for block in blocks:
        first, *rest = block.split(end)
        if length <= LONGEST_LINE_BYTES:
            begun.append(first)
        length += len(first)
        if not rest:
            continue
        yield offset, b"".join(begun), length
        offset += length + len(end)
        for piece in rest[:-1]:
            yield offset, piece, len(piece)
            offset += len(piece) + len(end)
        begun, length = [rest[-1]], len(rest[-1])
    if length:
        yield offset, b"".join(begun), length


def _head(raw: io.BufferedIOBase, name: str) -> bytes:
    """Return the beginning of a file; of a pipe no more than its first lines, because the next may take long."""
    head = b""
    try:
        while len(head) < HEAD_BYTES and (block := raw.read1(HEAD_BYTES - len(head))):
            head += block
            if name == STDIN and b"\n" in block:
                break
    except OSError as error:
        raise _unreadable(name, error) from error
    if head.startswith(b"\x1f\x8b"):
        raise InvalidDataError(
            say("{name} is compressed.", name=name), hint=say("Unpack it, or pass it on: gzip -dc FILE | qwenops … -")
        )
    return head


def _blocks(raw: io.BufferedIOBase, head: bytes, name: str, size: int, report: Report | None) -> Iterator[bytes]:
    done = len(head)
    yield head
    try:
        while block := raw.read1(_BLOCK_BYTES):
            done += len(block)
            if report is not None and size:
                report(min(1.0, done / size), say("Reading {name}.", name=name))
            yield block
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> InvalidDataError:
    return InvalidDataError(
        say("{name} cannot be read: {reason}.", name=name, reason=error.strerror or str(error)),
        hint=say("Give a file that exists and that you may read, or - for standard input."),
    )
