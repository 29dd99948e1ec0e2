"""How far a server scales: throughput over the number of callers, and the law that it follows. Pure.

The Universal Scalability Law says X(N) = r N / (1 + s (N - 1) + k N (N - 1)): `r` is what one caller gets done, `s` the
share of the work that callers queue for, `k` what each pair of them costs. Its highest point lies at
N* = sqrt((1 - s) / k); the knee, from which on more callers mostly wait, where the straight line of one caller meets
the highest throughput. N / X is linear in the three, so the fit is a weighted least squares without negative values;
intervals come from repeating it with throughputs drawn within their batch errors. Where levels lie farther from the law
than these errors explain, the errors are widened until they do (Birge's ratio): what is off is then the law, or the
machine from one step to the next.

Little's law says that callers = throughput times residence. Where a level misses it by 5 %, it was not steady: too
short, or the server changed while it was measured. One that misses it by 15 % has no say in the fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenops.bench.record import NS_PER_S, Failure
from qwenops.bench.segment import Driven
from qwenops.bench.window import answers_of, done_between, mean_work_ns, steady_window
from qwenops.statistics.samples import CONFIDENCE, Interval
from qwenops.statistics.special import t_quantile

LITTLE_TOLERANCE = 0.05
STILL_GAINS = 1.1
"""Times the best before: a last step that brings so much more has not seen the end."""
UNFIT = 0.15
"""A level that misses Little's law by so much says more about its beginning and its end than about the server."""
MOST_BATCHES = 10
_ANSWERS_LONG = 2.0
"""So many times as long as the work on an answer is a batch; else neighbours share answers and look too much alike."""
_ONE_SIDED, _NORMAL = 0.975, 1.96
_DRAWS = 400
_LEAST_ERROR = 0.005
"""No level is known better than this share, or one lucky level would rule the fit."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What one number of callers got done."""

    users: int
    per_s: float
    """Good answers per second after the ramp (`window.py`)."""
    error: float
    """Standard error of that, from the means of batches; 1.96 times it is half of a 95 % interval."""
    residence_s: float | None
    """Mean time from sending to the end, of what was worked on then; None without a good answer."""
    little_error: float | None
    """How far callers and throughput times residence are apart, as a share of the callers."""
    sent: int
    failed: int

    @property
    def steady(self) -> bool:
        """Whether Little's law holds."""
        return self.little_error is not None and self.little_error < LITTLE_TOLERANCE

    @property
    def fit(self) -> bool:
        """Whether it may have a say in the law."""
        return self.per_s > 0 and self.little_error is not None and self.little_error < UNFIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """A figure with where the true one lies."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """The law that the levels follow."""

    one_per_s: Estimated
    contention: Estimated
    coherence: Estimated
    most_per_s: Estimated
    """The highest throughput; where it never falls, that of the most callers that were tried."""
    peak_users: Estimated
    """N*; infinite where more callers never make it slower."""
    knee_users: Estimated
    misfit: float
    """The largest distance of a level from the law, as a share of the level."""

    def at(self, users: float) -> float:
        """Return the throughput that the law expects."""
        return float(_law(users, self.one_per_s.value, self.contention.value, self.coherence.value))


def level_of(driven: Driven, users: int) -> Level:
    """Return what a closed loop of so many callers got done after its ramp."""
    counted = [each for each in driven.records if each.failure is not Failure.INTERRUPTED]
    good = answers_of(counted)
    window = steady_window(driven, counted)
    number = _batches_in(window.length_ns, mean_work_ns(good, window.quickest_ns))
    edges = np.linspace(window.from_ns, window.until_ns, number + 1)
    done = done_between(good, edges, window.quickest_ns)
    batches = done.sum(axis=1) / max(window.length_ns / number / NS_PER_S, 1e-12)
    per_s = float(batches.mean())
    # Of few batches the spread is itself hardly known, so it counts as Student's t says.
    few = t_quantile(_ONE_SIDED, number - 1) / _NORMAL
    spread = few * float(batches.std(ddof=1)) / math.sqrt(number)
    stays_s = np.array([(each.ended_ns or 0) - (each.sent_ns or 0) for each in good]) / NS_PER_S
    inside = done.sum(axis=0)
    residence_s = float(np.average(stays_s, weights=inside)) if inside.sum() > 0 else None
    little = None if residence_s is None else abs(users - per_s * residence_s) / users
    return Level(
        users=users,
        per_s=per_s,
        error=max(spread, _LEAST_ERROR * per_s),
        residence_s=residence_s,
        little_error=little,
        sent=len(counted),
        failed=len(counted) - len(good),
    )


def _batches_in(length_ns: int, work_ns: float) -> int:
    """Return into how many parts a window is cut, so that each is long against the work on an answer."""
    longest = length_ns / (_ANSWERS_LONG * work_ns) if work_ns > 0 else float(MOST_BATCHES)
    return max(2, min(MOST_BATCHES, int(longest)))


def still_grows(per_s: Sequence[float]) -> bool:
    """Tell whether throughput still grows at the last step, so that neither knee nor maximum was seen.

    Args:
        per_s: Throughputs in the order of their numbers of callers.
    """
    return bool(per_s) and per_s[-1] > STILL_GAINS * max(per_s[:-1], default=0.0)


def fit_knee(levels: Sequence[Level], *, seed: int = 1, confidence: float = CONFIDENCE) -> Knee | None:
    """Fit the law to at least three levels with different numbers of callers; None for fewer.

    Args:
        levels: What each number of callers got done; those that are not fit for it are left out.
        seed: Of the draws for the intervals.
        confidence: Of the intervals.
    """
    used = [each for each in levels if each.fit]
    if len({each.users for each in used}) < 3:  # noqa: PLR2004 -- the law has three parameters
        return None
    users = np.array([each.users for each in used], dtype=np.float64)
    rates = np.array([each.per_s for each in used])
    errors = np.array([each.error for each in used])
    random = np.random.default_rng(seed)
    best = _figures(users, rates, errors / rates)
    expected = np.asarray(_law(users, best[0], best[1], best[2]))
    errors = errors * _birge(rates, expected, errors)
    drawn = np.maximum(rates + errors * random.standard_normal((_DRAWS, rates.size)), 0.05 * rates)
    all_figures = np.array([_figures(users, each, errors / rates) for each in drawn])
    tail = (1.0 - confidence) / 2
    lows, highs = (np.quantile(all_figures, each, axis=0, method="nearest") for each in (tail, 1.0 - tail))
    named = [
        Estimated(
            value=float(value),
            interval=Interval(low=float(min(low, value)), high=float(max(high, value)), confidence=confidence),
        )
        for value, low, high in zip(best, lows, highs, strict=True)
    ]
    return Knee(
        one_per_s=named[0],
        contention=named[1],
        coherence=named[2],
        most_per_s=named[3],
        peak_users=named[4],
        knee_users=named[5],
        misfit=float(np.max(np.abs(expected - rates) / rates)),
    )


def _birge(rates: Values, expected: Values, errors: Values) -> float:
    """Return by how much errors must grow to explain how far the levels lie from the law; at least 1."""
    spare = rates.size - 3  # the law has three parameters
    if spare < 1:
        return 1.0
    return max(1.0, math.sqrt(float((((rates - expected) / errors) ** 2).sum()) / spare))


def _figures(users: Values, rates: Values, relative_errors: Values) -> tuple[float, float, float, float, float, float]:
    """Return r, s, k, the highest throughput, its number of callers, and the knee."""
    one, contention, coherence = _parameters(users, rates, relative_errors)
    peak = math.sqrt(max(0.0, 1.0 - contention) / coherence) if coherence > 0 else math.inf
    most = float(_law(max(1.0, min(peak, float(users.max()))), one, contention, coherence))
    return one, contention, coherence, most, max(1.0, peak), max(1.0, most / one)


def _parameters(users: Values, rates: Values, relative_errors: Values) -> tuple[float, float, float]:
    """Return the least-squares solution of N / X = a + b (N - 1) + c N (N - 1) with b and c not below 0."""
    weights = rates / (users * relative_errors)
    columns = np.stack([np.ones_like(users), users - 1.0, users * (users - 1.0)], axis=1)
    target = users / rates * weights
    best: tuple[float, Values] | None = None
    for chosen in ([0, 1, 2], [0, 1], [0, 2], [0]):
        matrix = columns[:, chosen] * weights[:, None]
        solved, *_ = np.linalg.lstsq(matrix, target, rcond=None)
        if solved[0] <= 0 or np.any(solved[1:] < 0):
            continue
        loss = float(((matrix @ solved - target) ** 2).sum())
        if best is None or loss < best[0]:
            full = np.zeros(3)
            full[chosen] = solved
            best = (loss, full)
    assert best is not None  # noqa: S101 -- with one column the solution is positive
    first, second, third = (float(each) for each in best[1])
    return 1.0 / first, second / first, third / first


def _law(users: Values | float, one: float, contention: float, coherence: float) -> Values | float:
    return one * users / (1.0 + contention * (users - 1.0) + coherence * users * (users - 1.0))
