"""The live view of a measurement: a few lines that are drawn anew on a terminal, a line now and then through a pipe.

It draws at most four times a second, on standard error, from the snapshots that a run hands out; what drawing takes of
the CPU is measured (`LiveView.cpu_share`), because whoever measures on the server's own machine takes it from there.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qwenops.cli.terminal import QUIET_PIPE_S, Terminal
from qwenops.options import show_bytes
from qwenops.text import Text, say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qwenops.bench.run import Snapshot

DRAWS_PER_S = 4.0
CHART_ROWS = 3
CHART_COLUMNS = 30
BAR_COLUMNS = 16
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LINE = "┄"
_HOT = 0.9
"""A share above which a bar is red."""
_LIGHTS = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}


def chart(values: Sequence[float], limit: float | None, *, rows: int = CHART_ROWS) -> list[str]:
    """Draw values as bars of eighths in `rows` lines, the highest line first, with a dotted line at `limit`.

    The scale begins at 0 and ends at the highest value or the limit; the limit is drawn where no bar stands before it.
    """
    top = max([*values, limit or 0.0, 1e-9])
    steps = [round(each / top * rows * 8) for each in values]
    limit_row = None if limit is None else min(int(limit / top * rows), rows - 1)
    lines = []
    for row in reversed(range(rows)):
        cells = [_EIGHTHS[min(max(step - row * 8, 0), 8)] for step in steps]
        lines.append("".join(_LINE if cell == " " and row == limit_row else cell for cell in cells))
    return lines


def bar(share: float, columns: int = BAR_COLUMNS) -> str:
    """Draw a share between 0 and 1."""
    full = round(min(max(share, 0.0), 1.0) * columns)
    return "█" * full + "░" * (columns - full)


def clock_text(seconds: float) -> str:
    """Write a duration as a clock does: `1:02:03`, `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def median(values: Sequence[float]) -> float | None:
    """Return the middle one, None where there is none."""
    return sorted(values)[len(values) // 2] if values else None


class LiveView:
    """Shows the snapshots of one run.

    Args:
        terminal: Where and in which language.
        about: What is measured, for the first line.
        limits: Bounds in seconds of `ttft` and `e2e` that the objective names, for the dotted lines.
        interactive: Whether standard error is a terminal.
    """

    def __init__(
        self,
        terminal: Terminal,
        about: str,
        limits: dict[str, float],
        *,
        interactive: bool,
    ) -> None:
        """Draw nothing yet."""
        self._terminal = terminal
        self._about = about
        self._limits = limits
        self._interactive = interactive
        self._live: Any = None
        self._drawn_s = 0.0
        self._segment = ""
        self._opened_s = time.monotonic()
        self._spent_s = 0.0

    @property
    def cpu_share(self) -> float:
        """What drawing has taken so far, as a share of one core."""
        return self._spent_s / max(time.monotonic() - self._opened_s, 1e-9)

    @contextmanager
    def showing(self) -> Iterator["LiveView"]:
        """Draw until the block is left; nothing of it stays on the terminal."""
        if not self._interactive or self._terminal.verbosity < 0:
            yield self
            return
        from rich.live import Live

        console = self._terminal.console(sys.stderr)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            self._live = live
            try:
                yield self
            finally:
                self._live = None

    def __call__(self, snapshot: "Snapshot") -> None:
        """Take note of how the run is going; a call that comes too soon after the last drawing costs nothing."""
        now_s = time.monotonic()
        fresh = snapshot.segment != self._segment
        wait_s = 1 / DRAWS_PER_S if self._live is not None else QUIET_PIPE_S
        if self._terminal.verbosity < 0 or (not fresh and now_s - self._drawn_s < wait_s):
            return
        self._drawn_s, self._segment = now_s, snapshot.segment
        began_s = time.thread_time()
        if self._live is not None:
            self._live.update(self.frame(snapshot), refresh=True)
        elif not self._interactive:
            self._terminal.tell(self.line(snapshot))
        self._spent_s += time.thread_time() - began_s

    def line(self, snapshot: "Snapshot") -> str:
        """Return one plain line."""
        from qwenops.bench.words import verdict_word

        return self._terminal.said(
            say(
                "{clock}  {segment}  {done} done, {failed} failed, {in_flight} in flight, {rate:.2f} requests/s, "
                "TTFT {ttft}, E2E {e2e}, client {verdict}",
                clock=clock_text(snapshot.elapsed_s),
                segment=part_of(snapshot),
                done=snapshot.done,
                failed=snapshot.failed,
                in_flight=snapshot.in_flight,
                rate=snapshot.achieved_rate,
                ttft=seconds_text(median(snapshot.recent_ttft_s)),
                e2e=seconds_text(median(snapshot.recent_e2e_s)),
                verdict=verdict_word(snapshot.validity.verdict.value),
            )
        )

    def frame(self, snapshot: "Snapshot") -> "RenderableType":
        """Return what the terminal shows."""
        from rich.console import Group
        from rich.text import Text as RichText

        lines: list[RenderableType] = [RichText.assemble((f"{snapshot.verb} ", "bold"), (self._about, "cyan"))]
        lines.append(self._light(snapshot))
        lines.append(self._progress(snapshot))
        lines.append(self._counts(snapshot))
        lines.append(self._charts(snapshot))
        if snapshot.host:
            lines.append(self._host(snapshot))
        return Group(*lines)

    def _light(self, snapshot: "Snapshot") -> "RenderableType":
        from rich.text import Text as RichText

        verdict = snapshot.validity.verdict.value
        words = {"VALID": say("measuring soundly"), "SUSPECT": say("suspect"), "INVALID": say("proves nothing")}
        text = RichText.assemble(("● ", _LIGHTS[verdict]), self._terminal.said(words[verdict]))
        if snapshot.validity.reasons:
            text.append("  " + self._terminal.said(snapshot.validity.reasons[0]), style="dim")
        text.no_wrap, text.overflow = True, "ellipsis"
        return text

    def _progress(self, snapshot: "Snapshot") -> "RenderableType":
        from rich.text import Text as RichText

        expected_s, elapsed_s = snapshot.expected_s, snapshot.elapsed_s
        if not expected_s:
            return RichText(f"{clock_text(elapsed_s)}  {self._terminal.said(part_of(snapshot))}")
        share = min(elapsed_s / expected_s, 1.0)
        left = say("about {left} left", left=clock_text(max(expected_s - elapsed_s, 0.0)))
        return RichText.assemble(
            (bar(share, CHART_COLUMNS), "blue"),
            f" {share:4.0%}  {clock_text(elapsed_s)}  ",
            (self._terminal.said(left), "dim"),
            f"  {self._terminal.said(part_of(snapshot))}",
        )

    def _counts(self, snapshot: "Snapshot") -> "RenderableType":
        from rich.text import Text as RichText

        said = self._terminal.said
        parts: list[tuple[Text, str, str]] = []
        if snapshot.target_rate is not None:
            parts.append((say("target"), f"{snapshot.target_rate:.2f}/s", ""))
        if snapshot.users is not None:
            parts.append((say("callers"), str(snapshot.users), ""))
        parts += [
            (say("achieved"), f"{snapshot.achieved_rate:.2f}/s", ""),
            (say("in flight"), str(snapshot.in_flight), ""),
            (say("done"), str(snapshot.done), "green" if snapshot.done else ""),
            (say("failed"), str(snapshot.failed), "bold red" if snapshot.failed else ""),
        ]
        if snapshot.dropped:
            parts.append((say("dropped"), str(snapshot.dropped), "bold red"))
        text = RichText()
        for name, value, style in parts:
            text.append(f"{said(name)} ", style="dim").append(f"{value}   ", style=style)
        return text

    def _charts(self, snapshot: "Snapshot") -> "RenderableType":
        from rich.table import Table
        from rich.text import Text as RichText

        grid = Table.grid(padding=(0, 4))
        titles, drawings = [], []
        for name, values, limit in (
            ("TTFT", snapshot.recent_ttft_s, self._limits.get("ttft")),
            ("E2E", snapshot.recent_e2e_s, self._limits.get("e2e")),
        ):
            shown = values[-CHART_COLUMNS:]
            last = seconds_text(shown[-1] if shown else None)
            middle = self._terminal.said(
                say("median {middle}, last {last}", middle=seconds_text(median(values)), last=last)
            )
            titles.append(RichText.assemble((f"{name} ", "bold"), middle))
            drawing = RichText()
            for number, line in enumerate(chart([*[0.0] * (CHART_COLUMNS - len(shown)), *shown], limit)):
                if number:
                    drawing.append("\n")
                _append_bars(drawing, line, shown, limit)
            drawings.append(drawing)
            if limit is not None:
                titles[-1].append(f"  {_LINE * 2} {seconds_text(limit)}", style="dim")
        grid.add_row(*titles)
        grid.add_row(*drawings)
        return grid

    def _host(self, snapshot: "Snapshot") -> "RenderableType":
        from rich.text import Text as RichText

        said = self._terminal.said
        text = RichText()
        for name, share, value in host_bars(snapshot.host):
            text.append(f"{said(name)} ", style="dim")
            text.append(bar(share), style="red" if share > _HOT else "green")
            text.append(f" {value}   ")
        return text


def host_bars(sample: Mapping[str, Any]) -> list[tuple[Text, float, str]]:
    """Return what a sample of the host says as bars: name, share, value."""
    found = []
    if (busy := sample.get("cpu_busy_ratio")) is not None:
        found.append((say("CPU"), busy, f"{busy:.0%}"))
    all_bytes, free_bytes = sample.get("memory_total_bytes"), sample.get("memory_available_bytes")
    if all_bytes and free_bytes is not None:
        used_bytes = all_bytes - free_bytes
        found.append((say("memory"), used_bytes / all_bytes, show_bytes(used_bytes)))
    if (throttled := sample.get("throttled_ratio")) is not None:
        found.append((say("throttled"), throttled, f"{throttled:.0%}"))
    return found


def _append_bars(drawing: Any, line: str, shown: Sequence[float], limit: float | None) -> None:
    """Append a line of bars; the bars of values above the limit are red."""
    first = len(line) - len(shown)
    for column, cell in enumerate(line):
        over = limit is not None and column >= first and shown[column - first] > limit
        drawing.append(cell, style="dim" if cell == _LINE else "red" if over else "cyan")


def part_of(snapshot: "Snapshot") -> Text:
    """Say which part of the run is under way."""
    from qwenops.bench.words import part_word

    part = part_word(snapshot.segment)
    where = say("{target}: {part}", target=snapshot.target, part=part) if snapshot.target else part
    told = snapshot.segment == "warm-up"  # its name says it
    if snapshot.phase.value == "warmup" and not told:
        return say("{part} (warm-up)", part=where)
    return say("{part}", part=where)


def seconds_text(seconds: float | None) -> str:
    """Write a time for reading: `12 ms`, `0.91 s`, `12.3 s`; a dash for none."""
    if seconds is None:
        return "-"
    if seconds < 0.1:  # noqa: PLR2004 -- below it two digits of seconds say nothing
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"  # noqa: PLR2004 -- three digits


def view_for(terminal: Terminal, about: str, limits: dict[str, float]) -> LiveView:
    """Return the view of a run on this terminal."""
    return LiveView(terminal, about, limits, interactive=sys.stderr.isatty())
