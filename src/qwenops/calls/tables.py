"""Results as tables that a spreadsheet opens: CSV in UTF-8 with its mark, or .xlsx, whole or not at all.

A text in a cell stays a text. One that begins like a formula (`=HYPERLINK(…)`, spoken into a telephone or put into an
order's name) is quoted as spreadsheets do it themselves, and read back without the quotation mark by `unquoted`.
"""

import contextlib
import csv
import io
import math
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from qwenops.atomic import sync_folder
from qwenops.errors import ConfigError, InvalidDataError
from qwenops.text import say

Cell = str | int | float | datetime | date | None
"""What a cell can hold; a boolean is a number and is written as TRUE or FALSE."""

LONGEST_CELL = 32_767
"""Characters that a spreadsheet keeps in one cell."""
MOST_ROWS = 1_048_575
"""Rows of a sheet below the names of its columns."""

_FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""What a formula begins with, also in full width."""
_QUOTED = re.compile(rf"'['{re.escape(_FORMULA)}]")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LOST = "\ufffd"
_MORE = "\u2026"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of the rows."""

    rows: int
    cut: int = 0
    """Texts that were longer than a cell of a sheet can be; they end in `…`."""


def write_table(
    path: Path, rows: Iterable[Mapping[str, Cell]], columns: Sequence[str] | Mapping[str, str], *, mode: int = 0o600
) -> Written:
    """Write rows as a table, beside `path` first, which takes its place when all is written.

    Args:
        path: A file that ends in .csv or .xlsx.
        rows: By column; a column that a row does not have stays empty. They are taken one by one.
        columns: Keys of the rows in their order, with what they are called in the table where that differs.
        mode: Who may read and write the file, less what the process's umask forbids.

    Raises:
        ConfigError: The file ends in something else.
        InvalidDataError: There are more rows than a sheet holds.
    """
    writers: Mapping[str, Callable[[Path, Iterable[Sequence[Cell]]], Written]] = {".csv": _csv, ".xlsx": _xlsx}
    write = writers.get(path.suffix.lower())
    if write is None:
        raise ConfigError(
            say("{path} is no table that can be written.", path=str(path)),
            hint=say("Let its name end in {possible}.", possible=", ".join(writers)),
        )
    headings = list(columns.values()) if isinstance(columns, Mapping) else list(columns)
    with _replacing(path, mode) as partial:
        return write(partial, _cells(rows, tuple(columns), headings))


def quoted(text: str) -> str:
    """Return a text as it must stand in a cell so that no spreadsheet takes it for a formula.

    A text that begins as a quoted one does is quoted once more, so that `unquoted` gives each back as it was.
    """
    return f"'{text}" if text.startswith(tuple(_FORMULA)) or _QUOTED.match(text) else text


def unquoted(text: str) -> str:
    """Return the text that `quoted` was given."""
    return text[1:] if _QUOTED.match(text) else text


def _cells(
    rows: Iterable[Mapping[str, Cell]], keys: Sequence[str], headings: Sequence[str]
) -> Iterator[Sequence[Cell]]:
    yield headings
    for row in rows:
        yield [row.get(key) for key in keys]


def _csv(path: Path, rows: Iterable[Sequence[Cell]]) -> Written:
    num_lines = 0
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as out:
        writer = csv.writer(out)
        for num_lines, row in enumerate(rows, start=1):  # noqa: B007 -- how many there were
            writer.writerow([_plain(cell) for cell in row])
        _sync(out)
    return Written(rows=num_lines - 1)


def _plain(cell: Cell) -> str:
    """Return a cell of a CSV file."""
    match cell:
        case None:
            return ""
        case bool():
            return str(cell).upper()
        case float():
            return repr(cell) if math.isfinite(cell) else ""
        case datetime():
            return cell.isoformat(" ")
        case str():
            return quoted(cell.replace("\0", _LOST))
        case _:
            return str(cell)


def _xlsx(path: Path, rows: Iterable[Sequence[Cell]]) -> Written:
    import openpyxl
    from openpyxl.cell import WriteOnlyCell

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("qwenops")
    sheet.freeze_panes = "A2"
    number = cut = 0

    def text_cell(text: str) -> Any:
        nonlocal cut
        text = _NOT_IN_XML.sub(_LOST, text)
        if len(text) > LONGEST_CELL:
            text = text[: LONGEST_CELL - 1] + _MORE
            cut += 1
        cell = WriteOnlyCell(sheet, value=text)
        # What looks like a formula or a broken value is a text all the same.
        cell.data_type = "s"
        if text.startswith(tuple(_FORMULA)):
            cell.quotePrefix = True
        return cell

    with _ended(sheet):
        for number, row in enumerate(rows):
            if number > MOST_ROWS:
                raise InvalidDataError(
                    say("The table has more than {most} rows, which is what a sheet holds.", most=MOST_ROWS),
                    hint=say("Write it as .csv."),
                )
            typed = [_typed(cell) for cell in row]
            sheet.append([text_cell(cell) if isinstance(cell, str) else cell for cell in typed])
        with path.open("wb") as out:
            book.save(out)
            _sync(out)
    return Written(rows=number, cut=cut)


@contextlib.contextmanager
def _ended(sheet: Any) -> Iterator[None]:
    """End a sheet also where its rows break off, and remove the file that openpyxl keeps its texts in meanwhile.

    Otherwise its generators end when the garbage collector comes across them, in the wrong order and in the middle of
    something else, and the texts stay in the folder of temporary files until the process ends.
    """
    from openpyxl.utils.exceptions import WorkbookAlreadySaved

    try:
        yield
    except BaseException:
        writer = sheet._writer  # noqa: SLF001 -- openpyxl has no way to give a sheet up
        for end in (sheet.close, writer.close, writer.cleanup) if writer is not None else ():
            with contextlib.suppress(OSError, ValueError, WorkbookAlreadySaved):
                end()
        raise


def _typed(cell: Cell) -> Cell:
    """Return a cell of a sheet; what a sheet cannot hold as a value is a text."""
    match cell:
        case float() if not math.isfinite(cell):
            return None
        case bool():
            return cell
        case int() if abs(cell) >= 10**15:
            return str(cell)  # a sheet keeps 15 digits
        case datetime() if cell.tzinfo is not None:
            return cell.isoformat(" ")
        case _:
            return cell


@contextlib.contextmanager
def _replacing(path: Path, mode: int) -> Iterator[Path]:
    """Give a file to write beside `path`, which takes the place of `path` if nothing is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode))
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _sync(out: io.IOBase) -> None:
    out.flush()
    os.fsync(out.fileno())
