import json
import math

import numpy as np
import pytest
import scipy.optimize

from qwenops.classify.answers import Answers
from qwenops.classify.calibrate import (
    Temperature,
    VectorScaling,
    _vector_loss,
    calibrate,
    calibration_of,
    fit_temperature,
    fit_vector,
    logits_of,
    scale,
    softmax,
)
from qwenops.classify.evaluate.reliability import calibration_error
from qwenops.classify.plain import to_plain
from qwenops.errors import InvalidDataError
from qwenops.statistics.samples import Array
from tests.classify.simulated import answers, calibrated, drawn


def overconfident(num: int, factor: float, seed: int = 1, size: int = 4) -> tuple[Array, Answers]:
    """Return logits that are `factor` times too large, with what they say."""
    honest = calibrated(np.random.default_rng(seed), num, size=size, sharpness=1.0)
    logits = factor * logits_of(honest.probabilities)
    return logits, answers(honest.truth, softmax(logits))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(factor: float) -> None:
    logits, given = overconfident(20_000, factor)
    found = fit_temperature(logits, given.truth)
    assert found.value == pytest.approx(factor, rel=0.03)
    assert not found.at_bound


def test_the_temperature_is_where_the_likelihood_is_highest() -> None:
    logits, given = overconfident(300, 2.0)

    def loss(inverse: float) -> float:
        probabilities = softmax(inverse * logits)
        return float(-np.log(probabilities[np.arange(300), given.truth]).mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.01, 10), method="bounded", options={"xatol": 1e-8})
    assert 1 / fit_temperature(logits, given.truth).value == pytest.approx(best.x, rel=1e-4)


def test_labels_that_are_not_trusted_weigh_less() -> None:
    logits, given = overconfident(4000, 1.0)
    truth = given.truth.copy()
    truth[:1000] = (truth[:1000] + 1) % 4
    trust = np.ones(4000)
    trust[:1000] = 1e-6
    assert fit_temperature(logits, truth, trust).value == pytest.approx(1, rel=0.1)
    assert fit_temperature(logits, truth).value > 1.3


@pytest.mark.parametrize(("right", "bound"), [(True, 0.01), (False, 100.0)])
def test_answers_that_are_all_right_or_all_wrong_end_at_a_bound(right: bool, bound: float) -> None:  # noqa: FBT001 -- a case
    truth = np.array([0, 1, 0, 1])
    logits = np.eye(2)[truth if right else 1 - truth]
    found = fit_temperature(logits, truth)
    assert found.at_bound
    assert found.value == bound


def test_logits_that_say_nothing_stay_as_they_are() -> None:
    found = fit_temperature(np.zeros((3, 2)), np.array([0, 1, 0]))
    assert (found.value, found.at_bound) == (1.0, True)


def test_known_scales_and_shifts_are_found() -> None:
    rng = np.random.default_rng(2)
    raw = rng.normal(0, 2, (30_000, 3))
    scales, shifts = np.array([0.5, 1.0, 1.5]), np.array([0.6, 0.0, -0.6])
    truth = drawn(rng, softmax(raw * scales + shifts))
    found = fit_vector(raw, truth)
    assert found.scales == pytest.approx(scales, abs=0.06)
    # Only differences of shifts mean anything.
    assert np.array(found.shifts) - found.shifts[1] == pytest.approx(shifts, abs=0.08)


def test_gradient_and_curvature_are_those_of_differences() -> None:
    rng = np.random.default_rng(3)
    logits, truth, trust = rng.normal(0, 1, (20, 3)), rng.integers(0, 3, 20), rng.uniform(0.5, 1, 20)
    at, near = rng.normal(1, 0.2, 6), np.ones(6)
    _, gradient, curvature = _vector_loss(logits, truth, trust, at, near)
    for each in range(6):
        step = np.zeros(6)
        step[each] = 1e-5
        above, below = (_vector_loss(logits, truth, trust, at + sign * step, near) for sign in (1, -1))
        assert gradient[each] == pytest.approx((above[0] - below[0]) / 2e-5, rel=1e-4, abs=1e-6)
        assert curvature[each] == pytest.approx((above[1] - below[1]) / 2e-5, rel=1e-4, abs=1e-5)


def test_a_temperature_changes_no_answer_and_mends_the_calibration() -> None:
    logits, given = overconfident(4000, 3.0)
    found = calibrate(logits, given, seed=1)
    assert isinstance(found.scaling, Temperature)
    assert found.after is not None
    assert found.before.ece > 0.1
    assert found.after.ece < 0.03
    assert found.after.nll < found.before.nll
    fresh_logits, fresh = overconfident(4000, 3.0, seed=9)
    mended = scale(fresh_logits, found.scaling)
    assert np.array_equal(mended.argmax(axis=1), fresh.said)
    assert calibration_error(mended.max(axis=1), fresh.right) < 0.03


def test_vector_scaling_is_taken_where_it_proves_itself_and_only_there() -> None:
    rng = np.random.default_rng(4)
    raw = rng.normal(0, 2, (4000, 3))
    truth = drawn(rng, softmax(raw + np.array([1.0, 0.0, -1.0])))
    tilted = calibrate(raw, answers(truth, softmax(raw)), seed=1)
    assert isinstance(tilted.scaling, VectorScaling)
    assert tilted.after is not None
    assert tilted.after.class_wise_ece < tilted.before.class_wise_ece / 2
    few = calibrate(raw[:300], answers(truth[:300], softmax(raw[:300])), seed=1)
    assert isinstance(few.scaling, Temperature)
    straight_logits, straight = overconfident(4000, 1.5)
    assert isinstance(calibrate(straight_logits, straight, seed=1).scaling, Temperature)


def test_one_customer_can_be_fitted_and_not_be_proven() -> None:
    logits, given = overconfident(50, 2.0)
    alone = Answers(
        classes=given.classes,
        truth=given.truth,
        probabilities=given.probabilities,
        groups=np.zeros(50, dtype=np.int64),
    )
    assert calibrate(logits, alone, seed=1).after is None


def test_logits_and_probabilities_lead_to_each_other() -> None:
    probabilities = np.array([[0.2, 0.8, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert softmax(logits_of(probabilities)) == pytest.approx(probabilities, abs=1e-11)
    assert softmax(np.array([1000.0, 0.0])).tolist() == [1.0, 0.0]
    assert softmax(np.array([0.0, math.log(3)])) == pytest.approx([0.25, 0.75])


def test_logits_that_do_not_fit_are_refused() -> None:
    logits, given = overconfident(3, 1.0)
    with pytest.raises(InvalidDataError, match="shape 3 x 3"):
        calibrate(logits[:, :3], given, seed=1)
    logits[1, 2] = np.nan
    with pytest.raises(InvalidDataError, match=r"logits\[1\]"):
        calibrate(logits, given, seed=1)


def test_a_calibration_is_the_same_after_json() -> None:
    rng = np.random.default_rng(5)
    raw = rng.normal(0, 2, (1500, 2))
    truth = drawn(rng, softmax(raw + np.array([1.5, 0.0])))
    for found in (calibrate(raw, answers(truth, softmax(raw)), seed=1), calibrate(*overconfident(100, 2.0), seed=1)):
        assert calibration_of(json.loads(json.dumps(to_plain(found)))) == found
