"""What readers yield: a call with its label and its place in the file, or what is wrong there."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from qwenops.calls.lines import STDIN
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.schema import Call, Label
from qwenops.errors import InvalidDataError
from qwenops.options import option
from qwenops.text import Text, say

MOST_PROBLEMS = 100_000
"""A file with more of them is of another format than it was taken for."""


class Format(StrEnum):
    """What a file of calls can be."""

    CALLS = "calls"
    """Our own lines of JSON."""
    TRAINING_DATA = "training_data"
    """JSON objects with a text and a category: conversation_id, input_text, complaint_category, confidence_score."""
    TABLE_CSV = "table_csv"
    TABLE_XLSX = "table_xlsx"
    FUNASR = "funasr"
    CLOUD_TRANSCRIPT = "cloud_transcript"
    MS_SWIFT = "ms_swift"
    LLAMA_FACTORY = "llama_factory"
    LABEL_STUDIO = "label_studio"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What a file does not say about itself. Nothing of it is needed for most files."""

    format: Format | None = option(
        None,
        help="Format of the file; it is found out where this is not given.",
        choices=tuple(each.value for each in Format),
    )
    columns: tuple[str, ...] = option(
        (),
        help="What columns are called that are not known by name: text=通话全文, category=问题类型.",
        flag="--column",
    )
    speakers: tuple[str, ...] = option(
        (), help="Who speaks, where a file only numbers its speakers: 0=agent, 1=customer.", flag="--speaker"
    )
    categories: tuple[str, ...] = option(
        (),
        help="Classes of categories that are called otherwise in the file: 费用问题=billing.plan_fee.",
        flag="--category",
    )
    sheet: str = option("", help="Sheet of a workbook; all that have a known header where this is not given.")
    timezone: str = option("", help="Time zone of dates that name none, such as Asia/Shanghai.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One call of a file."""

    call: Call
    label: Label | None
    """What the file says the call is about, where it does."""
    line: int
    """Where it begins, from 1; of a table, the row as the spreadsheet counts it."""
    source: str = ""
    """The file."""
    further: tuple[Label, ...] = ()
    """What other annotators say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelEntry:
    """One label of a file."""

    label: Label
    line: int
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a reader is."""

    source: str
    line: int
    number: int | None = None
    """Which of the values of a file it is, where several can begin in one line."""
    is_alone: bool = False
    """Whether the file has no other."""

    @property
    def name(self) -> str:
        """A name for a call that has none, the same each time the file is read."""
        file, sheet = self.source, ""
        if file.endswith("]") and "[" in file:
            file, _, sheet = file.removesuffix("]").rpartition("[")
        stem = "stdin" if file == STDIN else Path(file).stem
        whole = f"{stem}-{sheet}" if sheet else stem
        return whole if self.is_alone else f"{whole}-{self.number or self.line:06d}"

    def problem(
        self, what: Text, field: str = "", severity: Severity = Severity.ERROR, conversation_id: str = ""
    ) -> Problem:
        """Return a problem that is here."""
        return Problem(
            what=what,
            source=self.source,
            line=self.line,
            field=field,
            severity=severity,
            conversation_id=conversation_id,
        )


Item = TypeVar("Item", Entry, LabelEntry)
Found = Entry | Problem
"""What a reader of calls yields; a warning comes before the entry that it is about."""


class Reading(Generic[Item]):
    """The entries of a file, read as they are asked for; `problems` fills meanwhile.

    It can be gone through once.
    """

    def __init__(self, found: Iterator[Item | Problem], kind: Format, source: str) -> None:
        """Keep what is to be read.

        Args:
            found: Entries and problems in the order of the file.
            kind: What the file was taken for.
            source: The file.
        """
        self._found: Iterator[Item | Problem] = found
        self.format = kind
        self.source = source
        self.problems: list[Problem] = []

    def __iter__(self) -> Iterator[Item]:
        """Yield the entries.

        Raises:
            InvalidDataError: The file as a whole cannot be read, or has too many problems to be what it was taken for.
        """
        for each in self._found:
            if isinstance(each, Problem):
                self._keep(each)
            else:
                yield each

    def _keep(self, problem: Problem) -> None:
        if len(self.problems) >= MOST_PROBLEMS:
            first = next((each for each in self.problems if each.severity is Severity.ERROR), self.problems[0])
            raise InvalidDataError(
                say(
                    "{source} has more than {most} problems as {kind}. The first: {place}: {what}",
                    source=self.source,
                    most=MOST_PROBLEMS,
                    kind=self.format.value,
                    place=first.place,
                    what=first.what,
                ),
                hint=say("Check what the file is; --format says it where it was taken for something else."),
                problems=tuple(self.problems),
            )
        self.problems.append(problem)
