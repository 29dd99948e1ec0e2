"""`bench soak`: the same load for hours; does the server stay what it was?

While it runs, records go to the journal alone, so that the client needs no more memory for a day than for a minute. In
the end the journal is read once, piece by piece; `drift.py` judges latency, memory and descriptors, `outages.py` what
failed and whether the server lived through it.
"""

import asyncio
import itertools
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from qwenops.bench.conclusion import EXIT_INCONCLUSIVE, Conclusion, Outcome, Table
from qwenops.bench.definitions import METRICS
from qwenops.bench.drift import (
    Drift,
    Kind,
    Series,
    cache_bytes,
    judge_drift,
    memory_and_descriptors,
)
from qwenops.bench.drift_told import drift_data, drift_findings, drift_sentences, drift_table
from qwenops.bench.folder import gaps_of, read_lines, read_records
from qwenops.bench.load import open_segment, warm_up
from qwenops.bench.manifest import target_data
from qwenops.bench.objective import parse_slo
from qwenops.bench.outages import (
    MOST_FAILURES,
    Failing,
    judge_failures,
    longest_life,
    restart_findings,
    restart_sentence,
    restarts_ns,
)
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.run import Run
from qwenops.bench.segment import ClosedLoop, Driven, Segment
from qwenops.bench.stats import Bounds, Summary, distribution, summarise, summary_data
from qwenops.bench.tables import detail_table, failure_table, overview_table, show_s, summary_sentence
from qwenops.bench.window import SteadyWindow, steady_window
from qwenops.bench.workload import cache_sentence
from qwenops.text import Text, say

USERS = 2
DURATION_S = 3600.0
NUM_WINDOWS = 24
EXIT_UNSTABLE = 3
SCHEMA = "qwenops.health/1"
_LOOKS = 480
"""How often an engine in this process is asked how much memory it takes, over a whole run."""
_BATCH = 500
_ADDED = ("achieved_rate", "completed_rate", "goodput", "output_tokens_per_s", "input_tokens_per_s")
_MEMORY = "engine_memory_bytes"
_AFTER_GAP_NS = 15 * NS_PER_S


async def soak(run: Run) -> Conclusion:
    """Load the target for long, and say whether anything grew or drifted."""
    segment = soak_segment(run)
    run.expected_s = segment.duration_s
    await warm_up(run, at_once=segment.load.users if isinstance(segment.load, ClosedLoop) else 1)
    async with _asked_for_health(run, (segment.duration_s or DURATION_S) / _LOOKS):
        driven = await run.drive(segment, each=_left_in_the_journal)
    return await asyncio.to_thread(concluded, run, driven)


def soak_segment(run: Run) -> Segment:
    """Return the one long segment that the options ask for."""
    options = run.options
    duration_s = DURATION_S if options.duration_s is None else options.duration_s
    if options.rate is not None:
        return open_segment(run, "soak", options.rate, duration_s=duration_s, count=options.requests)
    users = ClosedLoop(users=options.users or USERS, requests=options.requests)
    return Segment(name="soak", load=users, duration_s=duration_s)


def concluded(run: Run, driven: Driven) -> Conclusion:
    """Read the journal and return what hours of it came to."""
    path = run.folder.path
    bounds = parse_slo(run.options.slo).met if run.options.slo else None
    summary, shown = summarise_journal(driven, read_records(path), bounds)
    restarts, life_ns = lives(path, driven.ended_ns)
    cache = cache_bytes({name: target_data(each) for name, each in run.targets.items()})
    host = (each for each in read_lines(path, "host") if life_ns[0] <= each["at_ns"] <= life_ns[1])
    watched = (*memory_and_descriptors(host, cache_bytes=cache), *_health(run, life_ns, cache))
    drift = judge_drift((*shown.latencies, *watched))
    failing = judge_failures(shown.asked_and_failed, allowed=_allowed(run))
    outcome = _worst(drift.outcome, failing.outcome, Outcome.FAIL if restarts else Outcome.STABLE)
    failures = failure_table(say("Failures"), [summary])
    return Conclusion(
        outcome=outcome,
        sentences=(
            *_sentences(drift, failing, restarts),
            summary_sentence(summary),
            cache_sentence(run.options.cache, run.options.workload),
        ),
        exit_code=_EXITS.get(outcome, EXIT_UNSTABLE),
        tables=(
            *((drift_table(drift),) if drift.trends else ()),
            overview_table(say("Soak"), [summary]),
            _window_table(driven, shown),
            detail_table(say("Latencies: {part}", part=summary.segment), summary),
            *((failures,) if failures else ()),
        ),
        findings=(*drift_findings(drift), *restart_findings(restarts)),
        data={"segments": [summary_data(summary)], "drift": drift_data(drift), "windows": shown.data(driven)}
        | {"failed": failing.failed, "asked": failing.asked, "restarts_ns": list(restarts)},
    )


