import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.page.drawing import HEIGHT, WIDTH, draw_chart, draw_lanes
from qwenops.page.plot import Axis, Bar, Bars, Chart, Dots, Lane, Lanes, Line, Panel, Rule, Scale, Series, Span
from qwenops.page.words import Words

WORDS = Words(translate={"en": str, "zh": str})


def drawn(*series: Series, x: Axis | None = None, y: Axis | None = None, **more: Any) -> str:
    panel = Panel(y=y or Axis(title="y"), series=series)
    return draw_chart(Chart(x=x or Axis(title="x"), panels=[panel], **more), WORDS, "f")


def paths(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind}[^"]*" d="([^"]*)"', svg)


def test_a_line_goes_from_corner_to_corner_through_its_values() -> None:
    (path,) = paths(drawn(Line(title="", x=[0, 5, 10], y=[0, 10, 5])), "ln")
    assert path == "M0 500l500 -500l500 250"


def test_a_value_that_is_missing_breaks_the_line() -> None:
    (path,) = paths(drawn(Line(title="", x=[0, 1, 2, 3, 4], y=[1, 1, None, 1, 1])), "ln")
    assert path.count("M") == 2


def test_a_stepped_line_holds_its_value_until_the_next_one() -> None:
    (path,) = paths(drawn(Line(title="", x=[0, 10], y=[0, 10], stepped=True)), "ln")
    assert path == "M0 500h1000v-500"


def test_bars_stand_on_the_axis_and_empty_ones_are_not_drawn() -> None:
    (path,) = paths(drawn(Bars(title="", edges=[0, 1, 2], y=[0, 10])), "br")
    assert path == "M500 500V0H1000V500z"


def test_a_logarithmic_axis_gives_every_power_of_ten_the_same_room() -> None:
    axis = Axis(title="x", scale="log", low=0.1, high=10.0)
    (path,) = paths(drawn(Dots(title="", x=[0.1, 1, 10], y=[1, 1, 1]), x=axis), "dots")
    assert re.findall(r"M(\d+) ", path) == ["0", "500", "1000"]


def test_few_dots_are_all_drawn_and_many_become_ranges_and_medians() -> None:
    few = drawn(Dots(title="", x=list(range(900)), y=[1.0] * 900))
    assert paths(few, "dots")[0].count("M") == 900
    many = drawn(Dots(title="", x=list(range(5000)), y=[float(each % 10) for each in range(5000)]))
    assert paths(many, "dots") == []
    assert paths(many, "rg")[0].count("M") == 200
    assert len(many) < 12_000


def test_medians_are_not_joined_over_a_time_in_which_nothing_was_observed() -> None:
    x = [*range(1000), *range(3000, 4000)]
    (median,) = paths(drawn(Dots(title="", x=x, y=[1.0] * 2000)), "ln")
    assert median.count("M") == 2


def test_spans_are_shaded_where_they_are_and_numbered() -> None:
    line = Line(title="", x=[0, 10], y=[1, 2])
    svg = drawn(line, spans=[Span(begin=2, end=4, title="slow"), Span(begin=7, end=7, title="gap", kind="gap")])
    assert '<rect class="sp finding" x="200" width="200" height="500"/>' in svg
    assert '<rect class="sp gap" x="700" width="2" height="500"/>' in svg
    assert '<li class="finding">slow</li><li class="gap">gap</li>' in svg


def test_a_limit_is_always_within_the_picture() -> None:
    panel = Panel(
        y=Axis(title="y"), series=[Line(title="", x=[0, 1], y=[1, 2])], rules=[Rule(value=40, title="p95 < 40 s")]
    )
    svg = draw_chart(Chart(x=Axis(title="x"), panels=[panel]), WORDS, "f")
    assert 'y1="0%"' in svg
    assert "p95 &lt; 40 s" in svg


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), min_size=1, max_size=50),
    st.sampled_from(["linear", "log", "time"]),
    st.sampled_from(["linear", "log"]),
)
def test_no_value_is_ever_drawn_outside_the_picture(
    points: list[tuple[float, float]], across: Scale, upward: Scale
) -> None:
    x, y = zip(*sorted(points), strict=True)
    svg = drawn(Dots(title="", x=x, y=y), x=Axis(title="x", scale=across), y=Axis(title="y", scale=upward))
    (path,) = paths(svg, "dots")
    places = [(int(a), int(b)) for a, b in re.findall(r"M(-?\d+) (-?\d+)h0", path)]
    assert len(places) == len(points)
    assert all(0 <= a <= WIDTH and 0 <= b <= HEIGHT for a, b in places)


def test_lanes_share_one_axis() -> None:
    lanes = Lanes(
        x=Axis(title="s", low=0.0, high=10.0),
        lanes=[Lane(title="a", bars=[Bar(begin=0, end=5)]), Lane(title="b", value=5.0, interval=(2.5, 7.5))],
        zone=(4.0, 6.0),
    )
    svg = draw_lanes(lanes, WORDS, "f")
    assert 'x="0%" y="5" width="50%"' in svg
    assert '<line class="iv" x1="25%" x2="75%"' in svg
    assert '<circle class="vl" cx="50%"' in svg
    assert svg.count('class="zone" x="40%" width="20%"') == 2


@pytest.mark.parametrize("series", [[], [Line(title="", x=[], y=[])], [Line(title="", x=[3], y=[3])]])
def test_nothing_and_a_single_value_can_be_drawn(series: list[Series]) -> None:
    assert "<svg" in drawn(*series)
