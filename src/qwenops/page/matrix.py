"""A table whose squares are coloured by how much is in them: what is taken for what, or how much of what in which week.

It is a real table, so whoever reads with their ears, prints it or copies it has everything; the colour only repeats
what is written. Colours are classes of `style.css` in `STEPS` strengths, because the page's policy allows no style in
attributes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qwenops.page.words import Words

STEPS = 9
"""How many strengths of a colour can be told apart."""
NUM_COLOURS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """One place of a matrix."""

    text: str = ""
    heat: float = 0.0
    """How strongly it is coloured, from 0 to 1."""
    hue: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """Squares beside one another, with what they are about."""

    title: str
    squares: Sequence[Square]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Rows of coloured squares under headings; a block of a page."""

    title: str
    corner: str
    """What the titles of the rows, and those of the columns, are about."""
    columns: Sequence[str]
    rows: Sequence[MatrixRow]
    note: str = ""


def draw_matrix(matrix: Matrix, words: Words, name: str) -> str:
    """Return a matrix as HTML; `name` is the id that its title gets.

    Raises:
        ValueError: A row has not as many squares as there are columns.
    """
    heads = "".join(f'<th scope="col">{words.html(each)}' for each in matrix.columns)
    rows = "".join(_row(each, len(matrix.columns), words) for each in matrix.rows)
    note = f'<p class="remark">{words.html(matrix.note)}</p>' if matrix.note else ""
    return (
        f'<div class="table"><h3 id="{name}">{words.html(matrix.title)}</h3>'
        f'<div class="scroll" data-name="{name}"><table class="matrix" aria-labelledby="{name}">'
        f'<thead><tr><th scope="col">{words.html(matrix.corner)}{heads}</thead><tbody>{rows}</tbody></table></div>'
        f"{note}</div>"
    )


def strength(heat: float) -> int:
    """Return the step that shows how much is there, from 0 to `STEPS`; whatever is more than nothing is seen."""
    return min(STEPS, math.ceil(heat * STEPS)) if heat > 0 else 0


def _row(row: MatrixRow, num_columns: int, words: Words) -> str:
    if len(row.squares) != num_columns:
        raise ValueError(f"{len(row.squares)} squares under {num_columns} columns")
    return f'<tr><th scope="row">{words.html(row.title)}{"".join(_square(each, words) for each in row.squares)}'


def _square(square: Square, words: Words) -> str:
    step = strength(square.heat)
    kind = f' class="h{square.hue % NUM_COLOURS} k{step}"' if step else ""
    return f"<td{kind}>{words.html(square.text)}"
