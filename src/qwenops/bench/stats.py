"""From the records of a segment to its summary: counts, distributions, rates, and how well they are known. Pure.

Percentiles come from raw samples by order statistics, never from averages of percentiles. A percentile that the number
of samples cannot bound is not given: its note says `n/a (40 < 299)`. The intervals take requests as independent; what
one request waits because of another is a question for blocks (`compare`) and for verdicts by blocks (`slo`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenops.bench.definitions import METRICS, Metric
from qwenops.bench.record import ESTIMATE, NS_PER_S, Failure, RequestRecord, TokenSource
from qwenops.bench.segment import Driven, OpenLoop
from qwenops.bench.window import SteadyWindow, answers_of, done_inside, steady_window
from qwenops.errors import ConfigError
from qwenops.statistics.samples import Values, quantile, quantile_interval, quantile_upper, smallest_n
from qwenops.text import say

PERCENTILES = (50, 90, 95, 99)
_UNCERTAINTY: tuple[TokenSource | None, ...] = ("server", "tokenizer", "estimate", None)

Bounds = Callable[[RequestRecord], bool | None]
"""Whether a request met every bound that is about single requests; None when it says nothing (`Slo.met`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A percentile and where the true one lies; with too few samples a note instead of a number."""

    value: float | None
    low: float | None = None
    high: float | None = None
    """Between `smallest_n` for one and for two sides there is only the upper bound."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How a metric is distributed over the good answers (or over their gaps)."""

    n: int
    mean: float | None = None
    sd: float | None = None
    min: float | None = None
    max: float | None = None
    percentiles: Mapping[int, Estimate]

    @property
    def p50(self) -> Estimate:
        """The median."""
        return self.percentiles[50]

    @property
    def p90(self) -> Estimate:
        """What nine in ten do not exceed."""
        return self.percentiles[90]

    @property
    def p95(self) -> Estimate:
        """What nineteen in twenty do not exceed."""
        return self.percentiles[95]

    @property
    def p99(self) -> Estimate:
        """What 99 in a hundred do not exceed."""
        return self.percentiles[99]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the requests."""

    scheduled: int
    """Due in the window, sent or not."""
    sent: int
    ok: int
    failed: int
    failures: Mapping[str, int]
    """By `Failure`, only those that happened; interrupted ones are not among them."""
    dropped: int
    """Not sent, because too many were in flight."""
    interrupted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Little:
    """Little's law: requests in the system are throughput times residence. Where they differ, nothing was steady."""

    in_flight: float
    """Mean over the steady window, by counting."""
    expected: float
    """Completions per second in the window times their mean time in the system."""
    error: float | None
    """How far the two are apart, as a share of the larger; None when nothing was in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How the requests came."""

    target_rate: float | None
    """Of the schedule, per second; None in a closed loop."""
    gap_cv: float | None
    """Standard deviation over mean of the gaps between send times: 0 is constant, 1 is Poisson, more is bursty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All figures of one segment."""

    segment: str
    window_s: float
    steady: SteadyWindow
    """Where its rates come from: what is left of the window without its ramp."""
    counts: Counts
    distributions: Mapping[str, Distribution]
    """By the metric's name; those of which no request has a value are left out."""
    rates: Mapping[str, float | None]
    """By the metric's name; None where it cannot be known."""
    token_source: TokenSource | None
    """The least certain source of token counts among the good answers; None where an answer has no count."""
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    arrivals: Arrivals
    little: Little | None
    interrupted: bool

    @property
    def counts_chunks(self) -> bool:
        """Whether chunks stand for tokens, because nobody counted those of some answer."""
        return self.token_source == ESTIMATE


def summarise(driven: Driven, *, bounds: Bounds | None = None, steady: SteadyWindow | None = None) -> Summary:
    """Return the figures of a segment; `bounds` decides about goodput, `steady` where rates come from if that is known.

    Latencies are those of good answers: an error is not quick. Failed and unsent requests are in the denominators of
    `errors` and `attainment`; interrupted ones are counted apart and judged by nothing.
    """
    records = [record for record in driven.records if record.phase is driven.segment.phase]
    good = [record for record in records if record.failure is None]
    counts = count(records, driven.dropped)
    sources = [record.token_source for record in good]
    steady = steady or steady_window(driven, records)
    return Summary(
        segment=driven.segment.name,
        window_s=driven.window_ns / NS_PER_S,
        steady=steady,
        counts=counts,
        distributions={name: found for name, metric in METRICS.items() if (found := _distribution_of(good, metric))},
        rates=_rates(driven, records, counts, bounds, steady),
        token_source=max(sources, key=_UNCERTAINTY.index, default=None),
        prompt_tokens=_total(record.prompt_tokens for record in good),
        completion_tokens=_total(record.completion_tokens for record in good),
        cached_tokens=_total(record.cached_tokens for record in good),
        arrivals=_arrivals(driven, records),
        little=_little(records, steady),
        interrupted=driven.interrupted,
    )


def count(records: Iterable[RequestRecord], dropped: int = 0) -> Counts:
    """Count what became of requests; `dropped` ones were due and have no record."""
    judged, interrupted, sent = 0, 0, 0
    failures: dict[str, int] = {}
    for record in records:
        sent += record.sent_ns is not None
        if record.failure is Failure.INTERRUPTED:
            interrupted += 1
            continue
        judged += 1
        if record.failure is not None:
            failures[record.failure.value] = failures.get(record.failure.value, 0) + 1
    failed = sum(failures.values())
    return Counts(
        scheduled=judged + interrupted + dropped,
        sent=sent,
        ok=judged - failed,
        failed=failed,
        failures=dict(sorted(failures.items())),
        dropped=dropped,
        interrupted=interrupted,
    )


def distribution(values: Values, *, independent: bool = True) -> Distribution:
    """Return how values are distributed; without intervals where the values depend on one another."""
    sample = np.sort(np.asarray(values, dtype=np.float64))
    percentiles = {each: estimate(sample, each / 100, independent=independent) for each in PERCENTILES}
    if not sample.size:
        return Distribution(n=0, percentiles=percentiles)
    return Distribution(
        n=sample.size,
        mean=float(sample.mean()),
        sd=float(sample.std(ddof=1)) if sample.size > 1 else None,
        min=float(sample[0]),
        max=float(sample[-1]),
        percentiles=percentiles,
    )


def estimate(values: Values, p: float, *, independent: bool = True) -> Estimate:
    """Return a percentile with its interval, as far as the number of values allows."""
    needed = smallest_n(p)
    if len(values) < needed:
        return Estimate(value=None, note=f"n/a ({len(values)} < {needed})")
    value = quantile(values, p)
    if not independent:
        return Estimate(value=value)
    interval = quantile_interval(values, p)
    if interval is None:
        return Estimate(value=value, high=quantile_upper(values, p))
    return Estimate(value=value, low=interval.low, high=interval.high)


def measure(summary: Summary, text: str) -> float | None:
    """Return the figure of a summary that `text` names: `ttft p95`, `e2e mean`, `errors`; None where it is not known.

    Raises:
        ConfigError: No figure has that name.
    """
    metric, statistic = parse_measure(text)
    if not statistic:
        return summary.rates.get(metric.name)
    found = summary.distributions.get(metric.name)
    if found is None:
        return None
    return found.mean if statistic == "mean" else found.percentiles[int(statistic[1:])].value


def parse_measure(text: str) -> tuple[Metric, str]:
    """Read the name of a figure: a metric, and for one of latency what of its distribution (`mean`, `p50` ...).

    Raises:
        ConfigError: No figure has that name.
    """
    name, _, statistic = text.strip().partition(" ")
    metric = METRICS.get(name)
    statistics = ("mean", *(f"p{each}" for each in PERCENTILES)) if metric and metric.is_distributed else ("",)
    if metric and metric.is_distributed and not statistic:
        statistic = "mean"
    if metric is None or statistic.strip() not in statistics:
        raise ConfigError(
            say("There is no figure called {text!r}.", text=text),
            hint=say("Write a metric such as errors, or one with its statistic, such as 'ttft p95' or 'e2e mean'."),
        )
    return metric, statistic.strip()


def summary_data(summary: Summary) -> dict[str, Any]:
    """Return a summary as JSON data, in seconds, with the names that readers of vLLM's results know beside ours."""
    return {
        "segment": summary.segment,
        "window_s": summary.window_s,
        "steady_s": summary.steady.length_ns / NS_PER_S,
        "ramp_s": summary.steady.ramp_ns / NS_PER_S,
        "counts": plain_fields(summary.counts),
        "distributions": {METRICS[name].key: distribution_data(found) for name, found in summary.distributions.items()},
        "rates": dict(summary.rates),
        "token_source": summary.token_source,
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
        "cached_tokens": summary.cached_tokens,
        "arrivals": plain_fields(summary.arrivals),
        "little": None if summary.little is None else plain_fields(summary.little),
        "interrupted": summary.interrupted,
        "vllm": vllm_names(summary),
    }


def distribution_data(found: Distribution) -> dict[str, Any]:
    """Return a distribution as JSON data."""
    data: dict[str, Any] = {"n": found.n, "mean": found.mean, "sd": found.sd, "min": found.min, "max": found.max}
    return data | {f"p{each}": plain_fields(value) for each, value in found.percentiles.items()}


def vllm_names(summary: Summary) -> dict[str, float | None]:
    """Return the figures under the names and in the milliseconds of `vllm bench serve`.

    Its inter-token latency is the gap between chunks, whatever they hold: our `icl`.
    """
    rates = summary.rates
    data: dict[str, float | None] = {
        "completed": summary.counts.ok,
        "duration": summary.window_s,
        "request_throughput": rates["completed_rate"],
        "request_goodput": rates["goodput"],
        "output_throughput": rates["output_tokens_per_s"],
        "total_input_tokens": summary.prompt_tokens,
        "total_output_tokens": summary.completion_tokens,
    }
    nothing = distribution(())
    for theirs, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "icl"), ("e2el", "e2e")):
        found = summary.distributions.get(ours) or nothing
        data[f"mean_{theirs}_ms"] = _milliseconds(found.mean)
        data[f"std_{theirs}_ms"] = _milliseconds(found.sd)
        data[f"median_{theirs}_ms"] = _milliseconds(found.p50.value)
        for each in (90, 95, 99):
            data[f"p{each}_{theirs}_ms"] = _milliseconds(found.percentiles[each].value)
    return data


