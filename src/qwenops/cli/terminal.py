"""What a command prints with: data on standard output, everything else on standard error, in the user's language.

Tables, bars and colour appear on a terminal only; through a pipe the same data comes as plain aligned columns.
"""

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from qwenops.errors import QwenOpsError
from qwenops.text import Language, Text, say, translate_text, translator


class Report(Protocol):
    """Told how far something is."""

    def __call__(self, fraction: float, doing: str, detail: str = "", /) -> None:
        """Take note: from 0 to 1, what is being done, and a number that changes often."""
        ...


NAME = "qwenops"
QUIET_PIPE_S = 10.0
"""Without a terminal, the same step reports again after this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Where a command prints, and in which language."""

    environ: Mapping[str, str]
    language: Language = "en"
    config_file: Path | None = None
    verbosity: int = 0
    """-1 is quiet: only errors and the data that was asked for."""
    argv0: str = NAME
    """How this program was called."""

    @property
    def program(self) -> str:
        """What to type for this program: its name where the shell finds it, else the path that it was called by."""
        import shlex
        import shutil

        if Path(self.argv0).name != NAME or shutil.which(NAME, path=self.environ.get("PATH", "")):
            return NAME
        return shlex.quote(self.argv0)

    @property
    def translate(self) -> Callable[[str], str]:
        """Map an English sentence to the user's language."""
        return translator(self.language)

    def said(self, text: str) -> str:
        """Return a sentence in the user's language."""
        return text.translated(self.translate) if isinstance(text, Text) else self.translate(text) if text else ""

    def show(self, text: str = "") -> None:
        """Print data on standard output."""
        print(translate_text(text, self.translate), flush=True)

    def tell(self, text: str = "") -> None:
        """Print a remark on standard error, unless quiet."""
        if self.verbosity >= 0:
            print(self._with_path(translate_text(text, self.translate)), file=sys.stderr, flush=True)

    def _with_path(self, text: str) -> str:
        """Return a sentence whose commands can be typed as they stand."""
        return text.replace(f"`{NAME} ", f"`{self.program} ") if f"`{NAME} " in text else text

    def show_json(self, schema: str, data: Mapping[str, Any]) -> None:
        """Print one JSON document; `schema` is its name and version, such as `qwenops.models/1`."""
        print(json.dumps({"schema": schema, **data}, ensure_ascii=False, indent=2, default=str), flush=True)

    def show_table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows on standard output: a table on a terminal, aligned columns elsewhere."""
        titles = [self.said(heading) for heading in headings]
        cells = [[str(translate_text(cell, self.translate)) for cell in row] for row in rows]
        if sys.stdout.isatty():
            self._show_rich_table(*fitting(titles, cells, self.console(sys.stdout).width))
        else:
            for line in aligned([titles, *cells]):
                print(line)
            sys.stdout.flush()

    def show_facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Print names and values on standard output, one pair a line, the values aligned."""
        for line in aligned([(self.said(name), str(translate_text(value, self.translate))) for name, value in facts]):
            print(line)
        sys.stdout.flush()

    def _show_rich_table(self, titles: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text as RichText

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
        for number, title in enumerate(titles):
            numeric = bool(cells) and all(row[number][:1].isdigit() or row[number] in {"", "-"} for row in cells)
            table.add_column(title, justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*(RichText(cell) for cell in row))
        self.console(sys.stdout).print(table)

    def console(self, stream: TextIO) -> Any:
        """Return a rich console on `stream` that obeys NO_COLOR."""
        from rich.console import Console

        return Console(file=stream, highlight=False, no_color=bool(self.environ.get("NO_COLOR")) or None)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """Yield what is to be told the progress: a bar with the time left, or, through a pipe, a line now and then."""
        if self.verbosity < 0:
            yield lambda _fraction, _doing, _detail="": None
        elif sys.stderr.isatty():
            with self._bar() as report:
                yield report
        else:
            yield self._lines(time.monotonic)

    @contextmanager
    def _bar(self) -> Iterator[Report]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(" "),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[detail]}", markup=False, style="dim"),
        )
        with Progress(*columns, console=self.console(sys.stderr), transient=True) as bar:
            task = bar.add_task("", total=1.0, detail="", visible=False)

            def report(fraction: float, doing: str, detail: str = "", /) -> None:
                # Nothing done yet may also mean that nobody can say: the bar pulses until there is a first part.
                total = 1.0 if fraction > 0 else None
                done = min(fraction, 1.0)
                bar.update(task, total=total, completed=done, description=self.said(doing), detail=detail, visible=True)

            yield report

    def _lines(self, clock: Callable[[], float]) -> Report:
        last: dict[str, Any] = {"step": "", "at_s": 0.0}

        def report(fraction: float, doing: str, _detail: str = "", /) -> None:
            # Two sentences of one template are one step: only the name of a tensor or a file differs.
            step, now_s = doing.template if isinstance(doing, Text) else doing, clock()
            if step != last["step"] or now_s - last["at_s"] > QUIET_PIPE_S:
                last.update(step=step, at_s=now_s)
                self.tell(f"{fraction:4.0%}  {self.said(doing)}")

        return report

    def fail(self, error: QwenOpsError, *, as_json: bool) -> None:
        """Print an error on standard error: what happened, then what to do; as JSON on standard output when asked."""
        message, hint = self.said(error.message), self._with_path(self.said(error.hint))
        print(self.said(say("Error: {message}", message=message)), file=sys.stderr)
        if hint:
            print(f"  {hint}", file=sys.stderr)
        sys.stderr.flush()
        if as_json:
            body = {"code": error.code, "exit_code": error.exit_code, "message": message, "hint": hint}
            self.show_json("qwenops.error/1", {"error": body})


def fitting(
    titles: Sequence[str], rows: Sequence[Sequence[str]], columns: int
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return a table, or, where a terminal of so many columns has no room for it, the same with its sides exchanged."""
    if not rows or _table_width([titles, *rows]) <= columns:
        return titles, rows
    first, *others = zip(titles, *rows, strict=True)
    return (first, others) if _table_width([first, *others]) <= columns else (titles, rows)


def _table_width(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(map(cell_width, column)) + _COLUMN_GAP for column in zip(*rows, strict=True))


_COLUMN_GAP = 2
"""Columns of a terminal between two of a table."""


def cell_width(text: str) -> int:
    """Return how many columns a terminal needs for `text`; a Chinese character takes two."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def padded(text: str, width: int) -> str:
    """Fill `text` with spaces to `width` columns."""
    return text + " " * max(0, width - cell_width(text))


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield one line for each row, its columns aligned and two spaces apart."""
    widths = [max(cell_width(row[number]) for row in rows) for number in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()


_STEERING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Return what a model wrote without characters that steer a terminal: escapes, and changes of direction."""
    return "".join(
        letter
        for letter in text
        if letter in "\n\t" or (unicodedata.category(letter) != "Cc" and letter not in _STEERING)
    )
