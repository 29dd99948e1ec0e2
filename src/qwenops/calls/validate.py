"""Whether calls and labels can be worked with: everything that is wrong, by file, line and field, in one go.

An error makes results wrong or training fail: two calls of one id, a label of no class, a call in which nobody says
anything. A warning is for a person to judge: few examples of a class, one text with two labels, a number that redaction
left. Calls are gone through once and not kept, so a file may be larger than memory; of each call its id, its place and
a hash of its text stay.
"""

import math
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any, Protocol

from qwenops.calls.classes import Taxonomy
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.readers.entries import Entry, LabelEntry
from qwenops.calls.schema import Call, Label, Role, Turn
from qwenops.options import option
from qwenops.text import Text, say

LONGEST_CALL = 100_000
"""Characters. A model reads the beginning and the end of a longer call."""
FEWEST = 10
"""Examples that a class needs before anything can be said about it."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, such as turn the direction of text around, and halves of characters."""
_REPLACED = "\ufffd"
_NO_WORD = re.compile(r"[\W_]+")
_SOON_S = 86_400.0
"""Clocks and time zones that are wrong by less are no news."""
_MOST_SHOWN = 5

Wrong = Iterator[tuple[str, Text]]
"""Fields and what is wrong with them."""


class Personal(Protocol):
    """Personal data that was found in a turn."""

    @property
    def kind(self) -> Any:
        """What it is; its text is shown."""

    @property
    def turn(self) -> int:
        """Where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateOptions:
    """What counts as a problem."""

    training: bool = option(False, help="Judge as training data: a class with a single example is an error.")
    longest_call: int = option(LONGEST_CALL, help="Characters from which on a call is long.", minimum=1, flag=False)
    fewest_examples: int = option(FEWEST, help="Examples below which a class is small.", minimum=1, flag=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """Where something stands."""

    source: str = ""
    line: int | None = None

    def problem(self, what: Text, field_name: str, conversation_id: str, severity: Severity) -> Problem:
        """Return a problem that is here."""
        return Problem(
            what=what,
            source=self.source,
            line=self.line,
            field=field_name,
            severity=severity,
            conversation_id=conversation_id,
        )

    def __str__(self) -> str:
        """As compilers say it."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(slots=True)
class _Seen:
    """What stays of the calls that were gone through."""

    number_of: dict[str, int] = field(default_factory=dict)
    """Which call has an id."""
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    """By call; 0 where there is none."""
    sources: "array[int]" = field(default_factory=lambda: array("l"))
    """By call, which of `files`."""
    texts: "array[int]" = field(default_factory=lambda: array("Q"))
    """By call, a hash of what was said."""
    files: dict[str, int] = field(default_factory=dict)
    zoned: Counter[bool] = field(default_factory=Counter)
    """How many calls name the time zone of their time, and how many do not."""

    def add(self, call: Call, at: _At) -> None:
        """Keep a call."""
        self.number_of.setdefault(call.conversation_id, len(self.lines))
        self.lines.append(at.line or 0)
        self.sources.append(self.files.setdefault(at.source, len(self.files)))
        self.texts.append(_digest(call.turns))
        if call.started_at is not None:
            self.zoned[call.started_at.tzinfo is not None] += 1

    def at(self, number: int) -> _At:
        """Return where a call stands."""
        source = list(self.files)[self.sources[number]]
        return _At(source=source, line=self.lines[number] or None)


def validate(
    calls: Iterable[Call | Entry],
    labels: Iterable[Label | LabelEntry],
    taxonomy: Taxonomy | None,
    *,
    now: datetime,
    find: Callable[[Sequence[Turn]], Sequence[Personal]] | None = None,
    options: ValidateOptions | None = None,
) -> list[Problem]:
    """Return what is wrong with calls and their labels, in the order in which they stand.

    Args:
        calls: Calls; as entries they bring their places and labels.
        labels: Labels that stand apart from the calls.
        taxonomy: What the labels are about; None does not look at their classes.
        now: The time, with its zone; no call began later.
        find: Finds personal data; None does not look for it.
        options: What counts as a problem.
    """
    wishes = options or ValidateOptions()
    seen = _Seen()
    problems: list[Problem] = []
    told: list[tuple[Label, _At]] = []
    for each in calls:
        call, at, own = _opened(each)
        first = seen.number_of.get(call.conversation_id)
        if first is not None:
            what = say("There is a call of this id already: {place}.", place=str(seen.at(first)) or first + 1)
            problems.append(at.problem(what, "conversation_id", call.conversation_id, Severity.ERROR))
        seen.add(call, at)
        problems += _call_problems(call, at, now, find, wishes)
        told += own
    told += map(_told, labels)
    for label, at in told:
        problems += [
            at.problem(what, where, label.conversation_id, Severity.ERROR)
            for where, what in _label_problems(label, taxonomy, seen)
        ]
    problems += _repeated(told)
    problems += _contradictions(told, seen)
    problems += _small_classes(told, taxonomy, wishes)
    problems += _mixed_zones(seen.zoned)
    return problems


