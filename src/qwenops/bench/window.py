"""The part of a segment that its rates are taken from: what comes after the ramp. Pure.

A segment begins at an empty server, and its first answers are under way while nothing can be done yet: over the whole
window every rate would be too low, by about one answer time in each window. So the ramp is left out. It ends when all
that was in flight at the first answer is over (with callers that wait: when each has had its first answer), and half an
answer later. It is never more than half of the window, and what is left out is said. A single caller has no ramp. Where
callers were to ask so many requests, the end, at which fewer and fewer callers are left, is no part of it either.

Within it, an answer counts by the part of it that was worked on there, so neither what was under way at an end nor what
merely queues there is a matter of luck. There is one definition of answers a second, and this is it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwenops.bench.record import RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven
from qwenops.statistics.samples import Array

LARGEST_RAMP = 0.5
"""Of the window, that is left out at most."""
NOTABLE_RAMP = 0.3
"""Of the window: a longer ramp is a reason to measure longer."""

_APART = 0.5
"""Of an answer's work, between the ramp's last answer and the window: right after it callers have begun afresh, and
what is under way there is shorter than what is under way at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyWindow:
    """From when to when rates are taken, in the run's own time."""

    from_ns: int
    until_ns: int
    began_ns: int
    """Of the segment."""
    quickest_ns: int = 0
    """The shortest time from sending to the first content: so long before it, work on a request begins."""
    is_over: bool = True
    """Whether the ramp was over before it would have taken too much of the window."""

    @property
    def length_ns(self) -> int:
        """How long it is."""
        return max(0, self.until_ns - self.from_ns)

    @property
    def ramp_ns(self) -> int:
        """What is left out at the beginning."""
        return self.from_ns - self.began_ns


def steady_window(driven: Driven, records: Sequence[RequestRecord] | None = None) -> SteadyWindow:
    """Return the part of a segment that is neither ramp nor end; `records` are those that count, or its first ones."""
    counted = driven.records if records is None else records
    began_ns, load = driven.began_ns, driven.segment.load
    spans = [
        (each.sent_ns, each.ended_ns) for each in counted if each.sent_ns is not None and each.ended_ns is not None
    ]
    until_ns = _until_ns(driven, spans)
    quickest_ns = _quickest_ns(counted)
    if not spans or (isinstance(load, ClosedLoop) and load.users == 1):
        return SteadyWindow(from_ns=began_ns, until_ns=until_ns, began_ns=began_ns, quickest_ns=quickest_ns)
    first_ns = min(end for _, end in spans)
    ramp_ns = max([first_ns, *(end for begin, end in spans if begin < first_ns < end)]) - began_ns
    ramp_ns += round(_APART * mean_work_ns(counted, quickest_ns))
    most_ns = round(LARGEST_RAMP * (until_ns - began_ns))
    return SteadyWindow(
        from_ns=began_ns + max(0, min(ramp_ns, most_ns)),
        until_ns=until_ns,
        began_ns=began_ns,
        quickest_ns=quickest_ns,
        is_over=ramp_ns <= most_ns,
    )


def done_between(records: Sequence[RequestRecord], edges_ns: Array, quickest_ns: int) -> Array:
    """Return which part of each request was done between each two edges, one row for each pair of them.

    It is spread evenly over the time it was worked on. While it queues nothing of it is done: else a crowd that waits
    beyond the last edge would count as throughput.
    """
    if not records:
        return np.zeros((edges_ns.size - 1, 0))
    sent = np.array([each.sent_ns for each in records], dtype=np.float64)
    ended = np.array([each.ended_ns for each in records], dtype=np.float64)
    first = np.array([each.first_content_ns or each.ended_ns for each in records], dtype=np.float64)
    begun = np.maximum(sent, first - quickest_ns)
    share = (edges_ns[:, None] - begun[None, :]) / np.maximum(ended - begun, 1.0)[None, :]
    parts: Array = np.diff(np.clip(share, 0.0, 1.0), axis=0)
    return parts


def done_inside(records: Sequence[RequestRecord], window: SteadyWindow) -> Array:
    """Return which part of each request was done within the window."""
    edges = np.array([window.from_ns, window.until_ns], dtype=np.float64)
    part: Array = done_between(records, edges, window.quickest_ns)[0]
    return part


def answers_of(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Return the good answers among them."""
    return [each for each in records if each.failure is None and each.sent_ns is not None and each.ended_ns is not None]


def answers_per_s(driven: Driven) -> float:
    """Return the good answers per second of a segment; 0 where it has no length."""
    window = steady_window(driven)
    return (
        float(done_inside(answers_of(driven.records), window).sum()) * 1e9 / window.length_ns
        if window.length_ns
        else 0.0
    )


def _until_ns(driven: Driven, spans: Sequence[tuple[int, int]]) -> int:
    """Return where the window ends; callers that had so many requests to ask may have been through before."""
    load, end_ns = driven.segment.load, driven.began_ns + driven.window_ns
    if not isinstance(load, ClosedLoop) or load.requests is None or len(spans) < load.requests or not spans:
        return end_ns
    end_ns = min(end_ns, max(end for _, end in spans))
    last_sent_ns = max(begin for begin, _ in spans)
    if load.users > 1 and last_sent_ns - driven.began_ns >= LARGEST_RAMP * (end_ns - driven.began_ns):
        return last_sent_ns
    return end_ns


def mean_work_ns(records: Sequence[RequestRecord], quickest_ns: int) -> float:
    """Return how long good answers were worked on, on average."""
    works = [
        min((each.ended_ns or 0) - (each.first_content_ns or each.ended_ns or 0) + quickest_ns, stay_ns)
        for each in answers_of(records)
        if (stay_ns := (each.ended_ns or 0) - (each.sent_ns or 0)) >= 0
    ]
    return sum(works) / len(works) if works else 0.0


def _quickest_ns(records: Sequence[RequestRecord]) -> int:
    return min(
        (
            (each.first_content_ns or each.ended_ns or 0) - (each.sent_ns or 0)
            for each in records
            if each.failure is None and each.sent_ns is not None
        ),
        default=0,
    )
