"""Whether a server keeps up with a schedule, or its backlog grows as long as the schedule lasts. Pure.

How many requests wait at the end says nothing: ten are in flight at a server that takes ten seconds for each and is
sent one a second, and it keeps up for ever. What tells is that there are more and more of them: the number in flight
after the ramp has a slope that is surely above zero, and the growth is a share of what came that matters.
"""

from dataclasses import dataclass

import numpy as np

from qwenops.bench.record import NS_PER_S
from qwenops.bench.segment import Driven, OpenLoop
from qwenops.bench.window import SteadyWindow, steady_window
from qwenops.statistics.fits import correlation_inflation, linear_fit, neighbours
from qwenops.statistics.samples import Array

GROWTH = 0.1
"""Of the requests that came, that the backlog must have grown by: then a tenth of them is not done."""
LEAST_GROWTH = 10.0
"""Requests: what chance makes of a handful of them is no trend."""
LEAST_SENT = 10
_PARTS = 30
_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What became of the requests in flight over the steady part of a schedule."""

    first: float
    """In flight on average in the first half."""
    last: float
    """In flight on average in the second half."""
    per_s: float
    """By how many it grew each second, at the least."""
    unsent_share: float
    """Of the schedule, that was not sent because too many were in flight."""
    grows: bool
    """Whether the server does not keep up."""


def backlog_of(driven: Driven) -> Backlog | None:
    """Return what became of the backlog; None for callers that wait, and for a schedule too short to tell."""
    scheduled = len(driven.records) + driven.dropped
    if not isinstance(driven.segment.load, OpenLoop) or scheduled < LEAST_SENT:
        return None
    unsent = driven.dropped / scheduled
    window = steady_window(driven)
    if window.length_ns <= 0 or not (window.is_over or unsent > GROWTH):
        return None
    in_flight = _in_flight(driven, window)
    half = _PARTS // 2
    seconds = window.length_ns / NS_PER_S
    per_s = _surely_grows_by(np.arange(_PARTS) * seconds / _PARTS, in_flight)
    came = scheduled * window.length_ns / max(1, driven.window_ns)
    # The least growth is what is sure; whether it matters is asked of what is likely.
    growth = (float(in_flight[half:].mean()) - float(in_flight[:half].mean())) * 2.0
    grows = per_s > 0 and growth >= max(LEAST_GROWTH, GROWTH * came)
    return Backlog(
        first=float(in_flight[:half].mean()),
        last=float(in_flight[half:].mean()),
        per_s=max(0.0, per_s),
        unsent_share=unsent,
        grows=grows or unsent > GROWTH,
    )


def _in_flight(driven: Driven, window: SteadyWindow) -> Array:
    """Return how many requests were in flight in each part of the window, on average."""
    spans = [(each.sent_ns, each.ended_ns) for each in driven.records if each.sent_ns is not None and each.ended_ns]
    edges = np.linspace(window.from_ns, window.until_ns, _PARTS + 1)
    sent, ended = (np.array(each, dtype=np.float64) for each in zip(*spans, strict=True))
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.clip(np.minimum(ended[None, :], high) - np.maximum(sent[None, :], low), 0.0, None)
    mean: Array = overlap.sum(axis=1) / (edges[1] - edges[0])
    return mean


def _surely_grows_by(times_s: Array, levels: Array) -> float:
    """Return the least slope of a series whose neighbours are alike; negative where it might as well fall."""
    line = linear_fit(times_s, levels, _CONFIDENCE)
    residuals = levels - line.intercept - line.slope.value * times_s
    wider: float = correlation_inflation(neighbours(residuals)) ** 0.5
    return line.slope.value - wider * (line.slope.value - line.slope.low)