def plain_fields(value: Any) -> dict[str, Any]:
    """Return the fields of one of these dataclasses as JSON data."""
    return {name: getattr(value, name) for name in value.__slots__}


def _distribution_of(good: Sequence[RequestRecord], metric: Metric) -> Distribution | None:
    values: list[float] = []
    for record in good:
        if metric.of_request is not None and (value := metric.of_request(record)) is not None:
            values.append(value)
        elif metric.of_gaps is not None:
            values.extend(metric.of_gaps(record) or ())
    return distribution(values, independent=metric.of_gaps is None) if values else None


def _rates(
    driven: Driven,
    records: Sequence[RequestRecord],
    counts: Counts,
    bounds: Bounds | None,
    steady: SteadyWindow,
) -> dict[str, float | None]:
    judged = counts.ok + counts.failed
    answers = answers_of(records)
    done = done_inside(answers, steady)
    attained = None if bounds is None else _attainment(records, bounds, counts.dropped)

    def per_second(number: float | None) -> float | None:
        return None if number is None or steady.length_ns <= 0 else number * NS_PER_S / steady.length_ns

    return {
        "errors": counts.failed / judged if judged else None,
        "achieved_rate": _sent_per_s(driven, records, steady),
        "completed_rate": per_second(float(done.sum())),
        "goodput": per_second(
            None
            if bounds is None
            else sum(float(part) for record, part in zip(answers, done, strict=True) if bounds(record))
        ),
        "attainment": attained,
        "output_tokens_per_s": per_second(_tokens_inside(steady, records)),
        "input_tokens_per_s": per_second(
            None
            if not answers or any(record.prompt_tokens is None for record in answers)
            else sum((record.prompt_tokens or 0) * float(part) for record, part in zip(answers, done, strict=True))
        ),
    }


