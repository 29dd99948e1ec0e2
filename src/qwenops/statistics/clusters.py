"""Figures of groups whose members are alike, such as the calls of one customer: what they are worth, and resampling.

Each group is one row of sums (calls, hits, whatever a figure needs), and a figure is made of the total of the rows. To
draw groups anew is then to multiply how often each was drawn with the rows, so thousands of draws take a moment.

A bootstrap of few groups is too narrow. Its ends are taken as far out as Student's t is wider than the normal
distribution (Hesterberg), so an interval stays within what the figure can be.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenops.statistics.hypotheses import bca_interval
from qwenops.statistics.samples import CONFIDENCE, Array, Interval, binomial_lower, binomial_upper
from qwenops.statistics.special import normal_cdf, t_quantile

Figures = Callable[[Array], Array]
"""Turns totals, shape (..., sums), into figures, shape (..., figures); not a number where there is none."""
Codes = npt.NDArray[np.int64]

RESAMPLES = 5000
MOST_GROUPS = 10_000
_AT_ONCE = 4_000_000
_FEWEST = 2.0
"""One group cannot be drawn differently."""
_KNOWN = 0.95
"""In so many of the draws a figure must exist, or its interval would be that of another figure."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resampled:
    """Figures of a sample, of its resamples and of the sample without each group."""

    seen: Array
    """Shape (figures,)."""
    drawn: Array
    """Shape (resamples, figures)."""
    left_out: Array
    """Shape (groups, figures)."""
    worth: float
    """How many groups of equal size they are worth."""


def resample_groups(
    rows: Array, sizes: npt.ArrayLike, figures: Figures, *, seed: int, resamples: int = RESAMPLES
) -> Resampled:
    """Draw whole groups with replacement and compute figures of each draw.

    Args:
        rows: What was counted in each group, shape (groups, sums).
        sizes: How many members each group has.
        figures: Computes figures from totals.
        seed: Of the draws.
        resamples: How many draws.
    """
    groups = rows.shape[0]
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // groups)
    found = []
    for first in range(0, resamples, at_once):
        num = min(at_once, resamples - first)
        places = rng.integers(0, groups, (num, groups)) + np.arange(num)[:, None] * groups
        times = np.bincount(places.ravel(), minlength=num * groups).reshape(num, groups)
        found.append(figures(times.astype(np.float64) @ rows))
    total: Array = rows.sum(axis=0)
    return Resampled(
        seen=figures(total), drawn=np.concatenate(found), left_out=figures(total - rows), worth=worth(sizes)
    )


def group_interval(resampled: Resampled, which: int, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the bias-corrected and accelerated interval of one of the figures.

    None where it cannot be known: the groups are worth fewer than two, or too many draws lack the figure.
    """
    seen, drawn = float(resampled.seen[which]), resampled.drawn[:, which]
    known = np.isfinite(drawn)
    if resampled.worth < _FEWEST or not math.isfinite(seen) or float(known.mean()) < _KNOWN:
        return None
    left_out = resampled.left_out[:, which]
    sure = min(_widened(confidence, resampled.worth), 1 - 1 / drawn.size)
    found = bca_interval(drawn[known], seen, left_out[np.isfinite(left_out)], sure)
    return Interval(low=found.low, high=found.high, confidence=confidence)


def worth(sizes: npt.ArrayLike) -> float:
    """Return how many groups of equal size groups are worth if the members of each are all alike (Kish).

    As many as there are members when each group has one; 0 without members.
    """
    counts = np.asarray(sizes, dtype=np.float64)
    squares = float((counts**2).sum())
    return float(counts.sum()) ** 2 / squares if squares > 0 else 0.0


def share_interval(hits: float, sizes: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the two-sided interval of a share of members, counted in groups that are worth fewer; None without any.

    Clopper and Pearson's of as many independent members as the groups are worth, rounded outwards. Exact where each
    group has one member; the members of a group are taken to be all alike, so else it is rather too wide.
    """
    num, hit = independent(hits, sizes)
    if not num:
        return None
    tail = (1 - confidence) / 2
    fewest = min(math.floor(hit + _ROUNDING), num)
    most = min(math.ceil(hit - _ROUNDING), num)
    return Interval(low=binomial_lower(fewest, num, tail), high=binomial_upper(most, num, tail), confidence=confidence)


def independent(hits: float, sizes: npt.ArrayLike) -> tuple[int, float]:
    """Return how many independent members groups are worth, rounded down, and how many hits among them."""
    members = float(np.asarray(sizes, dtype=np.float64).sum())
    num = math.floor(worth(sizes) + _ROUNDING)
    return num, hits * num / members if members else 0.0


def pool(groups: Codes, *, seed: int, most: int = MOST_GROUPS) -> Codes:
    """Return codes from 0 without gaps, of at most so many groups: where there are more, they are put together.

    That is done at random, so what is drawn varies as much as before, and takes less time and memory.
    """
    present, places = np.unique(groups, return_inverse=True)
    if present.size <= most:
        return places.astype(np.int64)
    dealt = np.random.default_rng(seed).permutation(present.size) % most
    return dealt[places].astype(np.int64)


def _widened(confidence: float, groups: float) -> float:
    """Return the confidence at which a bootstrap of so many groups is as sure as `confidence`."""
    degrees = groups - 1
    z = math.sqrt(groups / degrees) * t_quantile((1 + confidence) / 2, degrees)
    return 1 - 2 * normal_cdf(-z)
