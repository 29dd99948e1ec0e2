"""Tests of a mean, of two proportions, of many at once: bootstrap, sign flips, equivalence, Fisher, McNemar, Holm."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qwenops.statistics.samples import CONFIDENCE, Array, Interval, Values
from qwenops.statistics.special import binomial_cdf, normal_cdf, normal_quantile, t_cdf

Statistic = Callable[[Array], Array]
"""Reduces the last axis: many resamples at once."""
_EXACT = 16
"""Up to so many values all sign patterns are gone through."""
_PATTERNS = 20_000
_EXACT_MCNEMAR = 25
"""From so many cases that tell two sides apart on, the mid-p is taken."""


def mean_of(samples: Array) -> Array:
    """Return the means over the last axis."""
    means: Array = samples.mean(axis=-1)
    return means


def bootstrap_bca(
    values: Values,
    statistic: Statistic = mean_of,
    *,
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = 4000,
) -> Interval:
    """Return Efron's bias-corrected and accelerated bootstrap interval of a statistic of independent values.

    Raises:
        ValueError: There are fewer than two values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:  # noqa: PLR2004 -- one value cannot be drawn differently
        raise ValueError(f"{sample.size} values cannot be resampled")
    rng = np.random.default_rng(seed)
    drawn = statistic(sample[rng.integers(0, sample.size, (resamples, sample.size))])
    seen = float(statistic(sample[None, :])[0])
    left_out = np.array([np.delete(sample, each) for each in range(sample.size)])
    return bca_interval(drawn, seen, statistic(left_out), confidence)


def bca_interval(drawn: Array, seen: float, left_out: Array, confidence: float = CONFIDENCE) -> Interval:
    """Return Efron's bias-corrected and accelerated interval from what a bootstrap drew.

    Args:
        drawn: The statistic of each resample.
        seen: The statistic of the sample.
        left_out: The statistic of the sample without each of what is drawn: a value, or a group of them.
        confidence: How sure the interval is.
    """
    ordered = np.sort(drawn)
    num = ordered.size
    # Ties count half: a statistic of few values repeats itself.
    share = (float((ordered < seen).sum()) + 0.5 * float((ordered == seen).sum())) / num
    bias = normal_quantile(min(max(share, 0.5 / num), 1 - 0.5 / num))
    away = left_out.mean() - left_out
    scale = float((away**2).sum()) ** 1.5
    acceleration = float((away**3).sum()) / (6 * scale) if scale > 0 else 0.0

    def limit(p: float) -> float:
        z = bias + normal_quantile(p)
        room = 1 - acceleration * z
        corrected = normal_cdf(bias + z / room) if room > 0 else float(z > 0)
        return float(ordered[min(max(math.ceil(corrected * num) - 1, 0), num - 1)])

    tail = (1 - confidence) / 2
    return Interval(low=limit(tail), high=limit(1 - tail), confidence=confidence)


