"""Probabilities under other shares of classes than those of training, and what those are now (Saerens et al. 2002).

Complaints change from month to month. Where only the shares of classes change, and not what calls of a class are like,
calibrated probabilities are put right by the ratio of the shares, and unlabelled calls are enough to estimate the new
ones: expectation maximisation, in which every step makes the calls more probable.
"""

import math
from dataclasses import dataclass

import numpy as np

from qwenops.statistics.samples import Array, Values

_STEPS = 10_000
_CLOSE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How frequent classes are among unlabelled calls, as far as their probabilities tell."""

    shares: tuple[float, ...]
    steps: int
    gain: float
    """By how much the logarithm of the calls' probability exceeds that under the shares of training."""


def shift(probabilities: Array, trained: Values, now: Values) -> Array:
    """Return what probabilities become where classes are as frequent as `now` says, not as in training.

    Args:
        probabilities: Calibrated, shape (calls, classes).
        trained: The share of each class in training; a class of none of it can never be said.
        now: The share of each class among the calls.
    """
    shifted = probabilities * _ratio(trained, np.asarray(now, dtype=np.float64))
    sums = shifted.sum(axis=1, keepdims=True)
    found: Array = np.divide(shifted, sums, out=probabilities.copy(), where=sums > 0)
    return found


def estimate_shares(probabilities: Array, trained: Values) -> Shares:
    """Return how frequent classes are among unlabelled calls.

    Args:
        probabilities: Calibrated under the shares of training, shape (calls, classes).
        trained: The share of each class in training.
    """
    shares = np.asarray(trained, dtype=np.float64)
    shares = shares / shares.sum()
    steps, moved = 0, math.inf
    while moved > _CLOSE and steps < _STEPS:
        following = shift(probabilities, trained, shares).mean(axis=0)
        moved = float(np.abs(following - shares).max())
        shares, steps = following, steps + 1
    likelihoods = (probabilities * _ratio(trained, shares)).sum(axis=1)
    gain = float(np.log(likelihoods[likelihoods > 0]).sum())
    return Shares(shares=tuple(shares.tolist()), steps=steps, gain=gain)


def _ratio(trained: Values, now: Array) -> Array:
    before = np.asarray(trained, dtype=np.float64)
    found: Array = np.divide(now / now.sum(), before / before.sum(), out=np.zeros(before.size), where=before > 0)
    return found
