"""Write pages: of an evaluation, and of what calls were about week by week."""

from pathlib import Path

from qwenops.atomic import write_text
from qwenops.classify.report.contents import evaluation_page
from qwenops.classify.report.gather import record_of
from qwenops.classify.report.record import Record
from qwenops.classify.report.trends import Shown, trends_page
from qwenops.classify.trial import MODEL
from qwenops.page.html import REPORT, render
from qwenops.text import Language

_PAGE = ".html"


def write_report(folder: Path, out: Path, *, name: str = MODEL, language: Language | None = None) -> Path:
    """Make the page about a classifier and return its path.

    Args:
        folder: What `qwenops finetune evaluate` or `export` left; see `gather.record_of`.
        out: The file, which ends in .html, or the folder that gets `report.html`.
        name: What the classifier is called, where the folder does not say.
        language: Which language is shown first; None shows the reader's browser's.

    Raises:
        InvalidDataError: There is no evaluation in the folder.
    """
    return write_page(out, record_of(folder, name), language=language)


def write_page(out: Path, record: Record, *, language: Language | None = None) -> Path:
    """Write the page about an evaluation; see `write_report`."""
    path = out if out.suffix.lower() == _PAGE else out / REPORT
    write_text(path, render(evaluation_page(record), language=language), mode=0o600)
    return path


def write_trends(path: Path, shown: Shown, *, language: Language | None = None) -> Path:
    """Write the page of what calls were about week by week, and return its path; see `write_report`."""
    write_text(path, render(trends_page(shown), language=language), mode=0o600)
    return path
