"""Where an axis has its ticks, and what is written at them."""

import math
from collections.abc import Sequence
from itertools import pairwise

from qwenops.options import show_number

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_SPANS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def linear_step(low: float, high: float, num: int) -> float:
    """Return the round step that gives about `num` ticks between two values."""
    rough = max(high - low, 1e-12) / max(num, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if step * power >= rough * (1 - 1e-9))


def time_step(low: float, high: float, num: int) -> float:
    """Return the step in seconds, minutes, hours or days that gives about `num` ticks."""
    rough = max(high - low, 1e-12) / max(num, 1)
    if rough < 1:
        return linear_step(low, high, num)
    return next((float(step) for step in _SPANS_S if step >= rough), 86400.0 * math.ceil(rough / 86400))


def multiples(low: float, high: float, step: float) -> list[float]:
    """Return the multiples of `step` from `low` to `high`, free of the noise of repeated addition."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float, num: int) -> list[float]:
    """Return 1, 2 and 5 of every power of ten between two positive values, or fewer where these are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= num:
            return inside
    stride = math.ceil(len(inside) / num)
    return inside[::stride]


def rounded_out(low: float, high: float, step: float) -> tuple[float, float]:
    """Return the interval, widened to whole steps."""
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def number(value: float) -> str:
    """Return a number with what matters of it: three significant figures, no needless zeros, thousands apart."""
    return show_number(value)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Return the labels of linear ticks, all with as many decimals as their step needs."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = next((count for count in range(7) if abs(step - round(step, count)) < step * 1e-6), 7)
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def clock_label(seconds: float) -> str:
    """Return a time since the beginning: `0:05`, `12:30`, `1:05:00`; fractions only where there are any."""
    whole = int(seconds)
    rest = seconds - whole
    hours, minutes, secs = whole // 3600, whole // 60 % 60, whole % 60
    tail = f"{secs:02d}" + (f"{rest:.3f}"[1:].rstrip("0") if rest > 0.0005 else "")  # noqa: PLR2004 -- half a ms
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
