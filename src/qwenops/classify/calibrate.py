"""Making probabilities mean what they say: one temperature for all classes, or a scale and a shift for each.

A temperature changes no answer, only how sure it is. With many calls of every class, vector scaling may do better; it
is taken only where it proves to on calls that it was not fitted to. Figures after calibration come from such calls too
(each fold is judged by what the others say), so they are not flattered.

Logits are whatever a model's probabilities are the softmax of; `logits_of` makes them from probabilities.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_never

import numpy as np
import numpy.typing as npt
from pydantic import Field

from qwenops.calls.problems import Problem, refuse
from qwenops.classify.answers import Answers
from qwenops.classify.evaluate.reliability import FLOOR, brier, calibration_error, class_wise_error, nll
from qwenops.classify.folds import grouped_folds
from qwenops.classify.plain import from_plain
from qwenops.statistics.clusters import Codes
from qwenops.statistics.samples import Array
from qwenops.text import say

MANY = 200
"""With more calls of every class than this, vector scaling is tried."""
FOLDS = 5
_COLDEST, _HOTTEST = 0.01, 100.0
_HALVINGS = 60
_NEWTON_STEPS = 100
_STEP_HALVINGS = 30
_CLOSE = 1e-9
_PRIOR = 1.0
"""How strongly scales and shifts are held near those of a temperature: as one unit of squared logits."""
_ENOUGH = 0.002
"""Vector scaling must save so many nats for each call to be worth its many parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """Logits are divided by one number."""

    kind: Literal["temperature"] = "temperature"
    value: float = 1.0
    at_bound: bool = False
    """Whether the calls asked for one beyond all reason: they are few, or all are right, or no better than chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorScaling:
    """The logit of each class is multiplied by a number and shifted by another."""

    kind: Literal["vector"] = "vector"
    scales: tuple[float, ...]
    shifts: tuple[float, ...]


Scaling = Annotated[Temperature | VectorScaling, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well probabilities are calibrated; `evaluate.evaluation.Reliability` says what the figures are."""

    ece: float
    class_wise_ece: float
    brier: float
    nll: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A scaling, and what it does for probabilities."""

    scaling: Scaling
    before: Quality
    after: Quality | None
    """On calls that it was not fitted to; None where there are too few customers for that."""
    num_calls: int
    seed: int


def calibrate(logits: npt.ArrayLike, answers: Answers, *, seed: int) -> Calibration:
    """Fit the scaling that suits some answers.

    Args:
        logits: Shape (calls, classes); their softmax is what `answers` has as probabilities.
        answers: Validation data; never the test's.
        seed: Of the folds.

    Raises:
        InvalidDataError: The logits do not fit the answers, or are not finite.
    """
    scores = _checked(logits, answers)
    before = _quality(answers, softmax(scores))
    folds = min(FOLDS, answers.num_groups)
    if folds < 2:  # noqa: PLR2004 -- nothing would be left to fit
        scaling: Temperature | VectorScaling = fit_temperature(scores, answers.truth)
        return Calibration(scaling=scaling, before=before, after=None, num_calls=answers.num_calls, seed=seed)
    fold_of = grouped_folds(answers.truth, answers.groups, num=folds, seed=seed)
    after = _quality(answers, _cross_fitted(scores, answers.truth, fold_of, vector=False))
    scaling = fit_temperature(scores, answers.truth)
    if int(np.bincount(answers.truth, minlength=len(answers.classes)).min()) > MANY:
        with_vector = _quality(answers, _cross_fitted(scores, answers.truth, fold_of, vector=True))
        if with_vector.nll < after.nll - _ENOUGH:
            scaling, after = fit_vector(scores, answers.truth), with_vector
    return Calibration(scaling=scaling, before=before, after=after, num_calls=answers.num_calls, seed=seed)


def fit_temperature(logits: Array, truth: Codes, weights: Array | None = None) -> Temperature:
    """Return the temperature at which the true classes are the most probable.

    Args:
        logits: Shape (calls, classes), finite.
        truth: The true class of each call.
        weights: How far to trust each label; all alike where it is None.
    """
    trust = np.ones(truth.size) if weights is None else weights
    centred = logits - logits[np.arange(truth.size), truth][:, None]
    low, high = math.log(1 / _HOTTEST), math.log(1 / _COLDEST)  # of the inverse, in which the likelihood is convex

    def rises(inverse: float) -> bool:
        probabilities = softmax(inverse * centred)
        return float(((probabilities * centred).sum(axis=1) * trust).sum()) > 0

    if not centred.any():  # says nothing about any call
        return Temperature(value=1.0, at_bound=True)
    if rises(math.exp(low)) or not rises(math.exp(high)):
        value = _HOTTEST if rises(math.exp(low)) else _COLDEST
        return Temperature(value=value, at_bound=True)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(math.exp(middle)) else (middle, high)
    return Temperature(value=math.exp(-(low + high) / 2))


def fit_vector(logits: Array, truth: Codes, weights: Array | None = None) -> VectorScaling:
    """Return scales and shifts of the classes at which the true ones are the most probable.

    Newton's method on a convex function; the arguments are those of `fit_temperature`.
    """
    trust = np.ones(truth.size) if weights is None else weights
    size = logits.shape[1]
    start = np.concatenate((np.full(size, 1 / fit_temperature(logits, truth, weights).value), np.zeros(size)))
    found = start
    loss, gradient, curvature = _vector_loss(logits, truth, trust, found, start)
    for _ in range(_NEWTON_STEPS):
        step = np.linalg.solve(curvature, gradient)
        decrease = float(gradient @ step)
        if decrease < _CLOSE * truth.size:
            break
        length = 1.0
        for _halving in range(_STEP_HALVINGS):
            tried = _vector_loss(logits, truth, trust, found - length * step, start)
            if tried[0] <= loss - 0.25 * length * decrease:
                break
            length /= 2
        else:
            break
        found = found - length * step
        loss, gradient, curvature = tried
    return VectorScaling(scales=tuple(found[:size].tolist()), shifts=tuple(found[size:].tolist()))


def scale(logits: npt.ArrayLike, scaling: Temperature | VectorScaling) -> Array:
    """Return calibrated probabilities; the shape stays."""
    scores = np.asarray(logits, dtype=np.float64)
    match scaling:
        case Temperature():
            return softmax(scores / scaling.value)
        case VectorScaling():
            return softmax(scores * np.array(scaling.scales) + np.array(scaling.shifts))
        case _:
            assert_never(scaling)


def softmax(logits: Array) -> Array:
    """Return the probabilities of logits, over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def logits_of(probabilities: npt.ArrayLike) -> Array:
    """Return logits whose softmax the probabilities are; what is impossible becomes very unlikely."""
    logits: Array = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), FLOOR))
    return logits


