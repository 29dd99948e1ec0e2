"""How much personal data redaction finds, what it takes for personal data that is none, and how fast it is.

    python -m benchmarks.redaction [--unseen stone] [--calls 6000] [--show 20]

Calls are the generator's, with numbers that are nobody's; its truth says where personal data stands after speech
recognition has had its way with it. They are written by several authors independently of one another; goals are those
on the author whose words nobody looked at while the rules were made (`--unseen`).

* Recall: a piece of personal data counts as found when every letter and digit of it is taken out, under whatever kind;
  half a number is a miss. By kind and surface: digits, spoken (words for digits) and split (over turns, or corrected).
* Precision: of what was taken out, the share that is personal data: at least half of its letters and digits are.
* Speed: bytes of text a second of processor time, in one thread.

Intervals are exact ones (Clopper and Pearson's, 95 %) for independent pieces. Those of one call are not quite: a number
that is read back is missed twice. So the share of calls in which nothing was missed stands beside them, whose interval
is what it says. The process ends with 3 when a goal is not met.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.recording import spread, write_result
from qwenops.calls.generator.generate import generate
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.transcript import PersonalSpan
from qwenops.calls.generator.truth import Synthetic
from qwenops.calls.generator.world import authors
from qwenops.calls.redact import VERSION, Span, find, redact
from qwenops.calls.schema import Call, Turn
from qwenops.statistics.samples import CONFIDENCE, binomial_lower, binomial_upper

SECRET = b"a secret of a benchmark, no one's"
SEED = 21
GOALS: Mapping[str, float] = {"digits": 0.99, "spoken": 0.95, "split": 0.95}
"""Least recall by surface, on the unseen author."""
LEAST_PRECISION = 0.98
LEAST_BYTES_PER_S = 1_000_000.0
_TAKEN_FOR: Mapping[str, str] = {"SURNAME": "NAME"}
MOST_AROUND = 12
"""Characters that are shown on each side of a miss."""

Key = tuple[str, str]
"""Kind and surface."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was counted over some calls."""

    calls: int = 0
    clean: int = 0
    """Calls in which nothing was missed."""
    there: Counter[Key] = field(default_factory=Counter)
    found: Counter[Key] = field(default_factory=Counter)
    as_its_kind: Counter[Key] = field(default_factory=Counter)
    """Of those found, the ones that were called what they are."""
    taken: Counter[str] = field(default_factory=Counter)
    """What was taken out, by the kind that it was taken for."""
    right: Counter[str] = field(default_factory=Counter)
    """Of those, the ones that are personal data."""
    misses: list[str] = field(default_factory=list)
    """For reading: what was missed, and what was taken out for nothing."""

    def add(self, other: "Tally") -> None:
        """Put another one into this."""
        self.calls += other.calls
        self.clean += other.clean
        for name in ("there", "found", "as_its_kind", "taken", "right"):
            getattr(self, name).update(getattr(other, name))
        self.misses += other.misses


# -- one call ----------------------------------------------------------------------------------------------------------


def compare(turns: Sequence[Turn], truth: Sequence[PersonalSpan], spans: Sequence[Span]) -> Tally:
    """Compare what was found in a call with what is there."""
    tally = Tally(calls=1)
    taken, there = _marked(turns, spans), _marked(turns, truth)
    for each in truth:
        key = (each.kind, each.surface.value)
        tally.there[key] += 1
        text = turns[each.turn].text
        if all(place in taken[each.turn] for place in _meaning(text, each.start, each.end)):
            kind = _TAKEN_FOR.get(each.kind, each.kind)
            tally.found[key] += 1
            tally.as_its_kind[key] += any(
                span.turn == each.turn and span.kind.value == kind and _overlap(span, each) for span in spans
            )
        else:
            tally.misses.append(f"missed {each.kind}, {each.surface.value}: {_shown(text, each.start, each.end)}")
    for span in spans:
        text = turns[span.turn].text
        places = list(_meaning(text, span.start, span.end))
        tally.taken[span.kind.value] += 1
        if places and 2 * sum(place in there[span.turn] for place in places) >= len(places):
            tally.right[span.kind.value] += 1
        else:
            tally.misses.append(f"for nothing, {span.kind.value}: {_shown(text, span.start, span.end)}")
    tally.clean = tally.there.total() == tally.found.total()
    return tally


def _marked(turns: Sequence[Turn], spans: Iterable[Span | PersonalSpan]) -> list[set[int]]:
    """Return the characters of each turn that spans cover."""
    covered: list[set[int]] = [set() for _ in turns]
    for each in spans:
        covered[each.turn].update(range(each.start, each.end))
    return covered


def _meaning(text: str, start: int, end: int) -> Iterator[int]:
    """Yield where the letters and digits of a stretch are: pauses between them give nothing away."""
    return (place for place in range(start, end) if text[place].isalnum())


def _overlap(one: Span, other: PersonalSpan) -> bool:
    return one.start < other.end and other.start < one.end


def _shown(text: str, start: int, end: int) -> str:
    """Return a stretch in brackets, with a little of what stands around it."""
    before, after = text[max(0, start - MOST_AROUND) : start], text[end : end + MOST_AROUND]
    return f"{before}[{text[start:end]}]{after}".replace("\n", " ")


# -- figures -----------------------------------------------------------------------------------------------------------


def share(hits: int, number: int) -> dict[str, float] | None:
    """Return a share with its exact interval; None of nothing."""
    if not number:
        return None
    tail = (1 - CONFIDENCE) / 2
    return {
        "value": round(hits / number, 5),
        "low": round(1 - binomial_upper(number - hits, number, tail), 5),
        "high": round(1 - binomial_lower(number - hits, number, tail), 5),
        "n": number,
    }


