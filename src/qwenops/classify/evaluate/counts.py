"""Figures that are made of counts: how often each class was right, was true, was said.

Counts of a set of calls are one row of three parts, each as long as there are classes: hits, true, said. Rows of
disjoint sets add up, so a bootstrap draws rows (`statistics.clusters`).

Macro-F1 is the mean over the classes that occur among the true ones, so two classifiers of the same calls are always
averaged over the same classes, and a class that a draw happens to lack is not counted as a failure in it.
"""

import numpy as np
import numpy.typing as npt

from qwenops.statistics.clusters import Codes
from qwenops.statistics.samples import Array

MACRO, WEIGHTED, ACCURACY = range(3)
"""Where `headlines` has which figure."""


def tallies(truth: Codes, said: Codes, rows: Codes, *, num_classes: int, num_rows: int) -> Array:
    """Count hits, true and said by class; shape (rows, 3 x classes).

    Args:
        truth: The true class of each call.
        said: The class that was said.
        rows: To which row each call belongs.
        num_classes: How many classes there are.
        num_rows: How many rows there are.
    """
    found = np.zeros((num_rows, 3 * num_classes))
    right = truth == said
    np.add.at(found, (rows[right], truth[right]), 1.0)
    np.add.at(found, (rows, num_classes + truth), 1.0)
    np.add.at(found, (rows, 2 * num_classes + said), 1.0)
    return found


def parts(totals: Array) -> tuple[Array, Array, Array]:
    """Return hits, true and said of rows of counts, each of shape (..., classes)."""
    size = totals.shape[-1] // 3
    return totals[..., :size], totals[..., size : 2 * size], totals[..., 2 * size :]


def f1_scores(totals: Array) -> Array:
    """Return the F1 of each class; shape (..., classes). It is 0 of a class that is neither true nor said."""
    hits, true, said = parts(totals)
    return 2 * hits / np.maximum(true + said, 1.0)


def headlines(totals: Array) -> Array:
    """Return macro-F1, F1 weighted by how frequent classes are, and accuracy; shape (..., 3).

    Not a number where there is no call.
    """
    hits, true, _ = parts(totals)
    scores = f1_scores(totals)
    calls = true.sum(axis=-1)
    macro = (scores * (true > 0)).sum(axis=-1) / np.maximum((true > 0).sum(axis=-1), 1)
    weighted = (scores * true).sum(axis=-1) / np.maximum(calls, 1.0)
    accuracy = hits.sum(axis=-1) / np.maximum(calls, 1.0)
    figures = np.stack((macro, weighted, accuracy), axis=-1)
    found: Array = np.where(calls[..., None] > 0, figures, np.nan)
    return found


def confusion(truth: Codes, said: Codes, num_classes: int) -> npt.NDArray[np.int64]:
    """Count calls by true class (rows) and by the class that was said (columns)."""
    cells = np.bincount(truth * num_classes + said, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)
