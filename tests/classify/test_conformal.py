import json

import numpy as np
import pytest

from qwenops.classify.answers import Answers
from qwenops.classify.conformal import Conformal, Score, fit_conformal, label_sets, scores
from qwenops.classify.plain import from_plain, to_plain
from tests.classify.simulated import Random, answers, calibrated

COVERAGE = 0.9


def held(found: Conformal, fresh: Answers) -> float:
    """Return how often the truth is in the set."""
    return float(label_sets(fresh.probabilities, found)[np.arange(fresh.num_calls), fresh.truth].mean())


def flattered(rng: Random, num: int) -> Answers:
    """Return answers of a classifier that is far too sure."""
    honest = calibrated(rng, num, size=5, sharpness=1.0)
    sharper = honest.probabilities**3
    return answers(honest.truth, sharper / sharper.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("score", Score)
def test_sets_hold_the_truth_as_often_as_promised_whatever_the_model_is_worth(score: Score) -> None:
    found = []
    for each in range(120):
        rng = np.random.default_rng(each)
        fitted = fit_conformal(flattered(rng, 200), coverage=COVERAGE, score=score)
        found.append(held(fitted, flattered(rng, 500)))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) > COVERAGE - 3 * error
    assert np.mean(found) < COVERAGE + 0.04, "they are not needlessly large either"


def test_by_class_the_promise_holds_for_the_class_that_is_hard() -> None:
    def skewed(rng: Random, num: int) -> Answers:
        given = calibrated(rng, num, size=2, sharpness=1.0)
        told = np.stack((0.85 + 0.15 * given.probabilities[:, 0], 0.15 * given.probabilities[:, 1]), axis=1)
        return answers(given.truth, told)

    marginal, apart = [], []
    for each in range(60):
        rng = np.random.default_rng(each)
        fit, fresh = skewed(rng, 400), skewed(rng, 1000)
        hard = fresh.at(np.flatnonzero(fresh.truth == 1))
        marginal.append(held(fit_conformal(fit, coverage=COVERAGE), hard))
        apart.append(held(fit_conformal(fit, coverage=COVERAGE, by_class=True), hard))
    assert np.mean(marginal) < COVERAGE - 0.03
    assert np.mean(apart) > COVERAGE - 0.01


def test_a_class_with_too_few_calls_is_in_every_set() -> None:
    given = answers([0] * 40 + [1] * 3, np.tile([0.99, 0.01], (43, 1)))
    fitted = fit_conformal(given, coverage=COVERAGE, by_class=True)
    assert fitted.limits[1] is None
    assert label_sets(np.array([[1.0, 0.0]]), fitted).tolist() == [[True, True]]
    nobody = fit_conformal(given.at(np.arange(3)), coverage=COVERAGE)
    assert nobody.limits == (None, None)


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.5, 0.2, 0.2, 0.1]])
    assert scores(probabilities, Score.LAC)[0] == pytest.approx([0.5, 0.8, 0.8, 0.9])
    assert scores(probabilities, Score.APS)[0] == pytest.approx([0.5, 0.9, 0.9, 1.0])


def test_scores_are_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = calibrated(np.random.default_rng(1), 50, size=6).probabilities
    whole = scores(probabilities, Score.APS)
    monkeypatch.setattr("qwenops.classify.conformal._AT_ONCE", 100)
    assert np.array_equal(scores(probabilities, Score.APS), whole)


def test_a_set_is_never_empty() -> None:
    strict = Conformal(score=Score.LAC, coverage=0.5, by_class=False, limits=(0.01, 0.01))
    assert label_sets(np.array([[0.6, 0.4], [0.3, 0.7]]), strict).tolist() == [[True, False], [False, True]]


def test_one_call_of_each_customer_is_taken_and_the_same_one_each_time() -> None:
    rng = np.random.default_rng(2)
    given = flattered(rng, 90)
    customers = np.arange(90) // 3
    repeated = Answers(classes=given.classes, truth=given.truth, probabilities=given.probabilities, groups=customers)
    one, again = (fit_conformal(repeated, coverage=COVERAGE, seed=3) for _ in range(2))
    assert one == again
    # 30 customers can prove 90 %, and not 97 %, which their 90 calls could.
    assert one.limits[0] is not None
    assert fit_conformal(repeated, coverage=0.97).limits[0] is None
    assert fit_conformal(given, coverage=0.97).limits[0] is not None


def test_sets_are_the_same_after_json() -> None:
    found = fit_conformal(flattered(np.random.default_rng(3), 30), coverage=COVERAGE, by_class=True)
    assert from_plain(Conformal, json.loads(json.dumps(to_plain(found)))) == found
