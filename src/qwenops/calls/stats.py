"""What a set of calls is like: how many of which class, language and month, how long, who speaks, how sure was the ASR.

`stats` counts in one pass and keeps a few numbers of each call; `sentences` says what stands out.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qwenops.calls.readers.entries import Entry, LabelEntry
from qwenops.calls.render import WHOLE, language_of
from qwenops.calls.schema import Call, Label, Role
from qwenops.options import show_number
from qwenops.text import Text, say

SCHEMA = "qwenops.call-stats/1"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

_FEWEST = 10
_UNEVEN = 20.0
"""So many times as many calls in the largest class as in the smallest are worth a word."""
_LONG = WHOLE.max_chars
"""What a model reads of a call unless it is told otherwise."""
_UNSURE = 0.7
"""A mean confidence of the recognition below which many words are wrong."""
_NOTABLE = 0.05


@dataclass(slots=True)
class _Counted:
    """What is counted of calls as they come."""

    languages: Counter[str] = field(default_factory=Counter)
    channels: Counter[str] = field(default_factory=Counter)
    months: Counter[str] = field(default_factory=Counter)
    turns_by_role: Counter[str] = field(default_factory=Counter)
    characters_by_role: Counter[str] = field(default_factory=Counter)
    placeholders: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    characters: "array[float]" = field(default_factory=lambda: array("d"))
    turns: "array[float]" = field(default_factory=lambda: array("d"))
    durations_s: "array[float]" = field(default_factory=lambda: array("d"))
    confidences: "array[float]" = field(default_factory=lambda: array("d"))
    customers: set[str] = field(default_factory=set)
    agents: set[str] = field(default_factory=set)

    def add(self, call: Call) -> None:
        """Count a call."""
        self.languages[call.lang or language_of(call)] += 1
        self.channels[call.channel or "-"] += 1
        self.months["-" if call.started_at is None else f"{call.started_at:%Y-%m}"] += 1
        said = 0
        for turn in call.turns:
            self.turns_by_role[turn.role.value] += 1
            self.characters_by_role[turn.role.value] += len(turn.text)
            said += len(turn.text)
        self.characters.append(said)
        self.turns.append(len(call.turns))
        if call.duration_s is not None:
            self.durations_s.append(call.duration_s)
        confidence = _confidence(call)
        if confidence is not None:
            self.confidences.append(confidence)
        if call.redaction is not None:
            self.flags["redacted"] += 1
            self.placeholders.update(call.redaction.counts)
        roles = {turn.role for turn in call.turns if turn.text.strip()}
        self.flags["without_customer"] += Role.CUSTOMER not in roles
        self.flags["without_agent"] += Role.AGENT not in roles
        self.flags["long"] += said > _LONG
        if call.customer_id:
            self.customers.add(call.customer_id)
        if call.agent_id:
            self.agents.add(call.agent_id)


def stats(calls: Iterable[Call | Entry], labels: Iterable[Label | LabelEntry] = ()) -> dict[str, Any]:
    """Return the figures of calls and their labels, as JSON has them.

    Args:
        calls: Calls; as entries they bring their labels.
        labels: Labels that stand apart from the calls.
    """
    counted = _Counted()
    told: list[Label] = []
    for each in calls:
        call = each if isinstance(each, Call) else each.call
        counted.add(call)
        if isinstance(each, Entry):
            told += [label for label in (each.label, *each.further) if label is not None]
    told += [each if isinstance(each, Label) else each.label for each in labels]
    return {
        "schema": SCHEMA,
        "calls": len(counted.turns),
        "customers": len(counted.customers),
        "agents": len(counted.agents),
        "languages": _most(counted.languages),
        "channels": _most(counted.channels),
        "months": dict(sorted(counted.months.items())),
        "characters": _spread(counted.characters),
        "turns": _spread(counted.turns),
        "duration_s": _spread(counted.durations_s),
        "asr_confidence": _spread(counted.confidences),
        "roles": {
            role: {"turns": number, "characters": counted.characters_by_role[role]}
            for role, number in counted.turns_by_role.most_common()
        },
        "without_customer": counted.flags["without_customer"],
        "without_agent": counted.flags["without_agent"],
        "long": counted.flags["long"],
        "redacted": counted.flags["redacted"],
        "placeholders": _most(counted.placeholders),
        **_of_labels(told),
    }


def sentences(found: Mapping[str, Any]) -> tuple[Text, ...]:
    """Say what stands out in the figures of `stats`."""
    if not found["calls"]:
        return (say("There are no calls."),)
    return (_size(found), *_of_classes(found), *_of_text(found))


def _of_labels(labels: Iterable[Label]) -> dict[str, Any]:
    pairs: set[tuple[str, str]] = set()
    sources: Counter[str] = Counter()
    annotators: set[str] = set()
    taxonomies: Counter[str] = Counter()
    for label in labels:
        pairs.add((label.conversation_id, label.primary))
        sources[label.source.value] += 1
        taxonomies[label.taxonomy] += 1
        if label.annotator:
            annotators.add(label.annotator)
    calls = Counter(call for call, _ in pairs)
    return {
        "labels": sources.total(),
        "labelled": len(calls),
        "disputed": sum(number > 1 for number in calls.values()),
        "classes": _most(Counter(code for _, code in pairs)),
        "label_sources": _most(sources),
        "taxonomies": _most(taxonomies),
        "annotators": len(annotators),
    }


def _confidence(call: Call) -> float | None:
    """Return how sure the recognition was of a call: what it says itself, else the mean over characters."""
    if call.asr is not None and call.asr.mean_conf is not None:
        return call.asr.mean_conf
    told = [(turn.conf, max(1, len(turn.text))) for turn in call.turns if turn.conf is not None]
    return sum(conf * length for conf, length in told) / sum(length for _, length in told) if told else None


def _most(counted: Counter[str]) -> dict[str, int]:
    """Return counts from the largest down, equal ones by name."""
    return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))


def _spread(values: "array[float]") -> dict[str, Any]:
    """Return how values are distributed; only their number where there are none."""
    if not values:
        return {"n": 0}
    import numpy as np

    from qwenops.statistics import quantile_rank

    ordered = np.sort(np.frombuffer(values, dtype=np.float64))
    return {
        "n": int(ordered.size),
        "mean": round(float(ordered.mean()), 4),
        "min": float(ordered[0]),
        **{f"p{p * 100:g}": float(ordered[quantile_rank(ordered.size, p)]) for p in QUANTILES},
        "max": float(ordered[-1]),
    }


def _size(found: Mapping[str, Any]) -> Text:
    lengths, turns = found["characters"], found["turns"]
    return say(
        "{calls} calls, half of them with at most {characters} characters and {turns} turns; one in twenty has more "
        "than {longest} characters.",
        calls=found["calls"],
        characters=show_number(lengths["p50"]),
        turns=show_number(turns["p50"]),
        longest=show_number(lengths["p95"]),
    )


def _of_classes(found: Mapping[str, Any]) -> list[Text]:
    classes: Mapping[str, int] = found["classes"]
    if not classes:
        return [say("None of them has a label.")]
    largest, *_, smallest = (*classes, *classes)
    told = [
        say(
            "{labelled} have a label, of {classes} classes; the largest is {largest} with {number}.",
            labelled=found["labelled"],
            classes=len(classes),
            largest=largest,
            number=classes[largest],
        )
    ]
    if classes[largest] > _UNEVEN * classes[smallest]:
        told.append(
            say(
                "Classes are uneven: {smallest} has {number}. Judge by macro-F1, not by accuracy.",
                smallest=smallest,
                number=classes[smallest],
            )
        )
    small = [code for code, number in classes.items() if number < _FEWEST]
    if small:
        told.append(say("{number} classes have fewer than {fewest} calls.", number=len(small), fewest=_FEWEST))
    if found["disputed"]:
        told.append(say("Annotators disagree about {number} calls.", number=found["disputed"]))
    return told


def _of_text(found: Mapping[str, Any]) -> list[Text]:
    told = []
    calls = found["calls"]
    if found["long"] > _NOTABLE * calls:
        told.append(
            say(
                "{share:.0%} have more than {most} characters; of those the middle will be left out.",
                share=found["long"] / calls,
                most=show_number(_LONG),
            )
        )
    if found["without_customer"] > _NOTABLE * calls:
        told.append(
            say(
                "In {share:.0%} no turn is known to be the customer's; say who speaks when the file is read.",
                share=found["without_customer"] / calls,
            )
        )
    confidence = found["asr_confidence"]
    if confidence["n"] and confidence["p50"] < _UNSURE:
        told.append(
            say(
                "The recognition was unsure: half of the calls have a mean confidence of at most {confidence:.2f}.",
                confidence=confidence["p50"],
            )
        )
    if found["redacted"] < calls:
        told.append(say("{number} calls are not redacted.", number=calls - found["redacted"]))
    return told
