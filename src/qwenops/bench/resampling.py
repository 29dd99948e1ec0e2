"""A figure of one or several runs with all the values that it might as well have had, for the gate. Pure.

Requests that wait for one another are alike, so blocks of neighbours are resampled, and whole runs where there are
several. A bootstrap of few values is too narrow; it is widened to what Student's t would be. Where only a summary is
left of a run, its percentile's interval, or its mean's standard deviation, has to do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenops.bench.compare import answered
from qwenops.bench.definitions import Metric, chunk_times_ns
from qwenops.bench.record import RequestRecord
from qwenops.bench.segment import Driven
from qwenops.bench.stats import parse_measure
from qwenops.bench.window import answers_of, done_between, steady_window
from qwenops.errors import ConfigError
from qwenops.statistics.hypotheses import Statistic, bootstrap_pairs, bootstrap_series, mean_of, resampling_length
from qwenops.statistics.samples import Array, quantile_rank, smallest_n
from qwenops.statistics.special import normal_quantile, t_quantile
from qwenops.text import say

Part = Driven | Mapping[str, Any]
"""A measured segment: with its records, or as `summary.json` has it."""

RESAMPLES = 4000
_WINDOWS = 20
"""A rate is measured in so many parts of the steady window, to see how much it varies."""
_FEWEST = 5
_SAME = 0.9
"""So much of what either side answered must be common for the sides to be drawn together."""
_SURE = 0.975
_RATES = ("output_tokens_per_s", "completed_rate", "achieved_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of one side."""

    value: float
    logs: Array
    """Logarithms of what it might as well have been."""


def check_figure(text: str) -> None:
    """Accept the name of a figure that can be held against a baseline.

    Raises:
        ConfigError: There is none of that name, or it has no place in a gate.
    """
    metric, _ = parse_measure(text)
    if metric.of_request is None and metric.name not in _RATES:
        raise ConfigError(
            say("The figure {text!r} cannot be gated.", text=text),
            hint=say("Give latencies of requests such as 'ttft p95', or one of {rates}.", rates=", ".join(_RATES)),
        )


def figure(parts: Sequence[Part], text: str, *, seed: int) -> Figure | None:
    """Return a figure over the same segment of one or several runs; None where there is too little of it."""
    metric, statistic = parse_measure(text)
    if any(isinstance(part, Mapping) for part in parts):
        return _from_summary(parts[0], metric, statistic, seed) if isinstance(parts[0], Mapping) else None
    series = [_series(part, metric) for part in parts if isinstance(part, Driven)]
    total = sum(each.size for each in series)
    p = None if statistic in {"", "mean"} else int(statistic[1:]) / 100
    if total < (_FEWEST if p is None else smallest_n(p)) or any(not each.size for each in series):
        return None
    reduce = mean_of if p is None else _quantile_of(p)
    value = float(reduce(np.concatenate(series)[None, :])[0])
    drawn = bootstrap_series(series, reduce, seed=seed, resamples=RESAMPLES)
    if value <= 0 or not (drawn > 0).all():
        return None
    independent = len(series) if len(series) > 1 else total // resampling_length(series[0])
    return Figure(
        value=value, logs=math.log(value) + _widening(max(2, independent)) * (np.log(drawn) - math.log(value))
    )


