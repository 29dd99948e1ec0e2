import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.simulated import oracles


@given(servers=st.integers(1, 40), load=st.floats(0.01, 0.99))
def test_the_probability_of_waiting_is_the_sum_that_defines_it(servers: int, load: float) -> None:
    offered = load * servers
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - load)
    assert oracles.erlang_c(servers, offered) == pytest.approx(last / (sum(terms) + last), rel=1e-9)


def test_one_server_waits_as_mm1_does() -> None:
    assert oracles.mmc_wait_s(0.8, 1.0, 1) == pytest.approx(0.8 / 0.2)
    assert oracles.md1_wait_s(0.8, 1.0) == pytest.approx(oracles.mmc_wait_s(0.8, 1.0, 1) / 2)
    assert oracles.mmc_wait_tail(0.8, 1.0, 1, 0.0) == pytest.approx(0.8)


def test_the_highest_rate_for_a_tail_has_that_tail() -> None:
    rate = oracles.mmc_rate_for_tail(2.0, 4, 3.0, 0.05)
    assert oracles.mmc_wait_tail(rate, 2.0, 4, 3.0) == pytest.approx(0.05)
    assert oracles.mmc_wait_tail(rate * 1.01, 2.0, 4, 3.0) > 0.05


def test_sharing_and_the_law_of_scalability() -> None:
    assert oracles.sharing_time_s(0.5, 1.0) == 2.0
    assert oracles.sharing_time_s(0.5, 1.0, own_s=3.0) == 6.0
    knee = oracles.usl_knee(0.1, 0.01)
    best = oracles.usl_throughput(knee, 1.0, 0.1, 0.01)
    assert all(oracles.usl_throughput(knee + step, 1.0, 0.1, 0.01) < best for step in (-0.5, 0.5))
    assert oracles.usl_knee(0.1, 0.0) == math.inf
