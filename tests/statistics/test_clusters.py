import math

import numpy as np
import pytest
import scipy.stats as truth
from hypothesis import given
from hypothesis import strategies as st

from qwenops.statistics import binomial_lower, binomial_upper, bootstrap_bca
from qwenops.statistics.clusters import (
    Resampled,
    group_interval,
    independent,
    pool,
    resample_groups,
    share_interval,
    worth,
)
from qwenops.statistics.samples import Array
from tests.statistics.proportions import binomial_interval


def means(totals: Array) -> Array:
    """Return sum over count, the one figure of rows (count, sum)."""
    counts = totals[..., :1]
    found: Array = np.where(counts > 0, totals[..., 1:] / np.maximum(counts, 1), np.nan)
    return found


def test_groups_of_one_are_worth_themselves_and_alike_members_count_once() -> None:
    assert worth([1, 1, 1, 1]) == 4
    assert worth([3, 3, 3]) == pytest.approx(3)
    assert worth([100, 1, 1]) == pytest.approx(102**2 / 10_002)
    assert worth([]) == 0
    assert independent(6, [2, 2, 2, 2]) == (4, 3.0)
    assert independent(0, []) == (0, 0.0)


@given(st.integers(1, 300), st.data())
def test_a_share_of_single_members_has_the_exact_interval(num: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, num))
    found = share_interval(hits, np.ones(num))
    assert found is not None
    assert found.low == pytest.approx(binomial_lower(hits, num, 0.025))
    assert found.high == pytest.approx(binomial_upper(hits, num, 0.025))


def test_a_share_of_nothing_has_no_interval() -> None:
    assert share_interval(0, []) is None
    assert share_interval(0, [0, 0]) is None


def test_a_share_of_alike_members_is_covered_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    runs, covered, naively = 1500, 0, 0
    for _ in range(runs):
        sizes = rng.integers(1, 6, 60)
        hits = int(sizes[rng.random(60) < 0.8].sum())
        found, naive = share_interval(hits, sizes), share_interval(hits, np.ones(sizes.sum()))
        assert found is not None
        assert naive is not None
        covered += 0.8 in found
        naively += 0.8 in naive
    assert binomial_interval(covered, runs, 0.99).high >= 0.95
    assert naively / runs < 0.85, "members that are alike are no independent ones"


def test_the_bootstrap_of_groups_of_one_is_that_of_values() -> None:
    values = np.random.default_rng(2).exponential(1, 400)
    rows = np.stack((np.ones(400), values), axis=1)
    found = group_interval(resample_groups(rows, np.ones(400), means, seed=1, resamples=20_000), 0)
    theirs = bootstrap_bca(values, seed=2, resamples=20_000)
    assert found is not None
    assert found.low == pytest.approx(theirs.low, abs=0.01)
    assert found.high == pytest.approx(theirs.high, abs=0.01)


@pytest.mark.parametrize("groups", [8, 40])
def test_a_mean_is_covered_also_where_groups_are_few(groups: int) -> None:
    rng = np.random.default_rng(groups)
    runs, covered = 400, 0
    for each in range(runs):
        sizes = rng.integers(1, 5, groups)
        levels = rng.normal(0, 1, groups)
        rows = np.stack((sizes, sizes * levels), axis=1).astype(np.float64)
        found = group_interval(resample_groups(rows, sizes, means, seed=each, resamples=1000), 0)
        assert found is not None
        covered += 0.0 in found
    assert binomial_interval(covered, runs, 0.99).high >= 0.95


def test_what_cannot_be_known_has_no_interval() -> None:
    one = np.array([[10.0, 4.0]])
    assert group_interval(resample_groups(one, [10], means, seed=1, resamples=50), 0) is None
    rare = np.zeros((40, 2))
    rare[0] = (1.0, 1.0)
    missing = resample_groups(rare, np.ones(40), means, seed=1, resamples=500)
    assert np.isnan(missing.drawn).mean() > 0.2, "a draw may lack the only group that has the figure"
    assert group_interval(missing, 0) is None


def test_an_extreme_acceleration_stays_within_what_was_drawn() -> None:
    drawn = np.linspace(0, 1, 1000)[:, None]
    left_out = np.concatenate((np.zeros(99), [-1000.0]))[:, None]
    found = group_interval(Resampled(seen=np.array([2.0]), drawn=drawn, left_out=left_out, worth=3.0), 0)
    assert found is not None
    assert found.high == 1, "beyond all that was drawn there is only its end"
    assert 0 <= found.low <= found.high


def test_the_same_seed_draws_the_same_in_one_piece_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(3).random((50, 2)) + 1
    whole = resample_groups(rows, np.ones(50), means, seed=5, resamples=100)
    again = resample_groups(rows, np.ones(50), means, seed=5, resamples=100)
    assert np.array_equal(whole.drawn, again.drawn)
    monkeypatch.setattr("qwenops.statistics.clusters._AT_ONCE", 350)
    pieces = resample_groups(rows, np.ones(50), means, seed=5, resamples=100)
    assert pieces.drawn.shape == whole.drawn.shape
    assert float(pieces.drawn.std()) == pytest.approx(float(whole.drawn.std()), rel=0.3)


def test_pooled_groups_vary_as_groups_do() -> None:
    rng = np.random.default_rng(4)
    groups = np.arange(4000)
    pooled = pool(groups, seed=1, most=200)
    assert np.unique(pooled).size == 200
    assert pool(np.array([7, 3, 7]), seed=1).tolist() == [1, 0, 1]
    values = rng.normal(0, 1, 4000)

    def spread(codes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        rows = np.stack((np.bincount(codes), np.bincount(codes, weights=values)), axis=1).astype(np.float64)
        return float(resample_groups(rows, np.bincount(codes), means, seed=1, resamples=2000).drawn.std())

    assert spread(pooled) == pytest.approx(spread(groups), rel=0.15)
    assert spread(pooled) == pytest.approx(1 / math.sqrt(4000), rel=0.15)


def test_students_t_widens_what_few_groups_say() -> None:
    rows = np.stack((np.ones(6), np.arange(6.0)), axis=1)
    found = group_interval(resample_groups(rows, np.ones(6), means, seed=1, resamples=20_000), 0)
    assert found is not None
    low, high = truth.t.interval(0.95, 5, 2.5, truth.sem(np.arange(6.0)))
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)
