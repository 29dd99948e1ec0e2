import pytest
import scipy.stats as truth
from hypothesis import example, given
from hypothesis import strategies as st

from qwenops.statistics.special import (
    beta_cdf,
    beta_quantile,
    binomial_cdf,
    normal_cdf,
    normal_quantile,
    t_cdf,
    t_quantile,
)

SHAPES = st.floats(0.5, 20_000)
SHARES = st.floats(1e-6, 1 - 1e-6)


@given(SHARES, SHAPES, SHAPES)
def test_beta_is_that_of_scipy(p: float, a: float, b: float) -> None:
    x = float(truth.beta.ppf(p, a, b))
    assert beta_quantile(p, a, b) == pytest.approx(x, rel=1e-8, abs=1e-300)
    assert beta_cdf(x, a, b) == pytest.approx(truth.beta.cdf(x, a, b), rel=1e-8)


@given(st.integers(1, 5000), st.data(), SHARES)
def test_binomial_is_that_of_scipy(n: int, data: st.DataObject, p: float) -> None:
    k = data.draw(st.integers(-1, n + 1))
    assert binomial_cdf(k, n, p) == pytest.approx(truth.binom.cdf(k, n, p), rel=1e-8, abs=1e-13)


@given(st.floats(-50, 50), st.floats(1, 100_000))
def test_student_is_that_of_scipy(t: float, degrees: float) -> None:
    assert t_cdf(t, degrees) == pytest.approx(truth.t.cdf(t, degrees), rel=1e-8, abs=1e-14)


@given(SHARES, st.floats(1, 100_000))
@example(p=0.501, degrees=83378.0)
def test_quantiles_of_student_are_those_of_scipy(p: float, degrees: float) -> None:
    assert t_quantile(p, degrees) == pytest.approx(truth.t.ppf(p, degrees), rel=1e-6, abs=1e-8)


@given(SHARES)
def test_normal_is_that_of_scipy(p: float) -> None:
    x = normal_quantile(p)
    assert x == pytest.approx(truth.norm.ppf(p), rel=1e-8, abs=1e-12)
    assert normal_cdf(x) == pytest.approx(p, rel=1e-8)


def test_the_ends_are_certain() -> None:
    assert beta_cdf(-0.1, 2, 3) == 0
    assert beta_cdf(1.1, 2, 3) == 1
    assert beta_quantile(0, 2, 3) == 0
    assert beta_quantile(1, 2, 3) == 1
    assert t_cdf(float("inf"), 3) == 1
    assert t_cdf(float("-inf"), 3) == 0
    assert t_quantile(0.5, 3) == 0
