"""From a page to its one file."""

from collections.abc import Callable

from qwenops.page.document import Page
from qwenops.text import Language, translator

MAX_BYTES = 300_000
"""What a page with its raw data takes at most, where that is possible."""


def render(
    page: Page,
    *,
    language: Language | None = None,
    translation: Callable[[Language], Callable[[str], str]] = translator,
) -> str:
    """Return the whole file: both languages, style, script, plots and raw data.

    Args:
        page: What it shall hold.
        language: Which language is shown first; None shows the browser's.
        translation: Gives for a language what maps an English template to it.
    """
    raise NotImplementedError(page, language, translation)
