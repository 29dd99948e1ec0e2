"""Lines and steps through points: monotone and straight fits, slopes with intervals, trends, change points."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qwenops.statistics.samples import CONFIDENCE, Values
from qwenops.statistics.special import normal_cdf, normal_quantile, t_quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """How much y rises for each unit of x, and where the true slope lies."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A straight line through points, by least squares."""

    slope: Slope
    intercept: float
    residual_sd: float

    def at(self, x: float) -> float:
        """Return its height at `x`."""
        return self.intercept + self.slope.value * x


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTrend:
    """Whether a series rises or falls: Kendall's tau with time, and how likely so much of it is without a trend."""

    tau: float
    p: float


def pava(values: Values, weights: Values | None = None, *, increasing: bool = True) -> npt.NDArray[np.float64]:
    """Return the monotone sequence nearest to `values` in weighted squares, by pooling adjacent violators."""
    sign = 1.0 if increasing else -1.0
    wanted = sign * np.asarray(values, dtype=np.float64)
    given = np.ones_like(wanted) if weights is None else np.asarray(weights, dtype=np.float64)
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many values
    for value, weight in zip(wanted, given, strict=True):
        mean, total, count = float(value), float(weight), 1
        while pools and pools[-1][0] > mean:
            earlier, earlier_weight, earlier_count = pools.pop()
            mean = (mean * total + earlier * earlier_weight) / (total + earlier_weight)
            total, count = total + earlier_weight, count + earlier_count
        pools.append((mean, total, count))
    return sign * np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])


def linear_fit(x: Values, y: Values, confidence: float = CONFIDENCE) -> Line:
    """Return the least-squares line through at least three points, its slope with Student's interval."""
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check_points(across, up, at_least=3)
    centred = across - across.mean()
    spread = float(centred @ centred)
    slope = float(centred @ up) / spread
    intercept = float(up.mean() - slope * across.mean())
    residuals = up - intercept - slope * across
    degrees = across.size - 2
    residual_sd = math.sqrt(float(residuals @ residuals) / degrees)
    half = t_quantile((1 + confidence) / 2, degrees) * residual_sd / math.sqrt(spread)
    return Line(
        slope=Slope(value=slope, low=slope - half, high=slope + half, confidence=confidence),
        intercept=intercept,
        residual_sd=residual_sd,
    )


def theil_sen(x: Values, y: Values, confidence: float = CONFIDENCE, *, inflation: float = 1.0) -> Slope:
    """Return the median of the slopes between all pairs of points, with Sen's interval.

    Outliers hardly move it. Points that depend on their neighbours make the interval too short: block a series first,
    and give what is left of the dependence as `inflation` of the variance (`correlation_inflation`). Time and memory
    are quadratic.
    """
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check_points(across, up, at_least=2)
    first, second = np.triu_indices(across.size, k=1)
    run = across[second] - across[first]
    slopes = np.sort((up[second] - up[first])[run != 0] / run[run != 0])
    deviation = math.sqrt(inflation * _kendall_variance(up))
    margin = normal_quantile((1 + confidence) / 2) * deviation
    lowest = math.floor((slopes.size - margin) / 2) - 1
    highest = math.ceil((slopes.size + margin) / 2)
    return Slope(
        value=float(np.median(slopes)),
        low=float(slopes[lowest]) if lowest >= 0 else -math.inf,
        high=float(slopes[highest]) if highest < slopes.size else math.inf,
        confidence=confidence,
    )


def mann_kendall(y: Values, *, correlation: float = 0.0) -> RankTrend:
    """Return Kendall's tau of a series with time and the two-sided p-value.

    Without `correlation` the p-value is that of independent values, corrected for ties and continuity. With it, tau is
    held against those of 4,000 simulated series without a trend whose neighbours correlate so much (`neighbours`).
    """
    up = np.asarray(y, dtype=np.float64)
    first, second = np.triu_indices(up.size, k=1)
    score = float(np.sign(up[second] - up[first]).sum())
    variance = _kendall_variance(up)
    if variance <= 0:
        return RankTrend(tau=0.0, p=1.0)
    tau = score / first.size
    if correlation > 0:
        simulated = _taus_without_trend(up.size, round(correlation, 2))
        as_far = simulated.size - int(np.searchsorted(simulated, abs(tau) - 1e-12))
        return RankTrend(tau=tau, p=(as_far + 1) / (simulated.size + 1))
    z = max(abs(score) - 1, 0) / math.sqrt(variance)
    return RankTrend(tau=tau, p=2 * normal_cdf(-z))


