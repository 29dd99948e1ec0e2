import numpy as np
import pytest
import scipy.stats as truth
from hypothesis import given
from hypothesis import strategies as st

from qwenops.statistics import (
    binomial_lower,
    binomial_upper,
    mean_interval,
    quantile,
    quantile_interval,
    quantile_ranks,
    quantile_upper,
    smallest_n,
)
from tests.statistics.proportions import binomial_interval

RUNS = 4000


def test_the_published_sample_sizes() -> None:
    assert [smallest_n(p) for p in (0.5, 0.9, 0.95, 0.99, 0.999)] == [5, 29, 59, 299, 2995]
    assert [smallest_n(p, 2) for p in (0.5, 0.9, 0.95, 0.99, 0.999)] == [6, 36, 72, 368, 3688]


@pytest.mark.parametrize(("p", "one", "two"), [(0.95, 59, 72), (0.99, 299, 368)])
def test_below_the_sample_size_there_is_no_bound(p: float, one: int, two: int) -> None:
    assert quantile_upper(range(one - 1), p) is None
    assert quantile_upper(range(one), p) == one - 1
    assert quantile_interval(range(two - 1), p) is None
    assert quantile_interval(range(two), p) is not None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_a_quantile_is_the_smallest_sample_that_enough_do_not_exceed(values: list[float], p: float) -> None:
    found = quantile(values, p)
    assert found in values
    need = p * len(values) - 1e-6
    assert sum(value <= found for value in values) >= need
    assert sum(value < found for value in values) < need + 1e-5


def test_a_quantile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


@pytest.mark.parametrize(
    ("n", "p"), [(75, 0.5), (75, 0.9), (75, 0.95), (400, 0.5), (400, 0.95), (400, 0.99), (1500, 0.95), (1500, 0.99)]
)
def test_intervals_of_quantiles_cover_the_truth_as_often_as_they_say(n: int, p: float) -> None:
    two, one = quantile_ranks(n, p, 2, 0.95), quantile_ranks(n, p, 1, 0.95)
    assert two is not None
    assert one is not None
    # The ordered uniform sample at these ranks, drawn directly: whatever the distribution, only ranks matter.
    samples = np.sort(np.random.default_rng(n).random((RUNS, n)), axis=1)
    covered = int(((samples[:, two[0]] <= p) & (p <= samples[:, two[1]])).sum())
    above = int((samples[:, one[1]] >= p).sum())
    assert binomial_interval(covered, RUNS, 0.99).high >= 0.95
    assert binomial_interval(above, RUNS, 0.99).high >= 0.95
    assert covered / RUNS < 0.985 or n < 368, "they are not needlessly wide either"


@given(st.integers(1, 2000), st.data(), st.floats(0.001, 0.5))
def test_bounds_of_a_share_are_those_of_scipy(n: int, data: st.DataObject, alpha: float) -> None:
    failures = data.draw(st.integers(0, n))
    upper = truth.beta.ppf(1 - alpha, failures + 1, n - failures) if failures < n else 1.0
    lower = truth.beta.ppf(alpha, failures, n - failures + 1) if failures else 0.0
    assert binomial_upper(failures, n, alpha) == pytest.approx(upper, rel=1e-8)
    assert binomial_lower(failures, n, alpha) == pytest.approx(lower, rel=1e-8)


def test_a_count_that_cannot_be_is_an_error() -> None:
    for failures, n in ((-1, 3), (4, 3), (0, 0)):
        with pytest.raises(ValueError, match="of"):
            binomial_upper(failures, n)


@given(st.lists(st.floats(-1000, 1000), min_size=2, max_size=50).filter(lambda values: np.std(values) > 1e-6))
def test_the_interval_of_a_mean_is_that_of_scipy(values: list[float]) -> None:
    found = mean_interval(values)
    assert found is not None
    low, high = truth.t.interval(0.95, len(values) - 1, np.mean(values), truth.sem(values))
    assert found.low == pytest.approx(low, rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(high, rel=1e-6, abs=1e-6)
    assert float(np.mean(values)) in found


def test_one_value_has_no_interval() -> None:
    assert mean_interval([1.0]) is None
