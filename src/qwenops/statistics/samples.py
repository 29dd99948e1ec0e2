"""What samples say about where they came from: quantiles, proportions and means, each with its interval.

A quantile is an order statistic, and its interval is the one that needs no assumption about the distribution (the
count of samples below the true quantile is binomial). Where there are too few samples for an interval there is none:
p99 of 40 requests is not a number that anybody knows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from qwenops.statistics.special import beta_quantile, binomial_cdf, t_quantile

Array = npt.NDArray[np.float64]
Values = Sequence[float] | Array
Sides = Literal[1, 2]
CONFIDENCE = 0.95
_ROUNDING = 1e-9
"""Keeps 0.95 * 20 from being more than 19."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a true value lies with some confidence."""

    low: float
    high: float
    confidence: float = CONFIDENCE

    def __contains__(self, value: float) -> bool:
        """Whether a value lies in it, its ends included."""
        return self.low <= value <= self.high


def quantile(values: Values, p: float) -> float:
    """Return the smallest of `values` that at least the fraction `p` of them does not exceed; 0 < p < 1."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not ordered.size:
        raise ValueError("no values")
    return float(ordered[quantile_rank(ordered.size, p)])


def quantile_rank(n: int, p: float) -> int:
    """Return the index, from 0, of the quantile `p` among `n` ascending values."""
    return min(max(math.ceil(n * p - _ROUNDING), 1), n) - 1


def smallest_n(p: float, sides: Sides = 1, confidence: float = CONFIDENCE) -> int:
    """Return how many samples the quantile `p` needs for an upper bound (one side) or an interval (two sides).

    With 95 %: p50 5 and 6, p90 29 and 36, p95 59 and 72, p99 299 and 368.
    """
    further = max(p, 1 - p) if sides == 2 else p  # noqa: PLR2004 -- the larger of the Literal's two numbers
    return max(1, math.ceil(math.log((1 - confidence) / sides) / math.log(further) - _ROUNDING))


@lru_cache(maxsize=4096)
def quantile_ranks(n: int, p: float, sides: Sides, confidence: float) -> tuple[int, int] | None:
    """Return the indexes, from 0, of the order statistics that hold the quantile `p` between them.

    With one side only the upper one means anything (the lower is 0). None where `n` is below `smallest_n`.
    """
    if n < smallest_n(p, sides, confidence):
        return None
    tail = (1 - confidence) / sides
    above = _first(n, lambda rank: binomial_cdf(rank - 1, n, p) >= 1 - tail)
    if sides == 1:
        return 0, above - 1
    # The lowest rank that is too likely to lie above the quantile; the one before it is not.
    below = _first(n + 1, lambda rank: binomial_cdf(rank - 1, n, p) > tail) - 1
    return below - 1, above - 1


def quantile_interval(values: Values, p: float, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the two-sided interval of the quantile `p`; None below the sample size that it needs (p95 72, p99 368)."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    ranks = quantile_ranks(ordered.size, p, 2, confidence)
    if ranks is None:
        return None
    return Interval(low=float(ordered[ranks[0]]), high=float(ordered[ranks[1]]), confidence=confidence)


def quantile_upper(values: Values, p: float, confidence: float = CONFIDENCE) -> float | None:
    """Return what the quantile `p` does not exceed; None below the sample size that it needs (p95 59, p99 299)."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    ranks = quantile_ranks(ordered.size, p, 1, confidence)
    return None if ranks is None else float(ordered[ranks[1]])


def binomial_upper(failures: int, n: int, alpha: float = 1 - CONFIDENCE) -> float:
    """Return the upper bound of a failure probability that is too low with probability `alpha` at most.

    Clopper and Pearson's: if the true probability were higher, so few failures would be rarer than `alpha`.
    """
    _check_counts(failures, n)
    if failures >= n:
        return 1.0
    return beta_quantile(1 - alpha, failures + 1, n - failures)


def binomial_lower(failures: int, n: int, alpha: float = 1 - CONFIDENCE) -> float:
    """Return the lower bound of a failure probability that is too high with probability `alpha` at most."""
    _check_counts(failures, n)
    if failures <= 0:
        return 0.0
    return beta_quantile(alpha, failures, n - failures + 1)


def mean_interval(values: Values, confidence: float = CONFIDENCE) -> Interval | None:
    """Return Student's interval of the mean of independent values; None for fewer than two."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:  # noqa: PLR2004 -- one value says nothing about its spread
        return None
    half = t_quantile((1 + confidence) / 2, sample.size - 1) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    centre = float(sample.mean())
    return Interval(low=centre - half, high=centre + half, confidence=confidence)


def _check_counts(failures: int, n: int) -> None:
    if not 0 <= failures <= n or n < 1:
        raise ValueError(f"{failures} of {n}")


def _first(last: int, holds: Callable[[int], bool]) -> int:
    """Return the lowest rank from 1 to `last` from which on `holds` is true; `last` if there is none before."""
    low, high = 1, last
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
