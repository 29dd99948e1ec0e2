import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from qwenops.bench.conclusion import Outcome
from qwenops.bench.drift import (
    MIB,
    Kind,
    Series,
    blocks_of,
    judge_drift,
    latency,
    memory_and_descriptors,
)
from qwenops.bench.drift_told import drift_data, drift_findings, drift_sentences, drift_table
from tests.bench.records import NS, answer, failed
from tests.statistics.proportions import binomial_interval

RUNS = 200
Array = npt.NDArray[np.float64]


def wandering(rng: np.random.Generator, rows: int, size: int, correlation: float) -> Array:
    """Return series whose neighbours correlate, each with mean 0 and standard deviation 1."""
    steps = rng.normal(size=(size, rows))
    values = np.empty_like(steps)
    values[0] = steps[0]
    for each in range(1, size):
        values[each] = correlation * values[each - 1] + math.sqrt(1 - correlation**2) * steps[each]
    return values.T


def soak(rng: np.random.Generator, size: int, correlation: float) -> list[Series]:
    """Return what a server without any fault shows that breathes by a tenth and more."""
    memory, descriptors, ttft, e2e = wandering(rng, 4, size, correlation)
    times = [float(each) for each in range(size)]
    return [
        Series(name="server_rss_bytes", kind=Kind.MEMORY, times_s=times, values=list(1e9 + 1e8 * memory)),
        Series(
            name="server_descriptors", kind=Kind.DESCRIPTORS, times_s=times, values=list(np.round(50 + 5 * descriptors))
        ),
        Series(name="ttft", kind=Kind.LATENCY, times_s=times, values=list(np.exp(0.5 * ttft))),
        Series(name="e2e", kind=Kind.LATENCY, times_s=times, values=list(np.exp(0.5 * e2e))),
    ]


def memory(values: Array, every_s: float = 3.0) -> Series:
    times = [each * every_s for each in range(values.size)]
    return Series(name="server_rss_bytes", kind=Kind.MEMORY, times_s=times, values=list(values))


@pytest.mark.parametrize(("size", "correlation"), [(400, 0.0), (1200, 0.5), (1200, 0.9), (3600, 0.97)])
def test_a_quiet_server_raises_no_alarm_also_when_its_figures_wander(size: int, correlation: float) -> None:
    rng = np.random.default_rng(size)
    bad = {Outcome.LEAK, Outcome.DRIFT}
    alarms = sum(judge_drift(soak(rng, size, correlation)).outcome in bad for _ in range(RUNS))
    assert binomial_interval(alarms, RUNS, 0.95).low <= 0.05
    assert alarms / RUNS <= 0.06


def test_stable_is_said_only_where_harm_is_excluded() -> None:
    """Memory that wanders by 100 MB within an hour hides a leak of hundreds of MiB per hour."""
    rng = np.random.default_rng(11)
    outcomes = []
    for noise in wandering(rng, 20, 1200, 0.97):
        found = judge_drift([memory(2e9 + 1e8 * noise)])
        (trend,) = found.trends
        outcomes.append(trend.outcome)
        if trend.outcome is Outcome.STABLE:
            assert trend.judged.high * 7 * 24 * 3600 <= trend.level
        elif trend.outcome is Outcome.INCONCLUSIVE:
            assert "cannot be excluded" in drift_sentences(found)[0] or "varies too much" in drift_sentences(found)[0]
    assert outcomes.count(Outcome.INCONCLUSIVE) >= 15


def test_quiet_memory_is_stable_within_twenty_minutes_and_says_what_it_excludes() -> None:
    rng = np.random.default_rng(12)
    stable = 0
    for noise in wandering(rng, 40, 400, 0.5):
        found = judge_drift([memory(2e9 + 1e6 * noise)])
        stable += found.outcome is Outcome.STABLE
    assert stable >= 36
    calm = judge_drift([memory(2e9 + 1e5 * rng.normal(size=400))])
    first, second = drift_sentences(calm)
    assert first.startswith("STABLE")
    assert "Memory of the server (RSS) grows by less than" in second
    assert "would do no harm within a week" in second


def test_how_much_memory_there_is_says_what_does_no_harm() -> None:
    values = 2e9 + 2e7 * np.random.default_rng(13).normal(size=400)
    small, large = memory(values), memory(values)
    found = [judge_drift([replace(each, most=most)]).trends[0] for each, most in ((small, 2.2e9), (large, 64e9))]
    assert [each.outcome for each in found] == [Outcome.INCONCLUSIVE, Outcome.STABLE]


