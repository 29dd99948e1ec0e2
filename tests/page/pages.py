"""A page with one of everything."""

import math

from qwenops.page.document import (
    Cell,
    Code,
    Column,
    Details,
    Facts,
    Figure,
    Notice,
    Page,
    Paragraph,
    RawData,
    Section,
    Table,
    Tile,
    Tiles,
    Tone,
)
from qwenops.page.matrix import Matrix, MatrixRow, Square
from qwenops.page.plot import Axis, Band, Bar, Bars, Chart, Dots, Lane, Lanes, Line, Panel, Rule, Span
from qwenops.text import say

X = [each / 2 for each in range(240)]
WAVE = [5 + 3 * math.sin(each / 9) for each in X]


def chart() -> Chart:
    dots = Dots(title=say("Every answer"), x=X, y=WAVE)
    line = Line(title="p95", x=X, y=[each + 1 if number != 7 else None for number, each in enumerate(WAVE)])
    band = Band(title=say("Interval"), x=X, low=[each - 1 for each in WAVE], high=[each + 2 for each in WAVE])
    upper = Panel(
        y=Axis(title=say("Latency"), unit="s"), series=[band, line, dots], rules=[Rule(value=7, title="limit")]
    )
    lower = Panel(
        y=Axis(title=say("Users")), series=[Line(title="", x=[0, 60, 119.5], y=[1, 4, 2], stepped=True)], height=60
    )
    spans = [Span(begin=20, end=40, title=say("slow")), Span(begin=80, end=80, title=say("interrupted"), kind="gap")]
    return Chart(x=Axis(title=say("Time"), scale="time"), panels=[upper, lower], spans=spans)


def histogram() -> Chart:
    bars = Bars(title="", edges=[0.1, 0.2, 0.5, 1, 2], y=[3, 9, 4, 1])
    panel = Panel(y=Axis(title=say("Answers")), series=[bars])
    return Chart(
        x=Axis(title=say("Latency"), unit="s", scale="log"), panels=[panel], rules=[Rule(value=0.5, title="p95 < 0.5s")]
    )


def lanes() -> Lanes:
    ratio = Lane(title="e2e mean", points=[0.9, 0.95, 1.01], interval=(0.91, 0.99), value=0.95, note="-5 %")
    start = Lane(title=say("cold"), bars=[Bar(begin=0.8, end=0.9, title="a"), Bar(begin=0.9, end=1.1, title="b")])
    return Lanes(
        x=Axis(title=say("Ratio"), scale="log"),
        lanes=[ratio, start],
        rules=[Rule(value=1, title="1", bad=False)],
        zone=(0.97, 1.03),
    )


def table() -> Table:
    rows: list[list[Cell | str]] = [
        ["b", Cell(text="10 ms", order=0.01, detail="9 to 12")],
        ["a", Cell(text="2 s", order=2.0, tone=Tone.BAD)],
        ["c", Cell(text="n/a (40 < 299)", tone=Tone.NOTE)],
    ]
    return Table(
        title=say("Figures"), columns=[Column(title=say("Name")), Column(title="p95", numeric=True)], rows=rows
    )


def matrix() -> Matrix:
    first = [Square(text="9", heat=0.9, hue=2), Square(text="1", heat=0.1, hue=1)]
    return Matrix(
        title=say("What is taken for what"),
        corner=say("True, and said"),
        columns=["1", "2"],
        rows=[
            MatrixRow(title="1. a", squares=first),
            MatrixRow(title="2. b", squares=[Square(), Square(text="4", heat=1.0, hue=2)]),
        ],
    )


def full_page(num_rows: int = 500) -> Page:
    """Return a page that uses every kind of block."""
    raw = RawData(
        title=say("Raw data"),
        file_name="rows.csv",
        columns={
            "at_s": [each / 7 for each in range(num_rows)],
            "value_s": [None if each % 50 == 3 else math.sqrt(each) for each in range(num_rows)],
            "later_s": [None if each % 50 == 3 else math.sqrt(each) + each for each in range(num_rows)],
            "kind": [("plain", 'with "quotes", and commas')[each % 2] for each in range(num_rows)],
        },
        steps={"at_s": 1e-6, "value_s": 1e-6, "later_s": 1e-6},
        after={"later_s": "value_s"},
        absent=say("Too much for one page."),
    )
    tiles = Tiles(tiles=[Tile(name=say("Answered"), value="7 / 7", detail=say("none failed"), tone=Tone.GOOD)])
    return Page(
        title=say("Result of {name}", name="<b>x</b>"),
        subtitle="plain & simple",
        head=[Notice(tone=Tone.GOOD, text=say("All is well."), large=True), Notice(tone=Tone.WARNING, text="!"), tiles],
        sections=[
            Section(
                title=say("Plots"),
                anchor="plots",
                blocks=[
                    Figure(title=say("Over time"), plot=chart(), caption=say("In `min:s`.")),
                    Figure(title=say("Histogram"), plot=histogram()),
                    Figure(title=say("Ratios"), plot=lanes()),
                ],
            ),
            Section(
                title=say("Numbers"),
                anchor="numbers",
                blocks=[
                    table(),
                    matrix(),
                    Details(summary=say("More"), blocks=[Facts(title=say("Machine"), pairs=[(say("Kernel"), "6.8")])]),
                    Paragraph(text=say("That is all.")),
                    Code(title=say("Again"), text="qwenops bench load 'x' --slo \"a < 1\""),
                    raw,
                ],
            ),
        ],
        footer=say("The end."),
    )
