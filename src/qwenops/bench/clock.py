"""Where the time comes from: one clock for a run, real here, virtual in `simulated.loop`.

Durations are read from a monotonic clock in whole nanoseconds; the wall clock is read once at the beginning of a run
(its anchor), so a step of the wall clock corrupts no latency.
"""

import asyncio
import time
from typing import Protocol, runtime_checkable


class Clock(Protocol):
    """Reads the time and waits for a time."""

    virtual: bool
    """Whether hours pass in seconds; then nothing real may be waited for."""

    def now_ns(self) -> int:
        """Return nanoseconds of a monotonic clock; only differences mean anything."""
        ...

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970."""
        ...

    async def sleep_until_ns(self, at_ns: int) -> None:
        """Wait until `now_ns()` is at least `at_ns`."""
        ...


class RealClock:
    """The machine's clocks."""

    virtual = False

    def now_ns(self) -> int:
        """Return nanoseconds of the performance counter."""
        return time.perf_counter_ns()

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970."""
        return time.time_ns()

    async def sleep_until_ns(self, at_ns: int) -> None:
        """Wait; an event loop that wakes too early is sent to sleep again."""
        while (left_ns := at_ns - time.perf_counter_ns()) > 0:  # noqa: ASYNC110 -- what is waited for is the time itself
            await asyncio.sleep(left_ns / 1e9)


@runtime_checkable
class Timed(Protocol):
    """An event loop that has a time of its own."""

    def clock(self) -> Clock:
        """Return the clock that reads it."""
        ...


def running_clock() -> Clock:
    """Return the clock of the loop that runs: its own where it has one (virtual time), else the machine's."""
    loop: object = asyncio.get_running_loop()
    return loop.clock() if isinstance(loop, Timed) else RealClock()
