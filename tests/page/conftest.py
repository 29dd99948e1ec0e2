"""What the browser tests share."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.page.browser import chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a Chromium without a network."""
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found
