"""A plot as HTML and SVG. The picture stretches with the page; text keeps its size and lines keep their width.

Each panel is an `svg` as wide as the page, with an inner one of WIDTH by HEIGHT units that is stretched and holds the
series. Colours, sizes and fonts are classes of `style.css`, because the page's policy allows no style in attributes.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise

from qwenops.page import decimate
from qwenops.page.plot import Band, Bars, Chart, Dots, Lane, Lanes, Line, Panel, Rule, Series, Span
from qwenops.page.scaling import Scaling, scaling_of
from qwenops.page.words import Words

WIDTH, HEIGHT = 1000, 500
"""Units of the inner picture."""
NUM_COLUMNS = 320
"""Columns that a line is reduced to: about three pixels each at the page's full width."""
MOST_DOTS = 900
FEW_DOTS = 40
"""Up to so many are drawn larger."""
NUM_HEAPS = 200
NUM_HUES = 7
_GAP = 5 / NUM_HEAPS
"""Medians that stand further apart are not joined: nothing was observed between them."""
_TICKS_ACROSS = 8
_TICK_EVERY_PX = 30


def draw_chart(chart: Chart, words: Words, label: str) -> str:
    """Return panels that share an x axis; `label` is the id of what names the picture."""
    across = scaling_of(chart.x, _across(chart), num_ticks=_TICKS_ACROSS, tight=True)
    hues = _hues(chart)
    panels = [
        _panel(chart, number, across, words, label=label, hues=hues[number]) for number in range(len(chart.panels))
    ]
    unit = f" ({escape(chart.x.unit)})" if chart.x.unit else ""
    limits = f'data-low="{across.low:.6g}" data-high="{across.high:.6g}" data-scale="{chart.x.scale}"'
    return (
        f'<div class="chart" {limits}>{"".join(panels)}<div class="xt">{words.html(chart.x.title)}{unit}</div></div>'
        + _span_list(chart, words)
    )


def _across(chart: Chart) -> Iterator[float]:
    for panel in chart.panels:
        for series in panel.series:
            yield from series.edges if isinstance(series, Bars) else series.x
    yield from (rule.value for rule in chart.rules)


def _hues(chart: Chart) -> list[list[int]]:
    """Return the hue of every series: its own, or the next one in the chart."""
    found, following = [], 0
    for panel in chart.panels:
        mine = []
        for series in panel.series:
            mine.append((series.hue if series.hue is not None else following) % NUM_HUES)
            following += series.hue is None
        found.append(mine)
    return found


def _values(series: Series) -> Iterable[float]:
    match series:
        case Band():
            return [*series.low, *series.high]
        case Dots():
            return [*series.y, *series.high]
        case Bars():
            return series.y
        case Line():
            return [value for value in series.y if value is not None]


