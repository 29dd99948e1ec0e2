"""What hours of the same load did to a server: memory that grows, descriptors that leak, latency that drifts. Pure.

Each series is cut into 20 blocks of equal time (means; medians of latency), after the first tenth, in which caches
fill. Over the blocks:

* the slope is Theil and Sen's, with its interval;
* whether there is a trend is asked with Kendall's tau, held against series without one whose blocks depend on one
  another as much as these do. Neighbouring samples of a server are alike, and a test that takes them as independent
  finds a trend in most quiet runs. What wanders more slowly than a fiftieth of the run cannot be told from a trend;
* a step is the best cut into levels, and must stand out of the noise of dependent blocks, too;
* growth that ends is not a leak: the second half must still grow at half the pace.

A leak or a drift is about what matters (`Limits`) and is surely there; all series of a run share one error rate (Holm).
STABLE is shown, too: the interval of the slope lies within what does no harm. Memory that at its fastest takes a week
to fill what the server may have does none. What is neither shown is INCONCLUSIVE, with what cannot be excluded.

A server's cache fills at first, often for hours. Where it says how large its cache is, memory up to that much above
where it began tells nothing: what grows there is undecided, and what lies above is judged from there on.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from qwenops.bench.conclusion import Outcome
from qwenops.bench.definitions import METRICS
from qwenops.bench.record import NS_PER_S, RequestRecord
from qwenops.statistics.fits import (
    Slope,
    change_points,
    correlation_inflation,
    mann_kendall,
    neighbours,
    theil_sen,
)
from qwenops.statistics.hypotheses import holm
from qwenops.statistics.samples import Array

NUM_BLOCKS = 20
FEWEST_BLOCKS = 12
SKIPPED = 0.1
"""Of the time, at the beginning."""
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
MIB = 2**20
WEEK_S = 7 * DAY_S
USUAL_DESCRIPTORS = 1024
"""How many a process may have where nobody has changed it."""
_STEP_PENALTY = 4.0
_SHORTEST_LEVEL = 3
_SLOPED = 0.05
_ROUNDING = 1e-9


class Kind(StrEnum):
    """What a series is of."""

    MEMORY = "memory"
    """In bytes."""
    DESCRIPTORS = "descriptors"
    LATENCY = "latency"
    """In seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A quantity over the time of a run."""

    name: str
    kind: Kind
    times_s: Sequence[float]
    """Since the run's origin."""
    values: Sequence[float]
    most: float | None = None
    """How much of it the server may have; None when unknown."""
    explained: float | None = None
    """Up to here it grows because a cache fills; None when nothing is known of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From where on a change matters, and how often a quiet server may be called anything but stable."""

    growth_per_day: float = 0.01
    """Of memory and descriptors, as a share of their level."""
    latency_change: float = 0.05
    """Over the run, or at a step, as a share of its level."""
    latency_shown: float = 0.2
    """A server is stable whose latency surely changed by less than this over the run."""
    fills_after_s: float = WEEK_S
    """A server is stable whose memory surely takes longer to fill what it may have."""
    alpha: float = 0.04
    """For the trends; steps take the hundredth that is left of 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where the level changed for good."""

    at_s: float
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What became of one series."""

    name: str
    kind: Kind
    blocks: int
    level: float
    """Median over the blocks."""
    slope: Slope
    """Per second."""
    change: float
    """The slope times the time looked at."""
    tau: float
    p: float
    """Holm's, over all series of the run."""
    correlation: float
    """Of neighbouring blocks."""
    levels_off: bool
    """Whether the second half grows at less than half the pace of the whole."""
    later: Slope
    """Per second, of the second half of the time."""
    span_s: float
    """The time looked at."""
    most: float | None
    explained: float | None
    steps: tuple[Step, ...]
    outcome: Outcome
    harmless: float = 0.0
    """Per second; a stable server's slope surely lies below."""

    @property
    def judged(self) -> Slope:
        """The slope that says whether it is stable: what grows at first and then stays is judged by its second half."""
        if self.kind is Kind.LATENCY:
            return self.slope
        return min(self.slope, self.later, key=lambda each: each.high)

    @property
    def shows_growth(self) -> bool:
        """Whether an interval excludes that it does not grow: over the whole, or over the second half."""
        return self.slope.low > 0 or self.later.low > 0

    @property
    def is_filling(self) -> bool:
        """Whether it still is where a cache fills."""
        return self.explained is not None and self.level <= self.explained


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What became of all series."""

    outcome: Outcome
    """Stable, leak, drift, or inconclusive where no series is long enough."""
    trends: tuple[Trend, ...]
    too_short: tuple[str, ...]
    """Series with too few samples to say anything."""


def judge_drift(series: Sequence[Series], limits: Limits | None = None) -> Drift:
    """Return whether anything grew or drifted."""
    limits = limits or Limits()
    found = {each.name: _trend(each) for each in series}
    trends = [trend for trend in found.values() if trend is not None]
    adjusted = holm([trend.p for trend in trends])
    bounded = [
        replace(trend, p=p, harmless=_harmless(trend, limits)) for trend, p in zip(trends, adjusted, strict=True)
    ]
    judged = tuple(replace(trend, outcome=_outcome(trend, limits)) for trend in bounded)
    too_short = tuple(name for name, trend in found.items() if trend is None)
    outcomes = {trend.outcome for trend in judged}
    if too_short or not judged:
        outcomes.add(Outcome.INCONCLUSIVE)
    order = (Outcome.LEAK, Outcome.DRIFT, Outcome.INCONCLUSIVE, Outcome.STABLE)
    return Drift(outcome=next(each for each in order if each in outcomes), trends=judged, too_short=too_short)


def blocks_of(series: Series, num: int = NUM_BLOCKS) -> tuple[Array, Array]:
    """Return the middles and the levels of blocks of equal time; a block without samples is left out."""
    times, values = np.asarray(series.times_s, dtype=np.float64), np.asarray(series.values, dtype=np.float64)
    if times.size < 2 * num:
        return np.empty(0), np.empty(0)
    first, last = float(times.min()), float(times.max())
    edges = np.linspace(first + SKIPPED * (last - first), last, num + 1)
    place = np.searchsorted(edges, times, side="right") - 1
    place[times == last] = num - 1
    level = np.median if series.kind is Kind.LATENCY else np.mean
    filled = [each for each in range(num) if (place == each).any()]
    levels = np.array([float(level(values[place == each])) for each in filled])
    return ((edges[:-1] + edges[1:]) / 2)[filled], levels


def memory_and_descriptors(samples: Iterable[Mapping[str, Any]], *, cache_bytes: int = 0) -> tuple[Series, ...]:
    """Return the series in samples of the host (`host.jsonl`); those that no sample has are left out.

    One figure for memory is judged, the first that was often enough read: what the server has allocated itself; PSS,
    which counts shared pages once; RSS.

    Args:
        samples: In the order in which they were taken.
        cache_bytes: What the server's cache may grow to; 0 when nobody knows.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    most_bytes: float | None = None
    for sample in samples:
        most_bytes = sample.get("cgroup_memory_limit_bytes") or sample.get("memory_total_bytes") or most_bytes
        for name in _HOST_SERIES:
            if isinstance(value := sample.get(name), int | float) and "at_ns" in sample:
                times, values = found.setdefault(name, ([], []))
                times.append(sample["at_ns"] / NS_PER_S)
                values.append(float(value))
    enough = {name for name, (times, _) in found.items() if len(times) >= 2 * NUM_BLOCKS}
    best = next((name for name in _MEMORY if name in enough), _MEMORY[-1])
    dropped = set(_MEMORY) - {best}
    return tuple(
        Series(
            name=name,
            kind=kind,
            times_s=found[name][0],
            values=found[name][1],
            most=most_bytes if kind is Kind.MEMORY else None,
            explained=found[name][1][0] + cache_bytes if kind is Kind.MEMORY and cache_bytes else None,
        )
        for name, kind in _HOST_SERIES.items()
        if name in found and name not in dropped
    )


