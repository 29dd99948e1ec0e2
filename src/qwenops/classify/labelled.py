"""From files of calls, labels and splits to labelled calls, part by part; everything that is wrong with them at once.

A part is gone through as often as somebody asks for it and is never kept, so memory holds what the asker keeps.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qwenops.calls.classes import Taxonomy
from qwenops.calls.lines import STDIN
from qwenops.calls.problems import Problem, Severity, refuse
from qwenops.calls.readers import open_calls, open_labels
from qwenops.calls.readers.entries import Entry, LabelEntry
from qwenops.calls.render import render
from qwenops.calls.schema import Call, Label
from qwenops.calls.split import Part, Splits, read_splits
from qwenops.calls.validate import doubts
from qwenops.errors import InvalidDataError
from qwenops.models.checkpoint import file_sha256
from qwenops.text import Report, say

REPORT_EVERY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFiles:
    """Where everything is."""

    calls: Path
    """A file, or a folder of files."""
    splits: Path
    labels: Path | None = None
    """None where the calls' own files say what they are about."""
    unredacted: bool = False
    """Whether calls may be used that still hold personal data, for all that anybody knows."""

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its name, without the folders that it lies in."""
        return {path.name: file_sha256(path) for path in self._each()}

    def splits_sha256(self) -> str:
        """Return the SHA-256 of the file of splits."""
        return file_sha256(self.splits)

    def _each(self) -> Iterable[Path]:
        if self.calls.is_dir():
            yield from sorted(path for path in self.calls.iterdir() if path.is_file())
        else:
            yield self.calls
        yield self.splits
        if self.labels is not None:
            yield self.labels


@dataclass(slots=True, kw_only=True)
class LabelledCalls:
    """The calls of the splits with the label that counts; `open_labelled` makes one."""

    files: DataFiles
    taxonomy: Taxonomy
    splits: Splits
    labels: Mapping[str, tuple[LabelEntry, ...]] | None
    """All that is said of each call, and where, when labels have a file of their own."""
    problems: list[Problem] = field(default_factory=list)
    redactions: set[str] = field(default_factory=set)
    """Versions of what took personal data out; an empty one where nothing did."""
    customers: dict[str, str] = field(default_factory=dict)
    """Of the calls that were seen; empty where nobody said."""
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    """File and line of the first label of each call that was seen."""
    is_read: bool = False
    """Whether the calls were read once already, so that what is wrong with their lines is known."""

    def pairs(self, part: Part) -> Iterator[tuple[Call, Label]]:
        """Yield the calls of a part, in the order of the files, each with its label."""
        wanted = set(self.splits.parts()[part])
        reading = open_calls(self.files.calls, taxonomy=self.taxonomy)
        first: dict[str, str] = {}
        for entry in reading:
            name = entry.call.conversation_id
            if name not in wanted:
                continue
            if name in first:
                told = say("There is a call of this id already: {place}.", place=first[name])
                self._note(Problem(what=told, field="conversation_id"), entry)
                continue
            first[name] = f"{entry.source}:{entry.line}"
            self.customers[name] = entry.call.customer_id
            label = self._label(entry)
            if label is not None and self._speaks(entry):
                yield entry.call, label
        if not self.is_read:
            self.problems += reading.problems
            self.is_read = True

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What a person should know about the parts that were gone through, though it keeps nobody from using them."""
        return tuple(dict.fromkeys(each for each in self.problems if each.severity is Severity.WARNING))

    def finish(self, *parts: Part) -> None:
        """Refuse the data if anything was wrong with the parts that were asked for.

        Raises:
            InvalidDataError: Something was; all of it is named.
        """
        part_of: dict[str, Part] = {}
        for part in parts:
            ids = self.splits.parts()[part]
            if not ids:
                told = say("There is no call to use as {part}.", part=part.value)
                self.problems.append(Problem(what=told, source=self.files.splits.name, field=part.value))
            self._note_absent(ids, part)
        for part, ids in self.splits.parts().items():
            self._note_doubles(ids, part, part_of)
        refuse(self.problems, say("These files cannot be used."))

    def _label(self, entry: Entry) -> Label | None:
        """Return the label that counts, or note why there is none."""
        call = entry.call
        version = call.redaction.version if call.redaction is not None else ""
        self.redactions.add(version)
        if not version and not self.files.unredacted:
            told = say("Nothing has taken personal data out of the call {call}.", call=call.conversation_id)
            self._note(Problem(what=told, field="redaction"), entry)
            return None
        own = [
            LabelEntry(label=each, line=entry.line, source=entry.source)
            for each in (entry.label, *entry.further)
            if each
        ]
        said = own if self.labels is None else self.labels.get(call.conversation_id, ())
        if not said:
            told = say("The call {call} has no label.", call=call.conversation_id)
            self._note(Problem(what=told, field="label"), entry)
            return None
        for each in said:
            moved = self.taxonomy.migrate(each.label)
            if isinstance(moved, Problem):
                self.problems.append(
                    replace(moved, source=each.source, line=each.line, conversation_id=call.conversation_id)
                )
                return None
        label = settle([each.label for each in said], self.taxonomy)
        assert isinstance(label, Label)  # noqa: S101 -- each of them could be moved
        self.places[call.conversation_id] = (said[0].source, said[0].line)
        return label

    def _speaks(self, entry: Entry) -> bool:
        """Return whether anybody says anything in a call; note that, and what a person should know about it."""
        if not render(entry.call):
            self._note(Problem(what=say("Nobody says anything."), field="turns"), entry)
            return False
        for where, what in doubts(entry.call):
            self._note(Problem(what=what, field=where, severity=Severity.WARNING), entry)
        return True

    def _note(self, problem: Problem, entry: Entry) -> None:
        self.problems.append(
            replace(problem, source=entry.source, line=entry.line, conversation_id=entry.call.conversation_id)
        )

    def _note_absent(self, ids: Sequence[str], part: Part) -> None:
        absent = [name for name in ids if name not in self.customers]
        if absent:
            told = say(
                "{count} calls of {part} are not there, the first is {call}.",
                count=len(absent),
                part=part.value,
                call=absent[0],
            )
            self.problems.append(Problem(what=told, field="conversation_id", conversation_id=absent[0]))

    def _note_doubles(self, ids: Sequence[str], part: Part, part_of: dict[str, Part]) -> None:
        for name in ids:
            if name in part_of:
                told = say(
                    "The call {call} is in {part} and in {other}.",
                    call=name,
                    part=part_of[name].value,
                    other=part.value,
                )
                self.problems.append(Problem(what=told, source=self.files.splits.name, conversation_id=name))
            part_of[name] = part