def test_the_hours_that_are_advised_do_decide() -> None:
    rng = np.random.default_rng(14)
    noise = wandering(rng, 12, 20_000, 0.5) * 6e6
    decided = asked = 0
    for each in noise:
        short = judge_drift([memory(2e9 + each[:400])])
        if short.outcome is not Outcome.INCONCLUSIVE:
            continue
        asked += 1
        hours = drift_data(short)["series"][0]["hours_to_decide"]
        assert hours is not None
        assert f"{hours:.1f} hours of measuring would decide" in drift_sentences(short)[0]
        decided += judge_drift([memory(2e9 + each[: round(2 * hours * 1200)])]).outcome is Outcome.STABLE
    assert asked >= 6
    assert decided >= 0.75 * asked


def test_latency_that_varies_too_much_is_undecided() -> None:
    rng = np.random.default_rng(15)
    times = list(np.arange(60) * 10.0)
    found = judge_drift(
        [Series(name="e2e", kind=Kind.LATENCY, times_s=times, values=list(np.exp(rng.normal(size=60))))]
    )
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "a change of End-to-end latency by up to" in drift_sentences(found)[0]


CACHE = 4e9


@pytest.mark.parametrize(
    ("filled", "outcome"),
    [
        (lambda hours: 3e9 * hours, Outcome.INCONCLUSIVE),
        (lambda hours: np.minimum(4e9, 12e9 * hours), Outcome.STABLE),
        (lambda hours: np.minimum(4e9, 20e9 * hours) + 5e8 * hours, Outcome.LEAK),
    ],
    ids=["still filling", "filled", "filled and leaking"],
)
def test_memory_in_which_a_cache_fills_is_no_leak(filled: Callable[[Array], Array], outcome: Outcome) -> None:
    hours = np.arange(1200) * 3.0 / 3600
    values = 1e9 + filled(hours) + 1e5 * np.random.default_rng(16).normal(size=1200)
    found = judge_drift([replace(memory(values), explained=1e9 + CACHE)])
    assert found.outcome is outcome
    if outcome is Outcome.INCONCLUSIVE:
        assert "smaller cache (kv_cache_bytes)" in drift_sentences(found)[0]
    if outcome is not Outcome.STABLE:
        assert judge_drift([memory(values)]).outcome is Outcome.LEAK


def test_what_the_cache_may_grow_to_counts_from_the_first_sample() -> None:
    samples = [{"at_ns": each * NS, "server_rss_bytes": 1e9 + each, "memory_total_bytes": 8e9} for each in range(50)]
    (series,) = memory_and_descriptors(samples, cache_bytes=500)
    assert (series.explained, series.most) == (1e9 + 500, 8e9)
    (series,) = memory_and_descriptors(samples)
    assert series.explained is None


@pytest.mark.parametrize("mib_per_hour", [10, 50])
def test_a_leak_is_found_with_its_slope(mib_per_hour: float) -> None:
    rng = np.random.default_rng(1)
    hours = np.arange(1200) * 3.0 / 3600
    leaks = covered = 0
    for noise in wandering(rng, 60, 1200, 0.9):
        found = judge_drift([memory(5e8 + mib_per_hour * MIB * hours + 2e6 * noise)])
        leaks += found.outcome is Outcome.LEAK
        slope = found.trends[0].slope
        assert found.outcome is not Outcome.LEAK or found.trends[0].shows_growth  # the interval that is told excludes 0
        covered += slope.low * 3600 <= mib_per_hour * MIB <= slope.high * 3600
    assert leaks >= 59
    assert covered / 60 > 0.88


def test_memory_that_grows_at_first_and_then_stays_is_no_leak() -> None:
    times = np.arange(2000) * 3.0
    noise = 1e5 * np.random.default_rng(2).normal(size=2000)
    found = judge_drift([memory(5e8 + 5e7 * (1 - np.exp(-times / 600)) + noise)])
    assert found.outcome is Outcome.STABLE
    assert found.trends[0].levels_off
    assert "levelled off" in drift_findings(found)[-1].text


def test_growth_that_matters_to_nobody_is_no_leak() -> None:
    hours = np.arange(1200) * 3.0 / 3600
    noise = 1e3 * np.random.default_rng(3).normal(size=1200)
    found = judge_drift([memory(5e8 + 0.01 * MIB * hours + noise)])
    assert found.trends[0].p < 0.01
    assert found.outcome is Outcome.STABLE


def test_memory_that_shrinks_is_no_leak() -> None:
    assert judge_drift([memory(5e8 - 1e5 * np.arange(1000.0))]).outcome is Outcome.STABLE


