from qwenops.page.behind import MOST_ROWS, table_of
from qwenops.page.document import Cell
from qwenops.page.plot import Axis, Band, Bar, Bars, Chart, Dots, Lane, Lanes, Line, Panel


def texts(plot: Chart | Lanes) -> list[list[str]]:
    table = table_of(plot, "t")
    rows = [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in table.rows]
    return [[str(column.title) for column in table.columns], *rows]


def chart(*panels: Panel, x: Axis | None = None) -> Chart:
    return Chart(x=x or Axis(title="time", scale="time"), panels=panels)


def test_few_values_stand_in_the_table_as_they_are() -> None:
    upper = Panel(y=Axis(title="Latency", unit="s"), series=[Line(title="p50", x=[0, 60], y=[1.5, None])])
    lower = Panel(y=Axis(title="Users"), series=[Line(title="", x=[0, 90], y=[2, 3])])
    found = texts(chart(upper, lower))
    assert found == [["time", "p50 (s)", "Users"], ["0:00", "1.5", "2"], ["1:30", "", "3"]]


def test_a_column_names_its_panel_where_the_panel_has_several() -> None:
    cpu = Panel(y=Axis(title="CPU"), series=[Line(title=name, x=[0], y=[1]) for name in ("all", "server")])
    other = Panel(y=Axis(title="Memory"), series=[Line(title="", x=[0], y=[1])])
    assert texts(chart(cpu, other))[0] == ["time", "CPU: all", "CPU: server", "Memory"]
    assert texts(chart(cpu))[0] == ["time", "all", "server"]


def test_many_values_become_stretches_with_median_and_range() -> None:
    dots = Dots(title="", x=[float(each) for each in range(6000)], y=[float(each % 10) for each in range(6000)])
    found = texts(chart(Panel(y=Axis(title="y"), series=[dots])))
    assert len(found) == MOST_ROWS + 1
    assert found[1][1] == "4 (0–9)"  # noqa: RUF001 -- a dash between two numbers


def test_an_interval_stands_as_one_cell() -> None:
    band = Band(title="95 %", x=[1.0], low=[0.5], high=[2.0])
    assert texts(chart(Panel(y=Axis(title="y"), series=[band])))[1][1] == "0.5–2"  # noqa: RUF001 -- a dash of numbers


def test_a_histogram_has_a_row_for_each_bin() -> None:
    bars = Bars(title="", edges=[0, 1, 2], y=[3, 4])
    found = texts(chart(Panel(y=Axis(title="Answers"), series=[bars]), x=Axis(title="s")))
    assert found == [["s", "Answers"], ["0–1", "3"], ["1–2", "4"]]  # noqa: RUF001 -- a dash between two numbers


def test_lanes_say_their_parts_or_their_value_with_its_interval() -> None:
    ratio = Lanes(x=Axis(title="ratio"), lanes=[Lane(title="e2e", value=0.9, interval=(0.8, 1.0), points=[0.85])])
    assert texts(ratio)[1] == ["e2e", "0.9 (0.8–1)", "0.85"]  # noqa: RUF001 -- a dash between two numbers
    phases = Lanes(x=Axis(title="s"), lanes=[Lane(title="cold", bars=[Bar(begin=0, end=2, title="ready")])])
    assert texts(phases)[1] == ["cold", "ready", "0–2"]  # noqa: RUF001 -- a dash between two numbers
