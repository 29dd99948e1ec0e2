"""The rows of a workbook (.xlsx), as a stream, with what people do in spreadsheets undone.

Cells that are merged downwards have their value in each row. Formulas count as what they showed last. A sheet whose
size is written down wrongly is read to its end. Dates come as dates.
"""

import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenops.calls.problems import Problem
from qwenops.calls.readers.entries import Place
from qwenops.calls.readers.rows import Row
from qwenops.errors import InvalidDataError
from qwenops.options import show_bytes
from qwenops.text import Report, say

MOST_SHARED_BYTES = 2**30
"""The texts of a workbook are held in memory while it is read."""

_BLOCK_BYTES = 2**20
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*?\bref="\$?([A-Z]{1,3})\$?(\d+):\$?([A-Z]{1,3})\$?(\d+)"')
_OVERLAP = 256
"""No element that names merged cells is longer."""
_LONGEST_MERGE = 100_000
"""Rows; a column that is merged as a whole is decoration."""
_CARRIAGE_RETURN = re.compile(r"_x000[dD]_")
_DAMAGED = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, IndexError, SyntaxError, OSError, EOFError)
"""What openpyxl and the libraries below it raise at a file that is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One sheet with its rows, which are read as they are asked for."""

    title: str
    source: str
    """The file and the sheet, for places."""
    rows: Iterator[Row | Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merge:
    first: int
    last: int
    column: int
    """From 0."""


def sheets_of(path: Path, *, wanted: str = "", report: Report | None = None) -> Iterator[Sheet]:
    """Yield the sheets of a workbook that are not hidden, or the one that is wanted.

    A sheet's rows must be gone through before the next sheet is asked for.

    Raises:
        InvalidDataError: It is no workbook, a damaged one, too large for memory, or has no such sheet.
    """
    import openpyxl

    try:
        _check_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except _DAMAGED as error:
        raise InvalidDataError(
            say("{path} cannot be read as a workbook: {reason}.", path=str(path), reason=str(error) or repr(error)),
            hint=say("Open it in a spreadsheet and save it again as .xlsx, or as CSV."),
        ) from error
    try:
        chosen = _chosen(book, wanted, path)
        for place, sheet in enumerate(chosen):
            if report is not None:
                report(place / len(chosen), say("Reading {path}, sheet {sheet}.", path=str(path), sheet=sheet.title))
            source = f"{path}[{sheet.title}]"
            yield Sheet(title=sheet.title, source=source, rows=_rows(sheet, path, source))
    finally:
        book.close()


def _chosen(book: Any, wanted: str, path: Path) -> list[Any]:
    sheets = [
        each for each in book.worksheets if each.title == wanted or (not wanted and each.sheet_state == "visible")
    ]
    if not sheets:
        names = ", ".join(each.title for each in book.worksheets)
        raise InvalidDataError(
            say("{path} has no sheet {wanted!r}; it has: {names}.", path=str(path), wanted=wanted, names=names)
            if wanted
            else say("{path} has no sheet that is shown.", path=str(path)),
            hint=say("Name a sheet with --sheet."),
        )
    return sheets


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for each in archive.infolist():
            if each.filename.endswith("sharedStrings.xml") and each.file_size > MOST_SHARED_BYTES:
                raise InvalidDataError(
                    say(
                        "{path} holds {size} of text; of a workbook {most} can be read.",
                        path=str(path),
                        size=show_bytes(each.file_size),
                        most=show_bytes(MOST_SHARED_BYTES),
                    ),
                    hint=say("Save it as CSV, which is read as a stream."),
                )


def _rows(sheet: Any, path: Path, source: str) -> Iterator[Row | Problem]:
    # Some programs write A1 as the size of every sheet.
    sheet.reset_dimensions()
    number = 0
    try:
        merges = _merges(path, getattr(sheet, "_worksheet_path", ""))
        held: dict[int, tuple[int, object]] = {}
        for cells in _quietly(sheet.iter_rows(values_only=True)):
            number += 1
            row = Row(place=Place(source=source, line=number), cells=_filled(cells, number, merges, held))
            if not row.is_empty:
                yield row
    except _DAMAGED as error:
        place = Place(source=source, line=number + 1)
        reason = str(error) or repr(error)
        yield place.problem(say("The sheet is damaged: {reason}. What follows was not read.", reason=reason))


def _quietly(values: Iterator[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a sheet; what the library has to remark about styles and dates concerns nobody."""
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells = next(values, None)
        if cells is None:
            return
        yield cells


def _filled(
    cells: tuple[object, ...], number: int, merges: Mapping[int, list[_Merge]], held: dict[int, tuple[int, object]]
) -> tuple[object, ...]:
    """Return the cells of a row with the values of those that are merged with cells above them.

    Args:
        cells: As they stand in the file.
        number: The row's.
        merges: By their first row.
        held: By column, until which row a value is held; it is kept up to date.
    """
    found = list(cells)
    for merge in merges.get(number, ()):
        if merge.column < len(found):
            held[merge.column] = (merge.last, found[merge.column])
    for column, (last, value) in list(held.items()):
        if number > last:
            del held[column]
        elif any(cell is not None for cell in cells):
            found += [None] * (column + 1 - len(found))
            found[column] = value
    return tuple(_CARRIAGE_RETURN.sub("", each) if isinstance(each, str) else each for each in found)


def _merges(path: Path, inside: str) -> dict[int, list[_Merge]]:
    """Return which cells of a sheet are merged downwards, by their first row; the sheet's own list is at its end."""
    found: dict[int, list[_Merge]] = {}
    with zipfile.ZipFile(path) as archive:
        name = inside.lstrip("/")
        if name not in archive.namelist():
            return found
        with archive.open(name) as raw:
            before = b""
            while block := raw.read(_BLOCK_BYTES):
                for each in _MERGED.finditer(before + block):
                    first, last = int(each[2]), int(each[4])
                    if first < last <= first + _LONGEST_MERGE:
                        merge = _Merge(first=first, last=last, column=_column(each[1].decode()))
                        found.setdefault(first, []).append(merge)
                before = block[-_OVERLAP:]
    return found


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
