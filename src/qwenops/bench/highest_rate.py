"""At which rate an objective stops being met: from a few loads, each with its share of misses, to a rate. Pure.

Misses only become more with the rate. While the search is far away, the monotone (PAVA) shares of the loads bracket the
rate. Near it, a curve through all loads says more than the nearest one: the log-odds of a miss rise in a straight line
with the logarithm of the rate, as they nearly do for queues around one rate. All lines are weighed by how well they
explain the misses, counted in blocks (`dependence.py`), which gives the rate and where it lies with 95 %. A prior on
the steepness keeps the line from being vertical where the loads happen to fall into all good and all bad.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwenops.bench.dependence import block_length
from qwenops.statistics.fits import pava
from qwenops.statistics.samples import CONFIDENCE, Interval

_STEEPNESSES = np.geomspace(1.0, 60.0, 40)
_USUAL_STEEPNESS = 5.0
_STEEPNESS_SPREAD = 1.0
"""Of the logarithm. M/M/c and processor sharing have 2 to 30, by how close to saturation the objective lies."""
_STEPS_PER_E = 400
_BEYOND = 1.0
"""How far beyond the loads the rate may lie, in factors of e."""
_LOCAL = 0.45
"""How far from the rate a load may be, in factors of e, and still say something about the line at the rate; the
nearer, the more it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one load said about one clause."""

    rate_per_s: float
    misses: int
    n: int
    time: float = 1.0
    """Their correlation time, in requests."""

    @property
    def independent(self) -> float:
        """How many independent requests they are worth."""
        return self.n / self.time

    @property
    def share(self) -> float:
        """The share of misses."""
        return self.misses / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HighestRate:
    """The rate from which on more requests miss than may."""

    rate_per_s: float
    interval: Interval
    inside: bool
    """Whether some loads lie on either side of it; else it is beyond what was tried."""


def monotone_shares(loads: Sequence[Observed]) -> list[tuple[float, float]]:
    """Return (rate, share of misses) by ascending rate, made monotone."""
    ordered = sorted(loads, key=lambda load: load.rate_per_s)
    fitted = pava([load.share for load in ordered], [load.independent for load in ordered])
    return [(load.rate_per_s, float(share)) for load, share in zip(ordered, fitted, strict=True)]


def bracket(loads: Sequence[Observed], allowed: float) -> tuple[float | None, float | None]:
    """Return the highest rate that seems good enough and the lowest that does not; None where there is none."""
    shares = monotone_shares(loads)
    good = [rate for rate, share in shares if share <= allowed]
    bad = [rate for rate, share in shares if share > allowed]
    return (max(good) if good else None, min(bad) if bad else None)


def highest_rate(loads: Sequence[Observed], allowed: float, confidence: float = CONFIDENCE) -> HighestRate:
    """Return the rate at which the share of misses reaches `allowed`.

    Args:
        loads: At least one, with any rates.
        allowed: The share of requests that may miss.
        confidence: Of the interval.
    """
    logs = np.log([load.rate_per_s for load in loads])
    low, high = bracket(loads, allowed)
    known = [rate for rate in (low, high) if rate is not None]
    centre = sum(math.log(rate) for rate in known) / len(known)
    away = np.abs(logs - centre)
    reach = max(_LOCAL, 1.5 * float(np.sort(away)[min(2, away.size - 1)]))
    requests = np.array([load.n for load in loads]) * np.maximum(0.0, 1.0 - (away / reach) ** 2)
    # One correlation time for all: each load's own is longest where it was unlucky, and would silence the misses.
    time = float(np.average([load.time for load in loads], weights=requests))
    worth = requests / block_length(time, int(requests.sum()), margin=True)
    missed = worth * np.array([load.share for load in loads])
    begin, end = float(logs.min()) - _BEYOND, float(logs.max()) + _BEYOND
    grid = np.linspace(begin, end, max(2, round((end - begin) * _STEPS_PER_E)))
    odds = math.log(allowed / (1.0 - allowed))
    # [place of the crossing, steepness, load]
    logits = odds + _STEEPNESSES[None, :, None] * (logs[None, None, :] - grid[:, None, None])
    likely = (missed * -np.logaddexp(0.0, -logits) + (worth - missed) * -np.logaddexp(0.0, logits)).sum(axis=2)
    likely -= (np.log(_STEEPNESSES / _USUAL_STEEPNESS)[None, :] / _STEEPNESS_SPREAD) ** 2 / 2
    weights = np.exp(likely - likely.max()).sum(axis=1)
    weights /= weights.sum()
    cumulated = np.cumsum(weights)
    tail = (1.0 - confidence) / 2
    ends = np.interp([tail, 1.0 - tail], cumulated, grid)
    return HighestRate(
        rate_per_s=float(np.exp(np.interp(0.5, cumulated, grid))),
        interval=Interval(low=float(np.exp(ends[0])), high=float(np.exp(ends[1])), confidence=confidence),
        inside=low is not None and high is not None,
    )
