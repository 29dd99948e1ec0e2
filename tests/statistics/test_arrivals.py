import numpy as np
import pytest
import scipy.stats as truth

from qwenops.statistics import dispersion, kolmogorov_p, ks_exponential


def test_exponential_gaps_pass_and_others_do_not() -> None:
    rng = np.random.default_rng(1)
    assert sum(ks_exponential(rng.exponential(2, 300), 2.0)[1] < 0.05 for _ in range(400)) / 400 == pytest.approx(
        0.05, abs=0.03
    )
    assert ks_exponential(rng.exponential(2, 300), 3.0)[1] < 0.001
    assert ks_exponential(rng.uniform(0, 4, 300), 2.0)[1] < 0.001


def test_the_distance_is_that_of_scipy() -> None:
    gaps = np.random.default_rng(2).exponential(2, 100)
    distance, p = ks_exponential(gaps, 2.0)
    theirs = truth.kstest(gaps, "expon", args=(0, 2))
    assert distance == pytest.approx(theirs.statistic)
    assert p == pytest.approx(theirs.pvalue, abs=0.01)


def test_a_distance_of_nothing_is_certain() -> None:
    assert kolmogorov_p(0.0, 100) == 1
    assert kolmogorov_p(0.9, 100) < 1e-10


def test_counts_are_as_dispersed_as_their_arrivals() -> None:
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.exponential(1, 20_000)).astype(np.float64)
    assert dispersion(times, 20, 19_000) == pytest.approx(1, abs=0.2)
    assert dispersion(np.arange(20_000, dtype=np.float64) + 0.5, 20, 19_000) == 0
    repeated = np.cumsum(np.repeat(rng.exponential(1, 2_000), 10)).astype(np.float64)
    assert dispersion(repeated, 20, float(repeated[-1])) > 3
