"""When to send: absolute offsets from the beginning of a segment, whole before the first request goes out.

All gaps come from one seeded stream (PCG64), whoever sends: workers take shares of one schedule. Workers that each
draw from the same seed would send in step, and a Poisson process would arrive in bursts as large as there are workers.
Offsets are absolute, so a late request does not push the later ones back.

    poisson    exponential gaps; counts in a window vary as those of independent callers do (dispersion 1)
    gamma      gaps of the same mean and of shape `burstiness`; below 1 they come in bursts, above 1 more evenly
    constant   exactly one every 1 / rate seconds

Gaps are never stretched to hit a total: a Poisson schedule of one minute at one a second has 60 requests on average,
not always. A longer schedule begins with the shorter one of the same seed.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from qwenops.bench.record import NS_PER_S
from qwenops.errors import ConfigError
from qwenops.text import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

ArrivalKind = Literal["poisson", "constant", "gamma"]

MOST_REQUESTS = 20_000_000
"""More would fill the memory of the machine that measures."""

_BLOCK = 4096
"""Gaps drawn at once; part of what a seed means, because a stream is drawn block by block."""


def arrivals(
    kind: ArrivalKind,
    rate_per_s: float,
    *,
    duration_s: float | None = None,
    count: int | None = None,
    seed: int,
    burstiness: float = 1.0,
) -> tuple[int, ...]:
    """Return when to send, in nanoseconds after the beginning, ascending.

    Args:
        kind: How the requests are spaced.
        rate_per_s: Requests per second on average.
        duration_s: Offsets end before this many seconds.
        count: There are at most this many.
        seed: Of the one stream that all gaps come from.
        burstiness: Shape of gamma gaps; the others have none.

    Raises:
        ConfigError: The rate, the bounds or the shape make no schedule.
    """
    _check(kind, rate_per_s, duration_s, count, burstiness)
    most = MOST_REQUESTS + 1 if count is None else count
    end_ns = math.inf if duration_s is None else duration_s * NS_PER_S
    made = _constant(rate_per_s) if kind == "constant" else _drawn(kind, rate_per_s, seed, burstiness)
    found: list[int] = []
    for offset_ns in made:
        if len(found) >= most or offset_ns >= end_ns:
            break
        found.append(offset_ns)
    if len(found) > MOST_REQUESTS:
        raise _too_many()
    return tuple(found)


def share(offsets: Sequence[int], worker: int, num_workers: int) -> tuple[int, ...]:
    """Return one worker's part of a schedule: all parts together are the schedule, each request once.

    They are dealt in turn. A part of a Poisson schedule is not Poisson by itself; the whole is, and the whole is what
    the server sees.
    """
    if not 0 <= worker < num_workers:
        raise ConfigError(
            say("There is no worker {worker} among {number}.", worker=worker, number=num_workers),
            hint=say("Workers are counted from 0."),
        )
    return tuple(offsets[worker::num_workers])


def schedule_hash(offsets: Sequence[int]) -> str:
    """Return a name for a schedule: two runs that sent at the same times have the same."""
    digest = hashlib.sha256()
    for offset_ns in offsets:
        digest.update(offset_ns.to_bytes(8, "big"))
    return digest.hexdigest()[:16]


def _constant(rate_per_s: float) -> Iterator[int]:
    """Yield evenly spaced offsets; each is computed anew, so no rounding adds up."""
    index = 0
    while True:
        yield round(index * NS_PER_S / rate_per_s)
        index += 1


def _drawn(kind: ArrivalKind, rate_per_s: float, seed: int, burstiness: float) -> Iterator[int]:
    """Yield the running sum of random gaps; the first request waits one gap too."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(seed))
    passed = 0.0
    while True:
        gaps: NDArray[np.float64]
        if kind == "gamma":
            gaps = random.standard_gamma(burstiness, _BLOCK) / burstiness
        else:
            gaps = random.standard_exponential(_BLOCK)
        moments = passed + np.cumsum(gaps)
        passed = float(moments[-1])
        yield from np.rint(moments * (NS_PER_S / rate_per_s)).astype(np.int64).tolist()


def _check(
    kind: ArrivalKind, rate_per_s: float, duration_s: float | None, count: int | None, burstiness: float
) -> None:
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise ConfigError(
            say("A rate of {rate} requests a second makes no schedule.", rate=rate_per_s),
            hint=say("Give a rate above 0; 0.05 is one request in 20 seconds."),
        )
    if duration_s is None and count is None:
        raise ConfigError(
            say("The schedule has no end."), hint=say("Say how long to send, or how many requests to send.")
        )
    if kind == "gamma" and not (math.isfinite(burstiness) and burstiness > 0):
        raise ConfigError(
            say("A burstiness of {value} makes no schedule.", value=burstiness),
            hint=say("Give a number above 0: 1 is Poisson, less comes in bursts."),
        )
    expected = min(math.inf if count is None else count, math.inf if duration_s is None else duration_s * rate_per_s)
    if expected > MOST_REQUESTS:
        raise _too_many()


def _too_many() -> ConfigError:
    return ConfigError(
        say("The schedule has more than {most} requests.", most=MOST_REQUESTS),
        hint=say("Send for a shorter time, or at a lower rate."),
    )
