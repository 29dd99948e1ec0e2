"""Sets of classes that hold the truth as often as promised, whatever the model is worth (split conformal prediction).

The promise is about calls like those that the sets were fitted to, one call of each customer: of 100 sets at 95 %, 95
hold the truth on average. By class the promise holds for the calls of every class apart; a class with too few calls for
it is then in every set, since nothing can be promised without it.

Scores are deterministic, so the same call always gets the same set, and the most probable class is always in it; both
make sets hold the truth rather too often than too rarely.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from qwenops.classify.answers import Answers, Flags
from qwenops.statistics.samples import Array

_AT_ONCE = 4_000_000
_ROUNDING = 1e-9


class Score(StrEnum):
    """What makes a class strange for a call."""

    LAC = "lac"
    """That it is improbable: the smallest sets on average."""
    APS = "aps"
    """That much is more probable: sets that grow with how hard a call is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformal:
    """Up to which score a class is in the set of a call."""

    score: Score
    coverage: float
    """How often the truth is in the set."""
    by_class: bool
    """Whether that holds for each class apart."""
    limits: tuple[float | None, ...]
    """Of each class; None where its calls were too few, so that it is in every set."""


def fit_conformal(
    answers: Answers, *, coverage: float = 0.95, score: Score = Score.LAC, by_class: bool = False, seed: int = 0
) -> Conformal:
    """Fit sets to calls whose class is known; to validation data, never to the test's.

    Args:
        answers: Calibrated probabilities of the calls.
        coverage: How often the truth shall be in the set, between 0 and 1.
        score: What makes a class strange.
        by_class: Whether that shall hold for each class apart.
        seed: Of which call of a customer with several is taken.
    """
    one_each = _one_of_each(answers, seed)
    strange = scores(one_each.probabilities, score)[np.arange(one_each.num_calls), one_each.truth]
    size = len(answers.classes)
    if by_class:
        limits = tuple(_limit(strange[one_each.truth == each], coverage) for each in range(size))
    else:
        limits = (_limit(strange, coverage),) * size
    return Conformal(score=score, coverage=coverage, by_class=by_class, limits=limits)


def label_sets(probabilities: Array, conformal: Conformal) -> Flags:
    """Return which classes are in the set of each call; shape (calls, classes)."""
    limits = np.array([np.inf if each is None else each for each in conformal.limits])
    inside: Flags = scores(probabilities, conformal.score) <= limits + _ROUNDING
    inside[np.arange(probabilities.shape[0]), probabilities.argmax(axis=1)] = True
    return inside


def scores(probabilities: Array, score: Score) -> Array:
    """Return how strange each class is for each call; shape (calls, classes)."""
    match score:
        case Score.LAC:
            return 1 - probabilities
        case Score.APS:
            return _mass_down_to(probabilities)
        case _:
            assert_never(score)


def _mass_down_to(probabilities: Array) -> Array:
    """Return the sum of the probabilities that are as high as that of a class or higher, for every class."""
    calls, size = probabilities.shape
    at_once = max(1, _AT_ONCE // size**2)
    found = np.empty_like(probabilities)
    for first in range(0, calls, at_once):
        some = probabilities[first : first + at_once]
        higher = some[:, None, :] >= some[:, :, None]
        found[first : first + at_once] = (higher * some[:, None, :]).sum(axis=2)
    return found


def _limit(strange: npt.NDArray[np.float64], coverage: float) -> float | None:
    """Return the score that another call of the same kind does not exceed with probability `coverage`."""
    rank = math.ceil((strange.size + 1) * coverage - _ROUNDING)
    return None if rank > strange.size else float(np.sort(strange)[max(rank, 1) - 1])


def _one_of_each(answers: Answers, seed: int) -> Answers:
    """Return one call of each customer, chosen by chance: the others would not be independent of it."""
    if answers.num_groups == answers.num_calls:
        return answers
    order = np.random.default_rng(seed).permutation(answers.num_calls)
    first = np.unique(answers.groups[order], return_index=True)[1]
    return answers.at(order[first])
