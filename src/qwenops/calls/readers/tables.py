"""Tables: CSV files and workbooks with a row for each call, or with a row for each turn.

The names of columns stand in one of the first rows, below titles and notes. Where a column says who speaks, rows of one
id that follow one another are one call, and rows without an id belong to the row above.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from qwenops.calls.lines import Source
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.readers.columns import (
    HEADER_ROWS,
    Column,
    columns_of,
    moment,
    number,
    possible_names,
    seconds,
    words,
)
from qwenops.calls.readers.entries import Found, LabelEntry, Place
from qwenops.calls.readers.records import Record, Terms, entries_of, label_entries_of, record_of
from qwenops.calls.readers.rows import Row, rows_of
from qwenops.calls.readers.sheets import sheets_of
from qwenops.calls.readers.turns import Segment, spoken_by
from qwenops.calls.tables import unquoted
from qwenops.errors import InvalidDataError
from qwenops.text import Report, say

_CALLS = (Column.TEXT,)
_LABELS = (Column.ID, Column.CATEGORY)
_OF_A_TURN = frozenset({Column.ROLE, Column.TEXT, Column.BEGIN, Column.END, Column.CONF})
_MOST_SHOWN = 12
_ENOUGH = 2
"""So many known names make a row the row of names."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows below their names."""

    head: tuple[str, ...]
    """The row that names them."""
    names: tuple[str, ...]
    """No two are equal, and none is empty."""
    meanings: tuple[Column | None, ...]
    rows: Iterator[Row | Problem]
    is_strict: bool
    """Whether a row must have as many cells as there are names."""

    @property
    def is_of_turns(self) -> bool:
        """Whether each row is a turn."""
        return Column.ROLE in self.meanings and Column.ID in self.meanings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What the first rows of a file show."""

    table: Table | None
    rows: Sequence[Row]
    problems: Sequence[Problem]


def calls_of_csv(source: Source, known: Terms) -> Iterator[Found]:
    """Yield the calls of a CSV file.

    Raises:
        InvalidDataError: No row names its columns.
    """
    return _of_csv(source, known, _CALLS, _calls)


def labels_of_csv(source: Source, known: Terms) -> Iterator[LabelEntry | Problem]:
    """Yield the labels of a CSV file with ids and categories.

    Raises:
        InvalidDataError: No row names its columns.
    """
    return _of_csv(source, known, _LABELS, _labels)


def calls_of_workbook(path: Path, known: Terms, report: Report | None) -> Iterator[Found]:
    """Yield the calls of all sheets of a workbook that name their columns.

    Raises:
        InvalidDataError: No sheet does, or it is no workbook.
    """
    return _of_workbook(path, known, _CALLS, _calls, report)


def labels_of_workbook(path: Path, known: Terms, report: Report | None) -> Iterator[LabelEntry | Problem]:
    """Yield the labels of all sheets of a workbook with ids and categories.

    Raises:
        InvalidDataError: No sheet has them, or it is no workbook.
    """
    return _of_workbook(path, known, _LABELS, _labels, report)


def _of_csv(
    source: Source, known: Terms, needed: Sequence[Column], read: Callable[[Table, Terms], Iterator[_T | Problem]]
) -> Iterator[_T | Problem]:
    looked = _look(rows_of(source, known.columns), known, needed, is_strict=True)
    yield from looked.problems
    if looked.table is None:
        raise _unnamed(source.name, looked.rows, needed)
    yield from read(looked.table, known)


def _of_workbook(
    path: Path,
    known: Terms,
    needed: Sequence[Column],
    read: Callable[[Table, Terms], Iterator[_T | Problem]],
    report: Report | None,
) -> Iterator[_T | Problem]:
    left: list[Row] = []
    is_any = False
    for sheet in sheets_of(path, wanted=known.sheet, report=report):
        looked = _look(sheet.rows, known, needed, is_strict=False)
        yield from looked.problems
        if looked.table is not None:
            is_any = True
            yield from read(looked.table, known)
        elif looked.rows:
            left.extend(looked.rows)
            what = say(
                "The sheet {sheet} does not name the columns that are needed and was not read.", sheet=sheet.title
            )
            yield looked.rows[0].place.problem(what, severity=Severity.WARNING)
    if not is_any:
        raise _unnamed(str(path), left, needed)


def _look(rows: Iterator[Row | Problem], known: Terms, needed: Sequence[Column], *, is_strict: bool) -> _Looked:
    """Find the row that names the columns among the first ones.

    A row with a single known name is it only if no row below it has more, for it may be a title.
    """
    looked: list[Row] = []
    problems: list[Problem] = []
    single: tuple[int, Table] | None = None
    for row in rows:
        if isinstance(row, Problem):
            problems.append(row)
            continue
        looked.append(row)
        names = tuple(words(cell).strip() for cell in row.cells)
        meanings = columns_of(names, known.columns)
        num_known = sum(each is not None for each in meanings)
        if all(each in meanings for each in needed):
            table = Table(head=names, names=_distinct(names), meanings=meanings, rows=rows, is_strict=is_strict)
            if num_known >= _ENOUGH:
                return _Looked(table=table, rows=looked, problems=problems)
            if single is None and num_known == sum(bool(name) for name in names):
                single = len(looked), table
        if len(looked) >= HEADER_ROWS:
            break
    if single is None:
        return _Looked(table=None, rows=looked, problems=problems)
    below, table = single
    table = replace(table, rows=itertools.chain(looked[below:], rows))
    return _Looked(table=table, rows=looked, problems=problems)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return names by which cells can be told apart, also where there are none, or the same twice."""
    found: dict[str, None] = {}
    for place, name in enumerate(names, start=1):
        found[f"{name} {place}" if name in found else name or f"column {place}"] = None
    return tuple(found)


