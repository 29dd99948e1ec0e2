"""What a measurement came to: an outcome, sentences, tables and data, in a form that every door can show.

The command line prints it, the report draws it, `summary.json` keeps it. Sentences cross with their template and their
arguments (`crossing.py`), so that each door says them in its reader's language.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from qwenops.crossing import plain, text_of
from qwenops.text import Text

SCHEMA = "qwenops.summary/1"

EXIT_UNANSWERED = 1
"""No request had a good answer."""
EXIT_REGRESSION = 10
EXIT_MISSED = 11
EXIT_INCONCLUSIVE = 12
EXIT_INVALID = 13

Cell = str | int | float | None
Severity = Literal["info", "warning", "error"]


class Outcome(StrEnum):
    """What came out, in one word."""

    DONE = "done"
    PASS = "pass"  # noqa: S105 -- no password
    FAIL = "fail"
    UNDECIDED = "undecided"
    """Of an objective: the requests prove neither; the verdict says how many more would."""
    IMPROVED = "improved"
    REGRESSED = "regressed"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    """Of a comparison, a gate or a drift: the data prove none of what could have come out."""
    STABLE = "stable"
    LEAK = "leak"
    DRIFT = "drift"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings; a cell that is a number is aligned as one, None is shown as a dash."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that was noticed, and when."""

    text: str
    severity: Severity = "info"
    from_ns: int | None = None
    """Since the run's origin; None when it concerns the whole run."""
    to_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What a command has to say in the end."""

    outcome: Outcome
    sentences: tuple[Text, ...]
    """The result in words, the most important first."""
    exit_code: int = 0
    tables: tuple[Table, ...] = ()
    findings: tuple[Finding, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    """For scripts: names in English, times in seconds."""


def crossed(value: Any) -> Any:
    """Return a value that JSON can hold; each `Text` in it becomes `{"say": [english, template, arguments]}`."""
    return plain(value, lambda parts: {"say": parts})


def uncrossed(value: Any) -> Any:
    """Undo `crossed`."""
    match value:
        case {"say": [said, template, dict() as arguments]} if len(value) == 1:
            return text_of([said, template, {name: uncrossed(each) for name, each in arguments.items()}])
        case Mapping():
            return {name: uncrossed(each) for name, each in value.items()}
        case str():
            return value
        case Sequence():
            return [uncrossed(each) for each in value]
        case _:
            return value


def conclusion_data(conclusion: Conclusion) -> dict[str, Any]:
    """Return a conclusion for `summary.json`."""
    return {
        "outcome": conclusion.outcome.value,
        "exit_code": conclusion.exit_code,
        "sentences": crossed(conclusion.sentences),
        "tables": [
            {"title": crossed(each.title), "headings": crossed(each.headings), "rows": crossed(each.rows)}
            for each in conclusion.tables
        ],
        "findings": [
            {"text": crossed(each.text), "severity": each.severity, "from_ns": each.from_ns, "to_ns": each.to_ns}
            for each in conclusion.findings
        ],
        "data": crossed(conclusion.data),
    }


def conclusion_of(data: Mapping[str, Any]) -> Conclusion:
    """Read what `conclusion_data` made."""
    return Conclusion(
        outcome=Outcome(data["outcome"]),
        exit_code=int(data.get("exit_code", 0)),
        sentences=tuple(uncrossed(data.get("sentences", []))),
        tables=tuple(
            Table(
                title=uncrossed(each["title"]),
                headings=tuple(uncrossed(each["headings"])),
                rows=tuple(tuple(row) for row in uncrossed(each["rows"])),
            )
            for each in data.get("tables", [])
        ),
        findings=tuple(
            Finding(
                text=uncrossed(each["text"]),
                severity=each["severity"],
                from_ns=each.get("from_ns"),
                to_ns=each.get("to_ns"),
            )
            for each in data.get("findings", [])
        ),
        data=uncrossed(data.get("data", {})),
    )
