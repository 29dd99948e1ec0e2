"""What random arrivals must look like: gaps that are exponential, counts as dispersed as Poisson's."""

import math

import numpy as np

from qwenops.statistics.samples import Values

_TERMS = 100


def ks_exponential(gaps: Values, mean: float) -> tuple[float, float]:
    """Return Kolmogorov and Smirnov's distance of `gaps` from the exponential distribution of a mean, with its p.

    The mean must be the one that was asked for, not one that was computed from the same gaps.
    """
    ordered = np.sort(np.asarray(gaps, dtype=np.float64))
    n = ordered.size
    expected = -np.expm1(-ordered / mean)
    above = np.arange(1, n + 1) / n - expected
    below = expected - np.arange(n) / n
    distance = float(max(above.max(), below.max()))
    return distance, kolmogorov_p(distance, n)


def kolmogorov_p(distance: float, n: int) -> float:
    """Return how likely so large a distance of `n` samples from their true distribution is (Stephens' correction)."""
    root = math.sqrt(n)
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:  # noqa: PLR2004 -- the series converges slowly there, and the probability is 1 to 10 digits
        return 1.0
    total = sum((-1.0) ** (term - 1) * math.exp(-2 * (term * scaled) ** 2) for term in range(1, _TERMS))
    return min(max(2 * total, 0.0), 1.0)


def dispersion(times: Values, window: float, horizon: float) -> float:
    """Return variance over mean of the counts in consecutive windows from 0 to `horizon`: 1 for Poisson arrivals."""
    num = int(horizon / window)
    counts, _ = np.histogram(np.asarray(times, dtype=np.float64), bins=num, range=(0, num * window))
    return float(counts.var(ddof=1) / counts.mean())
