"""Fewer points for a picture that has only so many pixels, without losing an extreme.

Both reductions work by columns of equal width. What is drawn is what a drawing of all points would have covered: no
point is averaged away, and no point is made up.
"""

from collections.abc import Sequence
from dataclasses import dataclass


def envelope(
    x: Sequence[float], y: Sequence[float | None], *, low: float, high: float, num_columns: int
) -> list[tuple[float, float | None]]:
    """Return the points of a line that its picture needs: of each column the lowest and the highest, and both ends.

    Args:
        x: Ascending.
        y: As many values; None breaks the line, and every break is kept.
        low: Where the first column begins.
        high: Where the last column ends.
        num_columns: How many columns the picture has.
    """
    points = list(zip(x, y, strict=True))
    if len(points) <= 2 * num_columns:
        return points
    kept: set[int] = {0, len(points) - 1}
    column, lowest, highest = -1, -1, -1
    for number, (at, value) in enumerate(points):
        if value is None:
            kept.update({number, max(number - 1, 0), min(number + 1, len(points) - 1)})
            continue
        mine = column_of(at, low, high, num_columns)
        if mine != column:
            kept.update(index for index in (lowest, highest) if index >= 0)
            column, lowest, highest = mine, number, number
        if value < (points[lowest][1] or 0.0):
            lowest = number
        if value > (points[highest][1] or 0.0):
            highest = number
    kept.update(index for index in (lowest, highest) if index >= 0)
    return [points[number] for number in sorted(kept)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heap:
    """The points of one column."""

    x: float
    """Where the column's middle is."""
    low: float
    median: float
    high: float
    num: int


def heaps(x: Sequence[float], y: Sequence[float], *, low: float, high: float, num_columns: int) -> list[Heap]:
    """Return for each column that has points their range and their median (the lower one of two)."""
    columns: dict[int, list[float]] = {}
    for at, value in zip(x, y, strict=True):
        columns.setdefault(column_of(at, low, high, num_columns), []).append(value)
    width = (high - low) / num_columns
    found = []
    for column, values in sorted(columns.items()):
        values.sort()
        middle = values[(len(values) - 1) // 2]
        at = low + (column + 0.5) * width
        found.append(Heap(x=at, low=values[0], median=middle, high=values[-1], num=len(values)))
    return found


def column_of(x: float, low: float, high: float, num_columns: int) -> int:
    """Return the number of the column in which `x` is."""
    if high <= low:
        return 0
    return min(max(int((x - low) / (high - low) * num_columns), 0), num_columns - 1)
