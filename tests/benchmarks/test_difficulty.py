"""What is said about the generator's difficulty is what the scores are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import difficulty, recording
from tools.difficulty import Scores

SCORES = Scores(
    calls=600,
    in_distribution=0.8,
    unseen_author=0.65,
    by_author={"pine": 0.6, "river": 0.7},
    hard_negatives=0.5,
    metadata=0.06,
    chance=0.05,
    keyword_share=0.5,
)


def test_each_figure_has_its_spread_and_the_loss_is_taken_seed_by_seed() -> None:
    found = difficulty.figures([SCORES, replace(SCORES, in_distribution=0.9, unseen_author=0.7)])
    assert found["in_distribution"] == {"min": 0.8, "median": 0.85, "max": 0.9, "n": 2}
    assert found["lost_on_unseen_author"]["min"] == pytest.approx(0.15)
    assert found["lost_on_unseen_author"]["max"] == pytest.approx(0.2)
    assert found["unseen"]["pine"]["median"] == 0.6


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, set()),
        ({"in_distribution": 0.74, "unseen_author": 0.6}, {"in_distribution"}),
        ({"in_distribution": 0.86, "unseen_author": 0.7}, {"in_distribution"}),
        ({"unseen_author": 0.72}, {"lost_on_unseen_author"}),
        ({"unseen_author": 0.59}, {"lost_on_unseen_author"}),
        ({"metadata": 0.1}, {"metadata_over_chance"}),
        ({"in_distribution": 0.97, "unseen_author": 0.8}, {"in_distribution", "is_no_toy"}),
    ],
)
def test_goals_are_missed_on_either_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float], missed: set[str]
) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    asked: list[tuple[int, int]] = []

    def judge(calls: int, seed: int) -> Scores:
        asked.append((calls, seed))
        return replace(SCORES, **changes)  # type: ignore[arg-type]  # every figure changed here is a float

    status = difficulty.main(["--calls", "60", "--seeds", "3,4"], judge=judge)
    assert asked == [(60, 3), (60, 4)]
    written = json.loads((tmp_path / "difficulty.json").read_text())
    assert {name for name, goal in written["results"]["goals"].items() if not goal["met"]} == missed
    assert status == (3 if missed else 0)


def test_one_seed_outside_is_a_goal_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    judge = lambda _calls, seed: replace(SCORES, in_distribution=0.87 if seed == 4 else 0.8)  # noqa: E731 -- a judge
    assert difficulty.main(["--calls", "60", "--seeds", "3,4,5"], judge=judge) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_calls_of_the_generator_are_judged() -> None:
    found = difficulty.figures([difficulty.made(600, 1)])
    assert found["in_distribution"]["median"] > 3 * found["chance"]["median"]
    assert set(found["unseen"]) == {"pine", "river", "stone"}
