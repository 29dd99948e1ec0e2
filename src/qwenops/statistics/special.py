"""The distributions that the tests and intervals need: Student's t, beta and binomial, normal.

Everything follows from the regularised incomplete beta function, which is computed by its continued fraction
(modified Lentz). Scalars in, scalars out; results of repeated questions are kept.
"""

import math
from functools import lru_cache
from statistics import NormalDist

_STANDARD = NormalDist()
_TINY = 1e-300
_MOST_TERMS = 100_000
_MOST_STEPS = 400


def normal_cdf(x: float) -> float:
    """Return the probability that a standard normal value is at most `x`."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_quantile(p: float) -> float:
    """Return the value that a standard normal one does not exceed with probability `p`, 0 < p < 1."""
    return _STANDARD.inv_cdf(p)


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for a, b > 0."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction of the mirrored question converges fast
        return 1.0 - _beta_part(1 - x, b, a)
    return _beta_part(x, a, b)


@lru_cache(maxsize=65536)
def beta_quantile(p: float, a: float, b: float) -> float:
    """Return the x with I_x(a, b) = p: Newton's steps, halved where they leave the bracket."""
    if p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    low, high, x = 0.0, 1.0, a / (a + b)
    for _step in range(_MOST_STEPS):
        excess = beta_cdf(x, a, b) - p
        if excess > 0:
            high = x
        else:
            low = x
        density = _beta_density(x, a, b)
        following = x - excess / density if density > 0 else math.nan
        if not low < following < high:
            # Near 0 the answer is small by orders of magnitude, and halving the logarithm is quicker.
            following = math.sqrt(low * high) if low > 0 and high > 4 * low else (low + high) / 2
        if abs(following - x) <= 1e-15 * x or high - low <= 1e-15 * high:
            return following
        x = following
    return x


@lru_cache(maxsize=65536)
def binomial_cdf(k: int, n: int, p: float) -> float:
    """Return the probability of at most `k` successes in `n` trials of probability `p`."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return beta_cdf(1 - p, n - k, k + 1)


def t_cdf(t: float, degrees: float) -> float:
    """Return the probability that Student's t with so many degrees of freedom is at most `t`."""
    if math.isinf(t):
        return 0.0 if t < 0 else 1.0
    if abs(t) < 1:  # the tail is no smaller than the middle, and the middle is more exact
        return 0.5 + math.copysign(0.5, t) * beta_cdf(t * t / (degrees + t * t), 0.5, degrees / 2)
    tail = 0.5 * beta_cdf(degrees / (degrees + t * t), degrees / 2, 0.5)
    return tail if t < 0 else 1.0 - tail


_MIDDLE = 0.25
"""A tail that is larger belongs to a value near 0."""


@lru_cache(maxsize=4096)
def t_quantile(p: float, degrees: float) -> float:
    """Return the value that Student's t does not exceed with probability `p`, 0 < p < 1."""
    if p == 0.5:  # noqa: PLR2004 -- the middle of a symmetric distribution
        return 0.0
    tail = min(p, 1 - p)
    if tail > _MIDDLE:  # close to 0, where 1 - x would keep few digits
        y = beta_quantile(abs(2 * p - 1), 0.5, degrees / 2)
        t = math.sqrt(degrees * y / (1 - y))
    else:
        x = beta_quantile(2 * tail, degrees / 2, 0.5)
        t = math.sqrt(degrees * (1 - x) / x) if x > 0 else math.inf
    return -t if p < 0.5 else t  # noqa: PLR2004 -- the middle again


def _beta_density(x: float, a: float, b: float) -> float:
    if not 0 < x < 1:
        return 0.0
    log = (a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - _log_beta(a, b)
    return math.exp(min(log, 700.0))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _beta_part(x: float, a: float, b: float) -> float:
    """Return I_x(a, b) where x is small enough for the continued fraction to converge quickly."""
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b)) / a
    c, d = 1.0, 1.0 / _away(1 - (a + b) * x / (a + 1))
    fraction = d
    for term in range(1, _MOST_TERMS):
        even = term * (b - term) * x / ((a + 2 * term - 1) * (a + 2 * term))
        d = 1.0 / _away(1 + even * d)
        c = _away(1 + even / c)
        fraction *= d * c
        odd = -(a + term) * (a + b + term) * x / ((a + 2 * term) * (a + 2 * term + 1))
        d = 1.0 / _away(1 + odd * d)
        c = _away(1 + odd / c)
        fraction *= d * c
        if abs(d * c - 1) < 1e-15:  # noqa: PLR2004 -- nothing changes any more
            break
    return front * fraction


def _away(value: float) -> float:
    """Keep a denominator away from 0."""
    return value if abs(value) > _TINY else _TINY