def calibration_of(data: Mapping[str, Any]) -> Calibration:
    """Read a calibration that `plain.to_plain` wrote.

    Raises:
        ValueError: It is no such thing.
    """
    return from_plain(Calibration, data)


def _checked(logits: npt.ArrayLike, answers: Answers) -> Array:
    scores = np.asarray(logits, dtype=np.float64)
    what = say("The probabilities cannot be calibrated.")
    if scores.shape != answers.probabilities.shape:
        shape = " x ".join(str(each) for each in scores.shape)
        told = say("There are logits of shape {shape} for {calls} calls.", shape=shape, calls=answers.num_calls)
        refuse([Problem(what=told, field="logits")], what)
    rows = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    refuse([Problem(what=say("A logit is not finite."), field=f"logits[{row}]") for row in rows], what)
    return scores


def _quality(answers: Answers, probabilities: Array) -> Quality:
    given = Answers(classes=answers.classes, truth=answers.truth, probabilities=probabilities, groups=answers.groups)
    return Quality(
        ece=calibration_error(given.confidence, given.right),
        class_wise_ece=class_wise_error(given),
        brier=brier(given),
        nll=nll(given),
    )


def _cross_fitted(logits: Array, truth: Codes, folds: Codes, *, vector: bool) -> Array:
    """Return the probabilities of each call by a scaling that was fitted to the other folds."""
    found = np.empty_like(logits)
    for fold in np.unique(folds):
        inside = folds == fold
        fit = fit_vector if vector else fit_temperature
        found[inside] = scale(logits[inside], fit(logits[~inside], truth[~inside]))
    return found


def _vector_loss(logits: Array, truth: Codes, trust: Array, at: Array, near: Array) -> tuple[float, Array, Array]:
    """Return the loss of scales and shifts with its gradient and curvature."""
    size = logits.shape[1]
    scores = logits * at[:size] + at[size:]
    top = scores.max(axis=1)
    rows = np.arange(truth.size)
    sums = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
    away = at - near
    loss = float(((sums - scores[rows, truth]) * trust).sum()) + 0.5 * _PRIOR * float(away @ away)
    probabilities = softmax(scores)
    excess = probabilities.copy()
    excess[rows, truth] -= 1.0
    excess *= trust[:, None]
    gradient = np.concatenate(((excess * logits).sum(axis=0), excess.sum(axis=0))) + _PRIOR * away
    both = np.hstack((probabilities * logits, probabilities))  # the derivative of the scores' mean
    weighted = probabilities * trust[:, None]
    diagonal = [(weighted * part).sum(axis=0) for part in (logits**2, logits, np.ones_like(logits))]
    curvature = -(both.T * trust) @ both
    curvature += np.block([[np.diag(diagonal[0]), np.diag(diagonal[1])], [np.diag(diagonal[1]), np.diag(diagonal[2])]])
    curvature += _PRIOR * np.eye(2 * size)
    return loss, gradient, curvature
