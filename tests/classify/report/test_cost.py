import pytest

from qwenops.classify.report.cost import cost_blocks, cost_tile
from qwenops.classify.report.record import Cost
from qwenops.page.document import Cell, Table


def rows(cost: Cost) -> list[list[str]]:
    table = cost_blocks(cost)[0]
    assert isinstance(table, Table)
    return [[cell.text if isinstance(cell, Cell) else str(cell) for cell in row] for row in table.rows]


WHOLE = Cost(
    calls_per_s=4.0,
    machine_per_hour=0.9,
    review_share=0.25,
    minutes_per_review=2.0,
    person_per_hour=30.0,
    currency="USD",
)


def test_a_thousand_calls_cost_their_time_and_the_people_who_look_at_the_rest() -> None:
    assert WHOLE.machine_s == 250
    assert WHOLE.machine_cost == pytest.approx(0.0625)
    assert WHOLE.person_cost == pytest.approx(250)
    assert [row[1] for row in rows(WHOLE)] == ["250 s", "0.0625 USD", "250 USD", "250 USD"]


def test_a_price_that_nobody_gave_is_not_made_up() -> None:
    bare = Cost(calls_per_s=8.0)
    assert (bare.machine_cost, bare.person_cost) == (None, None)
    assert [row[1] for row in rows(bare)[1:]] == ["–", "–"]  # noqa: RUF001 -- says that there is no value
    tile = cost_tile(bare)
    assert tile is not None
    assert (tile.name, tile.value) == ("Machine time for 1,000 calls", "125 s")


def test_each_figure_says_what_it_was_made_of() -> None:
    how = [row[2] for row in rows(WHOLE)]
    assert how[0] == "1,000 / 4 calls a second"
    assert how[1] == "250 s / 3,600 × 0.9 USD an hour"
    assert how[2] == "1,000 × 25.0 % × 2 min / 60 × 30 USD an hour"


def test_without_a_measured_speed_there_is_no_cost() -> None:
    assert cost_blocks(None) == []
    assert cost_tile(None) is None
