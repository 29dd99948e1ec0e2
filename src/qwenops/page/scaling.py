"""From values to places on an axis."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qwenops.page import ticks
from qwenops.page.plot import Axis

_SAME = 1e-12
_NARROW = 1.02
_DECADE = 8
"""Below this ratio of its ends a logarithmic axis has the ticks of a linear one; 1, 2 and 5 would be too few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Where an axis begins and ends, and its ticks."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Return where a value is: 0 at the beginning, 1 at the end; outside values stay at the nearer end."""
        if self.log:
            low, high, at = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
        else:
            low, high, at = self.low, self.high, value
        return min(max((at - low) / (high - low), 0.0), 1.0) if high > low else 0.0  # as of the smallest numbers


def scaling_of(axis: Axis, values: Iterable[float], *, num_ticks: int, tight: bool = False) -> Scaling:
    """Return the scaling of an axis that has to show `values`.

    Args:
        axis: What was asked for; its own limits win.
        values: Everything that is drawn along it; what is no finite number is passed over.
        num_ticks: About how many ticks there is room for.
        tight: Whether to end at the last value and not at the next tick.
    """
    finite = [value for value in values if math.isfinite(value)]
    if axis.scale == "log":
        return _log(axis, [value for value in finite if value > 0], num_ticks)
    lowest, highest = min(finite, default=0.0), max(finite, default=1.0)
    low = axis.low if axis.low is not None else min(lowest, 0.0) if not tight else lowest
    high = axis.high if axis.high is not None else highest
    if high - low <= max(abs(low), abs(high), 1.0) * _SAME:
        high = low + (abs(low) if abs(low) > _SAME else 1.0)
    time = axis.scale == "time"
    step = (ticks.time_step if time else ticks.linear_step)(low, high, num_ticks)
    if not tight:
        wide_low, wide_high = ticks.rounded_out(low, high, step)
        low = axis.low if axis.low is not None else wide_low
        high = axis.high if axis.high is not None else wide_high
    at = ticks.multiples(low, high, step)
    labels = [ticks.clock_label(each) for each in at] if time else ticks.tick_labels(at)
    return Scaling(low=low, high=high, log=False, ticks=tuple(zip(at, labels, strict=True)))


def _log(axis: Axis, positive: list[float], num_ticks: int) -> Scaling:
    low = axis.low or min(positive, default=0.1) / 1.05
    high = axis.high or max(positive, default=1.0) * 1.05
    if high <= low * _NARROW:
        low, high = low / 1.2, high * 1.2
    if high < low * _DECADE:
        at = ticks.multiples(low, high, ticks.linear_step(low, high, num_ticks))
    else:
        at = ticks.log_ticks(low, high, num_ticks)
    return Scaling(low=low, high=high, log=True, ticks=tuple((each, ticks.number(each)) for each in at))
