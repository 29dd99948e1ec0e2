import pytest

from qwenops.bench.report import figures
from qwenops.bench.report.distributions import picked_groups
from qwenops.bench.report.grouped import MOST_GROUPS, Group


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, figures.NONE),
        (0.0, "0 s"),
        (0.00034, "340 µs"),
        (0.23, "230 ms"),
        (2.344, "2.34 s"),
        (141.0, "141 s"),
        (725.0, "12 min 5 s"),
        (12_000.0, "3 h 20 min"),
    ],
)
def test_times_are_written_as_they_are_best_read(value: float | None, said: str) -> None:
    assert figures.seconds(value) == said


def test_sizes_and_shares_and_rates_have_their_units() -> None:
    assert (figures.size(8_232_083_456), figures.size(512)) == ("7.67 GiB", "512 B")
    assert (figures.percent(0.0123), figures.percent(None)) == ("1.23 %", figures.NONE)
    assert (figures.quantity(25.94, "tokens/s"), figures.quantity(0.05, "1/s")) == ("25.9 tok/s", "0.05 1/s")


def test_of_many_parts_the_first_and_the_last_are_among_those_that_are_drawn() -> None:
    groups = [Group(name=str(number), drivens=(), summaries=()) for number in range(13)]
    picked = [group.name for group in picked_groups(groups)]
    assert len(set(picked)) == MOST_GROUPS
    assert (picked[0], picked[-1]) == ("0", "12")
    assert picked_groups(groups[:5]) == groups[:5]