def _attainment(records: Sequence[RequestRecord], bounds: Bounds, dropped: int) -> float | None:
    """Return the share of what was asked of the server that met every bound."""
    judged = [record for record in records if record.failure is not Failure.INTERRUPTED]
    answers = [False if record.failure is not None else bounds(record) for record in judged]
    asked = sum(answer is not None for answer in answers) + dropped
    return sum(answer is True for answer in answers) / asked if asked else None


def _sent_per_s(driven: Driven, records: Sequence[RequestRecord], steady: SteadyWindow) -> float | None:
    """Return the requests sent per second: a schedule has no ramp, callers that wait have one."""
    first, length_ns = steady.from_ns, steady.length_ns
    if isinstance(driven.segment.load, OpenLoop):
        first, length_ns = driven.began_ns, driven.window_ns
    sent = sum(record.sent_ns is not None and first <= record.sent_ns <= first + length_ns for record in records)
    return sent * NS_PER_S / length_ns if length_ns > 0 else None


def _tokens_inside(steady: SteadyWindow, records: Sequence[RequestRecord]) -> float | None:
    """Return the tokens whose chunk came inside the window; None where an answer does not say how many it has.

    What a failed request had written counts where it is known; a cut stream has no count and adds nothing.
    """
    total = 0.0
    for record in records:
        if record.first_content_ns is None:
            continue
        if record.completion_tokens is None:
            if record.failure is None:
                return None
            continue
        share = _share_inside(record, record.first_content_ns, steady.from_ns, steady.until_ns)
        total += record.completion_tokens * share
    return total


