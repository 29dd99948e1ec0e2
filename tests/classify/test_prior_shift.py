import numpy as np
import pytest

from qwenops.classify.answers import Answers
from qwenops.classify.calibrate import softmax
from qwenops.classify.evaluate.reliability import nll
from qwenops.classify.prior_shift import estimate_shares, shift
from qwenops.statistics.samples import Array
from tests.classify.simulated import answers

CENTRES = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
TRAINED = np.array([0.6, 0.3, 0.1])
NOW = np.array([0.2, 0.3, 0.5])


def posteriors(shares: Array, under: Array, num: int, seed: int) -> Answers:
    """Return calls with classes of known shares and exact probabilities under other ones."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, num, p=shares)
    points = CENTRES[truth] + rng.normal(0, 1, (num, 2))
    distances = ((points[:, None, :] - CENTRES) ** 2).sum(axis=2)
    return answers(truth, softmax(np.log(under) - distances / 2))


def test_exact_probabilities_become_those_under_the_new_shares() -> None:
    old = posteriors(NOW, TRAINED, 500, seed=1)
    new = posteriors(NOW, NOW, 500, seed=1)
    assert shift(old.probabilities, TRAINED, NOW) == pytest.approx(new.probabilities, abs=1e-12)
    assert shift(old.probabilities, TRAINED, 7 * NOW) == pytest.approx(new.probabilities, abs=1e-12)


def test_the_shares_of_unlabelled_calls_are_found() -> None:
    found = estimate_shares(posteriors(NOW, TRAINED, 20_000, seed=2).probabilities, TRAINED)
    assert found.shares == pytest.approx(NOW, abs=0.02)
    assert sum(found.shares) == pytest.approx(1)
    assert found.gain > 0
    unchanged = estimate_shares(posteriors(TRAINED, TRAINED, 20_000, seed=3).probabilities, TRAINED)
    assert unchanged.shares == pytest.approx(TRAINED, abs=0.02)
    assert unchanged.gain < found.gain / 100


def test_the_shares_that_were_found_make_answers_better() -> None:
    old = posteriors(NOW, TRAINED, 5000, seed=4)
    found = estimate_shares(old.probabilities, TRAINED)
    mended = answers(old.truth, shift(old.probabilities, TRAINED, found.shares))
    assert nll(mended) < nll(old) - 0.1
    assert mended.right.mean() > old.right.mean() + 0.05


def test_a_class_that_training_never_had_is_never_said() -> None:
    probabilities = np.array([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    moved = shift(probabilities, [0.5, 0.5, 0.0], [0.2, 0.4, 0.4])
    assert moved[0] == pytest.approx([0.28 / 0.52, 0.24 / 0.52, 0])
    assert moved[1].tolist() == [0, 0, 1], "what cannot be put right stays"
    assert np.isfinite(estimate_shares(probabilities[:1], [0.5, 0.5, 0.0]).shares).all()