def _calls(table: Table, known: Terms) -> Iterator[Found]:
    if table.is_of_turns:
        yield from _calls_of_turns(table, known)
        return
    for each in _records(table, known):
        if isinstance(each, Problem):
            yield each
        else:
            yield from entries_of(*each, known)


def _labels(table: Table, known: Terms) -> Iterator[LabelEntry | Problem]:
    for each in _records(table, known):
        if isinstance(each, Problem):
            yield each
        else:
            yield from label_entries_of(*each, known)


def _records(table: Table, known: Terms) -> Iterator[tuple[Record, Place] | Problem]:
    """Yield each row as a record; one with more or fewer cells than there are names is a problem."""
    for row in table.rows:
        if isinstance(row, Problem):
            yield row
            continue
        cells = [unquoted(cell) if table.is_strict and isinstance(cell, str) else cell for cell in row.cells]
        if table.is_strict and len(cells) != len(table.names):
            what = say(
                "The row has {cells} cells, the names of columns are {names}: a text with a comma or a line break in "
                "it must stand in quotation marks.",
                cells=len(cells),
                names=len(table.names),
            )
            yield row.place.problem(what)
        elif tuple(words(cell).strip() for cell in cells) != table.head:
            # Files that were put together have the names again.
            further = (f"column {place}" for place in range(len(table.names) + 1, len(cells) + 1))
            pairs = dict(zip((*table.names, *further), cells, strict=False))
            yield record_of(pairs, known.columns), row.place


def _calls_of_turns(table: Table, known: Terms) -> Iterator[Found]:
    """Yield the calls of a table whose rows are turns; such rows of one id that follow one another are a call."""
    held: list[tuple[Record, Place]] = []
    for each in _records(table, known):
        if isinstance(each, Problem):
            yield each
            continue
        conversation_id = each[0].text(Column.ID)
        if held and conversation_id and conversation_id != held[0][0].text(Column.ID):
            yield from _call_of_turns([record for record, _ in held], held[0][1], known)
            held = []
        held.append(each)
    if held:
        yield from _call_of_turns([record for record, _ in held], held[0][1], known)


