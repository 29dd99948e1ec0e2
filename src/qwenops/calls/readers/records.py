"""A record becomes a call and a label: one row of a table, one JSON object with a text and a category, one transcript.

What a call cannot be without is an error, and the record is left out. What it can (a date that cannot be read, a
category that is no class) is said as well, and the call is there without it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from qwenops.calls.classes import Taxonomy
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.readers.columns import (
    Column,
    columns_of,
    has_lost_digits,
    json_value,
    moment,
    number,
    seconds,
    told_columns,
    words,
)
from qwenops.calls.readers.entries import Entry, Found, LabelEntry, Place, ReadOptions
from qwenops.calls.readers.labelling import Judgement, Labelling, labelling
from qwenops.calls.readers.turns import Spoken, spoken_in, told_speakers
from qwenops.calls.schema import Call, Label, Recognition, Role
from qwenops.errors import ConfigError
from qwenops.text import say

_LANGUAGES = (
    ("zh", ("zh", "cn", "chi", "cmn", "中", "汉", "普通话", "粤", "国语", "mandarin")),
    ("en", ("en", "英")),
    ("mixed", ("mixed", "混")),
)
_SCORE_BOUNDS = (0.0, 1.0)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How the words of a file are to be understood."""

    labelling: Labelling = field(default_factory=Labelling)
    columns: Mapping[str, Column] = field(default_factory=dict)
    speakers: Mapping[str, Role] = field(default_factory=dict)
    zone: tzinfo | None = None
    sheet: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a file says about one call."""

    values: Mapping[Column, Any] = field(default_factory=dict)
    names: Mapping[Column, str] = field(default_factory=dict)
    """What the file calls them."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What means nothing to us."""
    spoken: Spoken | None = None
    """The turns, where they are no single text."""
    recognition: Recognition | None = None
    judgements: tuple[Judgement, ...] = ()
    """What is said about the call, where it is not in columns."""

    def text(self, column: Column) -> str:
        """Return a value as text without the space around it."""
        return words(self.values.get(column)).strip()


