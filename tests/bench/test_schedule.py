import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qwenops.bench.record import NS_PER_S
from qwenops.bench.schedule import ArrivalKind, arrivals, schedule_hash, share
from qwenops.errors import ConfigError

RATES = st.floats(min_value=0.01, max_value=500)
SEEDS = st.integers(min_value=0, max_value=2**32)


def gaps_s(offsets: tuple[int, ...]) -> np.ndarray:
    return np.diff(np.asarray((0, *offsets))) / NS_PER_S


def dispersion(offsets: tuple[int, ...], window_s: float) -> float:
    """Return the variance of the counts in windows by their mean: 1 for a Poisson process."""
    number = int(offsets[-1] / NS_PER_S / window_s)
    counts, _ = np.histogram(np.asarray(offsets) / NS_PER_S, bins=number, range=(0, number * window_s))
    return float(counts.var(ddof=1) / counts.mean())


@pytest.mark.parametrize("num_workers", [1, 2, 4, 10])
@pytest.mark.parametrize("rate_per_s", [0.05, 2.0, 200.0])
def test_poisson_arrivals_are_poisson_with_any_number_of_workers(rate_per_s: float, num_workers: int) -> None:
    offsets = arrivals("poisson", rate_per_s, count=20_000, seed=7)
    # What the server sees: each worker sends its part at its times.
    parts = [share(offsets, worker, num_workers) for worker in range(num_workers)]
    seen = tuple(sorted(itertools.chain.from_iterable(parts)))
    assert seen == offsets
    gaps = gaps_s(seen)
    assert stats.kstest(gaps, "expon", args=(0, 1 / rate_per_s)).pvalue > 0.01
    assert 0.8 < dispersion(seen, 20 / rate_per_s) < 1.2
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03


def test_workers_that_draw_from_one_seed_would_be_found_out() -> None:
    # The mistake that `share` avoids: ten workers with ten equal streams on one growing offset.
    offset, merged = 0.0, []
    streams = [np.random.default_rng(42) for _ in range(10)]
    for turn in range(20_000):
        offset += streams[turn % 10].exponential(0.5)
        merged.append(round(offset * NS_PER_S))
    assert dispersion(tuple(merged), 20.0) > 3


def test_constant_is_constant() -> None:
    gaps = np.diff(arrivals("constant", 7.0, count=5000, seed=1))
    assert gaps.var() < 1.0**2  # nanoseconds: nothing but rounding
    assert arrivals("constant", 3.0, duration_s=1.0, seed=1) == (0, 333_333_333, 666_666_667)
    assert arrivals("constant", 3.0, count=3_000_001, seed=1)[-1] == 1_000_000 * NS_PER_S


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_arrivals_have_their_shape(burstiness: float) -> None:
    gaps = gaps_s(arrivals("gamma", 2.0, count=20_000, seed=3, burstiness=burstiness))
    assert stats.kstest(gaps, "gamma", args=(burstiness, 0, 0.5 / burstiness)).pvalue > 0.01
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.1)


@given(
    kind=st.sampled_from(["poisson", "constant", "gamma"]),
    rate=RATES,
    seed=SEEDS,
    count=st.integers(min_value=1, max_value=300),
)
def test_offsets_ascend_from_zero_and_a_longer_schedule_begins_with_the_shorter_one(
    kind: ArrivalKind, rate: float, seed: int, count: int
) -> None:
    offsets = arrivals(kind, rate, count=count, seed=seed)
    assert len(offsets) == count
    assert offsets[0] >= 0
    assert all(first <= second for first, second in itertools.pairwise(offsets))
    assert arrivals(kind, rate, count=count + 50, seed=seed)[:count] == offsets
    assert schedule_hash(arrivals(kind, rate, count=count, seed=seed)) == schedule_hash(offsets)


@given(rate=RATES, seed=SEEDS, duration_s=st.floats(min_value=0.1, max_value=20))
def test_a_duration_ends_the_schedule_and_nothing_is_stretched_to_fit(
    rate: float, seed: int, duration_s: float
) -> None:
    within = arrivals("poisson", rate, duration_s=duration_s, seed=seed)
    assert all(offset < duration_s * NS_PER_S for offset in within)
    more = arrivals("poisson", rate, count=len(within) + 1, seed=seed)
    assert more[:-1] == within
    assert more[-1] >= duration_s * NS_PER_S


def test_the_number_of_arrivals_in_a_minute_varies_as_it_does_with_callers() -> None:
    counts = np.asarray([len(arrivals("poisson", 1.0, duration_s=60, seed=seed)) for seed in range(400)])
    assert counts.mean() == pytest.approx(60, abs=2)
    assert 0.75 < counts.var() / counts.mean() < 1.3


@given(number=st.integers(min_value=0, max_value=50), num_workers=st.integers(min_value=1, max_value=12))
def test_shares_are_the_whole_schedule_each_request_once(number: int, num_workers: int) -> None:
    offsets = tuple(range(number))
    parts = [share(offsets, worker, num_workers) for worker in range(num_workers)]
    assert sorted(itertools.chain.from_iterable(parts)) == list(offsets)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_hash_tells_schedules_apart_and_never_changes() -> None:
    assert schedule_hash(arrivals("poisson", 1.0, count=100, seed=1)) == "b1088a06ca75689e"
    assert schedule_hash(arrivals("poisson", 1.0, count=100, seed=2)) != "b1088a06ca75689e"
    assert schedule_hash(()) == schedule_hash(())


@pytest.mark.parametrize(
    ("kind", "rate", "bounds", "said"),
    [
        ("poisson", 0.0, {"count": 1}, "A rate of 0.0"),
        ("poisson", float("nan"), {"count": 1}, "A rate of nan"),
        ("poisson", 1.0, {}, "no end"),
        ("gamma", 1.0, {"count": 1, "burstiness": 0.0}, "burstiness of 0.0"),
        ("constant", 1e9, {"duration_s": 3600.0}, "more than 20000000"),
    ],
)
def test_what_makes_no_schedule_is_refused_with_a_hint(
    kind: ArrivalKind, rate: float, bounds: dict[str, float], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        arrivals(kind, rate, seed=1, **bounds)  # type: ignore[arg-type]  # one table of bounds of all kinds
    assert caught.value.hint


@pytest.mark.parametrize("worker", [-1, 3])
def test_there_is_no_share_for_a_worker_that_is_not_there(worker: int) -> None:
    with pytest.raises(ConfigError, match="no worker"):
        share((1, 2, 3), worker, 3)