def _call_of_turns(turns: Sequence[Record], place: Place, known: Terms) -> Iterator[Found]:
    values: dict[Column, Any] = {}
    names: dict[Column, str] = {}
    meta: dict[str, Any] = {}
    for record in reversed(turns):  # so that the first value counts
        values |= {column: value for column, value in record.values.items() if words(value).strip()}
        names |= record.names
        meta |= record.meta
    values = {column: value for column, value in values.items() if column not in _OF_A_TURN}
    conversation_id = turns[0].text(Column.ID)
    categories = list(dict.fromkeys(text for record in turns if (text := record.text(Column.CATEGORY))))
    if len(categories) > 1:
        what = say("The rows of the call have several categories: {categories}.", categories=", ".join(categories))
        yield place.problem(what, names[Column.CATEGORY], conversation_id=conversation_id)
        del values[Column.CATEGORY]
    begins, started_at = _begins(turns, known)
    if begins is None:
        what = say("The times of the turns cannot be read and were left out.")
        yield place.problem(what, severity=Severity.WARNING, conversation_id=conversation_id)
        begins = [None] * len(turns)
    if started_at is not None:
        values[Column.STARTED] = started_at
    elif _is_timed(turns):
        values.pop(Column.STARTED, None)
    segments = [
        Segment(
            speaker=record.text(Column.ROLE),
            text=words(record.values.get(Column.TEXT)),
            t0=begin,
            t1=_end(record, begin, started_at, known),
            conf=_confidence(record),
        )
        for record, begin in zip(turns, begins, strict=True)
    ]
    spoken = spoken_by(segments, known.speakers)
    yield from entries_of(Record(values=values, names=names, meta=meta, spoken=spoken), place, known)


def _is_timed(turns: Sequence[Record]) -> bool:
    """Whether the column of the call's beginning holds that of each turn."""
    return len({record.text(Column.STARTED) for record in turns} - {""}) > 1


def _begins(turns: Sequence[Record], known: Terms) -> tuple[list[float | None] | None, datetime | None]:
    """Return when the turns begin, in seconds (None: it cannot be read), and if the file has moments, the first."""
    has_begin = any(record.text(Column.BEGIN) for record in turns)
    if not has_begin and not _is_timed(turns):
        return [None] * len(turns), None
    column = Column.BEGIN if has_begin else Column.STARTED
    values = [record.values.get(column) if record.text(column) else None for record in turns]
    with contextlib.suppress(ValueError):
        return [None if value is None else seconds(value) for value in values], None
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        moments = [None if value is None else moment(value, known.zone) for value in values]
        first = next(each for each in moments if each is not None)
        return [None if each is None else (each - first).total_seconds() for each in moments], first
    return None, None


def _end(record: Record, begin: float | None, started_at: datetime | None, known: Terms) -> float | None:
    """Return when a turn ends, in seconds; None where that is not said in the way its beginning is."""
    value = record.values.get(Column.END)
    if begin is None or not record.text(Column.END):
        return None
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        return seconds(value) if started_at is None else (moment(value, known.zone) - started_at).total_seconds()
    return None


def _confidence(record: Record) -> float | None:
    if not record.text(Column.CONF):
        return None
    with contextlib.suppress(ValueError):
        return number(record.values[Column.CONF])
    return None


def _unnamed(name: str, rows: Sequence[Row], needed: Sequence[Column]) -> InvalidDataError:
    shown = [words(cell).strip() for cell in rows[0].cells] if rows else []
    return InvalidDataError(
        say(
            "{name} names no column for {needed} in its first {most} rows; the first row is: {shown}.",
            name=name,
            needed=", ".join(needed),
            most=HEADER_ROWS,
            shown=", ".join(shown[:_MOST_SHOWN]) or "-",
        ),
        hint=say(
            "Name the column, for example {names}; or say which it is: --column {first}=NAME.",
            names=possible_names(needed[0]),
            first=needed[0].value,
        ),
    )
