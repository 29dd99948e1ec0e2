import os
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from qwenops.bench.report.contents import report_page
from qwenops.page.html import render
from tests.bench.report import runs
from tests.page.browser import NARROW, WIDE, opened

pytestmark = pytest.mark.infra


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    for verb, make in runs.RUNS.items():
        found[verb] = folder / f"{verb}.html"
        found[verb].write_text(render(report_page(make())), "utf-8")
    return found


@pytest.mark.parametrize("verb", runs.RUNS)
@pytest.mark.parametrize(("language", "theme", "width"), [("en", "light", WIDE), ("zh", "dark", NARROW)])
def test_a_report_opens_without_a_network_and_passes_an_audit(
    browser: Browser, reports: dict[str, Path], verb: str, language: str, theme: Literal["light", "dark"], width: int
) -> None:
    with opened(browser, reports[verb], theme=theme, width=width) as found:
        found.speak(language)
        assert found.overflow_px() == 0
        if folder := os.environ.get("QWENOPS_SCREENSHOTS"):
            found.page.screenshot(path=Path(folder) / f"{verb}-{language}-{theme}-{width}.png", full_page=True)
        assert found.violations() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_report_of_a_load_passes_an_audit_in_both_languages_and_lights(
    browser: Browser, reports: dict[str, Path], language: str, theme: Literal["light", "dark"]
) -> None:
    with opened(browser, reports["load"], theme=theme) as found:
        found.speak(language)
        assert found.violations() == []


def test_the_verdict_and_the_headline_figures_are_seen_without_scrolling(
    browser: Browser, reports: dict[str, Path]
) -> None:
    with opened(browser, reports["load"]) as found:
        for part in (".verdict", ".tiles"):
            box = found.page.locator(part).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] < 900


PAPER = 703
"""Pixels between the margins of A4."""
CUT = """
    Array.from(document.querySelectorAll('.scroll, table, figure, .box')).filter(
        each => each.getClientRects().length && each.getBoundingClientRect().right > innerWidth + 1
    ).map(each => each.outerHTML.slice(0, 200))
"""


@pytest.mark.parametrize("verb", runs.RUNS)
def test_on_paper_nothing_is_cut_off_and_no_page_is_left_half_empty(
    browser: Browser, reports: dict[str, Path], verb: str
) -> None:
    with opened(browser, reports[verb], theme="dark", width=PAPER) as found:
        page = found.page
        page.emulate_media(media="print")
        page.wait_for_timeout(100)
        assert page.evaluate(CUT) == []
        assert found.overflow_px() == 0
        assert not page.locator("nav, .controls, details:not([open])").locator("visible=true").count()
        assert page.evaluate("getComputedStyle(document.querySelector('section')).breakInside") == "auto"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        sizes = (
            "Array.from(document.querySelectorAll('p, td')).map(each => parseFloat(getComputedStyle(each).fontSize))"
        )
        assert min(page.evaluate(sizes)) >= 8
        assert page.pdf(format="A4").startswith(b"%PDF")