def _opened(each: Call | Entry) -> tuple[Call, _At, list[tuple[Label, _At]]]:
    """Return a call with its place and its own labels."""
    if isinstance(each, Call):
        return each, _At(), []
    at = _At(source=each.source, line=each.line)
    return each.call, at, [(label, at) for label in (each.label, *each.further) if label is not None]


def _told(each: Label | LabelEntry) -> tuple[Label, _At]:
    return (each, _At()) if isinstance(each, Label) else (each.label, _At(source=each.source, line=each.line))


def _call_problems(
    call: Call,
    at: _At,
    now: datetime,
    find: Callable[[Sequence[Turn]], Sequence[Personal]] | None,
    wishes: ValidateOptions,
) -> Iterator[Problem]:
    for where, what in (*_emptiness(call), *_times(call), *_unspeakable(call), *_bounds(call)):
        yield at.problem(what, where, call.conversation_id, Severity.ERROR)
    for where, what in (*_roles(call), *_future(call, now), *_forms(call), *_length(call, wishes.longest_call)):
        yield at.problem(what, where, call.conversation_id, Severity.WARNING)
    if find is not None:
        for where, what in _personal(call, find):
            yield at.problem(what, where, call.conversation_id, Severity.WARNING)


def doubts(call: Call, *, longest: int = LONGEST_CALL) -> Wrong:
    """Yield what whoever trains or classifies should know about a call, by field: only one speaks, or it is long."""
    yield from _roles(call)
    yield from _length(call, longest)


def _emptiness(call: Call) -> Wrong:
    if not call.conversation_id.strip():
        yield "conversation_id", say("The id is empty.")
    speakers = {turn.role for turn in call.turns if turn.text.strip()}
    if not speakers:
        yield "turns", say("Nobody says anything.")
    elif not speakers & {Role.CUSTOMER, Role.UNKNOWN}:
        yield "turns", say("The customer says nothing.")


def _times(call: Call) -> Wrong:
    last_s = -math.inf
    for number, turn in enumerate(call.turns):
        if turn.t0 is not None and turn.t0 < 0:
            yield f"turns[{number}].t0", say("The turn begins before the call: {time} s.", time=turn.t0)
        if turn.t0 is not None and turn.t0 < last_s:
            yield f"turns[{number}].t0", say("The turn begins before the one above it: {time} s.", time=turn.t0)
        if turn.t0 is not None and turn.t1 is not None and turn.t1 < turn.t0:
            yield f"turns[{number}].t1", say("The turn ends before it begins: {time} s.", time=turn.t1)
        last_s = last_s if turn.t0 is None else max(last_s, turn.t0)
    if call.duration_s is not None and call.duration_s < 0:
        yield "duration_s", say("The call lasts less than nothing: {time} s.", time=call.duration_s)


def _bounds(call: Call) -> Wrong:
    last = -1
    for number, turn in enumerate(call.turns):
        if turn.i is not None and turn.i <= last:
            yield f"turns[{number}].i", say("The turns are not in their order.")
        last = last if turn.i is None else turn.i
        if turn.conf is not None and not 0 <= turn.conf <= 1:
            yield f"turns[{number}].conf", say("A confidence lies from 0 to 1; this is {conf}.", conf=turn.conf)


def _unspeakable(call: Call) -> Wrong:
    for number, turn in enumerate(call.turns):
        found = _CONTROL.search(turn.text)
        if found is not None:
            yield (
                f"turns[{number}].text",
                say("The text holds a control character: U+{code:04X}.", code=ord(found[0])),
            )
    if _CONTROL.search(call.conversation_id) or any(each in call.conversation_id for each in "\t\r\n"):
        yield "conversation_id", say("The id holds a control character.")


def _roles(call: Call) -> Wrong:
    speakers = {turn.role for turn in call.turns if turn.text.strip()} - {Role.IVR}
    if len(speakers) == 1:
        yield "turns", say("Only one speaks: {role}.", role=next(iter(speakers)).value)


def _future(call: Call, now: datetime) -> Wrong:
    began = call.started_at
    if began is None:
        return
    began = began if began.tzinfo else began.replace(tzinfo=now.tzinfo)
    if (began - now).total_seconds() > _SOON_S:
        yield "started_at", say("The call began in the future: {time}.", time=began.isoformat())


def _forms(call: Call) -> Wrong:
    for number, turn in enumerate(call.turns):
        if not unicodedata.is_normalized("NFC", turn.text):
            yield f"turns[{number}].text", say("The text is not in the form NFC: the same word can be spelt twice.")
        if _REPLACED in turn.text:
            yield f"turns[{number}].text", say("The text has lost characters (U+FFFD).")


def _length(call: Call, longest: int) -> Wrong:
    length = sum(len(turn.text) for turn in call.turns)
    if length > longest:
        yield (
            "turns",
            say("The call has {length} characters; only its beginning and its end will be read.", length=length),
        )