def figures(tally: Tally) -> dict[str, Any]:
    """Return recall, precision and their parts."""
    surfaces = sorted({surface for _, surface in tally.there})
    kinds = sorted({kind for kind, _ in tally.there})
    by_kind: dict[str, Any] = {}
    for kind in kinds:
        rows = {surface: _recall(tally, kind=kind, surface=surface) for surface in surfaces}
        by_kind[kind] = {surface: row for surface, row in rows.items() if row is not None}
    return {
        "calls": tally.calls,
        "calls_without_a_miss": share(tally.clean, tally.calls),
        "recall": {surface: _recall(tally, surface=surface) for surface in surfaces},
        "recall_by_kind": by_kind,
        "called_what_it_is": share(tally.as_its_kind.total(), tally.found.total()),
        "precision": share(tally.right.total(), tally.taken.total()),
        "precision_by_kind": {kind: share(tally.right[kind], count) for kind, count in sorted(tally.taken.items())},
    }


def _recall(tally: Tally, *, kind: str = "", surface: str = "") -> dict[str, float] | None:
    """Return the recall of one kind, one surface, or one kind on one surface."""
    keys = [key for key in tally.there if kind in {"", key[0]} and surface in {"", key[1]}]
    return share(sum(tally.found[key] for key in keys), sum(tally.there[key] for key in keys))


def judged(found: Mapping[str, Any], bytes_per_s: float) -> dict[str, Any]:
    """Hold the figures of the unseen author, and the speed, against the goals."""
    goals = {}
    for surface, goal in GOALS.items():
        row = found["recall"].get(surface)
        value = row["value"] if row is not None else 0.0
        goals[f"recall_{surface}"] = {"goal": goal, "found": value, "met": value >= goal}
    precision = found["precision"]["value"] if found["precision"] is not None else 0.0
    goals["precision"] = {"goal": LEAST_PRECISION, "found": precision, "met": precision >= LEAST_PRECISION}
    goals["bytes_per_s"] = {"goal": LEAST_BYTES_PER_S, "found": bytes_per_s, "met": bytes_per_s >= LEAST_BYTES_PER_S}
    return goals


def table(by_author: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures as Markdown."""
    names = ["author", *(f"recall, {name}" for name in (*GOALS, "words")), "precision", "calls without a miss"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for author, found in by_author.items():
        cells = [found["recall"].get(name) for name in (*GOALS, "words")]
        cells += [found["precision"], found["calls_without_a_miss"]]
        lines.append(f"| {author} | " + " | ".join(_cell(each) for each in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, float] | None) -> str:
    return "" if row is None else f"{row['value']:.2%} ({row['low']:.2%} to {row['high']:.2%}) of {row['n']:,}"


# -- what is measured --------------------------------------------------------------------------------------------------


def tally_of(made: Iterable[Synthetic], *, most_shown: int) -> Tally:
    """Look for personal data in calls and count."""
    whole = Tally()
    for each in made:
        whole.add(compare(each.call.turns, each.truth.pii, find(each.call.turns)))
        del whole.misses[most_shown:]
    return whole


def speeds(calls: Sequence[Call], repetitions: int) -> list[float]:
    """Redact calls several times over; return the bytes of text a second of processor time."""
    num_bytes = sum(len(turn.text.encode()) for call in calls for turn in call.turns)
    found = []
    for _ in range(repetitions):
        begun_s = time.process_time()
        for call in calls:
            redact(call, secret=SECRET)
        found.append(num_bytes / (time.process_time() - begun_s))
    return found


def measure(given: argparse.Namespace, known: Sequence[str]) -> dict[str, Any]:
    """Take the figures of every author, and the speed on calls of all of them."""
    by_author, shown = {}, list[str]()
    for author in known:
        print(f"  {author} ...", file=sys.stderr, flush=True)
        options = GeneratorOptions(calls=given.calls, seed=SEED, authors=(author,))
        tally = tally_of(generate(options), most_shown=given.show)
        by_author[author] = figures(tally)
        if author == given.unseen:
            shown = tally.misses
    timed = [each.call for each in generate(GeneratorOptions(calls=given.timed_calls, seed=SEED))]
    by_language = {
        lang: spread(speeds(some, given.repetitions))
        for lang in ("zh", "en")
        if (some := [call for call in timed if call.lang == lang])
    }
    every = spread(speeds(timed, given.repetitions))
    for line in shown:
        print(line)
    return {
        "version": VERSION,
        "unseen": given.unseen,
        "by_author": by_author,
        "bytes_per_s": {"all": every, **by_language},
        "goals": judged(by_author[given.unseen], every["median"]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `results/redaction.json` and `.md`; 3 when a goal is not met."""
    known = authors()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unseen", default=known[-1], choices=known, help="the author whose figures are judged")
    parser.add_argument("--calls", type=int, default=6000, help="of each author")
    parser.add_argument("--timed-calls", type=int, default=1500)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--show", type=int, default=0, help="print so many faults on the unseen author")
    given = parser.parse_args(arguments)
    found = measure(given, known)
    options = {name: getattr(given, name) for name in ("unseen", "calls", "timed_calls", "repetitions")}
    path = write_result("redaction", options={**options, "seed": SEED}, results=found)
    path.with_suffix(".md").write_text(table(found["by_author"]), encoding="utf-8")
    print(path)
    print(table(found["by_author"]))
    for name, goal in found["goals"].items():
        print(f"{name}: {goal['found']:,.4g} (goal {goal['goal']:,.4g}): {'met' if goal['met'] else 'NOT met'}")
    return 0 if all(goal["met"] for goal in found["goals"].values()) else 3


if __name__ == "__main__":
    sys.exit(main())