def neighbours(residuals: Values, *, most: float = 0.95) -> float:
    """Return how much neighbours correlate in what a straight line has left of a series: from 0 to `most`.

    What a short series loses of it to the line and the mean is put back: it shows about r - (2 + 4 r) / n.
    """
    left = np.asarray(residuals, dtype=np.float64)
    left = left - left.mean()
    power = float(left @ left)
    if power <= 0 or left.size < 6:  # noqa: PLR2004 -- nothing varies, or there are hardly any neighbours
        return 0.0
    seen = float(left[1:] @ left[:-1]) / power
    true = (seen * int(left.size) + 2) / (int(left.size) - 4)
    return min(max(true, 0.0), most)


def correlation_inflation(correlation: float) -> float:
    """Return by how much the variance of a mean grows when neighbours correlate so much: 1 for independent values."""
    return (1 + correlation) / (1 - correlation)


def change_points(values: Values, *, penalty: float = 3.0, shortest: int = 5) -> tuple[int, ...]:
    """Return the indexes at which the level of a series of independent values changes for good.

    The exact best cut into pieces of constant level (optimal partitioning): each further piece must lower the squared
    residuals, measured in units of the noise, by `penalty` times 2 ln n. The noise is taken robustly from differences
    of neighbours, so steps do not inflate it.
    """
    series = np.asarray(values, dtype=np.float64)
    n = series.size
    if n < 2 * shortest:
        return ()
    noise = float(np.median(np.abs(np.diff(series)))) / (0.6744897501960817 * math.sqrt(2))
    if noise <= 0:
        noise = max(float(np.std(np.diff(series))) / math.sqrt(2), 1e-12 * max(1.0, float(np.abs(series).max())))
    scaled = (series - series.mean()) / noise
    sums = np.concatenate(([0.0], np.cumsum(scaled)))
    squares = np.concatenate(([0.0], np.cumsum(scaled**2)))
    price = penalty * 2 * math.log(n)
    best = np.full(n + 1, np.inf)
    best[0] = -price
    came_from = np.zeros(n + 1, dtype=np.int64)
    for end in range(shortest, n + 1):
        begins = np.arange(end - shortest + 1)
        lengths = end - begins
        costs = squares[end] - squares[begins] - (sums[end] - sums[begins]) ** 2 / lengths
        totals = best[begins] + costs + price
        came_from[end] = int(np.argmin(totals))
        best[end] = totals[came_from[end]]
    found: list[int] = []
    at = int(came_from[n])
    while at > 0:
        found.append(at)
        at = int(came_from[at])
    return tuple(reversed(found))


@lru_cache(maxsize=256)
def _taus_without_trend(size: int, correlation: float, num: int = 4000) -> npt.NDArray[np.float64]:
    """Return the sizes of Kendall's tau of series without a trend whose neighbours correlate, ascending."""
    steps = np.random.default_rng(size).normal(size=(size, num))
    series = np.empty_like(steps)
    series[0] = steps[0]
    for each in range(1, size):
        series[each] = correlation * series[each - 1] + math.sqrt(1 - correlation**2) * steps[each]
    score = np.zeros(num)
    for each in range(1, size):
        score += np.sign(series[each:] - series[:-each]).sum(axis=0)
    return np.sort(np.abs(score) / (size * (size - 1) / 2))


def _check_points(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], *, at_least: int) -> None:
    if x.shape != y.shape or x.size < at_least or np.ptp(x) == 0:
        raise ValueError(f"{x.size} and {y.size} values make no line; at least {at_least} different points do")


def _kendall_variance(values: npt.NDArray[np.float64]) -> float:
    """Return the variance of Kendall's score of a series without a trend, less what its ties take away."""
    n = values.size
    _, ties = np.unique(values, return_counts=True)
    tied = float((ties * (ties - 1) * (2 * ties + 5)).sum())
    return float(n * (n - 1) * (2 * n + 5) - tied) / 18
