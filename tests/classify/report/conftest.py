"""What the browser tests of these pages share."""

from tests.page.conftest import browser  # noqa: F401 -- a fixture
