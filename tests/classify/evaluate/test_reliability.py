import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from qwenops.classify.evaluate.reliability import (
    brier,
    calibration_error,
    class_wise_error,
    equal_mass_bins,
    nll,
    reliability,
)
from tests.classify.simulated import answers, calibrated, even
from tests.statistics.proportions import binomial_interval


def test_bins_hold_equally_many_and_keep_equal_values_together() -> None:
    values = np.random.default_rng(1).random(1500)
    assert np.bincount(equal_mass_bins(values)).tolist() == [100] * 15
    assert np.unique(equal_mass_bins(np.full(100, 0.7))).size == 1
    half = np.repeat([0.2, 0.9], 50)
    bins = equal_mass_bins(half)
    assert np.unique(bins[:50]).size == np.unique(bins[50:]).size == 1
    assert bins[0] != bins[99]
    assert equal_mass_bins(np.array([0.5])).size == 1


@given(st.permutations(range(40)))
def test_the_order_of_the_calls_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(2)
    values, happened = rng.integers(0, 6, 40) / 6, rng.random(40) < 0.5
    found = calibration_error(values, happened)
    assert calibration_error(values[order], happened[order]) == pytest.approx(found)


def test_a_known_gap_is_found() -> None:
    rng = np.random.default_rng(3)
    confidence = np.repeat([0.6, 0.75, 0.9], 40_000)
    happened = rng.random(confidence.size) < confidence - 0.1
    assert calibration_error(confidence, happened) == pytest.approx(0.1, abs=0.005)


def test_what_is_calibrated_looks_so_as_often_as_chance_says() -> None:
    runs, seen_as_off = 200, 0
    errors, expected = [], []
    for each in range(runs):
        found = reliability(even(np.random.default_rng(each), 300), seed=each)
        seen_as_off += found.is_off
        errors.append(found.ece)
        expected.append(found.ece_if_calibrated)
    assert binomial_interval(seen_as_off, runs, 0.99).low <= 0.05
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.1)
    assert np.mean(errors) > 0.03, "a few hundred calls never look perfect"


def test_what_is_too_sure_is_called_so() -> None:
    honest = even(np.random.default_rng(4), 2000)
    sharper = honest.probabilities**3
    found = reliability(answers(honest.truth, sharper / sharper.sum(axis=1, keepdims=True)), seed=1)
    assert found.is_off
    assert found.ece > 0.1
    assert sum(each.num_calls for each in found.bins) == 2000
    highest = found.bins[-1]
    assert highest.accuracy.high is not None
    assert highest.accuracy.high < highest.confidence


def test_brier_and_likelihood_are_those_of_scikit_learn() -> None:
    found = calibrated(np.random.default_rng(5), 400)
    assert nll(found) == pytest.approx(log_loss(found.truth, found.probabilities, labels=range(4)), rel=1e-6)
    two = even(np.random.default_rng(6), 400)
    # Of two classes, both squares are the same.
    assert brier(two) == pytest.approx(2 * brier_score_loss(two.truth, two.probabilities[:, 1]))
    squares = ((found.probabilities - np.eye(4)[found.truth]) ** 2).sum(axis=1)
    assert brier(found) == pytest.approx(float(squares.mean()))


def test_an_impossible_truth_does_not_make_the_mean_infinite() -> None:
    assert nll(answers([0], [[0.0, 1.0]])) == pytest.approx(27.63, abs=0.01)


def test_class_wise_error_sees_a_class_that_is_always_overrated() -> None:
    honest = calibrated(np.random.default_rng(7), 20_000, size=3, sharpness=2.0)
    tilted = honest.probabilities * np.array([2.0, 1.0, 1.0])
    tilted /= tilted.sum(axis=1, keepdims=True)
    assert class_wise_error(honest) < 0.02
    assert class_wise_error(answers(honest.truth, tilted)) > 0.08
