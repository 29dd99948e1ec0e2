import pytest

from qwenops.classify.train.estimate import Speeds, estimate, show_time, told

SPEEDS = Speeds(lower_s=0.001, step_s=0.006)


def test_the_parts_add_up() -> None:
    whole = estimate(
        SPEEDS,
        epochs=3,
        train_tokens=1000,
        val_tokens=100,
        missing_tokens=1100,
        num_layers=28,
        layers=8,
        last_too=True,
    )
    assert whole.train_s == pytest.approx(18.0)
    assert whole.validate_s == pytest.approx(4 * 100 * 0.002)
    assert whole.prepare_s == pytest.approx(1100 * 0.003)
    assert whole.total_s == pytest.approx(18.0 + 0.8 + 3.3)
    assert whole.shorter_layers == 0
    assert whole.data()["total_s"] == whole.total_s


def test_who_trains_all_layers_for_long_hears_of_the_shorter_way() -> None:
    long = estimate(
        SPEEDS,
        epochs=3,
        train_tokens=1_000_000,
        val_tokens=100_000,
        missing_tokens=0,
        num_layers=28,
        layers=28,
        last_too=False,
    )
    assert long.shorter_layers == 8
    assert long.shorter_s < 0.45 * long.total_s
    assert "--top-layers 8" in told(long, 3)
    assert "5h13m" in told(long, 3)


def test_a_short_run_is_told_without_advice() -> None:
    short = estimate(
        SPEEDS,
        epochs=1,
        train_tokens=1000,
        val_tokens=100,
        missing_tokens=0,
        num_layers=28,
        layers=28,
        last_too=False,
    )
    assert "--top-layers" not in told(short, 1)
    assert "167 tokens/s" in told(short, 1)


@pytest.mark.parametrize(("seconds", "shown"), [(0.2, "0s"), (59.6, "1m"), (3599, "59m59s"), (9001, "2h30m")])
def test_times_are_rounded_to_what_matters(seconds: float, shown: str) -> None:
    assert show_time(seconds) == shown
