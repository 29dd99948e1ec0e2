"""The rows of a CSV file: any delimiter that people use, text over several lines, quotation marks that never close.

A quotation mark without its partner would silently make one call of everything behind it. So the strict form of CSV is
read: what breaks it is a problem of its line, and reading goes on with the next.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from qwenops.calls.lines import Line, Source, lines_of
from qwenops.calls.problems import Problem
from qwenops.calls.readers.columns import HEADER_ROWS, Column, columns_of
from qwenops.calls.readers.entries import Place
from qwenops.text import say

LONGEST_CELL = 16 * 2**20
"""Characters."""

_DELIMITERS = ",\t;|"
_TOLD = re.compile(r"sep=([,;\t|])\s*", re.IGNORECASE)
"""What spreadsheets write into a first line of its own."""
_NEVER_CLOSED = "unexpected end of data"
_TOO_LONG = "field larger than field limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table."""

    place: Place
    cells: tuple[object, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands in it."""
        return not any(cell is not None and str(cell).strip() for cell in self.cells)


class _Lines:
    """Hands lines to the parser and remembers which it took."""

    def __init__(self, source: Source) -> None:
        self._lines = lines_of(source)
        self._waiting: list[Line] = []
        self.first: int | None = None
        """The first line that was taken since `forget`."""
        self.problems: list[Problem] = []
        self.is_broken = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.pop() if self._waiting else next(self._lines)
        self.first = line.number if self.first is None else self.first
        if line.problem is not None:
            self.problems.append(line.problem)
            self.is_broken = self.is_broken or not line.is_readable
        return f"{line.text}\n"

    def peek(self) -> str:
        """Return the next line that is not empty and leave it there; nothing at the end."""
        for line in self._lines:
            if line.text.strip():
                self._waiting.append(line)
                return line.text
        return ""

    def drop(self) -> None:
        """Pass over the line that was looked at."""
        self._waiting.clear()

    def forget(self) -> None:
        """Begin a row."""
        self.first, self.problems, self.is_broken = None, [], False


def rows_of(source: Source, known: Mapping[str, Column]) -> Iterator[Row | Problem]:
    """Yield the rows of a CSV file that are not empty; one that cannot be read is a problem, and the others are read.

    Args:
        source: The file.
        known: What the user says that columns are called; the names of columns tell what is between them.
    """
    lines = _Lines(source)
    told = _TOLD.fullmatch(lines.peek())
    if told is not None:
        lines.drop()
    parser = _parser(lines, told[1] if told else delimiter_of(source.beginning, known))
    while True:
        lines.forget()
        try:
            cells = next(parser)
        except StopIteration:
            return
        except csv.Error as error:
            yield from lines.problems
            place = Place(source=source.name, line=lines.first or 1)
            yield _broken(place, str(error))
            if _TOO_LONG in str(error):
                return
            continue
        yield from lines.problems
        row = Row(place=Place(source=source.name, line=lines.first or 1), cells=tuple(cells))
        if not lines.is_broken and not row.is_empty:
            yield row


def _parser(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    # The limit is one of the whole process; all that read here want the same.
    csv.field_size_limit(LONGEST_CELL)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def delimiter_of(beginning: str, known: Mapping[str, Column]) -> str:
    """Return what separates cells: what leaves the most known names of columns, else what is there most often."""
    lines = beginning.splitlines()[:HEADER_ROWS]

    def weight(delimiter: str) -> tuple[int, int]:
        return _num_named(lines, delimiter, known), max((line.count(delimiter) for line in lines[:1]), default=0)

    return max(_DELIMITERS, key=weight)


def names_columns(beginning: str, known: Mapping[str, Column]) -> bool:
    """Whether one of the first lines is that of a table which names its columns."""
    lines = beginning.splitlines()[:HEADER_ROWS]
    return any(_num_named(lines, each, known) > 1 for each in _DELIMITERS)


def _num_named(lines: Sequence[str], delimiter: str, known: Mapping[str, Column]) -> int:
    """Return how many columns the line names that names the most."""
    rows = ([cell.strip(" \"'") for cell in line.split(delimiter)] for line in lines)
    return max((sum(each is not None for each in columns_of(row, known)) for row in rows), default=0)


def _broken(place: Place, reason: str) -> Problem:
    if _NEVER_CLOSED in reason:
        return place.problem(
            say("A quotation mark opens in this row and never closes, so that the rest of the file was not read.")
        )
    if _TOO_LONG in reason:
        return place.problem(
            say(
                "A quotation mark opens in this row and does not close within {most} characters; what follows was not "
                "read.",
                most=LONGEST_CELL,
            )
        )
    return place.problem(
        say("The row is no CSV: {reason}. A quotation mark within a quoted text is written twice.", reason=reason)
    )
