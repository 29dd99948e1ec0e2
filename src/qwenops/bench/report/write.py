"""Write the report of a run into its folder."""

from pathlib import Path

from qwenops.atomic import write_text
from qwenops.bench.folder import read_run
from qwenops.bench.report.contents import report_page
from qwenops.bench.thinning import Bounds
from qwenops.page.html import REPORT, render
from qwenops.text import Language


def write_report(run_folder: Path, *, language: Language | None = None, out: Path | None = None) -> Path:
    """Make the report of a run and return its path.

    Args:
        run_folder: What a `qwenops bench` command left, also one that was cut off.
        language: Which language is shown first; None shows the reader's browser's.
        out: Where to write it; None writes `report.html` into the run's folder.

    Raises:
        RunFolderError: It is no run's folder, damaged, or of a newer version.
    """
    path = out or run_folder / REPORT
    write_text(path, render(report_page(read_run(run_folder, thin=Bounds())), language=language))
    return path
