"""Predictions out of files that `qwenops classify` wrote: lines of JSON, CSV or .xlsx, one file or a folder of them.

A prediction does not say when its call was made, only when it was classified. Who gives the calls as well gets weeks of
calls, and customers that count as one; else the weeks are those of classification, and the page says so. A call that
was classified several times counts once, as it was said last.
"""

import csv
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from qwenops.calls.problems import FieldProblem, Problem
from qwenops.calls.schema import Call
from qwenops.calls.tables import unquoted
from qwenops.classify.prediction import PREDICTION_SCHEMA, DecisionKind, parse_prediction
from qwenops.errors import InvalidDataError
from qwenops.text import Report, say

LINES = frozenset({".jsonl", ".ndjson"})
NEEDED = ("conversation_id", "category", "confidence", "decision", "model", "classified_at")
"""Columns of a table of predictions that are read."""
_PARTS = ".parts"
"""Folders of a batch end so; what is in them is in the file beside them once the batch is done."""
_REJECTED = ".rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a call besides what was said about it."""

    at: datetime | None = None
    """When it was made."""
    customer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was said about one call, as far as it is counted."""

    conversation_id: str
    category: str
    decision: DecisionKind
    p: float
    model: str
    at: datetime
    """When the call was made, or, where nobody knows, when it was classified."""
    customer: str = ""


@dataclass(slots=True, kw_only=True)
class Predictions:
    """What was found."""

    told: list[Told] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    """Files in which there are no predictions."""
    problems: list[Problem] = field(default_factory=list)
    repeated: int = 0
    """Predictions of calls that were classified again later."""
    without_call: int = 0
    """Calls whose own time nobody gave, although the time of others is known."""
    by_call_time: bool = False
    """Whether weeks are those of the calls."""


def abouts_of(calls: Iterable[Call]) -> dict[str, About]:
    """Return when calls were made and by whom, by conversation."""
    return {each.conversation_id: About(at=each.started_at, customer=each.customer_id) for each in calls}


def read_predictions(
    path: Path,
    *,
    calls: Mapping[str, About] | None = None,
    report: Report = lambda _fraction, _doing: None,
) -> Predictions:
    """Read all predictions of a file or a folder.

    Args:
        path: A file, or a folder that is searched with everything in it.
        calls: What is known of the calls, by conversation; see `abouts_of`.
        report: Is told how far it is.

    Raises:
        InvalidDataError: There is no prediction, or none of which anybody knows the time.
    """
    files = _files(path)
    found = Predictions(by_call_time=any(each.at is not None for each in (calls or {}).values()))
    latest: dict[str, tuple[datetime, Told]] = {}
    for number, file in enumerate(files):
        report(number / len(files), say("Reading {path}", path=file.name))
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        some = _predictions(file, name, found.problems)
        if some is None:
            found.passed_over.append(name)
            continue
        found.files.append(name)
        for said_at, told in some:
            _keep(latest, _placed(told, calls, found), said_at, found)
    found.told = [told for _, told in latest.values()]
    if not found.told:
        raise InvalidDataError(
            say("There is no prediction in {path}.", path=str(path)),
            hint=say("Give what `qwenops classify` wrote: a file, or a folder of such files."),
            problems=tuple(found.problems),
        )
    report(1.0, say("{calls} calls read", calls=len(found.told)))
    return found


def _placed(told: Told, calls: Mapping[str, About] | None, found: Predictions) -> Told | None:
    """Return a prediction with the time and the customer of its call; None where it has no place among the weeks."""
    if calls is None:
        return told
    about = calls.get(told.conversation_id, About())
    if not found.by_call_time:
        return replace(told, customer=about.customer)
    if about.at is None:
        found.without_call += 1
        return None
    return replace(told, at=about.at, customer=about.customer)


def _keep(latest: dict[str, tuple[datetime, Told]], told: Told | None, said_at: datetime, found: Predictions) -> None:
    """Keep what was said last about a call."""
    if told is None:
        return
    before = latest.get(told.conversation_id)
    found.repeated += before is not None
    if before is None or said_at >= before[0]:
        latest[told.conversation_id] = said_at, told


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    known = LINES | {".csv", ".xlsx"}
    found = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in known and each.is_file()]
    return [each for each in found if not _belongs_to_batch(each, path)]


def _belongs_to_batch(file: Path, root: Path) -> bool:
    """Say whether a file is a side file, or part of a batch whose result lies beside it."""
    if file.stem.endswith(_REJECTED) or file.name == "journal.jsonl" or file.name.startswith("."):
        return True
    inside = [each for each in file.relative_to(root).parents if each.name]
    if any(each.name == "rejected" for each in inside):
        return True
    whole = ((root / each).with_name(each.name.removesuffix(_PARTS)) for each in inside if each.name.endswith(_PARTS))
    return any(each.is_file() for each in whole)


def _predictions(file: Path, name: str, problems: list[Problem]) -> Iterator[tuple[datetime, Told]] | None:
    """Return the predictions of a file with when each was said; None where it holds something else."""
    match file.suffix.lower():
        case ".csv" | ".xlsx":
            rows = _csv_rows(file) if file.suffix.lower() == ".csv" else _sheet_rows(file)
            first = _first(rows)
            if first is None or not set(NEEDED) <= set(first):
                return None
            return _of_rows(first, rows, name, problems)
        case _:
            return _of_lines(file, name, problems) if _is_predictions(file) else None


def _is_predictions(file: Path) -> bool:
    """Say whether the first line of a file is a prediction."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        told = json.loads(first)
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("schema") == PREDICTION_SCHEMA