def _personal(call: Call, find: Callable[[Sequence[Turn]], Sequence[Personal]]) -> Wrong:
    """Say which personal data is left, and never what it says."""
    found = find(call.turns)
    if found:
        counts = Counter(str(each.kind) for each in found)
        yield f"turns[{min(each.turn for each in found)}].text", _left(counts)
    named = {"customer_id": call.customer_id, "agent_id": call.agent_id}
    named |= {f"meta.{name}": value for name, value in call.meta.items() if isinstance(value, str)}
    for where, value in named.items():
        within = find((Turn(role=Role.UNKNOWN, text=value),)) if value else ()
        if within:
            yield where, _left(Counter(str(each.kind) for each in within))


def _left(counts: Counter[str]) -> Text:
    return say(
        "There is personal data that is not redacted: {counts}.",
        counts=", ".join(f"{kind} {number}" for kind, number in sorted(counts.items())),
    )


def _label_problems(label: Label, taxonomy: Taxonomy | None, seen: _Seen) -> Wrong:
    if label.conversation_id not in seen.number_of:
        yield "conversation_id", say("The label is of a call that is not there: {id}.", id=label.conversation_id)
    if not 0 < label.weight <= 1:
        yield "weight", say("A weight is above 0 and at most 1; this is {weight}.", weight=label.weight)
    if taxonomy is None:
        return
    if label.taxonomy != taxonomy.ref:
        # What an older version calls otherwise is followed wherever labels are used, so only the rest is wrong.
        found = taxonomy.migrate(label)
        if isinstance(found, Problem):
            yield found.field, found.what
        return
    fields = ["primary", *(f"secondary[{number}]" for number in range(len(label.secondary)))]
    for where, code in zip(fields, (label.primary, *label.secondary), strict=True):
        if code in taxonomy.leaves:
            continue
        near = ", ".join(get_close_matches(code, taxonomy.leaves, n=_MOST_SHOWN)) or ", ".join(
            taxonomy.leaves[:_MOST_SHOWN]
        )
        yield (
            where,
            say("{code!r} is no leaf of {ref}; there are for example: {near}.", code=code, ref=taxonomy.ref, near=near),
        )


def _repeated(told: Iterable[tuple[Label, _At]]) -> Iterator[Problem]:
    """Yield labels that one annotator gave a call twice; several annotators are welcome."""
    first: dict[tuple[str, str, str], _At] = {}
    for label, at in told:
        key = (label.conversation_id, label.source.value, label.annotator)
        if key in first:
            what = say("There is a label of this call by the same annotator already: {place}.", place=str(first[key]))
            yield at.problem(what, "conversation_id", label.conversation_id, Severity.ERROR)
        first.setdefault(key, at)


def _contradictions(told: Iterable[tuple[Label, _At]], seen: _Seen) -> Iterator[Problem]:
    """Yield labels of calls in which the same was said as in others that have another class."""
    classes: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for label, at in told:
        number = seen.number_of.get(label.conversation_id)
        if number is None:
            continue
        others = classes[seen.texts[number]]
        other = next((name for name in others if name != label.primary), None)
        if other is not None and others[other] != label.conversation_id:
            what = say(
                "The same text is {other} in the call {call}, and {this} here.",
                other=other,
                call=others[other],
                this=label.primary,
            )
            yield at.problem(what, "primary", label.conversation_id, Severity.WARNING)
        others.setdefault(label.primary, label.conversation_id)


def _small_classes(
    told: Iterable[tuple[Label, _At]], taxonomy: Taxonomy | None, wishes: ValidateOptions
) -> Iterator[Problem]:
    """Yield classes with few examples; what is no class has been said already."""
    labelled = set()
    for label, _ in told:
        found = label if taxonomy is None else taxonomy.migrate(label)
        if isinstance(found, Label):
            labelled.add((found.conversation_id, found.primary))
    examples = Counter(code for _, code in labelled)
    for code, number in sorted(examples.items()):
        if number < wishes.fewest_examples:
            is_error = wishes.training and number == 1
            what = (
                say("The class {code} has a single example; nothing can be learnt from it.", code=code)
                if number == 1
                else say("The class {code} has {number} examples.", code=code, number=number)
            )
            severity = Severity.ERROR if is_error else Severity.WARNING
            yield Problem(what=what, field="primary", severity=severity)


def _mixed_zones(zoned: Counter[bool]) -> Iterator[Problem]:
    if len(zoned) > 1:
        what = say(
            "{zoned} calls name the time zone of started_at and {bare} do not; those are taken for UTC.",
            zoned=zoned[True],
            bare=zoned[False],
        )
        yield Problem(what=what, field="started_at", severity=Severity.WARNING)


def _digest(turns: Sequence[Turn]) -> int:
    """Return a hash of what people say in a call, without case, width, blanks and punctuation."""
    said = " ".join(turn.text for turn in turns if turn.role is not Role.IVR)
    plain = _NO_WORD.sub("", unicodedata.normalize("NFKC", said).casefold())
    return int.from_bytes(blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest(), "big")
