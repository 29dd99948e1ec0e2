"""What a plot holds: plain numbers with names and units, no pixels and no colours.

A series' colour follows from its place (`hue`, or the order in the plot), so that the same thing can have the same
colour in every plot. All plots are drawn by `drawing.py`; what has more points than the picture has pixels is reduced
by `decimate.py`, in such a way that no extreme is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Scale = Literal["linear", "log", "time"]
"""`time` is linear, in seconds, with ticks at whole seconds, minutes and hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One direction of a plot."""

    title: str
    unit: str = ""
    scale: Scale = "linear"
    low: float | None = None
    """Where it begins; None begins at the data (linear axes of non-negative values at 0)."""
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Values along x; a None breaks the line."""

    title: str
    x: Sequence[float]
    y: Sequence[float | None]
    hue: int | None = None
    stepped: bool = False
    """Each value holds until the next x, as of a count or an ECDF."""
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """An interval along x, such as a confidence interval."""

    title: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    hue: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """Single observations. Too many for the picture become, per pixel column, their range and their median."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """With `high`: a whisker at each dot."""
    high: Sequence[float] = ()
    hue: int | None = None
    shape: Literal["dot", "square"] = "dot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Upright bars between neighbouring edges, such as a histogram; one edge more than values."""

    title: str
    edges: Sequence[float]
    y: Sequence[float]
    hue: int | None = None


Series = Line | Band | Dots | Bars


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A straight line at one value, such as an objective."""

    value: float
    title: str
    bad: bool = True
    """Whether it is a limit (red) or only a reference (grey)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of x that is shaded in every panel; `begin == end` is a moment."""

    begin: float
    end: float
    title: str
    kind: Literal["finding", "gap", "phase"] = "finding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One y axis over the common x axis."""

    y: Axis
    series: Sequence[Series]
    rules: Sequence[Rule] = ()
    """Level lines."""
    height: int = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Panels under one another that share an x axis."""

    x: Axis
    panels: Sequence[Panel]
    rules: Sequence[Rule] = ()
    """Upright lines through all panels."""
    spans: Sequence[Span] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stretch in a lane."""

    begin: float
    end: float
    title: str = ""
    hue: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One line of a `Lanes` plot: bars, or single values with their intervals."""

    title: str
    bars: Sequence[Bar] = ()
    points: Sequence[float] = ()
    interval: tuple[float, float] | None = None
    value: float | None = None
    """What the interval is about."""
    note: str = ""
    """Is written at the right end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """Named lines under one another on one x axis: phases of a start, ratios with their intervals."""

    x: Axis
    lanes: Sequence[Lane]
    rules: Sequence[Rule] = ()
    zone: tuple[float, float] | None = None
    """A stretch of x that is shaded, such as what counts as equivalent."""


Plot = Chart | Lanes
