import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.page.document import Page, Section
from qwenops.page.html import render
from qwenops.page.matrix import STEPS, Matrix, MatrixRow, Square, draw_matrix, strength
from qwenops.page.words import Words
from qwenops.text import say
from tests.page.reading import read

WORDS = Words(translate={"en": str, "zh": lambda template: f"【{template}】"})
MATRIX = Matrix(
    title=say("What is taken for what"),
    corner="true",
    columns=["1", "2"],
    rows=[
        MatrixRow(title="1. a", squares=[Square(text="9", heat=0.9, hue=2), Square(text="1", heat=0.1, hue=1)]),
        MatrixRow(title="2. <b>", squares=[Square(), Square(text="4", heat=1.0, hue=9)]),
    ],
    note="n",
)


def squares(html: str) -> list[tuple[str, str]]:
    return re.findall(r'<td(?: class="([^"]*)")?>([^<]*)', html)


def test_every_square_stands_in_its_place_with_its_colour() -> None:
    assert squares(draw_matrix(MATRIX, WORDS, "m")) == [("h2 k9", "9"), ("h1 k1", "1"), ("", ""), ("h2 k9", "4")]


def test_titles_are_translated_and_never_markup() -> None:
    html = draw_matrix(MATRIX, WORDS, "m")
    assert '<h3 id="m"><span lang="en">What is taken for what</span><span lang="zh-CN">【' in html
    assert "2. &lt;b&gt;" in html
    assert "<b>" not in html


def test_a_page_with_a_matrix_is_well_formed_and_keeps_the_policy() -> None:
    html = render(Page(title="t", sections=[Section(title="s", anchor="s", blocks=[MATRIX, MATRIX])]))
    found = read(html)
    assert (found.unclosed, found.addresses, found.handlers) == ([], [], [])
    assert len(found.ids) == len(set(found.ids))
    assert set(found.references) <= set(found.ids)
    assert len(squares(html)) == 8


def test_each_strength_has_its_rule_in_the_style() -> None:
    style = read(render(Page(title="t"))).styles[0]
    assert all(f".k{step}{{background:" in style for step in range(1, STEPS + 1))


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_is_never_paler_and_something_is_never_invisible(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= strength(low) <= strength(high) <= STEPS
    assert (strength(high) > 0) == (high > 0)


def test_a_row_of_another_width_is_refused() -> None:
    broken = Matrix(title="t", corner="", columns=["1"], rows=[MatrixRow(title="a", squares=[])])
    with pytest.raises(ValueError, match="0 squares under 1 columns"):
        draw_matrix(broken, WORDS, "m")
