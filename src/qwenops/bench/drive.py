"""Send the requests of one segment and collect what came of them.

An open loop sends on an absolute schedule and never waits for answers; a server that stands still delays no send, so
nothing is omitted from the figures. A closed loop keeps a number of callers busy. What is in flight at the end of the
window is waited for (up to a limit) and counted: a request belongs to the window by its schedule alone.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from qwenops.bench.record import RequestRecord
from qwenops.bench.segment import Driven, Segment


@dataclass(slots=True, kw_only=True)
class Progress:
    """How a segment is going, for whoever looks from outside while it runs."""

    sent: int = 0
    done: int = 0
    failed: int = 0
    dropped: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What an earlier sitting has already done of a segment."""

    elapsed_ns: int = 0
    """How much of the segment's time has passed."""
    over: frozenset[int] = frozenset()
    """Positions in the segment that have a record or were dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errands:
    """Who sends, and who is told."""

    send: Callable[..., "asyncio.Future[RequestRecord]"]
    keep: Callable[[RequestRecord], None]
    progress: Progress = field(default_factory=Progress)


async def drive(segment: Segment, errands: Errands, stop: asyncio.Event) -> Driven:
    """Run one segment; `stop` ends it early with what is there."""
    raise NotImplementedError