def cache_bytes(targets: Mapping[str, Mapping[str, Any]]) -> int:
    """Return what the caches of a manifest's targets may grow to together; 0 where a server does not say."""
    found = 0
    for target in targets.values():
        told = target.get("facts", {}).get("/api/v1/model")
        sizes = (target.get("engine", {}).get("kv_cache_bytes"), told.get("kv_cache_bytes") if told else None)
        found += next((each for each in sizes if isinstance(each, int)), 0)
    return found


def latency(records: Iterable[RequestRecord], name: str = "e2e") -> Series:
    """Return a metric of the good answers over the time at which they were due."""
    metric = METRICS[name]
    times, values = [], []
    for record in records:
        value = metric.of_request(record) if metric.of_request and record.failure is None else None
        if value is not None:
            times.append(record.scheduled_ns / NS_PER_S)
            values.append(value)
    return Series(name=name, kind=Kind.LATENCY, times_s=times, values=values)


_MEMORY = ("server_own_bytes", "server_pss_bytes", "server_rss_bytes")
"""The best first: what is mapped from files grows with use and is no leak."""
_HOST_SERIES: Mapping[str, Kind] = {
    **dict.fromkeys(_MEMORY, Kind.MEMORY),
    "server_descriptors": Kind.DESCRIPTORS,
}