def paired_logs(candidate: Sequence[Part], baseline: Sequence[Part], text: str, *, seed: int) -> Array | None:
    """Return the logarithms of candidate over baseline, over what both answered, drawn together.

    Long prompts are long on both sides, so what makes requests differ drops out. None where that cannot be done: there
    are several runs, a figure is no latency, or the two hardly answered the same.
    """
    metric, statistic = parse_measure(text)
    if len(candidate) != 1 or len(baseline) != 1 or metric.of_request is None:
        return None
    ours, theirs = candidate[0], baseline[0]
    if not isinstance(ours, Driven) or not isinstance(theirs, Driven):
        return None
    first, second = answered(ours), answered(theirs)
    values = [
        (one, other)
        for key, record in second.items()
        if key in first and (one := metric.of_request(first[key])) and (other := metric.of_request(record))
    ]
    p = None if statistic == "mean" else int(statistic[1:]) / 100
    fewest = _FEWEST if p is None else smallest_n(p)
    if len(values) < max(fewest, _SAME * max(len(first), len(second))):
        return None
    one, other = np.array(values, dtype=np.float64).T
    reduce = mean_of if p is None else _quantile_of(p)
    length = resampling_length(np.log(one / other))
    drawn = bootstrap_pairs(one, other, reduce, seed=seed, length=length, resamples=RESAMPLES)
    seen = math.log(float(reduce(one[None, :])[0]) / float(reduce(other[None, :])[0]))
    return seen + _widening(max(2, one.size // length)) * (np.log(drawn[0] / drawn[1]) - seen)


def failed_and_sent(parts: Sequence[Part]) -> tuple[int, int]:
    """Return how many requests failed or could not be sent, and how many were due; interrupted ones are not judged."""
    failed = judged = 0
    for part in parts:
        if isinstance(part, Mapping):
            counts = part["counts"]
            bad = counts["failed"] + counts.get("dropped", 0)
            failed += bad
            judged += bad + counts["ok"]
        else:
            outcomes = [record.failure for record in part.records if record.failure != "interrupted"]
            judged += len(outcomes) + part.dropped
            failed += sum(each is not None for each in outcomes) + part.dropped
    return failed, judged


def _series(driven: Driven, metric: Metric) -> Array:
    """Return the values of a segment in the order of the schedule."""
    if metric.of_request is None:
        return _rate_series(driven, metric.name)
    good = sorted((each for each in driven.records if each.failure is None), key=lambda each: each.scheduled_ns)
    return np.array([value for each in good if (value := metric.of_request(each)) is not None], dtype=np.float64)


def _rate_series(driven: Driven, name: str) -> Array:
    """Return a rate in equal parts of the steady window, per second."""
    window = steady_window(driven)
    if window.length_ns <= 0:
        return np.empty(0)
    part_s = window.length_ns / 1e9 / _WINDOWS
    edges = np.linspace(window.from_ns, window.until_ns, _WINDOWS + 1)
    if name == "completed_rate":
        answers: Array = done_between(answers_of(driven.records), edges, window.quickest_ns).sum(axis=1)
        return answers / part_s
    events = [each for record in driven.records for each in _events(record, name)]
    times, weights = [at_ns for at_ns, _ in events], [weight for _, weight in events]
    counts, _ = np.histogram(times, bins=edges, weights=weights)
    return np.asarray(counts, dtype=np.float64) / part_s


def _events(record: RequestRecord, name: str) -> list[tuple[int, float]]:
    if name == "achieved_rate":
        return [] if record.sent_ns is None else [(record.sent_ns, 1.0)]
    times = chunk_times_ns(record)
    return [(at_ns, (record.completion_tokens or 0) / len(times)) for at_ns in times]


def _quantile_of(p: float) -> Statistic:
    def reduce(samples: Array) -> Array:
        rank = quantile_rank(samples.shape[-1], p)
        values: Array = np.partition(samples, rank, axis=-1)[..., rank]
        return values

    return reduce


def _widening(independent: int) -> float:
    """Return by how much a bootstrap of so few values is too narrow."""
    few = math.sqrt(independent / (independent - 1))
    return few * t_quantile(_SURE, independent - 1) / normal_quantile(_SURE)


def _from_summary(part: Mapping[str, Any], metric: Metric, statistic: str, seed: int) -> Figure | None:
    """Return what a summary knows; a rate has no interval there and is taken as it stands."""
    sd = 0.0
    if not statistic:
        value = part.get("rates", {}).get(metric.name)
    else:
        found = part.get("distributions", {}).get(metric.key, {})
        if statistic == "mean":
            value = found.get("mean")
            if value and found.get("sd") and found.get("n", 0) > 1:
                sd = found["sd"] / math.sqrt(found["n"]) / value
        else:
            estimate = found.get(statistic, {})
            value = estimate.get("value")
            if value and estimate.get("low") and estimate.get("high"):
                sd = math.log(estimate["high"] / estimate["low"]) / (2 * normal_quantile(_SURE))
    if not value or value <= 0:
        return None
    return Figure(value=value, logs=np.random.default_rng(seed).normal(math.log(value), sd, RESAMPLES))