@dataclass(frozen=True, slots=True, kw_only=True)
class WordedPart:
    """The calls of a part as texts, in the order of the files."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    """As a model reads them (`calls.render`)."""
    labels: tuple[str, ...]
    customers: tuple[str, ...]
    weights: tuple[float, ...]
    """How far each label is trusted."""


def open_labelled(files: DataFiles, taxonomy: Taxonomy) -> LabelledCalls:
    """Read splits and labels; the calls are read when they are asked for.

    Raises:
        InvalidDataError: The calls would come from standard input, or splits or labels cannot be read at all.
    """
    if str(files.calls) == STDIN:
        raise InvalidDataError(
            say("Calls to learn from cannot come from standard input, since they are read more than once."),
            hint=say("Write them into a file."),
        )
    found = LabelledCalls(files=files, taxonomy=taxonomy, splits=read_splits(files.splits), labels=None)
    if files.labels is not None:
        reading = open_labels(files.labels, taxonomy=taxonomy)
        by_call: dict[str, list[LabelEntry]] = {}
        for entry in reading:
            by_call.setdefault(entry.label.conversation_id, []).append(entry)
        found.labels = {call: tuple(each) for call, each in by_call.items()}
        found.problems += reading.problems
    return found


def worded_part(labelled: LabelledCalls, part: Part, report: Report) -> WordedPart:
    """Return a part as texts; what is wrong with its calls is noted, for `finish` to refuse."""
    ids, texts, labels, customers = list[str](), list[str](), list[str](), list[str]()
    weights = list[float]()
    total = len(labelled.splits.parts()[part])
    for number, (call, label) in enumerate(labelled.pairs(part)):
        ids.append(call.conversation_id)
        texts.append(render(call))
        labels.append(label.primary)
        customers.append(call.customer_id)
        weights.append(label.weight)
        if number % REPORT_EVERY == 0:
            report(number / total, say("Reading the calls"))
    return WordedPart(
        ids=tuple(ids), texts=tuple(texts), labels=tuple(labels), customers=tuple(customers), weights=tuple(weights)
    )


def settle(labels: Sequence[Label], taxonomy: Taxonomy) -> Label | Problem:
    """Return one label for what several annotators say of one call, in the words of the taxonomy's version.

    The class whose labels weigh most together wins, of equal ones the first by code. Where annotators disagree, it is
    trusted less: its weight, at most 1, times its share of all weights.
    """
    moved: list[Label] = []
    for label in labels:
        now = taxonomy.migrate(label)
        if isinstance(now, Problem):
            return now
        moved.append(now)
    weights: dict[str, float] = {}
    for label in moved:
        weights[label.primary] = weights.get(label.primary, 0.0) + label.weight
    best = min(weights, key=lambda code: (-weights[code], code))
    total = sum(weights.values())
    share = weights[best] / total if total > 0 else 0.0
    first = next(label for label in moved if label.primary == best)
    return replace(first, weight=min(1.0, weights[best]) * share)
