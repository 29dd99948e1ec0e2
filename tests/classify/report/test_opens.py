import os
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from qwenops.classify.report.contents import evaluation_page
from qwenops.classify.report.trends import Shown, trends_page
from qwenops.classify.report.weekly import trends_of
from qwenops.page.html import render
from tests.classify.report.predicted import told
from tests.classify.report.recorded import many_classes, record
from tests.page.browser import NARROW, WIDE, opened

pytestmark = pytest.mark.infra

EVEN = {"billing.fee": 0.5, "network.down": 0.3, "service.rude": 0.2}
RISEN = {"billing.fee": 0.35, "network.down": 0.3, "service.rude": 0.35}
PAGES = ("evaluation", "many", "trends")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, whole = tmp_path_factory.mktemp("pages"), record()
    trends = Shown(trends=trends_of(told([EVEN] * 11 + [RISEN], num=600)), names=whole.names, by_call_time=True)
    made = {
        "evaluation": evaluation_page(whole),
        "many": evaluation_page(many_classes()),
        "trends": trends_page(trends),
    }
    found = {}
    for name, page in made.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(render(page), "utf-8")
    return found


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    ("language", "theme", "width"), [("en", "light", WIDE), ("zh", "dark", NARROW), ("zh", "light", WIDE)]
)
def test_a_page_opens_without_a_network_and_passes_an_audit(
    browser: Browser, pages: dict[str, Path], name: str, language: str, theme: Literal["light", "dark"], width: int
) -> None:
    with opened(browser, pages[name], theme=theme, width=width) as found:
        found.speak(language)
        assert found.overflow_px() == 0
        if folder := os.environ.get("QWENOPS_SCREENSHOTS"):
            found.page.screenshot(path=Path(folder) / f"{name}-{language}-{theme}-{width}.png", full_page=True)
        assert found.violations() == []


@pytest.mark.parametrize("name", PAGES)
def test_the_verdict_is_seen_without_scrolling(browser: Browser, pages: dict[str, Path], name: str) -> None:
    with opened(browser, pages[name]) as found:
        box = found.page.locator(".verdict").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 900


def test_squares_are_coloured_as_strongly_as_there_are_calls_in_them(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["evaluation"]) as found:
        colours = found.page.evaluate(
            "Array.from(document.querySelectorAll('.matrix td[class]'))"
            ".map(each => getComputedStyle(each).backgroundColor)"
        )
        assert len(set(colours)) > 2
        assert "rgba(0, 0, 0, 0)" not in colours


def test_a_class_is_called_by_its_name_in_the_language_that_was_chosen(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with opened(browser, pages["evaluation"]) as found:
        heading = found.page.locator(".matrix tbody th").first
        found.speak("en")
        assert heading.inner_text().strip() == "1. Overcharged"
        found.speak("zh")
        assert heading.inner_text().strip() == "1. 多扣费"


def test_under_the_pointer_stands_the_week(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["trends"]) as found:
        plot = found.page.locator(".chart .plot").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box is not None
        found.page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 20)
        assert found.page.locator(".chart .tip").first.inner_text().startswith("2026-05-18")
