"""The table behind a plot: the same numbers for those who read with their ears, and for the read-out under the pointer.

Where there are more places along x than MOST_ROWS, a row is a stretch of x and says of each series the median and, in
brackets, the range of what is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from qwenops.page import ticks
from qwenops.page.decimate import heaps
from qwenops.page.document import Cell, Column, Table
from qwenops.page.plot import Axis, Band, Bars, Chart, Lanes, Panel, Plot, Series
from qwenops.text import Text, say

MOST_ROWS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One column: what stands at which x."""

    title: str
    at: dict[float, str] = field(default_factory=dict)


def table_of(plot: Plot, title: str, *, most_rows: int = MOST_ROWS) -> Table:
    """Return the numbers of a plot as a table; along x it has at most so many rows."""
    return _of_lanes(plot, title) if isinstance(plot, Lanes) else _of_chart(plot, title, most_rows)


def _of_chart(chart: Chart, title: str, most_rows: int) -> Table:
    bars = [series for panel in chart.panels for series in panel.series if isinstance(series, Bars)]
    if bars and all(isinstance(series, Bars) for panel in chart.panels for series in panel.series):
        return _of_bars(chart, bars, title)
    places = sorted({x for panel in chart.panels for series in panel.series for x in _x(series)})
    low, high = (places[0], places[-1]) if places else (0.0, 1.0)
    whole = len(places) <= most_rows
    alone = len(chart.panels) == 1
    reads = [
        _whole(series, _name(panel, series, alone=alone))
        if whole
        else _heaped(series, _name(panel, series, alone=alone), (low, high), most_rows)
        for panel in chart.panels
        for series in panel.series
    ]
    rows: list[list[Cell | str]] = [
        [_place(chart.x, x), *(read.at.get(x, "") for read in reads)]
        for x in sorted({x for read in reads for x in read.at})
    ]
    note = "" if whole else say("Each row is a stretch: the median, and in brackets the range, of what is in it.")
    columns = [Column(title=_with_unit(chart.x)), *(Column(title=read.title, numeric=True) for read in reads)]
    return Table(title=title, columns=columns, rows=rows, note=note, sortable=False)


def _x(series: Series) -> Sequence[float]:
    return series.edges if isinstance(series, Bars) else series.x


def _values(series: Series) -> list[tuple[float, float]]:
    match series:
        case Band():
            return [*zip(series.x, series.low, strict=True), *zip(series.x, series.high, strict=True)]
        case Bars():
            return [((a + b) / 2, y) for (a, b), y in zip(pairwise(series.edges), series.y, strict=True)]
        case _:
            return [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]


def _whole(series: Series, title: str) -> _Read:
    at: dict[float, str] = {}
    if isinstance(series, Band):
        for x, low, high in zip(series.x, series.low, series.high, strict=True):
            at[x] = f"{ticks.number(low)}–{ticks.number(high)}"  # noqa: RUF001 -- a dash between two numbers
        return _Read(title=title, at=at)
    for x, y in _values(series):
        at[x] = f"{at[x]}; {ticks.number(y)}" if x in at else ticks.number(y)
    return _Read(title=title, at=at)


def _heaped(series: Series, title: str, limits: tuple[float, float], number: int) -> _Read:
    values, (low, high) = sorted(_values(series)), limits
    at: dict[float, str] = {}
    for heap in heaps([x for x, _ in values], [y for _, y in values], low=low, high=high, num_columns=number):
        middle, least, most = (ticks.number(each) for each in (heap.median, heap.low, heap.high))
        at[heap.x] = middle if least == most else f"{middle} ({least}–{most})"  # noqa: RUF001 -- a dash of numbers
    return _Read(title=title, at=at)


def _name(panel: Panel, series: Series, *, alone: bool) -> str:
    """Return what a column is called: the series, after its panel where there are several."""
    axis = panel.y
    if not series.title:
        return _with_unit(axis)
    unit = f" ({axis.unit})" if axis.unit else ""
    if not alone and len(panel.series) > 1:
        return say("{panel}: {what}{unit}", panel=axis.title, what=series.title, unit=unit)
    return say("{what}{unit}", what=series.title, unit=unit) if isinstance(series.title, Text) else series.title + unit


def _with_unit(axis: Axis) -> str:
    return say("{what}{unit}", what=axis.title, unit=f" ({axis.unit})") if axis.unit else axis.title


def _place(axis: Axis, x: float) -> Cell:
    return Cell(text=ticks.clock_label(x) if axis.scale == "time" else ticks.number(x), order=x)


def _of_bars(chart: Chart, bars: Sequence[Bars], title: str) -> Table:
    rows: list[list[Cell | str]] = []
    for number, (begin, end) in enumerate(pairwise(bars[0].edges)):
        text = f"{ticks.number(begin)}–{ticks.number(end)}"  # noqa: RUF001 -- a dash between two numbers
        heights = [ticks.number(each.y[number]) if number < len(each.y) else "" for each in bars]
        rows.append([Cell(text=text, order=(begin + end) / 2), *heights])
    alone = len(chart.panels) == 1
    columns = [Column(title=_with_unit(chart.x))]
    columns += [
        Column(title=_name(panel, each, alone=alone), numeric=True) for panel in chart.panels for each in panel.series
    ]
    return Table(title=title, columns=columns, rows=rows, sortable=False)


def _of_lanes(lanes: Lanes, title: str) -> Table:
    rows: list[list[Cell | str]] = []
    dash = "–"  # noqa: RUF001 -- between two numbers
    for lane in lanes.lanes:
        for bar in lane.bars:
            text = f"{ticks.number(bar.begin)}{dash}{ticks.number(bar.end)}"
            rows.append([lane.title, bar.title, text])
        if lane.value is not None or lane.interval or lane.points:
            between = dash.join(ticks.number(edge) for edge in lane.interval or ())
            value = "" if lane.value is None else ticks.number(lane.value)
            points = ", ".join(ticks.number(point) for point in lane.points)
            rows.append([lane.title, value + (f" ({between})" if between else ""), points])
    bars = any(lane.bars for lane in lanes.lanes)
    headings = (
        (say("Line"), say("Part"), _with_unit(lanes.x))
        if bars
        else (say("Line"), say("Value and interval"), say("Single values"))
    )
    return Table(title=title, columns=[Column(title=each) for each in headings], rows=rows, sortable=False)
