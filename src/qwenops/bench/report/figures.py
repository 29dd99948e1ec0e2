"""How quantities are written in a report. Units are the same in every language."""

from collections.abc import Sequence

import numpy as np

from qwenops.bench.record import RequestRecord
from qwenops.page import ticks

NONE = "–"  # noqa: RUF001 -- says that there is no value


def seconds(value: float | None) -> str:
    """Return a time as it is best read: `340 µs`, `230 ms`, `2.34 s`, `12 min 5 s`, `3 h 20 min`."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 3600:  # noqa: PLR2004 -- an hour
        return f"{value / 3600:.0f} h {value % 3600 / 60:.0f} min"
    if size >= 600:  # noqa: PLR2004 -- up to ten minutes seconds are easy to compare
        return f"{int(value // 60)} min {value % 60:.0f} s"
    if size >= 1 or size == 0:
        return f"{ticks.number(value)} s"
    small = size < 0.001  # noqa: PLR2004 -- a millisecond
    return f"{ticks.number(value * 1e6)} µs" if small else f"{ticks.number(value * 1000)} ms"


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return NONE if share is None else f"{ticks.number(share * 100)} %"


def size(num_bytes: float | None) -> str:
    """Return a number of bytes in the largest unit that leaves at least one."""
    if num_bytes is None:
        return NONE
    value, units = float(num_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:  # noqa: PLR2004 -- the step between two units
        value, units = value / 1024, units[1:]
    return f"{ticks.number(value)} {units[0]}"


def quantity(value: float | None, unit: str) -> str:
    """Return a metric's value with its unit (`definitions.Unit`)."""
    if value is None:
        return NONE
    match unit:
        case "s":
            return seconds(value)
        case "share":
            return percent(value)
        case _:
            return f"{ticks.number(value)} {unit.replace('tokens', 'tok')}"


def moments_ns(records: Sequence[RequestRecord], name: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return one moment of every record, not-a-number where it did not come."""
    return np.array([np.nan if (at := getattr(each, name)) is None else at for each in records], dtype=np.float64)
