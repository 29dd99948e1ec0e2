"""Quantiles, intervals, tests and fits: pure functions of numbers, with numpy and nothing else.

`special` has the distributions, `samples` quantiles, proportions and means, `hypotheses` bootstrap and tests, `fits`
lines, trends and monotone fits, `arrivals` what random arrivals must look like. Randomness comes in as a seed.
"""

from qwenops.statistics.arrivals import dispersion, kolmogorov_p, ks_exponential
from qwenops.statistics.fits import (
    Line,
    RankTrend,
    Slope,
    change_points,
    correlation_inflation,
    linear_fit,
    mann_kendall,
    neighbours,
    pava,
    theil_sen,
)
from qwenops.statistics.hypotheses import bootstrap_bca, bootstrap_series, fisher_p, holm, sign_flip_p, t_test_p, tost_p
from qwenops.statistics.samples import (
    CONFIDENCE,
    Array,
    Interval,
    Sides,
    Values,
    binomial_lower,
    binomial_upper,
    mean_interval,
    quantile,
    quantile_interval,
    quantile_rank,
    quantile_ranks,
    quantile_upper,
    smallest_n,
)
from qwenops.statistics.special import binomial_cdf, normal_cdf, normal_quantile, t_cdf, t_quantile

__all__ = [
    "CONFIDENCE",
    "Array",
    "Interval",
    "Line",
    "RankTrend",
    "Sides",
    "Slope",
    "Values",
    "binomial_cdf",
    "binomial_lower",
    "binomial_upper",
    "bootstrap_bca",
    "bootstrap_series",
    "change_points",
    "correlation_inflation",
    "dispersion",
    "fisher_p",
    "holm",
    "kolmogorov_p",
    "ks_exponential",
    "linear_fit",
    "mann_kendall",
    "mean_interval",
    "neighbours",
    "normal_cdf",
    "normal_quantile",
    "pava",
    "quantile",
    "quantile_interval",
    "quantile_rank",
    "quantile_ranks",
    "quantile_upper",
    "sign_flip_p",
    "smallest_n",
    "t_cdf",
    "t_quantile",
    "t_test_p",
    "theil_sen",
    "tost_p",
]
