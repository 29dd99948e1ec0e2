"""Chance is a function of names, and its shares are those that were asked for."""

from statistics import fmean, pstdev

import pytest

from qwenops.calls.generator.dice import Dice

EXPECTED = 0.4813055375267249
"""What a first draw gave when the generator was made."""


def test_the_same_names_give_the_same_draws_and_others_give_others() -> None:
    first, again, other = (Dice(7, 3, stage) for stage in ("plan", "plan", "words"))
    drawn = [first.share() for _ in range(5)]
    assert [again.share() for _ in range(5)] == drawn
    assert [other.share() for _ in range(5)] != drawn


def test_a_seed_gives_what_it_always_gave() -> None:
    # Texts that were made with a seed must be made again years later.
    assert Dice(1, 2, "x").share() == pytest.approx(EXPECTED, abs=1e-15)


def test_paths_do_not_run_into_one_another() -> None:
    assert Dice(1, 11, "a").share() != Dice(11, 1, "a").share() != Dice(1, 1, "1a").share()


def test_whole_numbers_reach_both_ends_evenly() -> None:
    dice = Dice(1, "between")
    drawn = [dice.between(3, 6) for _ in range(8000)]
    assert set(drawn) == {3, 4, 5, 6}
    assert all(drawn.count(each) == pytest.approx(2000, abs=150) for each in range(3, 7))


def test_weights_are_shares_and_zero_never_comes() -> None:
    dice = Dice(1, "weights")
    drawn = [dice.by_weight({"a": 3.0, "never": 0.0, "b": 1.0}) for _ in range(8000)]
    assert drawn.count("a") == pytest.approx(6000, abs=150)
    assert "never" not in drawn
    assert {dice.by_weight({"a": 0.0, "b": 0.0}) for _ in range(100)} == {"a", "b"}


def test_a_shuffle_keeps_everything_and_any_place_is_possible() -> None:
    dice = Dice(1, "shuffle")
    seen = {tuple(dice.shuffled((1, 2, 3))) for _ in range(300)}
    assert len(seen) == 6
    assert all(sorted(each) == [1, 2, 3] for each in seen)


def test_the_normal_distribution_and_counts_have_their_means() -> None:
    dice = Dice(1, "normal")
    drawn = [dice.normal() for _ in range(8000)]
    assert fmean(drawn) == pytest.approx(0, abs=0.05)
    assert pstdev(drawn) == pytest.approx(1, abs=0.05)
    counts = [dice.count(1.2, 6) for _ in range(8000)]
    assert fmean(counts) == pytest.approx(1.2, abs=0.06)
    assert max(counts) <= 6
    assert dice.count(1.0, 0) == 0
