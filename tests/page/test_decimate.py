from hypothesis import given
from hypothesis import strategies as st

from qwenops.page.decimate import column_of, envelope, heaps

VALUES = st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), min_size=1, max_size=400)
COLUMNS = st.integers(1, 20)


def extremes(points: list[tuple[float, float | None]], high: float, num: int) -> dict[int, tuple[float, float]]:
    """Return the lowest and the highest value of each column."""
    found: dict[int, tuple[float, float]] = {}
    for x, y in points:
        if y is not None:
            column = column_of(x, 0.0, high, num)
            low, top = found.get(column, (y, y))
            found[column] = (min(low, y), max(top, y))
    return found


@given(VALUES, COLUMNS)
def test_a_line_that_is_reduced_reaches_as_high_and_as_low_in_every_column(y: list[float | None], num: int) -> None:
    x = [float(each) for each in range(len(y))]
    high = max(x[-1], 1.0)
    points = list(zip(x, y, strict=True))
    kept = envelope(x, y, low=0.0, high=high, num_columns=num)
    assert extremes(kept, high, num) == extremes(points, high, num)
    assert set(kept) <= set(points)
    assert kept == sorted(kept, key=lambda point: point[0])
    assert [point for point in kept if point[1] is None] == [point for point in points if point[1] is None]


def test_a_line_without_breaks_becomes_two_points_a_column() -> None:
    x = [each / 100 for each in range(10_000)]
    kept = envelope(x, [each % 7 for each in x], low=0, high=100, num_columns=50)
    assert len(kept) <= 102


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-5, 5)), min_size=1), COLUMNS)
def test_heaps_say_of_every_column_how_many_from_where_to_where_and_the_middle(
    points: list[tuple[float, float]], num: int
) -> None:
    found = heaps([x for x, _ in points], [y for _, y in points], low=0.0, high=10.0, num_columns=num)
    assert sum(heap.num for heap in found) == len(points)
    assert min(heap.low for heap in found) == min(y for _, y in points)
    assert max(heap.high for heap in found) == max(y for _, y in points)
    for heap in found:
        mine = sorted(y for x, y in points if column_of(x, 0, 10, num) == column_of(heap.x, 0, 10, num))
        assert (heap.low, heap.median, heap.high) == (mine[0], mine[(len(mine) - 1) // 2], mine[-1])
