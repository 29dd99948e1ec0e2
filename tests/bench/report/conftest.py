"""What the browser tests of reports share."""

from tests.page.conftest import browser  # noqa: F401 -- a fixture