def test_descriptors_that_are_never_closed_are_a_leak() -> None:
    times = [float(each) for each in range(1000)]
    counts = [float(10 + each // 50) for each in range(1000)]
    found = judge_drift([Series(name="server_descriptors", kind=Kind.DESCRIPTORS, times_s=times, values=counts)])
    assert found.outcome is Outcome.LEAK
    assert "LEAK: Number of the server's open descriptors grows" in drift_sentences(found)[0]


def test_latency_that_creeps_up_drifts() -> None:
    rng = np.random.default_rng(4)
    times = np.sort(rng.uniform(0, 3600, 1000))
    values = 1.0 * np.exp(0.3 * rng.normal(size=1000)) * (1 + 0.3 * times / 3600)
    found = judge_drift([Series(name="e2e", kind=Kind.LATENCY, times_s=list(times), values=list(values))])
    assert found.outcome is Outcome.DRIFT
    assert "DRIFT: End-to-end latency changes" in drift_sentences(found)[0]


@pytest.mark.parametrize("factor", [1.3, 2.0])
def test_a_step_in_latency_is_found_where_it_is(factor: float) -> None:
    rng, found = np.random.default_rng(5), []
    times = np.arange(1200) * 3.0
    for _ in range(20):
        values = np.exp(0.2 * rng.normal(size=1200)) * np.where(times > 2500, factor, 1.0)
        drift = judge_drift([Series(name="e2e", kind=Kind.LATENCY, times_s=list(times), values=list(values))])
        found.append(drift.outcome is Outcome.DRIFT and bool(drift.trends[0].steps))
        if found[-1]:
            step = min(drift.trends[0].steps, key=lambda each: abs(each.at_s - 2500))
            assert abs(step.at_s - 2500) < 3600 / 20 * 1.5
    assert sum(found) >= 18


def test_a_run_that_is_too_short_proves_nothing() -> None:
    short = Series(name="server_rss_bytes", kind=Kind.MEMORY, times_s=[1.0, 2.0, 3.0], values=[1.0, 2.0, 3.0])
    found = judge_drift([short])
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.too_short == ("server_rss_bytes",)
    assert "measure longer" in drift_sentences(found)[0]
    assert judge_drift([]).outcome is Outcome.INCONCLUSIVE


def test_blocks_leave_the_beginning_out_and_bear_holes() -> None:
    times = [float(each) for each in range(1000) if not 400 <= each < 500]
    middles, levels = blocks_of(Series(name="x", kind=Kind.MEMORY, times_s=times, values=times))
    assert middles[0] > 100
    assert 17 <= levels.size < 20
    assert levels == pytest.approx(middles, abs=30)


def test_memory_is_judged_by_pss_where_there_is_enough_of_it() -> None:
    samples = [
        {"at_ns": each * NS, "server_rss_bytes": 100.0, "server_pss_bytes": 90.0, "server_descriptors": 9}
        for each in range(50)
    ]
    assert [each.name for each in memory_and_descriptors(samples)] == ["server_pss_bytes", "server_descriptors"]
    own = [{**each, "server_own_bytes": 50.0} for each in samples]
    assert [each.name for each in memory_and_descriptors(own)] == ["server_own_bytes", "server_descriptors"]
    few = [
        {**each, "server_pss_bytes": each["server_pss_bytes"] if not number % 10 else None}
        for number, each in enumerate(samples)
    ]
    assert [each.name for each in memory_and_descriptors(few)] == ["server_rss_bytes", "server_descriptors"]
    assert memory_and_descriptors([{"at_ns": 1}]) == ()


def test_latency_is_that_of_good_answers_when_they_were_due() -> None:
    found = latency([answer(0, at_s=1, ttft_s=0.5), failed(1, at_s=2), answer(2, at_s=3, ttft_s=0.7)], "ttft")
    assert list(found.times_s) == [1.0, 3.0]
    assert list(found.values) == pytest.approx([0.5, 0.7])


def test_what_was_found_is_told_as_sentences_a_table_and_data() -> None:
    hours = np.arange(1200) * 3.0 / 3600
    found = judge_drift([memory(5e8 + 20 * MIB * hours + 1e5 * np.random.default_rng(6).normal(size=1200))])
    assert drift_sentences(found)[0].startswith("LEAK: Memory of the server (RSS) grows by 20.0")
    (row,) = drift_table(found).rows
    assert row[3] == pytest.approx(20, abs=0.5)
    assert row[-1] == "LEAK"
    (series,) = drift_data(found)["series"]
    assert series["slope_per_hour"] == pytest.approx(20 * MIB, rel=0.02)
    assert series["low_per_hour"] < series["slope_per_hour"] < series["high_per_hour"]
