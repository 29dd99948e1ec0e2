"""The whole judgement of a classifier on calls whose class is known."""

from collections.abc import Mapping, Sequence

import numpy.typing as npt

from qwenops.classify.answers import answers_of
from qwenops.classify.evaluate.evaluation import SURE, Evaluation
from qwenops.classify.evaluate.levels import level
from qwenops.classify.evaluate.reliability import reliability
from qwenops.classify.evaluate.selective import selective
from qwenops.classify.evaluate.slicing import slices_of
from qwenops.classify.hierarchy import Hierarchy
from qwenops.statistics.clusters import RESAMPLES


def evaluate(
    truth: Sequence[str],
    probabilities: npt.ArrayLike,
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    parents: Mapping[str, str] | None = None,
    seed: int,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Judge a classifier.

    Args:
        truth: The true class of each call.
        probabilities: What the classifier said, shape (calls, classes).
        classes: The classes, in the order of the columns.
        groups: The customer of each call; empty where not known. Calls of one customer are alike, so intervals count
            customers.
        slices: For each name the value of every call, to see where the classifier does worse.
        parents: The parent of each class; a class that is not in it stands by itself. None for a flat list of classes.
        seed: Of everything that is drawn.
        resamples: How often customers are drawn anew.

    Raises:
        InvalidDataError: The numbers do not fit together; all that is wrong is named.
    """
    answers = answers_of(truth, probabilities, classes, groups=groups)
    lifted = Hierarchy(leaves=answers.classes, parent_of=parents).lifted(answers) if parents else None
    return Evaluation(
        num_calls=answers.num_calls,
        num_groups=answers.num_groups,
        leaves=level(answers, seed=seed, resamples=resamples, confidence=SURE),
        parents=level(lifted, seed=seed, resamples=resamples, confidence=SURE) if lifted else None,
        reliability=reliability(answers, seed=seed),
        selective=selective(answers),
        slices=slices_of(answers, slices or {}, seed=seed, confidence=SURE),
        resamples=resamples,
        seed=seed,
    )
