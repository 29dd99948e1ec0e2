"""How many independent requests a run of dependent ones is worth.

A slow request makes those behind it slow too: near saturation misses come in bursts of hundreds, and a thousand
requests may say no more than ten. Taking them as independent passes a queue at exactly its limit most of the time. So
requests are judged by blocks as long as the correlation time of their latencies (Sokal's estimate: the autocorrelations
summed up to a window of five such times). That estimate is too short for a run that has seen few blocks, so a verdict
that something is good makes it longer by a margin, found by simulation (`tests/bench/test_objective.py`). Pure.
"""

import math

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]

WINDOW_TIMES = 5.0
MARGIN = 7.0
"""Times the square root of (correlation time / requests): the share by which the estimate may be too short."""


def correlation_time(values: Series) -> float:
    """Return how many consecutive values of a series are worth one independent value; at least 1."""
    n = values.size
    centred = values - values.mean() if n else values
    if n < 3 or not np.any(np.abs(centred) > 1e-12 * (1.0 + abs(float(values.mean())))):  # noqa: PLR2004 -- no neighbours
        return 1.0
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    covariances = np.fft.irfft(spectrum * np.conj(spectrum), size)[:n]
    times = 2.0 * np.cumsum(covariances / covariances[0]) - 1.0
    wide_enough = np.arange(n) >= WINDOW_TIMES * times
    window = int(np.argmax(wide_enough)) if bool(wide_enough.any()) else n - 1
    return min(max(1.0, float(times[window])), float(n))


def midranks(values: Series) -> Series:
    """Return the rank of each value from 0; equal values share the mean of theirs. Infinite ones are the largest."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Series = (ends - (counts + 1) / 2.0)[inverse]
    return ranks


def block_length(time: float, n: int, *, margin: bool) -> float:
    """Return how long a block of `n` requests must be for its neighbours to say something new."""
    return time * (1.0 + MARGIN * math.sqrt(time / n)) if margin and n else time
