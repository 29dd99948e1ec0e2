from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qwenops.calls.classes import Words
from qwenops.classify.report.told import Told
from qwenops.classify.report.trends import MOST_CATEGORIES, MOST_WEEKS, Shown, joined, trends_page
from qwenops.classify.report.weekly import trends_of
from qwenops.page.document import Notice, Page, Tone
from qwenops.page.html import MAX_BYTES, render
from tests.classify.report.predicted import told
from tests.classify.report.recorded import english, tables_of
from tests.page.reading import read

EVEN = {"a": 0.5, "b": 0.3, "c": 0.2}
RISEN = {"a": 0.35, "b": 0.3, "c": 0.35}
NAMES = {"a": Words(zh="资费", en="Fees"), "c": Words(zh="断网", en="No network")}


def shown(calls: Sequence[Told], **more: Any) -> Shown:
    return replace(Shown(trends=trends_of(calls), names=NAMES, by_call_time=True), **more)


def notices(page: Page) -> list[str]:
    return [block.text for block in page.head if isinstance(block, Notice)]


def test_what_rose_and_what_fell_is_said_first_by_name() -> None:
    page = trends_page(shown(told([EVEN] * 5 + [RISEN], num=800)))
    first = page.head[0]
    assert isinstance(first, Notice)
    assert (first.tone, first.large) == (Tone.WARNING, True)
    assert first.text == "In the week of 2026-04-06, No network rose; Fees fell."
    quiet = trends_page(shown(told([EVEN] * 4)))
    assert notices(quiet) == ["In the week of 2026-03-23, no category surely rose or fell."]


def test_where_nothing_can_be_compared_nothing_is_claimed() -> None:
    page = trends_page(shown(told([EVEN], num=40)))
    assert notices(page)[0].startswith("There are too few weeks")
    calls = told([EVEN] * 4)
    cut = [each for each in calls if not each.conversation_id.startswith("3-")]
    few = [each for each in calls if each.conversation_id.startswith("3-")][:20]
    quiet = trends_page(shown([*cut, *few]))
    assert notices(quiet)[0] == "The week of 2026-03-23 has too few calls to say whether anything changed."


def test_the_tables_have_the_counts_and_the_intervals() -> None:
    found = shown(told([EVEN] * 5 + [RISEN], num=800))
    tables = tables_of(english(trends_page(found)))
    last = found.trends.weeks[-1]
    rows = {row[0].split("|")[-1]: row for row in tables["The week of 2026-04-06"][0][1:]}
    for code, each in last.portions.items():
        assert rows[code][1] == str(each.count)
        assert each.share.low is not None
        assert each.share.high is not None
        between = f"{100 * each.share.low:.1f}–{100 * each.share.high:.1f} %"  # noqa: RUF001 -- a dash of numbers
        assert rows[code][2] == f"{100 * each.share.value:.1f} %|{between}"
    assert rows["c"][4].endswith(" ▲")
    assert rows["a"][4].endswith(" ▼")
    assert rows["c"][5] == "< 0.001"
    counts = tables["Calls by week and category"][0]
    assert [row[0] for row in counts[1:]] == [week.begins.isoformat() for week in found.trends.weeks]
    assert [cell.split("|")[0] for cell in counts[-1][1:]] == [
        str(last.portions[code].count) for code in found.trends.categories
    ]


def test_the_matrix_marks_the_square_in_which_something_changed() -> None:
    found = shown(told([EVEN] * 5 + [RISEN], num=800))
    rows = tables_of(english(trends_page(found)))["Share of each category by week"][0]
    assert rows[0][1:] == [f"{week.begins:%m-%d}" for week in found.trends.weeks]
    marked = {row[0]: [number for number, cell in enumerate(row[1:]) if cell[-1:] in {"▲", "▼"}] for row in rows[1:]}
    assert (marked["No network"], marked["Fees"]) == ([5], [5])


def test_what_speaks_against_the_figures_is_said() -> None:
    calls = told([EVEN] * 3, num=600, models=["m@1", "m@1", "m@2"])
    page = trends_page(shown(calls, by_call_time=False, num_problems=3, without_call=2))
    said = notices(page)[1:]
    assert said[0].startswith("From the week of 2026-03-16 on, m@2 judged and no longer m@1")
    assert said[1].startswith("Weeks are those in which calls were classified")
    assert said[2].startswith("3 lines could not be read")
    assert said[3].startswith("2 predictions are not counted")


def test_a_rise_of_what_is_left_to_people_is_a_warning() -> None:
    page = trends_page(shown(told([EVEN] * 4, num=600, review=[0.1, 0.1, 0.1, 0.3])))
    assert any(each.startswith("More calls than before are left to people") for each in notices(page))


def test_the_page_fetches_nothing_and_no_name_is_markup() -> None:
    hostile = "<img src=http://127.0.0.1/x onerror=alert(1)>"
    calls = [replace(each, category=hostile) if each.category == "b" else each for each in told([EVEN] * 3)]
    html = render(trends_page(shown(calls, names={"a": Words(zh=hostile, en=hostile)}, source=hostile)))
    found = read(html)
    assert (found.addresses, found.handlers, found.unclosed) == ([], [], [])
    assert set(found.references) <= set(found.ids)
    assert "<img" not in html
    assert len(html.encode()) <= MAX_BYTES


def test_years_of_many_categories_make_no_endless_page() -> None:
    many = {f"group{each % 7}.class{each:03d}": 1 / 60 for each in range(60)}
    found = shown(told([many] * 40, num=400))
    html = render(trends_page(found))
    tables = tables_of(english(trends_page(found)))
    matrix = tables["Share of each category by week"][0]
    assert (len(matrix), len(matrix[0])) == (1 + MOST_CATEGORIES, 1 + MOST_WEEKS)
    assert "20 rarer categories are left out" in html
    assert len(html.encode()) <= 2 * MAX_BYTES


def test_names_follow_one_another() -> None:
    assert joined(["a", "b", "c"]) == "a, b, c"
    assert joined(["a"]) == "a"
