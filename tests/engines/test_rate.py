"""How fast an engine was lately."""

import pytest

from qwenops.engines.rate import FORGET, Rate


def test_a_rate_follows_what_happened_lately() -> None:
    rate = Rate()
    assert rate.per_s == 0
    for _ in range(200):
        rate.add(100, 1.0)
    assert rate.per_s == pytest.approx(100)
    rate.add(300, 1.0)
    assert 100 < rate.per_s < 120
    for _ in range(200):
        rate.add(300, 1.0)
    assert rate.per_s == pytest.approx(300, rel=0.01)


def test_long_steps_count_more_than_short_ones() -> None:
    rate = Rate()
    rate.add(100, 10.0)
    rate.add(100, 0.1)
    assert rate.per_s == pytest.approx((100 * FORGET + 100) / (10 * FORGET + 0.1))
