import numpy as np
import pytest

from qwenops.classify.evaluate.selective import selective
from tests.classify.simulated import answers, even


def test_a_classifier_of_known_confidence_has_the_known_curve() -> None:
    # At coverage c the risk is c / 4: confidence is uniform from 0.5 to 1 and true.
    found = selective(even(np.random.default_rng(1), 100_000))
    assert found.aurc == pytest.approx(1 / 8, abs=0.003)
    at = {each.precision: each for each in found.coverage_at}
    assert at[0.95].coverage == pytest.approx(0.2, abs=0.03)
    assert at[0.95].threshold == pytest.approx(0.9, abs=0.015)
    assert at[0.98].coverage == pytest.approx(0.08, abs=0.03)
    late = [each for each in found.curve if each.coverage > 0.2]
    assert all(each.risk == pytest.approx(each.coverage / 4, abs=0.01) for each in late)
    assert found.curve[-1].coverage == 1
    assert len(found.curve) <= 200


def test_calls_of_equal_confidence_are_taken_together_in_whatever_order_they_come() -> None:
    truth = np.array([0] * 6 + [1] * 4)
    prior = np.tile([0.6, 0.4], (10, 1))
    found = selective(answers(truth, prior))
    backwards = selective(answers(truth[::-1], prior))
    assert found == backwards
    assert [(each.coverage, each.risk) for each in found.curve] == [(1.0, 0.4)]
    assert found.aurc == pytest.approx(0.4)
    assert all(each.coverage == 0 and each.threshold is None for each in found.coverage_at)


def test_without_errors_everything_is_taken() -> None:
    found = selective(answers([0, 1], [[0.9, 0.1], [0.2, 0.8]]))
    assert found.aurc == 0
    assert all(each.coverage == 1 and each.threshold == 0.8 for each in found.coverage_at)


def test_one_call_is_a_curve_of_one_point() -> None:
    found = selective(answers([1], [[0.9, 0.1]]))
    assert [(each.coverage, each.risk) for each in found.curve] == [(1.0, 1.0)]
    assert found.aurc == 1