def lives(path: Path, ended_ns: int) -> tuple[list[int], tuple[int, int]]:
    """Return when the server was started again, and the longest time in which it was not.

    What was started again between two sittings of a run begins a life, too, but nobody was there to miss it.
    """
    seen = restarts_ns(read_lines(path, "host"), read_lines(path, "engine"))
    gaps = [each.at_ns for each in gaps_of(list(read_lines(path, "segments")))]
    own = [each for each in seen if not any(0 <= each - gap <= _AFTER_GAP_NS for gap in gaps)]
    return own, longest_life(sorted({*seen, *gaps}), ended_ns)


def _worst(*outcomes: Outcome) -> Outcome:
    return min(outcomes, key=_ORDER.index)


_ORDER = (Outcome.LEAK, Outcome.FAIL, Outcome.DRIFT, Outcome.INCONCLUSIVE, Outcome.STABLE)
_EXITS = {Outcome.STABLE: 0, Outcome.INCONCLUSIVE: EXIT_INCONCLUSIVE}


def _allowed(run: Run) -> float:
    """Return the share of requests that may fail: the objective's, or one in a hundred."""
    clauses = parse_slo(run.options.slo).clauses if run.options.slo else ()
    return min((each.allowed for each in clauses if each.kind == "errors"), default=MOST_FAILURES)


def _sentences(drift: Drift, failing: Failing, restarts: Sequence[int]) -> Iterator[Text]:
    """Yield what came out, the worst first; a series that is stable is not said to be where the run is not."""
    said = drift_sentences(drift)
    if drift.outcome is Outcome.LEAK:
        yield from said
    if restarts:
        yield restart_sentence(restarts)
    if failing.sentence is not None:
        yield failing.sentence
    sound = failing.sentence is None and not restarts
    if drift.outcome in {Outcome.DRIFT, Outcome.INCONCLUSIVE} or (drift.outcome is Outcome.STABLE and sound):
        yield from said
    if drift.outcome is Outcome.STABLE and not any(each.kind is Kind.MEMORY for each in drift.trends):
        yield say("The server's memory could not be watched: a leak would not have been seen.")


class Shown:
    """What is kept of the records of a long run: eight bytes for a latency, and counts per window."""

    def __init__(self) -> None:
        """Begin empty."""
        self.values: dict[str, array[float]] = {
            name: array("d") for name, metric in METRICS.items() if metric.of_request is not None
        }
        self.windows = [Window() for _ in range(NUM_WINDOWS)]
        self._due_s = {name: array("d") for name in ("ttft", "e2e")}

    def add(self, record: RequestRecord, share: float) -> None:
        """Take a record that was due after this share of the run."""
        window = self.windows[min(NUM_WINDOWS - 1, max(0, int(share * NUM_WINDOWS)))]
        if record.failure is not None:
            window.failures[record.failure.value] += 1
            return
        window.ok += 1
        for name, values in self.values.items():
            read = METRICS[name].of_request
            value = read(record) if read else None
            if value is not None:
                values.append(value)
                if name in self._due_s:
                    self._due_s[name].append(record.scheduled_ns / NS_PER_S)
                    window.latencies[name].append(value)

    @property
    def asked_and_failed(self) -> list[tuple[int, int]]:
        """How many requests were asked in each window, and how many of them failed; the interrupted say nothing."""
        failed = [each.failures.total() - each.failures[Failure.INTERRUPTED.value] for each in self.windows]
        return [(each.ok + bad, bad) for each, bad in zip(self.windows, failed, strict=True)]

    @property
    def latencies(self) -> tuple[Series, ...]:
        """The latencies over time."""
        return tuple(
            Series(name=name, kind=Kind.LATENCY, times_s=times, values=self.values[name])
            for name, times in self._due_s.items()
        )

    def data(self, driven: Driven) -> list[dict[str, object]]:
        """Return the windows for scripts."""
        length_s = driven.window_ns / NS_PER_S / NUM_WINDOWS
        return [
            {
                "from_s": driven.began_ns / NS_PER_S + number * length_s,
                "ok": each.ok,
                "failures": dict(each.failures),
                "ttft_median_s": each.median("ttft"),
                "e2e_median_s": each.median("e2e"),
            }
            for number, each in enumerate(self.windows)
        ]


