"""What is wrong with files of calls, labels and taxonomies: everything at once, each with file, line and field.

Readers hand out what is good and collect what is not; the door decides whether that is an error (`InvalidDataError`
lists all) or goes into a side file (`write_rejected`). Nothing is dropped silently.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text
from qwenops.errors import InvalidDataError
from qwenops.text import Text, say, translate_text

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
        return ": ".join(part for part in (lined, self.field) if part)

    def said(self, translate: Callable[[str], str] = str) -> str:
        """Return the place and what is wrong there."""
        what = translate_text(self.what, translate)
        return f"{self.place}: {what}" if self.place else what


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
    more = len(errors) - MOST_SHOWN
    shown = _listed(errors[:MOST_SHOWN])
    raise InvalidDataError(
        say("{what} There is one problem:\n{shown}", what=what, shown=shown)
        if len(errors) == 1
        else say("{what} There are {count} problems:\n{shown}", what=what, count=len(errors), shown=shown),
        hint=say("{count} more are not shown; `qwenops calls validate` lists all.", count=more) if more > 0 else "",
        problems=tuple(errors),
    )


class _Listed(Text):
    """Problems, each in a line with its place."""

    __slots__ = ("problems",)
    problems: Sequence[Problem]

    def translated(self, translate: Callable[[str], str]) -> str:
        """Say them in another language."""
        return "\n".join(each.said(translate) for each in self.problems)


def _listed(problems: Sequence[Problem]) -> _Listed:
    listed = _Listed("\n".join(each.said() for each in problems))
    listed.template, listed.arguments, listed.problems = str(listed), {}, problems
    return listed


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


_KINDS: Mapping[str, Text] = {
    "missing": say("The field is missing."),
    "unexpected_keyword_argument": say("There is no such field."),
    "string": say("A text belongs here."),
    "float": say("A number belongs here."),
    "finite": say("A finite number belongs here."),
    "int": say("A whole number belongs here."),
    "datetime": say("A moment belongs here, such as 2026-03-01T09:12:00+08:00."),
    "dataclass": say("A JSON object belongs here."),
    "dict": say("A JSON object belongs here."),
    "mapping": say("A JSON object belongs here."),
    "tuple": say("A list belongs here."),
}
"""By the kind of a validation's error: its name, or how that begins."""
_BREAKS_OFF = "EOF while parsing"
_PLACE = re.compile(r" at line \d+ column (\d+)$")


def _said(detail: Mapping[str, Any]) -> Text:
    """Return what is wrong with one field, in our words where there are any."""
    kind, reason = str(detail["type"]), str(detail["msg"])
    if kind == "json_invalid":
        return _no_json(reason.removeprefix("Invalid JSON: "))
    if kind in {"enum", "literal_error"}:
        return say("Possible are only: {possible}.", possible=reason.removeprefix("Input should be "))
    known = _KINDS.get(kind) or _KINDS.get(kind.partition("_")[0])
    return known or say("The value cannot be read: {reason}.", reason=reason)


def _no_json(reason: str) -> Text:
    place = _PLACE.search(reason)
    if reason.startswith(_BREAKS_OFF):
        return say("This is no whole JSON object: the text breaks off.")
    if place is None:
        return say("This is no JSON: {reason}.", reason=reason)
    return say(
        "This is no JSON: {reason}, at character {column}.", reason=reason[: place.start()], column=int(place[1])
    )
