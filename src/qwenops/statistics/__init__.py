"""Quantiles, intervals, tests and fits: pure functions of numbers, with numpy and nothing else.

`special` has the distributions, `samples` quantiles, proportions and means, `hypotheses` bootstrap and tests, `fits`
lines, trends and monotone fits, `arrivals` what random arrivals must look like. Randomness comes in as a seed.
"""

from qwenops.statistics.arrivals import dispersion, kolmogorov_p, ks_exponential
from qwenops.statistics.fits import (
    Line,
    Slope,
    Trend,
    change_points,
    correlation_inflation,
    linear_fit,
    mann_kendall,
    mser5,
    neighbours,
    pava,
    theil_sen,
)
from qwenops.statistics.hypotheses import bootstrap_bca, bootstrap_series, holm, sign_flip_p, t_test_p, tost_p
from qwenops.statistics.samples import (
    CONFIDENCE,
    Interval,
    Sides,
    Values,
    batch_means,
    batches,
    binomial_interval,
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
    "Interval",
    "Line",
    "Sides",
    "Slope",
    "Trend",
    "Values",
    "batch_means",
    "batches",
    "binomial_cdf",
    "binomial_interval",
    "binomial_lower",
    "binomial_upper",
    "bootstrap_bca",
    "bootstrap_series",
    "change_points",
    "correlation_inflation",
    "dispersion",
    "holm",
    "kolmogorov_p",
    "ks_exponential",
    "linear_fit",
    "mann_kendall",
    "mean_interval",
    "mser5",
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
