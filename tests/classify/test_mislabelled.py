import numpy as np

from qwenops.classify.mislabelled import suspicious
from tests.classify.simulated import answers, calibrated


def test_flipped_labels_are_found_and_come_first() -> None:
    rng = np.random.default_rng(1)
    clean = calibrated(rng, 4000, size=5, sharpness=0.05)
    flipped = rng.choice(4000, 400, replace=False)
    noisy = clean.truth.copy()
    noisy[flipped] = (noisy[flipped] + rng.integers(1, 5, 400)) % 5
    found = suspicious(answers(noisy, clean.probabilities))
    wrong = set(flipped.tolist())
    rows = [each.row for each in found]
    hits = sum(row in wrong for row in rows)
    assert hits / len(rows) > 0.6
    assert hits / 400 > 0.75
    assert sum(row in wrong for row in rows[:100]) > 80
    assert all(each.p_likely > each.p_given for each in found)
    first = found[0]
    assert first.given == "abcde"[noisy[first.row]]
    assert first.likely == "abcde"[clean.said[first.row]]


def test_labels_that_are_what_is_probable_raise_no_suspicion() -> None:
    truth = np.repeat([0, 1, 2], 30)
    sure = np.full((90, 3), 0.05)
    sure[np.arange(90), truth] = 0.9
    assert suspicious(answers(truth, sure)) == ()


def test_a_class_without_labels_is_never_suggested() -> None:
    found = suspicious(answers([0, 0, 1], [[0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1]]))
    assert all(each.likely != "c" for each in found)