def _of_lines(file: Path, name: str, problems: list[Problem]) -> Iterator[tuple[datetime, Told]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                each = parse_prediction(line)
            except FieldProblem as error:
                problems += error.problems(name, number)
                continue
            if each.at is None:
                problems.append(_timeless(name, number))
                continue
            yield (
                _aware(each.at),
                Told(
                    conversation_id=each.conversation_id,
                    category=each.primary,
                    decision=each.decision,
                    p=each.p,
                    model=each.model,
                    at=each.at,
                ),
            )


def _csv_rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        for row in csv.DictReader(lines):
            # A row that is too long has the rest under None, one that is too short has None as values.
            yield {key: unquoted(value) for key, value in row.items() if key is not None and isinstance(value, str)}


def _sheet_rows(file: Path) -> Iterator[dict[str, str]]:
    import openpyxl

    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    try:
        rows = book.worksheets[0].iter_rows(values_only=True)
        heads = [str(each) for each in next(rows, ())]
        for row in rows:
            yield {key: "" if value is None else str(value) for key, value in zip(heads, row, strict=False)}
    finally:
        book.close()


def _first(rows: Iterator[dict[str, str]]) -> dict[str, str] | None:
    """Return the first row; None of an empty table, and of what is no table at all."""
    try:
        return next(rows, None)
    except (csv.Error, zipfile.BadZipFile, KeyError, IndexError, ValueError):
        return None


def _of_rows(
    first: dict[str, str], rows: Iterator[dict[str, str]], name: str, problems: list[Problem]
) -> Iterator[tuple[datetime, Told]]:
    for number, row in enumerate(_chained(first, rows), 2):  # the first row has the names of the columns
        try:
            at = datetime.fromisoformat(row["classified_at"])
            told = Told(
                conversation_id=row["conversation_id"],
                category=row["category"],
                decision=DecisionKind(row["decision"]),
                p=float(row["confidence"]),
                model=row["model"],
                at=at,
            )
        except (KeyError, ValueError) as error:
            what = say("The row is no prediction: {reason}.", reason=str(error))
            problems.append(Problem(what=what, source=name, line=number))
            continue
        yield _aware(at), told


def _chained(first: dict[str, str], rows: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    yield first
    yield from rows


def _aware(at: datetime) -> datetime:
    """Return a time that can be compared with others; one without a zone is taken for UTC."""
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _timeless(name: str, number: int) -> Problem:
    return Problem(what=say("Nobody knows when this was said."), source=name, line=number, field="ts")