class Window:
    """What a part of the time showed."""

    def __init__(self) -> None:
        """Begin empty."""
        self.ok = 0
        self.failures: Counter[str] = Counter()
        self.latencies = {"ttft": array("d"), "e2e": array("d")}

    def median(self, name: str) -> float | None:
        """Return the median of a latency; None when nothing had an answer."""
        ordered = sorted(self.latencies[name])
        return ordered[len(ordered) // 2] if ordered else None


def summarise_journal(driven: Driven, records: Iterable[RequestRecord], bounds: Bounds | None) -> tuple[Summary, Shown]:
    """Return the figures of a long segment from its records, without having all of them at once.

    Gaps between chunks are left out (there are millions; `stall` has the longest of each answer), as is Little's law.
    """
    shown = Shown()
    parts: list[Summary] = []
    asked, met = driven.dropped, 0
    steady: SteadyWindow | None = None
    window_ns = max(1, driven.window_ns)
    for batch in _batches(each for each in records if each.phase is Phase.MEASURE):
        for record in batch:
            shown.add(record, (record.scheduled_ns - driven.began_ns) / window_ns)
            if record.failure is Failure.INTERRUPTED or bounds is None:
                continue
            answer = False if record.failure is not None else bounds(record)
            asked += answer is not None
            met += answer is True
        steady = steady or steady_window(driven, batch)
        parts.append(summarise(replace(driven, records=batch, dropped=0), bounds=bounds, steady=steady))
    whole = _joined(summarise(replace(driven, records=()), bounds=bounds, steady=steady), parts, shown)
    if bounds is None or not asked:
        return whole, shown
    return replace(whole, rates={**whole.rates, "attainment": met / asked}), shown


def _joined(whole: Summary, parts: list[Summary], shown: Shown) -> Summary:
    """Put the figures of the pieces together: counts and rates add up, distributions come from all values."""
    failures: Counter[str] = Counter()
    for part in parts:
        failures.update(part.counts.failures)
    counts = replace(
        whole.counts,
        scheduled=whole.counts.dropped + sum(part.counts.scheduled for part in parts),
        sent=sum(part.counts.sent for part in parts),
        ok=sum(part.counts.ok for part in parts),
        failed=sum(part.counts.failed for part in parts),
        failures=dict(sorted(failures.items())),
        interrupted=sum(part.counts.interrupted for part in parts),
    )
    judged = counts.ok + counts.failed
    rates = {name: _sum(part.rates[name] for part in parts) for name in _ADDED}
    return replace(
        whole,
        counts=counts,
        distributions={name: distribution(values) for name, values in shown.values.items() if values},
        rates={**whole.rates, **rates, "errors": counts.failed / judged if judged else None},
        token_source=parts[0].token_source if parts else None,
        prompt_tokens=_total(part.prompt_tokens for part in parts),
        completion_tokens=_total(part.completion_tokens for part in parts),
        cached_tokens=_total(part.cached_tokens for part in parts),
        little=None,
    )


def _window_table(driven: Driven, shown: Shown) -> Table:
    """Return the windows of a run, so that a change can be seen where it came."""
    length_s = driven.window_ns / NS_PER_S / NUM_WINDOWS
    return Table(
        title=say("Over time"),
        headings=(say("from"), say("answers"), say("failed"), say("TTFT median"), say("E2E median")),
        rows=tuple(
            (
                f"{number * length_s:.0f} s",
                each.ok,
                each.failures.total(),
                show_s(each.median("ttft")),
                show_s(each.median("e2e")),
            )
            for number, each in enumerate(shown.windows)
            if each.ok or each.failures
        ),
    )


def _left_in_the_journal(_record: RequestRecord) -> None:
    """Keep nothing."""


@asynccontextmanager
async def _asked_for_health(run: Run, every_s: float) -> AsyncIterator[None]:
    """Write down now and then what an engine in this process says about itself, until the block is left."""
    target = next(iter(run.targets.values()))
    if not target.engine.info.health.memory_bytes:
        yield
        return

    began_ns = run.now_ns()
    seen_ns = max((each["at_ns"] for each in read_lines(run.folder.path, "engine")), default=-1)

    async def ask() -> None:
        # At equal times since the beginning, so that a run that is continued asks when one undisturbed would have.
        for count in itertools.count():
            due_ns = began_ns + count * round(every_s * NS_PER_S)
            if due_ns <= seen_ns:
                continue
            await run.clock.sleep_until_ns(run.origin_ns + due_ns)
            health = target.engine.info.health
            sample = {
                "schema": SCHEMA,
                "at_ns": run.now_ns(),
                _MEMORY: health.memory_bytes,
                "restarts": health.restarts,
            }
            run.sample("engine", sample)

    asking = asyncio.get_running_loop().create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait([asking])


def _health(run: Run, life_ns: tuple[int, int], cache: int) -> tuple[Series, ...]:
    """Return the memory of an engine in this process over time, of one life."""
    times, values = array("d"), array("d")
    for sample in read_lines(run.folder.path, "engine"):
        if sample.get("schema") == SCHEMA and life_ns[0] <= sample["at_ns"] <= life_ns[1]:
            times.append(sample["at_ns"] / NS_PER_S)
            values.append(sample[_MEMORY])
    if not values:
        return ()
    explained = values[0] + cache if cache else None
    return (Series(name=_MEMORY, kind=Kind.MEMORY, times_s=times, values=values, explained=explained),)


def _batches(records: Iterable[RequestRecord]) -> Iterator[tuple[RequestRecord, ...]]:
    left = iter(records)
    while batch := tuple(itertools.islice(left, _BATCH)):
        yield batch


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum; None where one is not known, or there are none."""
    known = list(values)
    return sum(each for each in known if each is not None) if known and None not in known else None


def _total(values: Iterable[int | None]) -> int | None:
    found = _sum(values)
    return None if found is None else round(found)
