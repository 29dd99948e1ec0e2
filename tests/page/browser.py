"""A real Chromium that reaches no network, and remembers everything it was asked to load."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
LANGUAGES = {"en": "en", "zh": "zh-CN"}
WIDE, NARROW = 1280, 390


@dataclass
class Opened:
    """A page in the browser, with what it asked for and what it complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def speak(self, language: str) -> None:
        self.page.click(f'[data-lang="{LANGUAGES[language]}"]')

    def violations(self) -> list[str]:
        """Return what an accessibility audit finds, with everything opened."""
        self.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        self.page.wait_for_timeout(50)
        found = Axe().run(self.page)
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found.response["violations"]]

    def overflow_px(self) -> int:
        """Return how far the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def _can_isolate() -> bool:
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "-rn", "true"], check=False).returncode == 0


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start Chromium in a network namespace that has not even a loopback, where this machine allows one."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium here: sudo make infra")
    alone = folder / "chromium-alone"
    alone.write_text(f'#!/bin/sh\nexec unshare --net --map-root-user "{path}" "$@"\n')
    alone.chmod(0o755)
    isolated = _can_isolate()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(alone) if isolated else path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    path: Path,
    *,
    width: int = WIDE,
    theme: Literal["light", "dark"] = "light",
    locale: str = "en-GB",
    **more: Any,
) -> Iterator[Opened]:
    """Open a file; on leaving, fail if it asked for anything else or complained."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=theme, locale=locale, offline=True, **more
    )
    page = context.new_page()
    found = Opened(page=page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    try:
        page.goto(path.as_uri())
        yield found
        asked = [each for each in found.requests if not each.startswith(("blob:", path.as_uri()))]
        assert not found.complaints, f"it complained: {found.complaints}"
        assert not asked, f"it asked for {asked}"
    finally:
        context.close()
