"""What is wrong with files of calls, labels and taxonomies: everything at once, each with file, line and field.

Readers hand out what is good and collect what is not; the door decides whether that is an error (`InvalidDataError`
lists all) or goes into a side file (`write_rejected`). Nothing is dropped silently.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text
from qwenops.errors import InvalidDataError
from qwenops.text import Text, say

MOST_SHOWN = 20


class Severity(StrEnum):
    """Whether data can be used in spite of a problem."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where."""

    what: Text
    source: str = ""
    """The file."""
    line: int | None = None
    """From 1; of a table, the row as the spreadsheet counts it."""
    field: str = ""
    severity: Severity = Severity.ERROR
    conversation_id: str = ""

    @property
    def place(self) -> str:
        """Where it is, as compilers say it: `calls.jsonl:7: turns[2].text`."""
        lined = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{lined}: {self.field}" if self.field else lined


class FieldProblem(Exception):  # noqa: N818 -- a reader turns it into problems; it never reaches a door
    """A line that is no call or no label; the details are those of the validation."""

    def __init__(self, details: Sequence[Mapping[str, Any]]) -> None:
        """Keep the details."""
        super().__init__(f"{len(details)} wrong fields")
        self.details = details

    def problems(self, source: str, line: int | None) -> Iterator[Problem]:
        """Yield what is wrong, field by field."""
        for detail in self.details:
            yield Problem(what=_said(detail), source=source, line=line, field=field_path(detail["loc"]))


def field_path(loc: Iterable[str | int]) -> str:
    """Return a field as people write it: `turns[2].text`."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def refuse(problems: Sequence[Problem], what: Text) -> None:
    """Raise if one of the problems is an error.

    Raises:
        InvalidDataError: It says `what` and lists the first problems.
    """
    errors = [each for each in problems if each.severity is Severity.ERROR]
    if not errors:
        return
    shown = "\n".join(f"{each.place}: {each.what}" for each in errors[:MOST_SHOWN])
    more = len(errors) - MOST_SHOWN
    raise InvalidDataError(
        say("{what} {count} problems:\n{shown}", what=what, count=len(errors), shown=shown),
        hint=say("{count} more are not shown; `qwenops calls validate` lists all.", count=more) if more > 0 else "",
        problems=tuple(errors),
    )


def write_rejected(path: Path, problems: Iterable[Problem]) -> int:
    """Write problems as JSON lines, whole or not at all; return how many."""
    lines = [
        json.dumps(
            {
                "source": each.source,
                "line": each.line,
                "field": each.field,
                "severity": each.severity.value,
                "conversation_id": each.conversation_id,
                "problem": str(each.what),
            },
            ensure_ascii=False,
        )
        for each in problems
    ]
    write_text(path, "".join(f"{line}\n" for line in lines), mode=0o600)
    return len(lines)


def _said(detail: Mapping[str, Any]) -> Text:
    """Return what is wrong with one field, in our words where there are any."""
    match detail["type"]:
        case "missing":
            return say("The field is missing.")
        case "extra_forbidden":
            return say("There is no such field.")
        case "json_invalid":
            return say("This is no JSON: {reason}", reason=str(detail["msg"]).removeprefix("Invalid JSON: "))
        case "enum" | "literal_error":
            return say("The value is none of those that are possible: {reason}", reason=detail["msg"])
        case _:
            return say("The value cannot be read: {reason}", reason=detail["msg"])
