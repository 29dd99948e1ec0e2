"""How sure a simulation can be of a share that it counted."""

from qwenops.statistics import Interval, binomial_lower, binomial_upper


def binomial_interval(counted: int, runs: int, confidence: float) -> Interval:
    """Return Clopper and Pearson's two-sided interval of a share."""
    tail = (1 - confidence) / 2
    return Interval(
        low=binomial_lower(counted, runs, tail), high=binomial_upper(counted, runs, tail), confidence=confidence
    )