def bootstrap_series(
    runs: Sequence[Values], statistic: Statistic, *, seed: int, resamples: int = 4000, at_once: int = 2_000_000
) -> Array:
    """Return a statistic of many resamples of one or several independent series whose neighbours depend on each other.

    With several series, series are drawn first; from each, blocks of neighbours are drawn (`resampling_length`, wrapped
    around its end) until it is as long as it was. The statistic is of all drawn values together.
    """
    rng = np.random.default_rng(seed)
    series = [np.asarray(run, dtype=np.float64) for run in runs]
    lengths = [resampling_length(each) for each in series]
    total = max(1, sum(each.size for each in series))
    found = []
    for first in range(0, resamples, max(1, at_once // total)):
        num = min(max(1, at_once // total), resamples - first)
        if len(series) == 1:
            found.append(statistic(_resampled(series[0], lengths[0], num, rng)))
        else:
            chosen = rng.integers(0, len(series), (num, len(series)))
            found += [
                statistic(np.concatenate([_resampled(series[each], lengths[each], 1, rng)[0] for each in row])[None, :])
                for row in chosen
            ]
    return np.concatenate(found)


def bootstrap_pairs(
    one: Array, other: Array, statistic: Statistic, *, seed: int, length: int, resamples: int = 4000
) -> tuple[Array, Array]:
    """Return a statistic of many resamples of two series that belong together: both are drawn at the same places."""
    rng = np.random.default_rng(seed)
    found_one, found_other = [], []
    at_once = max(1, 2_000_000 // one.size)
    for first in range(0, resamples, at_once):
        places = _places(one.size, length, min(at_once, resamples - first), rng)
        found_one.append(statistic(one[places]))
        found_other.append(statistic(other[places]))
    return np.concatenate(found_one), np.concatenate(found_other)


def resampling_length(series: Array) -> int:
    """Return how long blocks of neighbours must be to keep most of what ties them: 1 where nothing does.

    The length that is best for a mean when each value depends on the one before (Carlstein's rule for blocks that
    overlap), from the correlation of neighbours, to which its own uncertainty is added.
    """
    left = series - series.mean() if series.size else series
    power = float(left @ left)
    if power <= 0:
        return 1
    r = min(float(left[1:] @ left[:-1]) / power, 0.97)
    if r < 1 / math.sqrt(series.size):  # no more than chance
        return 1
    r = min(r + 0.5 / math.sqrt(series.size), 0.97)
    length = (1.5 * series.size * (2 * r / (1 - r * r)) ** 2) ** (1 / 3)
    return int(min(max(1, math.ceil(length)), max(1, series.size // 8)))


def sign_flip_p(values: Values, *, seed: int = 0) -> float:
    """Return how likely a mean at least so far from 0 is if each value might as well have had the other sign.

    Two-sided; all patterns up to 16 values, 20,000 random ones beyond. Five values cannot get below 0.0625.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size <= _EXACT:
        patterns = _sign_patterns(sample.size)
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), (_PATTERNS, sample.size))
        patterns = np.vstack((np.ones(sample.size), signs))  # what was seen is one of them
    sums = np.abs(patterns @ sample)
    seen = abs(float(sample.sum()))
    return float((sums >= seen * (1 - 1e-12)).mean())


def t_test_p(values: Values) -> float:
    """Return Student's two-sided p-value of a mean of 0."""
    return 2 * t_cdf(-abs(_t_of(values, 0.0)), len(values) - 1)


def tost_p(values: Values, low: float, high: float) -> float:
    """Return the p-value of two one-sided tests: small means that the true mean lies between `low` and `high`."""
    degrees = len(values) - 1
    return max(t_cdf(-_t_of(values, low), degrees), t_cdf(_t_of(values, high), degrees))


def fisher_p(first: int, num_first: int, second: int, num_second: int) -> float:
    """Return Fisher's exact two-sided p-value of `first` in `num_first` and `second` in `num_second` being one share.

    Twice the smaller tail: how likely, of all that happened, so few or fewer fall on one side by chance.
    """
    all_of_it, everybody = first + second, num_first + num_second
    logs = np.concatenate((np.zeros(1), np.cumsum(np.log(np.arange(1, everybody + 1)))))  # of factorials
    ways = np.arange(max(0, all_of_it - num_second), min(all_of_it, num_first) + 1)
    chances = np.exp(
        (logs[num_first] - logs[ways] - logs[num_first - ways])
        + (logs[num_second] - logs[all_of_it - ways] - logs[num_second - all_of_it + ways])
        - (logs[everybody] - logs[all_of_it] - logs[everybody - all_of_it])
    )
    tail = min(float(chances[ways <= first].sum()), float(chances[ways >= first].sum()))
    return min(1.0, 2 * tail)


def mcnemar_p(only_one: int, only_other: int) -> float:
    """Return McNemar's two-sided p-value of two sides being right equally often on the same cases.

    Exact where fewer than 25 cases tell the sides apart, else the mid-p, which is less cautious and still holds.

    Args:
        only_one: Cases in which only the first side was right.
        only_other: Cases in which only the second was.
    """
    differ, fewer = only_one + only_other, min(only_one, only_other)
    if only_one == only_other:
        return 1.0
    tail = binomial_cdf(fewer, differ, 0.5)
    if differ < _EXACT_MCNEMAR:
        return min(1.0, 2 * tail)
    return min(1.0, tail + binomial_cdf(fewer - 1, differ, 0.5))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return Holm's adjusted p-values, in the given order: the error rate holds for all of them together."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def _resampled(series: Array, length: int, num: int, rng: np.random.Generator) -> Array:
    """Draw a series `num` times in blocks of so many neighbours."""
    drawn: Array = series[_places(series.size, length, num, rng)]
    return drawn


def _places(size: int, length: int, num: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    starts = rng.integers(0, size, (num, -(-size // length)))
    places: npt.NDArray[np.int64] = (starts[:, :, None] + np.arange(length)) % size
    return places.reshape(num, -1)[:, :size]


@lru_cache(maxsize=4)
def _sign_patterns(size: int) -> Array:
    return np.array(list(itertools.product((1.0, -1.0), repeat=size)))


def _t_of(values: Values, against: float) -> float:
    sample = np.asarray(values, dtype=np.float64)
    away = float(sample.mean()) - against
    error = float(sample.std(ddof=1)) / math.sqrt(sample.size)
    if error == 0:
        return math.copysign(math.inf, away) if away else 0.0
    return away / error
