import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from qwenops.classify.evaluate.evaluation import Level
from qwenops.classify.evaluate.levels import level, macro_f1
from tests.classify.simulated import JOINT, answers, from_joint, macro_f1_of, one_hot
from tests.statistics.proportions import binomial_interval


def judged(truth: list[int], said: list[int], size: int = 3, groups: list[int] | None = None) -> Level:
    found = answers(truth, one_hot(np.array(said), size), groups)
    return level(found, seed=1, resamples=200, confidence=0.95)


def test_classes_have_the_figures_of_scikit_learn() -> None:
    truth, said = from_joint(np.random.default_rng(1), JOINT, 300)
    found = judged(truth.tolist(), said.tolist(), 4)
    precision, recall, f1, support = precision_recall_fscore_support(truth, said, labels=range(4))
    for place, each in enumerate(found.by_class):
        assert each.precision is not None
        assert each.recall is not None
        assert each.f1 is not None
        assert each.precision.value == pytest.approx(precision[place])
        assert each.recall.value == pytest.approx(recall[place])
        assert each.f1.value == pytest.approx(f1[place])
        assert each.num_true == support[place]


def test_a_class_without_calls_has_no_recall_and_does_not_count() -> None:
    found = judged([0, 0, 0, 1], [0, 0, 2, 1])
    never_true, never_said = found.by_class[2], judged([0, 2], [0, 0]).by_class[2]
    assert never_true.recall is None
    assert never_true.precision is not None
    assert never_true.precision.value == 0
    assert never_said.precision is None
    assert never_said.recall is not None
    assert found.macro_f1.value == pytest.approx((0.8 + 1.0) / 2)
    assert judged([0, 1], [0, 1]).by_class[2].f1 is None


def test_five_calls_that_were_all_right_prove_little() -> None:
    f1 = judged([0] * 5 + [1] * 40, [0] * 5 + [1] * 40, 2).by_class[0].f1
    assert f1 is not None
    assert f1.value == f1.high == 1
    assert f1.low is not None
    # Of five hits in five, the share is at least 0.478, and twice that over one more.
    assert f1.low == pytest.approx(2 * 0.4782 / 1.4782, abs=1e-3)


def test_where_everything_is_right_macro_f1_still_has_a_lower_bound() -> None:
    found = judged([0] * 10 + [1] * 10, [0] * 10 + [1] * 10, 2)
    assert found.macro_f1.value == 1
    assert found.macro_f1.low is not None
    assert 0.5 < found.macro_f1.low < 0.95


def test_one_customer_proves_nothing() -> None:
    found = judged([0, 1, 2, 0], [0, 1, 2, 0], groups=[0, 0, 0, 0])
    assert found.macro_f1.low is None
    assert found.accuracy.low is not None
    assert found.accuracy.low < 0.1


def test_one_call_of_each_class_can_be_judged() -> None:
    found = judged([0, 1, 2], [0, 1, 1])
    assert found.macro_f1.value == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert all(each.recall is not None and each.recall.low is not None for each in found.by_class)


@pytest.mark.slow
def test_macro_f1_is_covered_as_often_as_its_interval_says() -> None:
    runs, covered, true = 300, 0, macro_f1_of(JOINT)
    for each in range(runs):
        truth, said = from_joint(np.random.default_rng(each), JOINT, 400)
        found = macro_f1(answers(truth, one_hot(said, 4)), seed=each, resamples=800, confidence=0.95)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= true <= found.high
    assert binomial_interval(covered, runs, 0.99).high >= 0.95
    assert covered / runs < 0.995, "it is not needlessly wide either"


@pytest.mark.slow
def test_calls_of_a_customer_that_are_alike_do_not_make_it_surer() -> None:
    runs, covered, naively, true = 200, 0, 0, macro_f1_of(JOINT)
    for each in range(runs):
        truth, said = (np.repeat(one, 4) for one in from_joint(np.random.default_rng(each), JOINT, 150))
        customers = np.repeat(np.arange(150), 4)
        grouped = macro_f1(answers(truth, one_hot(said, 4), customers), seed=1, resamples=600, confidence=0.95)
        naive = macro_f1(answers(truth, one_hot(said, 4)), seed=1, resamples=600, confidence=0.95)
        assert grouped.low is not None
        assert grouped.high is not None
        assert naive.low is not None
        assert naive.high is not None
        covered += grouped.low <= true <= grouped.high
        naively += naive.low <= true <= naive.high
    assert binomial_interval(covered, runs, 0.99).high >= 0.94
    assert naively / runs < 0.8


def test_the_f1_of_a_class_is_covered_as_often_as_its_interval_says() -> None:
    true = 2 * JOINT[3, 3] / (JOINT[3].sum() + JOINT[:, 3].sum())
    runs, covered = 400, 0
    for each in range(runs):
        truth, said = from_joint(np.random.default_rng(each), JOINT, 120)
        f1 = level(answers(truth, one_hot(said, 4)), seed=1, resamples=2, confidence=0.95).by_class[3].f1
        assert f1 is not None
        assert f1.low is not None
        assert f1.high is not None
        covered += f1.low <= true <= f1.high
    assert binomial_interval(covered, runs, 0.99).high >= 0.95


def test_the_most_confused_pairs_come_with_the_calls_that_it_was_surest_of() -> None:
    truth = [0, 0, 0, 0, 0, 1, 2]
    probabilities = [
        [0.1, 0.6, 0.3],
        [0.1, 0.9, 0.0],
        [0.2, 0.7, 0.1],
        [0.0, 0.8, 0.2],
        [0.9, 0.1, 0.0],
        [0.2, 0.7, 0.1],
        [0.6, 0.4, 0.0],
    ]
    first, second = level(answers(truth, probabilities), seed=1, resamples=10, confidence=0.95).confused
    assert (first.truth, first.said, first.count, first.share) == ("a", "b", 4, 0.8)
    assert first.rows == (1, 3, 2)
    assert (second.truth, second.said, second.rows) == ("c", "a", (6,))
