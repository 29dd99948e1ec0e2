"""The parts a run is made of. A command is a sequence of segments; `drive.drive` runs one."""

from collections.abc import Sequence
from dataclasses import dataclass

from qwenops.bench.record import Phase, RequestRecord

SEGMENT_ITEMS = 1_000_000
"""Room for the items of one segment: the next one begins behind, however many were asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Send on schedule, whatever the server does."""

    offsets_ns: Sequence[int]
    """When to send, in nanoseconds after the segment's beginning, ascending (`schedule.py` makes them)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """Keep `users` callers busy: each sends its next request when its answer is complete."""

    users: int
    requests: int | None = None
    """Stop after this many; None stops by the segment's duration."""
    think_s: float = 0.0
    """Pause of a caller between answer and next request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One part of a run: how to send, for how long, under which name."""

    name: str
    load: OpenLoop | ClosedLoop
    phase: Phase = Phase.MEASURE
    duration_s: float | None = None
    """The window; without one an open loop lasts until its last send time, a closed loop until all is answered."""
    first_item: int | None = None
    """Number of the workload's item that its first request asks. None for `SEGMENT_ITEMS` times the number of segments
    that its target was sent before: so it asks what none of them asked, as far as the workload reaches, and finds no
    whole prompt in a cache. Segments of a comparison ask the same ones."""
    max_in_flight: int | None = None
    """Bound on an overload: what would exceed it is not sent and recorded as dropped by the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """What came of a segment."""

    segment: Segment
    began_ns: int
    """Since the run's origin."""
    window_ns: int
    """Length of the window that throughput is counted in."""
    ended_ns: int
    """When the last answer was there, or was given up."""
    records: Sequence[RequestRecord]
    dropped: int = 0
    """Requests that the client did not send because of `max_in_flight`."""
    interrupted: bool = False

    @property
    def unsent_ns(self) -> tuple[int, ...]:
        """When the requests of a schedule were due that were not sent; empty where that is not known.

        A schedule that was continued after a gap has sent some of them at other times than planned.
        """
        if not isinstance(self.segment.load, OpenLoop) or not self.dropped:
            return ()
        sent = {each.scheduled_ns for each in self.records}
        until_ns = self.began_ns + self.window_ns
        due = (self.began_ns + each for each in self.segment.load.offsets_ns)
        unsent = tuple(each for each in due if each not in sent and each <= until_ns)
        return unsent if len(unsent) == self.dropped else ()
