"""Labelled texts as other tools keep them: TrainingData objects, ms-swift, LLaMA-Factory, Label Studio.

ms-swift and LLaMA-Factory keep an instruction, a text and an answer; the text is the call and the answer its category.
ms-swift's numbers for classes have no names in the file; the option `categories` gives them.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwenops.calls.readers.columns import Column, moment, words
from qwenops.calls.readers.entries import Found, Place
from qwenops.calls.readers.labelling import Judgement
from qwenops.calls.readers.records import Record, Terms, entries_of, record_of
from qwenops.calls.readers.turns import Segment, Spoken, spoken_by, spoken_in

_SPEAKERS = ("role", "from", "author", "speaker", "name")
_SAID = ("content", "value", "text", "sentence")
_ANSWERS = frozenset({"assistant", "gpt", "observation", "function_call"})
_ASKS = frozenset({"user", "human"})
_DIALOGUES = ("dialogue", "dialog", "conversation", "turns", "messages", "paragraphs")
_MAIN_CONTROLS = ("category", "complaint_category", "label", "class", "primary", "sentiment", "choice")
"""Names of the control, in Label Studio, that holds the category; the first control where none is called so."""
_CHOSEN = ("choices", "taxonomy")
_OF_ANNOTATION = frozenset({"created_at", "updated_at", "lead_time", "annotation_id"})
"""What the short form says about the annotation, not about the call."""


def entries_of_object(found: Mapping[str, Any], place: Place, known: Terms) -> Iterator[Found]:
    """Yield the call of an object with a text: `conversation_id, input_text, complaint_category, confidence_score`."""
    record = record_of(found, known.columns)
    value = record.values.get(Column.TEXT)
    spoken = _turns(value, known) if isinstance(value, list) else None
    yield from entries_of(record if spoken is None else replace(record, spoken=spoken), place, known)


def entries_of_ms_swift(found: Mapping[str, Any], place: Place, known: Terms) -> Iterator[Found]:
    """Yield the call of an object with messages, or with a query and a response."""
    messages = found.get("messages")
    if not isinstance(messages, list):
        messages = [
            {"role": "user", "content": found.get("query")},
            {"role": "assistant", "content": found.get("response")},
        ]
    label = found.get("label")
    rest = {name: value for name, value in found.items() if name not in {"messages", "query", "response", "label"}}
    yield from _entries_of_messages(messages, label, rest, place, known)


def entries_of_llama_factory(found: Mapping[str, Any], place: Place, known: Terms) -> Iterator[Found]:
    """Yield the call of an object with an instruction, an input and an output, or with conversations."""
    conversations = found.get("conversations")
    if isinstance(conversations, list):
        used = {"conversations", "system", "tools", "label"}
        rest = {name: value for name, value in found.items() if name not in used}
        yield from _entries_of_messages(conversations, found.get("label"), rest, place, known)
        return
    asked, text = words(found.get("instruction")), words(found.get("input"))
    spoken = spoken_in(text if text.strip() else asked, known.speakers)
    used = {"instruction", "input", "output", "system", "history"}
    rest = {name: value for name, value in found.items() if name not in used}
    yield from _entries(rest, spoken, [words(found.get("output"))], place, known)


def entries_of_label_studio(found: Mapping[str, Any], place: Place, known: Terms) -> Iterator[Found]:
    """Yield the call of an annotated task, with the label of each annotator; also of the short form of an export."""
    data = found.get("data")
    task = data if isinstance(data, Mapping) else None
    plain = {name: value for name, value in (found if task is None else task).items() if name not in _OF_ANNOTATION}
    if isinstance(found.get("id"), int | str):
        is_named = bool(record_of({**plain, "id": None}, known.columns).text(Column.ID))
        plain = {**plain, "id": None if is_named else f"task-{found['id']}"}
    record = record_of(plain, known.columns)
    whole = Record(
        values=record.values,
        names=record.names if task is None else {**record.names, Column.CATEGORY: "annotations"},
        meta={name: value for name, value in record.meta.items() if name not in _DIALOGUES},
        spoken=_dialogue(plain, known),
        judgements=() if task is None else _judgements(found.get("annotations") or found.get("completions")),
    )
    yield from entries_of(whole, place, known)


def _entries_of_messages(
    messages: Sequence[Any], label: object, rest: Mapping[str, Any], place: Place, known: Terms
) -> Iterator[Found]:
    """Yield the call of a dialogue with a model: the last answer is the category unless a label is there."""
    said = [(speaker, text) for each in messages if (text := _said(each)) and (speaker := _speaker(each)) != "system"]
    categories = [words(each) for each in label] if isinstance(label, list) else [words(label)]
    if label is None:
        categories = [said.pop()[1]] if said and said[-1][0] in _ANSWERS else []
    if len(said) == 1:
        spoken = spoken_in(said[0][1], known.speakers)
    else:
        names = dict.fromkeys(_ASKS, "customer") | dict.fromkeys(_ANSWERS, "agent")
        spoken = spoken_by([Segment(speaker=names.get(each, each), text=text) for each, text in said], known.speakers)
    yield from _entries(rest, spoken, categories, place, known)


def _entries(
    rest: Mapping[str, Any], spoken: Spoken, categories: Sequence[str], place: Place, known: Terms
) -> Iterator[Found]:
    record = record_of(rest, known.columns)
    whole = Record(
        values={column: value for column, value in record.values.items() if column is not Column.TEXT},
        names=record.names,
        meta=record.meta,
        spoken=spoken,
        judgements=(Judgement(categories=categories),) if any(each.strip() for each in categories) else (),
    )
    yield from entries_of(whole, place, known)


def _said(message: object) -> str:
    """Return what a message says."""
    if not isinstance(message, Mapping):
        return ""
    found = next((message[name] for name in _SAID if name in message), None)
    if isinstance(found, list):  # parts of one message, as chat servers have them
        return "".join(words(part.get("text")) for part in found if isinstance(part, Mapping))
    return words(found).strip()


def _speaker(message: object) -> str:
    """Return who says it."""
    if not isinstance(message, Mapping):
        return ""
    return next((words(message[name]).strip().casefold() for name in _SPEAKERS if message.get(name) is not None), "")


def _dialogue(data: Mapping[str, Any], known: Terms) -> Spoken | None:
    """Return the turns of a task that holds them as a list; None where it holds a text."""
    for name, value in data.items():
        if isinstance(value, list) and value and (name in _DIALOGUES or all(_said(each) for each in value)):
            spoken = _turns(value, known)
            if spoken.turns:
                return spoken
    return None


def _turns(said: Sequence[Any], known: Terms) -> Spoken:
    """Return the turns of a list of messages, or of lines."""
    if all(isinstance(each, str) for each in said):
        return spoken_in("\n".join(said), known.speakers)
    return spoken_by([Segment(speaker=_speaker(each), text=_said(each)) for each in said], known.speakers)


def _judgements(annotations: object) -> tuple[Judgement, ...]:
    """Return what the annotators say who did not give up."""
    told = annotations if isinstance(annotations, list) else ()
    kept = (each for each in told if isinstance(each, Mapping) and not each.get("was_cancelled"))
    return tuple(judgement for each in kept if (judgement := _judgement(each)) is not None)


def _judgement(annotation: Mapping[str, Any]) -> Judgement | None:
    """Return what one annotator says; None where nothing was chosen."""
    chosen: dict[str, list[str]] = {}
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        value = result.get("value") if isinstance(result, Mapping) else None
        if not isinstance(value, Mapping):
            continue
        found = next((value[name] for name in _CHOSEN if isinstance(value.get(name), list)), ())
        picked = [words(each[-1] if isinstance(each, list) and each else each) for each in found]
        if picked:
            chosen.setdefault(words(result.get("from_name")), []).extend(picked)
    if not chosen:
        return None
    main = next((name for name in _MAIN_CONTROLS if name in chosen), next(iter(chosen)))
    by = annotation.get("completed_by")
    decided_at = None
    with contextlib.suppress(ValueError, OverflowError):
        decided_at = moment(annotation.get("updated_at") or annotation.get("created_at"), None)
    return Judgement(
        categories=chosen[main],
        axes={name: ", ".join(picked) for name, picked in chosen.items() if name != main},
        annotator=f"annotator-{words(by.get('id') if isinstance(by, Mapping) else by)}" if by is not None else "",
        decided_at=decided_at,
    )
