"""Parts of training data for cross-validation: a customer's calls in one part, each class in all parts where it can."""

import numpy as np

from qwenops.statistics.clusters import Codes


def grouped_folds(classes: Codes, groups: Codes, *, num: int, seed: int) -> Codes:
    """Return the fold, from 0, of each call.

    Customers are dealt out one by one, those with the most calls first, each to the fold that lacks their classes most.

    Args:
        classes: The class of each call, from 0.
        groups: The customer of each call, from 0.
        num: How many folds; no more than there are customers get any calls.
        seed: Of the order of customers with equally many calls.
    """
    present, counts = np.unique(groups, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(present.size)
    order = shuffled[np.argsort(-counts[shuffled], kind="stable")]
    sizes = np.bincount(classes)
    by_group = np.split(np.argsort(groups, kind="stable"), np.cumsum(counts)[:-1])
    held = np.zeros((num, sizes.size))  # calls by fold and class
    folds = np.empty(classes.size, dtype=np.int64)
    for group in order:
        rows = by_group[group]
        own, times = np.unique(classes[rows], return_counts=True)
        fullness = (held[:, own] / sizes[own]) @ times + held.sum(axis=1) / classes.size
        fold = int(np.argmin(fullness))
        held[fold, own] += times
        folds[rows] = fold
    return folds
