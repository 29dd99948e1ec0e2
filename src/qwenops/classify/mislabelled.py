"""Labels to look at again, found by a classifier that did not see them (confident learning, Northcutt et al. 2021).

Of each class, the mean probability of it over the calls that carry its label says how sure the classifier is of it when
it is there. A call whose probability of a class reaches that class's mean probably belongs there, so counting such
calls by label and likely class says which share of each label is wrong, and what it should have been. Calls that reach
no mean are not counted but are wrong as often as the others; so of each label and likely class as many calls are named
as its share of all calls with the label comes to, those first that the classifier would move most gladly.

Probabilities must come from folds that the call was not in, or a classifier would only repeat its labels.
"""

from dataclasses import dataclass

import numpy as np

from qwenops.classify.answers import Answers
from qwenops.statistics.clusters import Codes
from qwenops.statistics.samples import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A label that is probably wrong."""

    row: int
    """The place of the call."""
    given: str
    likely: str
    p_given: float
    p_likely: float


def suspicious(answers: Answers) -> tuple[Suspicion, ...]:
    """Return labels that are probably wrong, the most probable first.

    Args:
        answers: The labels as truth, with probabilities from folds that each call was not in.
    """
    rows = np.arange(answers.num_calls)
    likely = np.where(np.isfinite(_usual(answers)), answers.probabilities, -np.inf).argmax(axis=1)
    given = answers.probabilities[rows, answers.truth]
    margin = given - answers.probabilities[rows, likely]
    doubted = _doubted(_wrong(answers), answers.truth, likely, margin)
    return tuple(
        Suspicion(
            row=int(row),
            given=answers.classes[answers.truth[row]],
            likely=answers.classes[likely[row]],
            p_given=float(given[row]),
            p_likely=float(answers.probabilities[row, likely[row]]),
        )
        for row in doubted[np.argsort(margin[doubted], kind="stable")]
    )


def _wrong(answers: Answers) -> Codes:
    """Return how many calls of each label belong to each class, shape (labels, classes)."""
    size = len(answers.classes)
    above = np.where(answers.probabilities >= _usual(answers), answers.probabilities, -np.inf)
    likely = above.argmax(axis=1)
    counted = np.isfinite(above.max(axis=1))
    joint = np.bincount(answers.truth[counted] * size + likely[counted], minlength=size**2).reshape(size, size)
    shares = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1)
    labels = np.bincount(answers.truth, minlength=size)
    found: Codes = np.round(shares * labels[:, None]).astype(np.int64)
    return found


def _doubted(wrong: Codes, given: Codes, likely: Codes, margin: Array) -> Codes:
    """Return the calls of which so many of each label and class have the lowest margin, where it is below 0."""
    taken = [np.empty(0, dtype=np.int64)]
    for label, name in np.argwhere(wrong * (1 - np.eye(len(wrong))) > 0):
        rows = np.flatnonzero((given == label) & (likely == name) & (margin < 0))
        taken.append(rows[np.argsort(margin[rows], kind="stable")][: wrong[label, name]])
    return np.sort(np.concatenate(taken))


def _usual(answers: Answers) -> Array:
    """Return how probable each class usually is for calls with its label; unreachable where there is none."""
    size = len(answers.classes)
    own = answers.probabilities[np.arange(answers.num_calls), answers.truth]
    sums = np.bincount(answers.truth, weights=own, minlength=size)
    counts = np.bincount(answers.truth, minlength=size)
    usual: Array = np.divide(sums, counts, out=np.full(size, np.inf), where=counts > 0)
    return usual
