import csv
import math
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from qwenops.page.html import render
from tests.page.browser import NARROW, WIDE, opened
from tests.page.pages import X, full_page
from tests.page.test_html import shouting

pytestmark = pytest.mark.infra


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("page") / "page.html"
    found.write_text(render(full_page(), translation=shouting), "utf-8")
    return found


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_audit_finds_nothing(
    browser: Browser, path: Path, language: str, theme: Literal["light", "dark"], width: int
) -> None:
    with opened(browser, path, theme=theme, width=width) as found:
        found.speak(language)
        assert found.violations() == []
        assert found.overflow_px() == 0


def test_the_policy_stops_what_would_be_fetched(browser: Browser, path: Path, tmp_path: Path) -> None:
    infected = tmp_path / "infected.html"
    infected.write_text(
        path.read_text("utf-8").replace("<footer>", '<img src="http://127.0.0.1:9/x.png"><footer>'), "utf-8"
    )
    with pytest.raises(AssertionError, match="Content Security Policy"), opened(browser, infected):
        pass


def test_the_browser_chooses_the_first_language_and_the_switch_changes_it(browser: Browser, path: Path) -> None:
    with opened(browser, path, locale="zh-TW") as found:
        page = found.page
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        assert page.title() == "【Result of <b>x</b>】"
        assert page.get_by_text("【All is well.】").is_visible()
        assert not page.get_by_text("All is well.", exact=True).is_visible()
        found.speak("en")
        assert page.get_by_text("All is well.", exact=True).is_visible()
        assert page.title() == "Result of <b>x</b>"


def test_light_and_dark_follow_the_system_until_the_switch_is_used(browser: Browser, path: Path) -> None:
    with opened(browser, path, theme="dark") as found:
        colour = "getComputedStyle(document.body).backgroundColor"
        dark = found.page.evaluate(colour)
        found.page.click("#theme")
        light = found.page.evaluate(colour)
        found.page.click("#theme")
        assert (light, found.page.evaluate(colour)) == ("rgb(255, 255, 255)", dark)
        assert dark != light


def test_everything_can_be_reached_and_used_by_the_keyboard(browser: Browser, path: Path) -> None:
    with opened(browser, path, width=NARROW) as found:
        page = found.page
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            name = page.evaluate(
                "(e => e === document.body ? '' : e.tagName + ':' + (e.id || e.className || e.innerText))"
                "(document.activeElement)"
            )
            if not name:
                break
            reached.append(name)
        kinds = " ".join(reached)
        for part in ("A:skip", "BUTTON:theme", "SUMMARY", "PRE", "BUTTON:copy", "BUTTON:save", "A:"):
            assert part in kinds
        page.locator("details.behind summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details.behind table").first.is_visible()
        page.locator("table.sortable th button").nth(1).focus()
        page.keyboard.press("Enter")
        assert page.locator("table.sortable thead th").nth(1).get_attribute("aria-sort") == "ascending"


def test_a_table_is_sorted_by_value_and_what_has_none_comes_last(browser: Browser, path: Path) -> None:
    with opened(browser, path) as found:
        names = found.page.locator("table.sortable tbody th")
        button = found.page.locator("table.sortable thead button").nth(1)
        orders = []
        for _ in range(2):
            button.click()
            orders.append("".join(names.all_inner_texts()))
        assert orders == ["bac", "abc"]


def test_the_raw_data_can_be_saved_as_csv(browser: Browser, path: Path, tmp_path: Path) -> None:
    with opened(browser, path, accept_downloads=True) as found:
        with found.page.expect_download() as saved:
            found.page.click("button.save")
        saved.value.save_as(tmp_path / "rows.csv")
        assert saved.value.suggested_filename == "rows.csv"
    with (tmp_path / "rows.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 500
    assert rows[1]["kind"] == 'with "quotes", and commas'
    assert (rows[3]["value_s"], rows[3]["later_s"]) == ("", "")
    assert abs(float(rows[81]["later_s"]) - 90) <= 5.1e-7
    assert max(abs(float(row["at_s"]) - number / 7) for number, row in enumerate(rows)) <= 5.1e-7


def test_a_command_can_be_copied(browser: Browser, path: Path) -> None:
    with opened(browser, path, permissions=["clipboard-read", "clipboard-write"]) as found:
        found.page.click("button.copy")
        found.page.wait_for_selector("button.copy[data-state=copied]")
        assert found.page.evaluate("navigator.clipboard.readText()") == "qwenops bench load 'x' --slo \"a < 1\""


def test_under_the_pointer_stand_the_numbers_of_that_moment(browser: Browser, path: Path) -> None:
    with opened(browser, path) as found:
        plot = found.page.locator(".chart .plot").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box is not None
        found.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
        tip = found.page.locator(".chart .tip").first
        assert tip.is_visible()
        at_s = X[-1] * 0.25
        said = tip.inner_text()
        value = float(said.split("Latency: Every answer (s): ")[1].split()[0])
        assert abs(value - (5 + 3 * math.sin(at_s / 9))) < 0.5
        found.page.mouse.move(5, 5)
        assert not tip.is_visible()


def test_it_can_be_read_without_any_script(browser: Browser, path: Path) -> None:
    with opened(browser, path, java_script_enabled=False) as found:
        assert found.page.get_by_text("All is well.", exact=True).is_visible()
        assert not found.page.locator(".controls").is_visible()
