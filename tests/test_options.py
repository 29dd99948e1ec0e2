"""Options: durations and sizes are read by their unit and written so that they read the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.errors import ConfigError
from qwenops.options import format_bytes, format_seconds, parse_bytes, parse_seconds, show_bytes, show_number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h30m", 5400), ("500ms", 0.5), ("2.5", 2.5), ("0", 0), (" 3 s", 3), ("2d", 172800)],
)
def test_durations_are_read_by_their_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("4GiB", 4 << 30), ("512MiB", 512 << 20), ("2.5GB", 2_500_000_000), ("10", 10), ("4Gi", 4 << 30), ("1 kB", 1000)],
)
def test_sizes_are_read_by_their_unit(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "x", "10x", "1h3", "-5s", "1e3", "30 s s"])
def test_what_is_no_duration_is_refused_with_the_units(text: str) -> None:
    with pytest.raises(ConfigError, match="is no duration") as caught:
        parse_seconds(text)
    assert "1h30m" in caught.value.hint


@pytest.mark.parametrize("text", ["", "x", "4G", "4g", "-1", "1GiB2MiB"])
def test_what_is_no_size_is_refused_and_so_is_the_ambiguous_g(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=10**9).map(lambda n: n / 1000))
def test_a_written_duration_reads_the_same(seconds: float) -> None:
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=1e-9, abs=1e-9)


@given(st.integers(min_value=0, max_value=2**45))
def test_a_written_size_reads_the_same(num_bytes: int) -> None:
    assert parse_bytes(format_bytes(num_bytes)) == num_bytes


def test_a_size_for_reading_is_rounded() -> None:
    assert [show_bytes(n) for n in (12, 1536, 625_000_000, 1_500_000_000)] == ["12 B", "1.5 KiB", "596 MiB", "1.4 GiB"]


def test_a_number_for_reading_has_no_powers_of_ten() -> None:
    numbers = (1374.6, 1_370_000.0, 0.00001234, 10.0, 9.996, 0.5, 0.0, -1234.0)
    assert [show_number(each) for each in numbers] == [
        "1,375",
        "1,370,000",
        "0.0000123",
        "10",
        "10",
        "0.5",
        "0",
        "-1,234",
    ]
    assert show_number(1374.56, 6) == "1,374.56"