def _share_inside(record: RequestRecord, content_ns: int, first_ns: int, last_ns: int) -> float:
    """Return the share of an answer that came between two moments: of its chunks, or of its time if none are kept."""
    if not record.chunk_gaps_us and record.last_content_ns is not None and record.last_content_ns > content_ns:
        inside_ns = min(record.last_content_ns, last_ns) - max(content_ns, first_ns)
        return max(0, inside_ns) / (record.last_content_ns - content_ns)
    gaps_ns = np.asarray(record.chunk_gaps_us, dtype=np.int64) * 1000
    times = content_ns + np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(gaps_ns)))
    return float(((times >= first_ns) & (times <= last_ns)).mean())


def _total(numbers: Iterable[int | None]) -> int | None:
    """Return the sum; None where one is not known, or there are none."""
    known = list(numbers)
    return sum(each for each in known if each is not None) if known and None not in known else None


def _arrivals(driven: Driven, records: Sequence[RequestRecord]) -> Arrivals:
    load, window_s = driven.segment.load, driven.window_ns / NS_PER_S
    open_loop = isinstance(load, OpenLoop)
    sent = np.sort([record.sent_ns for record in records if record.sent_ns is not None])
    gaps = np.diff(sent)
    return Arrivals(
        target_rate=len(load.offsets_ns) / window_s if isinstance(load, OpenLoop) and window_s > 0 else None,
        gap_cv=float(gaps.std(ddof=1) / gaps.mean()) if open_loop and gaps.size > 1 and gaps.mean() > 0 else None,
    )


def _little(records: Sequence[RequestRecord], steady: SteadyWindow) -> Little | None:
    """Compare the requests in the system, counted over the window, with throughput times residence."""
    if steady.length_ns <= 0:
        return None
    first, last = steady.from_ns, steady.until_ns
    spans = [
        (record.sent_ns, record.ended_ns)
        for record in records
        if record.sent_ns is not None and record.ended_ns is not None
    ]
    overlap_ns = sum(max(0, min(end, last) - max(begin, first)) for begin, end in spans)
    stays_ns = [end - begin for begin, end in spans if first <= end <= last]
    in_flight, expected = overlap_ns / steady.length_ns, sum(stays_ns) / steady.length_ns
    larger = max(in_flight, expected)
    return Little(
        in_flight=in_flight,
        expected=expected,
        error=abs(in_flight - expected) / larger if larger > 0 else None,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
