import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from qwenops.classify.evaluate.counts import ACCURACY, MACRO, WEIGHTED, confusion, f1_scores, headlines, tallies
from tests.classify.simulated import JOINT, from_joint, macro_f1_of

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(PAIRS)
def test_the_figures_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, said = (np.array(each) for each in zip(*pairs, strict=True))
    counted = tallies(truth, said, np.zeros(truth.size, dtype=np.int64), num_classes=5, num_rows=1)[0]
    found = headlines(counted)
    present = sorted(set(truth.tolist()))
    macro = f1_score(truth, said, labels=present, average="macro", zero_division=0)
    assert found[MACRO] == pytest.approx(macro)
    assert found[WEIGHTED] == pytest.approx(f1_score(truth, said, average="weighted", zero_division=0))
    assert found[ACCURACY] == pytest.approx(np.mean(truth == said))
    every = f1_score(truth, said, labels=range(5), average=None, zero_division=0)
    assert f1_scores(counted) == pytest.approx(every)
    assert np.array_equal(confusion(truth, said, 5), confusion_matrix(truth, said, labels=range(5)))


def test_rows_add_up_and_are_judged_many_at_once() -> None:
    rng = np.random.default_rng(1)
    truth, said = from_joint(rng, JOINT, 500)
    rows = rng.integers(0, 20, 500)
    counted = tallies(truth, said, rows, num_classes=4, num_rows=20)
    alone = tallies(truth, said, np.zeros(500, dtype=np.int64), num_classes=4, num_rows=1)
    assert np.array_equal(counted.sum(axis=0), alone[0])
    some = headlines(counted[:3])
    assert some.shape == (3, 3)
    assert some[1] == pytest.approx(headlines(counted[1]))


def test_the_macro_f1_of_many_calls_is_that_of_the_frequencies() -> None:
    truth, said = from_joint(np.random.default_rng(2), JOINT, 200_000)
    counted = tallies(truth, said, np.zeros(200_000, dtype=np.int64), num_classes=4, num_rows=1)
    assert headlines(counted[0])[MACRO] == pytest.approx(macro_f1_of(JOINT), abs=0.005)


def test_nothing_has_no_figures_and_a_class_that_is_only_said_does_not_count() -> None:
    assert np.isnan(headlines(np.zeros(6))).all()
    counted = tallies(np.array([0, 0]), np.array([0, 1]), np.array([0, 0]), num_classes=2, num_rows=1)[0]
    assert headlines(counted)[MACRO] == pytest.approx(2 / 3), "only the class that occurs is averaged"
