import numpy as np
import pytest

from qwenops.classify.answers import Answers
from qwenops.classify.evaluate.evaluation import Slice
from qwenops.classify.evaluate.slicing import MOST_VALUES, slices_of
from qwenops.errors import InvalidDataError
from tests.classify.simulated import Random, answers, one_hot
from tests.statistics.proportions import binomial_interval


def right_with(rng: Random, chances: list[float]) -> Answers:
    """Return answers of two classes that are right with the given chances."""
    truth = rng.integers(0, 2, len(chances))
    right = rng.random(len(chances)) < np.array(chances)
    return answers(truth, one_hot(np.where(right, truth, 1 - truth), 2))


def sliced(found: Answers, values: list[str]) -> tuple[Slice, ...]:
    return slices_of(found, {"noise": values}, seed=1, confidence=0.95)


def test_a_part_that_does_worse_is_flagged_and_its_figures_are_known() -> None:
    low, high = sliced(
        right_with(np.random.default_rng(1), [0.6] * 200 + [0.9] * 800), ["loud"] * 200 + ["quiet"] * 800
    )
    assert (low.name, low.value, low.num_calls, high.value) == ("noise", "loud", 200, "quiet")
    assert low.flagged
    assert high.flagged
    assert low.accuracy.value == pytest.approx(0.6, abs=0.08)
    assert low.difference == pytest.approx(-0.3, abs=0.1)
    assert high.difference == pytest.approx(0.3, abs=0.1)
    assert low.macro_f1.low is not None
    assert low.macro_f1.low < 0.6


def test_parts_that_do_not_differ_are_flagged_as_rarely_as_is_said() -> None:
    runs, alarms = 150, 0
    for each in range(runs):
        rng = np.random.default_rng(each)
        values = [str(value) for value in rng.integers(0, 6, 400)]
        alarms += any(part.flagged for part in sliced(right_with(rng, [0.8] * 400), values))
    assert binomial_interval(alarms, runs, 0.99).low <= 0.05


def test_few_calls_are_shown_and_never_flagged() -> None:
    found = sliced(right_with(np.random.default_rng(2), [0.0] * 20 + [1.0] * 200), ["rare"] * 20 + ["other"] * 200)
    assert [each.value for each in found] == ["other", "rare"]
    assert all(each.p is None and not each.flagged for each in found), "the rest of `other` is few as well"
    assert found[1].accuracy.value == 0


def test_what_is_not_known_is_no_part_and_a_part_of_everything_has_no_rest() -> None:
    found = right_with(np.random.default_rng(3), [0.8] * 100)
    assert sliced(found, [""] * 100) == ()
    assert [each.value for each in sliced(found, ["x"] * 60 + [""] * 40)] == ["x"]
    (everything,) = sliced(found, ["x"] * 100)
    assert everything.difference is None
    assert everything.p is None


def test_of_many_values_the_most_frequent_are_shown() -> None:
    values = [f"agent {number:03}" for number in range(80)] * 2 + ["agent 079"] * 40
    found = sliced(right_with(np.random.default_rng(4), [0.8] * 200), values)
    assert len(found) == MOST_VALUES
    assert "agent 079" in {each.value for each in found}


def test_as_many_values_as_calls_are_needed() -> None:
    with pytest.raises(InvalidDataError, match="2 values for 3 calls"):
        sliced(right_with(np.random.default_rng(5), [0.5] * 3), ["x", "y"])


def test_a_customer_who_calls_often_is_one_witness() -> None:
    rng = np.random.default_rng(6)
    found = right_with(rng, [0.0] * 60 + [0.9] * 300)
    alone = Answers(
        classes=found.classes,
        truth=found.truth,
        probabilities=found.probabilities,
        groups=np.concatenate((np.zeros(60, dtype=np.int64), np.arange(1, 301))),
    )
    values = ["angry"] * 60 + ["other"] * 300
    assert sliced(found, values)[0].flagged
    assert not sliced(alone, values)[0].flagged
