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
