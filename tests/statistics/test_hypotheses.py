import itertools
import math

import numpy as np
import pytest
import scipy.stats as truth
from hypothesis import given
from hypothesis import strategies as st

from qwenops.statistics import (
    bca_interval,
    bootstrap_bca,
    bootstrap_series,
    fisher_p,
    holm,
    mcnemar_p,
    sign_flip_p,
    t_test_p,
    tost_p,
)
from qwenops.statistics.hypotheses import mean_of, resampling_length
from tests.statistics.proportions import binomial_interval

VALUES = st.lists(st.floats(-100, 100), min_size=3, max_size=30).filter(lambda values: np.std(values) > 1e-3)


@given(VALUES)
def test_students_test_is_that_of_scipy(values: list[float]) -> None:
    assert t_test_p(values) == pytest.approx(truth.ttest_1samp(values, 0).pvalue, rel=1e-6, abs=1e-12)


@given(VALUES)
def test_two_one_sided_tests_are_those_of_scipy(values: list[float]) -> None:
    above = truth.ttest_1samp(values, -1, alternative="greater").pvalue
    below = truth.ttest_1samp(values, 1, alternative="less").pvalue
    assert tost_p(values, -1, 1) == pytest.approx(max(above, below), rel=1e-6, abs=1e-12)


def test_values_that_do_not_vary_are_surely_what_they_are() -> None:
    assert tost_p([0.0, 0.0, 0.0], -0.1, 0.1) == 0
    assert t_test_p([0.0, 0.0, 0.0]) == 1
    assert t_test_p([1.0, 1.0, 1.0]) == 0


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30), st.integers(0, 30))
def test_fishers_test_has_the_tails_of_scipy(first: int, second: int, more: int, others: int) -> None:
    table = [[first, more], [second, others]]
    tails = [truth.fisher_exact(table, alternative=each).pvalue for each in ("less", "greater")]
    assert fisher_p(first, first + more, second, second + others) == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7))
def test_flipping_signs_goes_through_all_of_them(values: list[float]) -> None:
    seen = abs(sum(values))
    patterns = list(itertools.product((1, -1), repeat=len(values)))
    sums = [abs(sum(sign * value for sign, value in zip(signs, values, strict=True))) for signs in patterns]
    expected = sum(each >= seen * (1 - 1e-12) for each in sums) / len(patterns)
    assert sign_flip_p(values) == pytest.approx(expected, abs=2 / len(patterns) if seen < 1e-9 else 1e-9)


def test_five_pairs_cannot_reach_five_percent_and_six_can() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) == 0.0625
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 0.03125


def test_many_signs_are_drawn_and_the_same_seed_draws_the_same() -> None:
    values = list(np.random.default_rng(1).normal(0.5, 1, 40))
    assert sign_flip_p(values, seed=3) == sign_flip_p(values, seed=3)
    assert sign_flip_p(values, seed=3) == pytest.approx(t_test_p(values), abs=0.02)
    assert sign_flip_p([1.0] * 40) > 0, "what was seen is one of the patterns"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_between_each_alone_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    number = len(p_values)
    for own, found in zip(p_values, adjusted, strict=True):
        assert own <= found <= min(1.0, number * own) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(adjusted)[order]) == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()


def test_one_false_alarm_among_many_is_as_rare_as_asked_for() -> None:
    p_values = np.random.default_rng(2).random((3000, 6))
    alarms = sum(min(holm(list(row))) < 0.05 for row in p_values)
    found = binomial_interval(alarms, 3000, 0.99)
    assert found.low <= 0.05 <= found.high


def test_the_bootstrap_is_that_of_scipy() -> None:
    values = np.random.default_rng(4).exponential(1, 40)
    found = bootstrap_bca(values, seed=1, resamples=20_000)
    theirs = truth.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(2))
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_the_bootstrap_covers_the_mean_of_skewed_values() -> None:
    rng = np.random.default_rng(5)
    covered = sum(1.0 in bootstrap_bca(rng.exponential(1, 60), seed=each, resamples=1000) for each in range(400))
    assert covered / 400 > 0.89


def test_a_bootstrap_needs_two_values_and_bears_equal_ones() -> None:
    with pytest.raises(ValueError, match="resampled"):
        bootstrap_bca([1.0], seed=1)
    found = bootstrap_bca([2.0, 2.0, 2.0], seed=1)
    assert (found.low, found.high) == (2.0, 2.0)


def test_blocks_are_as_long_as_neighbours_are_alike() -> None:
    rng = np.random.default_rng(6)
    assert resampling_length(rng.normal(size=400)) <= 3
    walk = [0.0]
    for step in rng.normal(size=399):
        walk.append(0.9 * walk[-1] + step)
    assert resampling_length(np.array(walk)) > 15
    assert resampling_length(np.ones(10)) == 1


def test_a_bootstrap_of_several_runs_sees_how_much_runs_differ() -> None:
    rng = np.random.default_rng(7)
    shifted = [rng.normal(level, 0.1, 200) for level in (1.0, 2.0, 3.0)]
    drawn = bootstrap_series(shifted, mean_of, seed=1, resamples=500)
    assert drawn.size == 500
    assert float(drawn.std()) == pytest.approx(math.sqrt(2 / 3 / 3), rel=0.2)
    assert float(bootstrap_series([np.concatenate(shifted)[:200]], mean_of, seed=1, resamples=500).std()) < 0.02


def test_ends_that_the_correction_throws_over_the_edge_stay_at_what_was_drawn() -> None:
    drawn = np.arange(4000.0)
    left_out = np.append(np.zeros(99), -1.0)
    found = bca_interval(drawn, 5000.0, left_out, 0.9999)
    assert found.high == 3999
    assert found.low < found.high


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemars_test_is_the_binomial_one_or_its_mid_p(one: int, other: int) -> None:
    found = mcnemar_p(one, other)
    exact = truth.binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    if one == other:
        assert found == 1
    elif one + other < 25:
        assert found == pytest.approx(exact, rel=1e-9)
    else:
        assert found == pytest.approx(exact - truth.binom.pmf(min(one, other), one + other, 0.5), rel=1e-9)


def test_mcnemars_test_is_wrong_as_rarely_as_it_says() -> None:
    rng = np.random.default_rng(8)
    for differ in (10, 30, 200):
        only_one = rng.binomial(differ, 0.5, 4000)
        alarms = sum(mcnemar_p(int(each), differ - int(each)) < 0.05 for each in only_one)
        assert binomial_interval(alarms, 4000, 0.99).low <= 0.05