def _panel(chart: Chart, number: int, across: Scaling, words: Words, *, label: str, hues: Sequence[int]) -> str:
    panel = chart.panels[number]
    values = [value for series in panel.series for value in _values(series)]
    upward = scaling_of(
        panel.y, [*values, *(rule.value for rule in panel.rules)], num_ticks=max(panel.height // _TICK_EVERY_PX, 2)
    )
    drawn = "".join(_series(each, across, upward, hue) for each, hue in zip(panel.series, hues, strict=True))
    inner = "".join(_span(span, across) for span in chart.spans) + drawn
    last = number == len(chart.panels) - 1
    unit = f" ({escape(panel.y.unit)})" if panel.y.unit else ""
    return (
        f'<div class="panel"><div class="yt"><b id="{label}p{number}">{words.html(panel.y.title)}{unit}</b>'
        f"{_legend(panel, hues, words)}</div>"
        f'<svg class="plot{" last" if last else ""}" width="100%" height="{panel.height}" role="img" '
        f'aria-labelledby="{label} {label}p{number}">'
        f"{_level_ticks(upward)}{_upright_ticks(across, labelled=last)}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" width="100%" height="100%">{inner}</svg>'
        f"{_level_rules(panel.rules, upward, words)}{_upright_rules(chart.rules, across, words, labelled=number == 0)}"
        f"{_flags(chart.spans, across) if number == 0 else ''}</svg></div>"
    )


def _legend(panel: Panel, hues: Sequence[int], words: Words) -> str:
    named = [(series, hue) for series, hue in zip(panel.series, hues, strict=True) if series.title]
    return "".join(
        f'<span class="key h{hue}"><i class="{_swatch(series)}"></i>{words.html(series.title)}</span>'
        for series, hue in named
    )


def _swatch(series: Series) -> str:
    match series:
        case Line():
            return "dash" if series.dashed else "line"
        case Dots():
            return series.shape
        case Band() | Bars():
            return "area"


def _series(series: Series, across: Scaling, upward: Scaling, hue: int) -> str:
    match series:
        case Line():
            dashed = " dashed" if series.dashed else ""
            return f'<path class="ln h{hue}{dashed}" d="{_line(series, across, upward)}"/>'
        case Band():
            return f'<path class="ar h{hue}" d="{_band(series, across, upward)}"/>'
        case Bars():
            return f'<path class="br h{hue}" d="{_bars(series, across, upward)}"/>'
        case Dots():
            return _dots(series, across, upward, hue)


def _at(x: float, y: float, across: Scaling, upward: Scaling) -> tuple[int, int]:
    return round(across.place(x) * WIDTH), round((1 - upward.place(y)) * HEIGHT)


def _line(line: Line, across: Scaling, upward: Scaling) -> str:
    limits = {"low": across.low, "high": across.high}
    steps: list[str] = []
    before: tuple[int, int] | None = None
    for x, y in decimate.envelope(line.x, line.y, num_columns=NUM_COLUMNS, **limits):
        if y is None:
            before = None
            continue
        here = _at(x, y, across, upward)
        if before is None:
            steps.append(f"M{here[0]} {here[1]}")
        elif line.stepped:
            steps.append(f"h{here[0] - before[0]}v{here[1] - before[1]}")
        elif here != before:
            steps.append(f"l{here[0] - before[0]} {here[1] - before[1]}")
        before = here
    return "".join(steps)


def _band(band: Band, across: Scaling, upward: Scaling) -> str:
    limits = {"low": across.low, "high": across.high}
    above = decimate.envelope(band.x, band.high, num_columns=NUM_COLUMNS, **limits)
    below = decimate.envelope(band.x, band.low, num_columns=NUM_COLUMNS, **limits)
    edge = [(x, y) for x, y in [*above, *reversed(below)] if y is not None]
    return "M" + "L".join(f"{x} {y}" for x, y in (_at(*point, across, upward) for point in edge)) + "z" if edge else ""


def _bars(bars: Bars, across: Scaling, upward: Scaling) -> str:
    steps = []
    for (begin, end), y in zip(pairwise(bars.edges), bars.y, strict=True):
        left, top = _at(begin, y, across, upward)
        right, bottom = _at(end, upward.low, across, upward)
        if y > upward.low and right > left:
            steps.append(f"M{left} {bottom}V{top}H{right}V{bottom}z")
    return "".join(steps)


def _dots(dots: Dots, across: Scaling, upward: Scaling, hue: int) -> str:
    if len(dots.x) > MOST_DOTS:
        return _heaps(dots, across, upward, hue)
    places = [_at(x, y, across, upward) for x, y in zip(dots.x, dots.y, strict=True)]
    whiskers = [
        (_at(x, low, across, upward), _at(x, high, across, upward))
        for x, low, high in zip(dots.x, dots.low, dots.high, strict=False)
    ]
    lines = "".join(f"M{x} {bottom}V{top}" for (x, bottom), (_, top) in whiskers)
    whisker = f'<path class="ln h{hue}" d="{lines}"/>' if lines else ""
    few = " few" if len(places) <= FEW_DOTS else ""
    return f'{whisker}<path class="{dots.shape}s h{hue}{few}" d="{"".join(f"M{x} {y}h0" for x, y in places)}"/>'


def _heaps(dots: Dots, across: Scaling, upward: Scaling, hue: int) -> str:
    """Draw the range and the median of what is in each column."""
    places = [across.place(x) for x in dots.x]
    found = decimate.heaps(places, dots.y, low=0.0, high=1.0, num_columns=NUM_HEAPS)
    ranges: list[str] = []
    medians: list[str] = []
    before = -1.0
    for heap in found:
        x = round(heap.x * WIDTH)
        low, middle, high = (round((1 - upward.place(y)) * HEIGHT) for y in (heap.low, heap.median, heap.high))
        ranges.append(f"M{x} {low}V{high}" if low != high else f"M{x} {low}v1")
        medians.append(f"{'L' if before >= 0 and heap.x - before < _GAP else 'M'}{x} {middle}")
        before = heap.x
    return f'<path class="rg h{hue}" d="{"".join(ranges)}"/><path class="ln h{hue}" d="{"".join(medians)}"/>'


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.2f}".rstrip("0").rstrip(".") + "%"


