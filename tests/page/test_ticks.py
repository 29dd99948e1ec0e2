import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.page import ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_are_round_and_about_as_many_as_asked_for(low: float, width: float, num: int) -> None:
    step = ticks.linear_step(low, low + width, num)
    mantissa = step / 10 ** math.floor(math.log10(step))
    assert min(abs(mantissa - nice) for nice in (1, 2, 2.5, 5, 10)) < 1e-6
    found = ticks.multiples(low, low + width, step)
    assert len(found) <= num + 1
    slack = step * 1e-6 + 4 * math.ulp(abs(low) + width)
    assert all(low - slack <= each <= low + width + slack for each in found)


@pytest.mark.parametrize(
    ("high_s", "num", "step"),
    [(10, 8, 2), (60, 8, 10), (600, 8, 120), (3600, 8, 600), (90_000, 8, 21_600), (7e5, 4, 259_200)],
)
def test_times_are_cut_where_clocks_are(high_s: float, num: int, step: float) -> None:
    assert ticks.time_step(0, high_s, num) == step


def test_a_logarithmic_axis_has_ones_twos_and_fives_where_there_is_room() -> None:
    assert ticks.log_ticks(0.1, 10, 8) == [0.1, 0.2, 0.5, 1, 2, 5, 10]
    assert ticks.log_ticks(0.001, 1000, 8) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100, 1000])
    assert len(ticks.log_ticks(1e-9, 1e9, 6)) <= 6


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (12.3456, "12.3"),
        (0.5, "0.5"),
        (2.0, "2"),
        (0.00012345, "0.000123"),
        (0.0000012345, "0.00000123"),
        (100.0, "100"),
    ],
)
def test_a_number_has_three_figures_that_count(value: float, said: str) -> None:
    assert ticks.number(value) == said


def test_labels_of_one_axis_have_equally_many_decimals() -> None:
    assert ticks.tick_labels([0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert ticks.tick_labels([0, 1000, 2000]) == ["0", "1,000", "2,000"]


def test_times_are_written_as_on_a_clock() -> None:
    said = [ticks.clock_label(each) for each in (0, 5, 0.25, 90, 3661)]
    assert said == ["0:00", "0:05", "0:00.25", "1:30", "1:01:01"]
