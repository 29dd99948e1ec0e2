import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats as truth
from hypothesis import given
from hypothesis import strategies as st

from qwenops.statistics import (
    change_points,
    correlation_inflation,
    linear_fit,
    mann_kendall,
    neighbours,
    pava,
    theil_sen,
)
from tests.statistics.proportions import binomial_interval

SERIES = st.lists(st.integers(-1000, 1000), min_size=6, max_size=40, unique=True)


def wandering(rng: np.random.Generator, size: int, correlation: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.empty(size)
    values[0] = rng.normal()
    for each in range(1, size):
        values[each] = correlation * values[each - 1] + math.sqrt(1 - correlation**2) * rng.normal()
    return values


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.data())
def test_the_monotone_fit_is_that_of_scipy(values: list[float], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(values), max_size=len(values)))
    expected = scipy.optimize.isotonic_regression(values, weights=weights).x
    assert pava(values, weights) == pytest.approx(expected, abs=1e-8)
    falling = scipy.optimize.isotonic_regression(values, weights=weights, increasing=False).x
    assert pava(values, weights, increasing=False) == pytest.approx(falling, abs=1e-8)


@given(SERIES)
def test_the_straight_line_is_that_of_scipy(y: list[int]) -> None:
    x = np.arange(len(y), dtype=np.float64)
    found, expected = linear_fit(x, y), truth.linregress(x, y)
    assert found.slope.value == pytest.approx(expected.slope, abs=1e-9)
    assert found.intercept == pytest.approx(expected.intercept, abs=1e-6)
    half = truth.t.ppf(0.975, len(y) - 2) * expected.stderr
    assert found.slope.high - found.slope.value == pytest.approx(half, rel=1e-6, abs=1e-9)
    assert found.at(2.0) == pytest.approx(expected.intercept + 2 * expected.slope, abs=1e-6)


@given(SERIES)
def test_the_median_slope_is_that_of_scipy(y: list[int]) -> None:
    x = np.arange(len(y), dtype=np.float64)
    found, expected = theil_sen(x, y), truth.theilslopes(y, x)
    assert found.value == pytest.approx(expected.slope)
    assert found.low <= expected.low_slope + 1e-9
    assert found.high >= expected.high_slope - 1e-9


@given(SERIES)
def test_kendalls_tau_is_that_of_scipy(y: list[int]) -> None:
    found, expected = mann_kendall(y), truth.kendalltau(np.arange(len(y)), y, method="asymptotic")
    assert found.tau == pytest.approx(expected.statistic)
    assert found.p >= expected.pvalue - 1e-9  # its continuity is corrected for


def test_a_series_that_never_changes_has_no_trend() -> None:
    assert mann_kendall([3.0] * 10).p == 1
    assert theil_sen(range(10), [3.0] * 10).value == 0
    assert neighbours([1.0] * 10) == 0
    assert change_points([1.0] * 40) == ()


def test_points_that_make_no_line_are_an_error() -> None:
    for x, y in (([1.0], [1.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="line"):
            linear_fit(x, y)


def test_the_interval_of_a_slope_covers_it() -> None:
    rng, x = np.random.default_rng(1), np.arange(30, dtype=np.float64)
    found = [theil_sen(x, 0.5 * x + rng.standard_t(2, 30)) for _ in range(600)]
    covered = sum(each.low <= 0.5 <= each.high for each in found)
    assert binomial_interval(covered, 600, 0.99).high >= 0.95
    assert covered / 600 < 0.99


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_a_trend_is_seldom_seen_in_what_only_wanders(correlation: float) -> None:
    rng, x, naive, alarms = np.random.default_rng(2), np.arange(20, dtype=np.float64), 0, 0
    for _ in range(600):
        y = wandering(rng, 20, correlation)
        found = neighbours(y - theil_sen(x, y).value * x)
        naive += mann_kendall(y).p < 0.05
        alarms += mann_kendall(y, correlation=found).p < 0.05
    assert alarms <= naive
    assert alarms / 600 < 0.07 + correlation / 12
    assert correlation < 0.5 or naive / 600 > 0.25, "without it every quiet server would drift"


def test_a_clear_trend_is_seen_however_its_neighbours_look() -> None:
    for shape in (np.arange(20), np.sqrt(np.arange(20)), np.floor(np.arange(20) / 4)):
        y = shape + np.random.default_rng(3).normal(0, 0.01, 20)
        assert mann_kendall(y, correlation=0.7).p < 0.01


def test_the_variance_of_a_mean_grows_with_the_correlation() -> None:
    assert correlation_inflation(0.0) == 1
    assert correlation_inflation(0.5) == 3


def test_levels_that_change_are_found_where_they_change() -> None:
    rng = np.random.default_rng(5)
    levels = np.concatenate((np.zeros(40), np.full(40, 3.0), np.ones(40)))
    found = change_points(levels + rng.normal(0, 0.5, 120))
    assert len(found) == 2
    assert abs(found[0] - 40) <= 1
    assert abs(found[1] - 80) <= 1
    assert change_points([1.0, 2.0, 3.0]) == ()


def test_levels_that_do_not_change_seldom_look_so() -> None:
    rng = np.random.default_rng(6)
    assert sum(bool(change_points(rng.normal(0, 1, 60))) for _ in range(400)) / 400 < 0.03