def _level_ticks(upward: Scaling) -> str:
    lines = []
    for value, text in upward.ticks:
        y = _percent(1 - upward.place(value))
        lines.append(f'<line class="gr" x2="100%" y1="{y}" y2="{y}"/><text class="tk ty" x="-6" y="{y}">{text}</text>')
    return "".join(lines)


def _upright_ticks(across: Scaling, *, labelled: bool) -> str:
    lines = []
    for number, (value, text) in enumerate(across.ticks):
        x = _percent(across.place(value))
        lines.append(f'<line class="gr" y2="100%" x1="{x}" x2="{x}"/>')
        if labelled:
            odd = " odd" if number % 2 else ""
            lines.append(f'<text class="tk tx{odd}" x="{x}" y="100%">{text}</text>')
    return "".join(lines)


def _level_rules(rules: Sequence[Rule], upward: Scaling, words: Words) -> str:
    lines = []
    for rule in rules:
        place = upward.place(rule.value)
        y, kind = _percent(1 - place), "bad" if rule.bad else "ref"
        side = "below" if place > 0.9 else "above"  # noqa: PLR2004 -- above the line there would be no room
        lines.append(
            f'<line class="ru {kind}" x2="100%" y1="{y}" y2="{y}"/>'
            f'<text class="rt {kind} {side}" x="100%" y="{y}">{words.svg(rule.title)}</text>'
        )
    return "".join(lines)


def _upright_rules(rules: Sequence[Rule], across: Scaling, words: Words, *, labelled: bool) -> str:
    lines = []
    for number, rule in enumerate(sorted(rules, key=lambda each: each.value)):
        place = across.place(rule.value)
        x, kind = _percent(place), "bad" if rule.bad else "ref"
        lines.append(f'<line class="ru {kind}" y2="100%" x1="{x}" x2="{x}"/>')
        if labelled:
            side = "left" if place > 0.6 else "right"  # noqa: PLR2004 -- where there is more room for the text
            text = f'<text class="rt {kind} {side}" x="{x}" y="{12 + 14 * (number % 4)}">{words.svg(rule.title)}</text>'
            lines.append(text)
    return "".join(lines)


def _span(span: Span, across: Scaling) -> str:
    begin, end = round(across.place(span.begin) * WIDTH), round(across.place(span.end) * WIDTH)
    return f'<rect class="sp {span.kind}" x="{begin}" width="{max(end - begin, 2)}" height="{HEIGHT}"/>'