def terms(taxonomy: Taxonomy | None, options: ReadOptions) -> Terms:
    """Return how the words of a file are to be understood.

    Raises:
        ConfigError: An option cannot be read.
    """
    zone = None
    if options.timezone:
        try:
            zone = ZoneInfo(options.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ConfigError(
                say("There is no time zone {name!r}.", name=options.timezone),
                hint=say("Write it as Asia/Shanghai or UTC."),
            ) from error
    return Terms(
        labelling=labelling(taxonomy, options.categories),
        columns=told_columns(options.columns),
        speakers=told_speakers(options.speakers),
        zone=zone,
        sheet=options.sheet,
    )


def record_of(pairs: Mapping[str, Any], known: Mapping[str, Column]) -> Record:
    """Return the record of names and values; what stands under `metadata` fills what is missing beside it."""
    values: dict[Column, Any] = {}
    names: dict[Column, str] = {}
    meta: dict[str, Any] = {}
    for name, meaning in zip(pairs, columns_of(tuple(pairs), known), strict=True):
        value = pairs[name]
        if meaning is not None:
            values[meaning], names[meaning] = value, name
        elif not _is_empty(value):
            meta[name] = json_value(value)
    inner = _mapping(values.pop(Column.META, None))
    if inner is None:
        return Record(values=values, names=names, meta=meta)
    if not isinstance(inner, Mapping):
        return Record(values=values, names=names, meta=meta | {names[Column.META]: json_value(inner)})
    further = record_of({name: value for name, value in inner.items() if name not in pairs}, known)
    within = {column: f"{names[Column.META]}.{name}" for column, name in further.names.items()}
    return Record(values={**further.values, **values}, names=within | names, meta={**further.meta, **meta})


def entries_of(record: Record, place: Place, known: Terms) -> Iterator[Found]:
    """Yield the call of a record, after what is wrong with it."""
    text_name = record.names.get(Column.TEXT, Column.TEXT)
    text = record.values.get(Column.TEXT)
    if record.spoken is None and isinstance(text, list | Mapping):
        yield place.problem(say("This is no text."), text_name, conversation_id=record.text(Column.ID))
        return
    spoken = record.spoken or spoken_in(words(text), known.speakers)
    if not spoken.turns:
        yield place.problem(say("There is no text."), text_name, conversation_id=record.text(Column.ID))
        return
    problems: list[Problem] = []
    conversation_id = _conversation_id(record, place, problems)
    if spoken.strangers:
        what = say(
            "Nobody knows which speaker is the agent: {speakers}. Say it: --speaker {first}=agent.",
            speakers=", ".join(spoken.strangers),
            first=spoken.strangers[0],
        )
        problems.append(place.problem(what, text_name, Severity.WARNING, conversation_id))
    preamble = {"preamble": spoken.preamble} if spoken.preamble else {}
    call = Call(
        conversation_id=conversation_id,
        customer_id=record.text(Column.CUSTOMER),
        agent_id=record.text(Column.AGENT),
        channel=record.text(Column.CHANNEL),
        lang=_language(record, place, problems),
        started_at=_optional(record, Column.STARTED, lambda value: moment(value, known.zone), place, problems),
        duration_s=_optional(record, Column.DURATION, seconds, place, problems),
        turns=spoken.turns,
        asr=record.recognition,
        meta=dict(record.meta) | preamble,
    )
    labels = _labels(record, conversation_id, place, known.labelling, problems)
    yield from problems
    yield Entry(
        call=call, label=labels[0] if labels else None, line=place.line, source=place.source, further=tuple(labels[1:])
    )


def label_entries_of(record: Record, place: Place, known: Terms) -> Iterator[LabelEntry | Problem]:
    """Yield the labels of a record that has no text: an id and a category."""
    problems: list[Problem] = []
    if not record.text(Column.ID):
        yield place.problem(say("There is no id of a call."), record.names.get(Column.ID, Column.ID))
        return
    labels = _labels(record, _conversation_id(record, place, problems), place, known.labelling, problems)
    if not labels and not problems:
        problems.append(place.problem(say("There is no category."), record.names.get(Column.CATEGORY, Column.CATEGORY)))
    yield from problems
    for label in labels:
        yield LabelEntry(label=label, line=place.line, source=place.source)


def _conversation_id(record: Record, place: Place, problems: list[Problem]) -> str:
    value, name = record.values.get(Column.ID), record.names.get(Column.ID, "")
    conversation_id = record.text(Column.ID)
    if has_lost_digits(value):
        what = say("The spreadsheet rounded the id {id!r} to 15 digits; keep ids as text.", id=conversation_id)
        problems.append(place.problem(what, name, Severity.WARNING, conversation_id))
    if name and not conversation_id:
        problems.append(
            place.problem(say("There is no id; the call is called {name}.", name=place.name), name, Severity.WARNING)
        )
    return conversation_id or place.name


def _language(record: Record, place: Place, problems: list[Problem]) -> str:
    said = record.text(Column.LANG).casefold()
    for lang, beginnings in _LANGUAGES:
        if said.startswith(beginnings):
            return lang
    if said:
        what = say("{lang!r} is none of the languages zh, en, mixed.", lang=said)
        name = record.names.get(Column.LANG, Column.LANG)
        problems.append(place.problem(what, name, Severity.WARNING, record.text(Column.ID)))
    return ""


def _optional(
    record: Record, column: Column, read: Callable[[Any], _T], place: Place, problems: list[Problem]
) -> _T | None:
    """Return a value that a call can be without, or None and say why."""
    value = record.values.get(column)
    if _is_empty(value):
        return None
    try:
        return read(value)
    except (ValueError, OverflowError):
        what = say("{value!r} cannot be read and was left out.", value=words(value))
        problems.append(place.problem(what, record.names.get(column, column), Severity.WARNING, record.text(Column.ID)))
        return None


def _labels(
    record: Record, conversation_id: str, place: Place, known: Labelling, problems: list[Problem]
) -> list[Label]:
    """Return what a record says its call is about."""
    name = record.names.get(Column.CATEGORY, Column.CATEGORY.value)
    judgements = record.judgements or _judgements(record, place, problems)
    labels = []
    for judgement in judgements:
        low, high = _SCORE_BOUNDS
        if not low < judgement.score <= high:
            what = say(
                "The score {score} is not above 0 and at most 1; the label was left out.", score=f"{judgement.score:g}"
            )
            score_name = record.names.get(Column.SCORE, Column.SCORE.value)
            problems.append(place.problem(what, score_name, conversation_id=conversation_id))
            continue
        found = known.label(judgement, conversation_id)
        if isinstance(found, Label):
            labels.append(found)
        elif found is not None:
            problems.append(place.problem(found, name, conversation_id=conversation_id))
    return labels


def _judgements(record: Record, place: Place, problems: list[Problem]) -> tuple[Judgement, ...]:
    categories = [*_several(record.values.get(Column.CATEGORY)), *_several(record.values.get(Column.SECONDARY))]
    if not any(each.strip() for each in categories):
        return ()
    num_before = len(problems)
    score = _optional(record, Column.SCORE, number, place, problems)
    if len(problems) > num_before:
        # Whoever wrote a score did not mean full trust.
        return ()
    return (
        Judgement(
            categories=categories,
            score=1.0 if score is None else score,
            annotator=record.text(Column.ANNOTATOR),
            note=record.text(Column.NOTE),
        ),
    )


def _several(value: object) -> list[str]:
    """Return the categories of a value: a list, what Label Studio calls choices, or one text."""
    if isinstance(value, Mapping):
        value = value.get("choices", value.get("taxonomy"))
    if not isinstance(value, list):
        return [words(value)]
    return [words(each[-1] if isinstance(each, list) and each else each) for each in value]


def _mapping(value: object) -> object:
    """Return metadata as what it is; the cell of a table holds it as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        return value


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not words(value).strip())