def _trend(series: Series) -> Trend | None:
    series = _after_filling(series)
    times, levels = blocks_of(series)
    if levels.size < FEWEST_BLOCKS:
        return None
    rough = theil_sen(times, levels)
    correlation = _correlation(times, levels, rough)
    inflation = correlation_inflation(correlation)
    slope = theil_sen(times, levels, inflation=inflation)
    kendall = mann_kendall(levels, correlation=correlation)
    half = levels.size // 2
    later = theil_sen(times[half:], levels[half:])
    sloped = kendall.p < _SLOPED
    levels_off = sloped and slope.value > 0 and later.high < slope.value / 2
    return Trend(
        name=series.name,
        kind=series.kind,
        blocks=int(levels.size),
        level=float(np.median(levels)),
        slope=slope,
        change=slope.value * float(times[-1] - times[0]),
        tau=kendall.tau,
        p=kendall.p,
        correlation=correlation,
        levels_off=levels_off,
        later=_later_slope(series, float(times[half])),
        span_s=float(times[-1] - times[0]),
        most=series.most,
        explained=series.explained if series.explained is not None and levels[-1] <= series.explained else None,
        # On a slope every part is a level of its own: there, steps are looked for in what the line leaves.
        steps=() if levels_off else _steps(times, levels - rough.value * times * sloped, correlation),
        outcome=Outcome.STABLE,
    )


def _later_slope(series: Series, from_s: float) -> Slope:
    """Return the slope of what came after a moment, over blocks of its own."""
    kept = [place for place, at_s in enumerate(series.times_s) if at_s >= from_s]
    rest = replace(
        series, times_s=[series.times_s[place] for place in kept], values=[series.values[place] for place in kept]
    )
    times, levels = blocks_of(rest)
    if levels.size < FEWEST_BLOCKS:
        times, levels = blocks_of(rest, num=len(kept) // 2)
    rough = theil_sen(times, levels)
    return theil_sen(times, levels, inflation=correlation_inflation(_correlation(times, levels, rough)))


def _correlation(times: Array, levels: Array, rough: Slope) -> float:
    """Return how much neighbouring blocks are alike beside a line; what rounding leaves of a line says nothing."""
    left = levels - rough.value * times
    return neighbours(left) if float(np.ptp(left)) > _ROUNDING * float(np.abs(levels).max()) else 0.0


def _steps(times: Array, levels: Array, correlation: float) -> tuple[Step, ...]:
    # A step makes blocks look alike, too: what is alike is asked of what one step leaves.
    inflation = correlation_inflation(min(correlation, neighbours(_without_step(levels))))
    cuts = change_points(levels, penalty=_STEP_PENALTY * inflation, shortest=_SHORTEST_LEVEL)
    edges = (0, *cuts, levels.size)
    means = [float(levels[first:last].mean()) for first, last in itertools.pairwise(edges)]
    return tuple(
        Step(at_s=float(times[cut - 1] + times[cut]) / 2, before=means[number], after=means[number + 1])
        for number, cut in enumerate(cuts)
    )


def _without_step(levels: Array) -> Array:
    """Return what is left of a series when the step that explains most of it is taken out."""
    best: Array = levels - levels.mean()
    for cut in range(_SHORTEST_LEVEL, levels.size - _SHORTEST_LEVEL + 1):
        left = np.concatenate((levels[:cut] - levels[:cut].mean(), levels[cut:] - levels[cut:].mean()))
        if left @ left < best @ best:
            best = left
    return best


def _after_filling(series: Series) -> Series:
    """Leave out what a cache explains, where the series has grown out of it."""
    if series.explained is None or not series.values or series.values[-1] <= series.explained:
        return series
    first = next(place for place, value in enumerate(series.values) if value > series.explained)
    return replace(series, times_s=series.times_s[first:], values=series.values[first:])


def _harmless(trend: Trend, limits: Limits) -> float:
    """Return below which slope nothing that matters happens, per second."""
    match trend.kind:
        case Kind.LATENCY:
            return limits.latency_shown * abs(trend.level) / trend.span_s
        case Kind.DESCRIPTORS:
            return max(USUAL_DESCRIPTORS - trend.level, trend.level) / limits.fills_after_s
        case Kind.MEMORY:
            room = trend.level if trend.most is None else max(0.0, trend.most - trend.level)
            return room / limits.fills_after_s


def _outcome(trend: Trend, limits: Limits) -> Outcome:
    level = abs(trend.level) or 1.0
    surely = trend.p < limits.alpha
    judged = trend.judged
    if trend.kind is Kind.LATENCY:
        moved = max((abs(step.after - step.before) for step in trend.steps), default=0.0) / level
        drifts = surely and abs(trend.change) / level >= limits.latency_change
        shown = max(abs(trend.slope.low), abs(trend.slope.high)) <= trend.harmless
        if drifts or moved >= limits.latency_change:
            return Outcome.DRIFT
        return Outcome.STABLE if shown else Outcome.INCONCLUSIVE
    grows = surely and trend.slope.value * DAY_S / level >= limits.growth_per_day
    if grows and not trend.levels_off:
        return Outcome.LEAK if trend.shows_growth and not trend.is_filling else Outcome.INCONCLUSIVE
    return Outcome.STABLE if judged.high <= trend.harmless else Outcome.INCONCLUSIVE