def _flags(spans: Sequence[Span], across: Scaling) -> str:
    """Number the spans at the top of the first panel; the list under the chart says what they are."""
    return "".join(
        f'<text class="fl {span.kind}" x="{_percent(across.place((span.begin + span.end) / 2))}" y="12">{number}</text>'
        for number, span in enumerate(spans, 1)
    )


def _span_list(chart: Chart, words: Words) -> str:
    items = "".join(f'<li class="{span.kind}">{words.html(span.title)}</li>' for span in chart.spans)
    return f'<ol class="spans">{items}</ol>' if items else ""


def draw_lanes(lanes: Lanes, words: Words, label: str) -> str:
    """Return named lines under one another on one x axis; `label` is the id of what names the picture."""
    drawn = [value for lane in lanes.lanes for value in _lane_values(lane)]
    rules = [rule.value for rule in lanes.rules]
    across = scaling_of(lanes.x, [*drawn, *rules, *(lanes.zone or ())], num_ticks=6)
    rows = "".join(_lane(lanes, lane, across, words, label=label) for lane in lanes.lanes)
    axis = (
        f'<span></span><svg class="lane axis" width="100%" height="20" aria-hidden="true">'
        f"{_upright_ticks(across, labelled=True)}</svg><span></span>"
    )
    unit = f" ({escape(lanes.x.unit)})" if lanes.x.unit else ""
    legend = _lanes_legend(lanes, words)
    return f'{legend}<div class="lanes">{rows}{axis}</div><div class="xt">{words.html(lanes.x.title)}{unit}</div>'


def _lanes_legend(lanes: Lanes, words: Words) -> str:
    """Name each kind of bar once."""
    kinds: dict[str, int] = {}
    for lane in lanes.lanes:
        for number, bar in enumerate(lane.bars):
            if bar.title:
                kinds.setdefault(bar.title, (bar.hue if bar.hue is not None else number) % NUM_HUES)
    keys = "".join(
        f'<span class="key h{hue}"><i class="area"></i>{words.html(kind)}</span>' for kind, hue in kinds.items()
    )
    return f'<div class="keys">{keys}</div>' if keys else ""


def _lane_values(lane: Lane) -> list[float]:
    value = [] if lane.value is None else [lane.value]
    return [*(edge for bar in lane.bars for edge in (bar.begin, bar.end)), *lane.points, *(lane.interval or ()), *value]


def _lane(lanes: Lanes, lane: Lane, across: Scaling, words: Words, *, label: str) -> str:
    parts = [_upright_ticks(across, labelled=False)]
    if lanes.zone:
        left, right = (across.place(edge) for edge in lanes.zone)
        parts.append(f'<rect class="zone" x="{_percent(left)}" width="{_percent(right - left)}" height="100%"/>')
    for number, bar in enumerate(lane.bars):
        left, right = across.place(bar.begin), across.place(bar.end)
        hue = (bar.hue if bar.hue is not None else number) % NUM_HUES
        parts.append(
            f'<rect class="br h{hue}" x="{_percent(left)}" y="5" width="{_percent(max(right - left, 0.002))}" '
            f'height="18" rx="2"><title>{words.svg(bar.title)}</title></rect>'
        )
    parts += [f'<circle class="pt" cx="{_percent(across.place(each))}" cy="14" r="3"/>' for each in lane.points]
    if lane.interval:
        begin, end = (_percent(across.place(edge)) for edge in lane.interval)
        parts.append(f'<line class="iv" x1="{begin}" x2="{end}" y1="14" y2="14"/>')
    if lane.value is not None:
        parts.append(f'<circle class="vl" cx="{_percent(across.place(lane.value))}" cy="14" r="5"/>')
    parts.append(_upright_rules(lanes.rules, across, words, labelled=False))
    return (
        f'<span class="ltitle">{words.html(lane.title)}</span>'
        f'<svg class="lane" width="100%" height="28" role="img" aria-labelledby="{label}">{"".join(parts)}</svg>'
        f'<span class="lnote">{words.html(lane.note)}</span>'
    )
