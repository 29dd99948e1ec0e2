"""Classifiers whose figures are known, because calls are drawn from what they say."""

import numpy as np
import numpy.typing as npt

from qwenops.classify.answers import Answers
from qwenops.statistics.clusters import Codes
from qwenops.statistics.samples import Array

Random = np.random.Generator


def answers(truth: npt.ArrayLike, probabilities: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Answers:
    """Return answers about classes that are called a, b, c ..."""
    codes = np.asarray(truth, dtype=np.int64)
    matrix = np.asarray(probabilities, dtype=np.float64)
    customers = np.arange(codes.size) if groups is None else np.asarray(groups)
    names = tuple(chr(ord("a") + each) for each in range(matrix.shape[1]))
    return Answers(classes=names, truth=codes, probabilities=matrix, groups=customers.astype(np.int64))


def drawn(rng: Random, probabilities: Array) -> Codes:
    """Return one class for each row, as probable as the row says."""
    places = rng.random((probabilities.shape[0], 1)) > probabilities.cumsum(axis=1)
    found: Codes = np.minimum(places.sum(axis=1), probabilities.shape[1] - 1).astype(np.int64)
    return found


def calibrated(rng: Random, num: int, size: int = 4, sharpness: float = 0.5) -> Answers:
    """Return answers whose probabilities are exactly true; a lower `sharpness` makes them surer."""
    probabilities = rng.dirichlet(np.full(size, sharpness), num)
    return answers(drawn(rng, probabilities), probabilities)


def even(rng: Random, num: int) -> Answers:
    """Return answers about two classes whose confidence is uniform from 0.5 to 1 and true.

    Of the calls at a confidence of at least t, (1 + t) / 2 are right.
    """
    confidence = rng.uniform(0.5, 1, num)
    said = rng.integers(0, 2, num)
    right = rng.random(num) < confidence
    probabilities = np.where(np.arange(2) == said[:, None], confidence[:, None], 1 - confidence[:, None])
    return answers(np.where(right, said, 1 - said), probabilities)


def from_joint(rng: Random, joint: Array, num: int) -> tuple[Codes, Codes]:
    """Return true and said classes whose frequencies are those of a table."""
    cells = rng.choice(joint.size, num, p=joint.ravel())
    truth, said = np.divmod(cells, joint.shape[1])
    return truth.astype(np.int64), said.astype(np.int64)


def one_hot(said: Codes, size: int) -> Array:
    """Return probabilities of a classifier that is always sure."""
    matrix: Array = np.eye(size)[said]
    return matrix


def macro_f1_of(joint: Array) -> float:
    """Return the macro-F1 that a table of frequencies means."""
    return float(np.mean(2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))))


JOINT = np.array(
    [
        [0.38, 0.04, 0.02, 0.01],
        [0.05, 0.20, 0.02, 0.01],
        [0.03, 0.03, 0.10, 0.01],
        [0.02, 0.01, 0.02, 0.05],
    ]
)
"""What a middling classifier of four classes says."""
