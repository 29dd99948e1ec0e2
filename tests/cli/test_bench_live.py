"""The live view: what it draws, how often, and what that takes."""

import io
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from qwenops.bench.record import Phase
from qwenops.bench.run import Snapshot
from qwenops.bench.validity import Validity, Verdict
from qwenops.cli.bench_live import LiveView, bar, chart, clock_text, host_bars, part_of, seconds_text
from qwenops.cli.terminal import Terminal, cell_width
from qwenops.text import say

HOST = {
    "cpu_busy_ratio": 0.93,
    "memory_total_bytes": 8 * 2**30,
    "memory_available_bytes": 6 * 2**30,
    "throttled_ratio": 0.38,
}


def snapshot(**changes: Any) -> Snapshot:
    usual: dict[str, Any] = {
        "verb": "load",
        "elapsed_s": 38.0,
        "expected_s": 100.0,
        "segment": "users=4",
        "phase": Phase.MEASURE,
        "users": 4,
        "achieved_rate": 0.97,
        "in_flight": 3,
        "done": 37,
        "failed": 2,
        "recent_ttft_s": (0.5, 1.0, 3.0),
        "recent_e2e_s": (2.0, 4.0, 6.0),
        "host": HOST,
    }
    return Snapshot(**usual | changes)


def drawn(view: LiveView, seen: Snapshot, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(view.frame(seen))
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def view(*, limits: dict[str, float] | None = None, language: Any = "en") -> LiveView:
    terminal = Terminal(environ={}, language=language)
    return LiveView(terminal, "http://127.0.0.1:8000", limits or {}, interactive=True)


def test_a_frame_says_rate_requests_latencies_host_and_validity() -> None:
    text = drawn(view(limits={"ttft": 2.0}), snapshot(target_rate=1.0))
    for expected in (
        "load http://127.0.0.1:8000",
        "measuring soundly",
        "38%",
        "about 1:02 left",
        "target 1.00/s",
        "achieved 0.97/s",
        "in flight 3",
        "done 37",
        "failed 2",
        "median 1.00 s, last 3.00 s",
        "┄┄ 2.00 s",
        "CPU ",
        "93%",
        "2.0 GiB",
        "throttled ",
        "38%",
    ):
        assert expected in text, expected


def test_a_frame_fits_a_narrow_terminal_in_both_languages() -> None:
    for language in ("en", "zh"):
        text = drawn(view(limits={"ttft": 2.0}, language=language), snapshot(target_rate=1.0), width=80)
        assert all(cell_width(line) <= 80 for line in text.splitlines())


def test_the_light_tells_why_a_run_is_suspect() -> None:
    reason = say("The client was late: {lag:.0f} ms.", lag=12.0)
    text = drawn(view(), snapshot(validity=Validity(verdict=Verdict.SUSPECT, reasons=(reason,))))
    assert "suspect  The client was late: 12 ms." in text


def test_a_run_of_unknown_length_and_without_answers_can_be_drawn() -> None:
    text = drawn(view(), snapshot(expected_s=None, recent_ttft_s=(), recent_e2e_s=(), host={}))
    assert "median -, last -" in text
    assert "0:38  users=4" in text


def test_bars_stand_in_proportion_and_the_limit_is_a_line_behind_them() -> None:
    assert chart([1.0, 2.0, 3.0], None, rows=3) == ["  █", " ██", "███"]
    assert chart([1.0, 0.5], 3.0, rows=3) == ["┄┄", "  ", "█▄"]
    assert chart([0.0, 3.0], 1.5, rows=3) == [" █", "┄█", " █"]
    assert chart([], None, rows=2) == ["", ""]


def test_a_bar_never_leaves_its_frame() -> None:
    assert bar(-1.0, 4) == "░░░░"
    assert bar(0.5, 4) == "██░░"
    assert bar(7.0, 4) == "████"


def test_numbers_are_written_for_reading() -> None:
    assert [seconds_text(each) for each in (None, 0.012, 0.91, 12.34)] == ["-", "12 ms", "0.91 s", "12.3 s"]
    assert [clock_text(each) for each in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]
    assert part_of(snapshot(phase=Phase.WARMUP, target="A")) == "A: users=4 (warm-up)"
    assert part_of(snapshot(phase=Phase.WARMUP, segment="warm-up")) == "warm-up"


def test_what_the_host_does_not_tell_has_no_bar() -> None:
    assert [name for name, _, _ in host_bars({"cpu_busy_ratio": 0.5})] == ["CPU"]
    assert host_bars({}) == []


def test_through_a_pipe_a_line_comes_with_each_part_and_not_with_each_snapshot(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = LiveView(Terminal(environ={}), "x", {}, interactive=False)
    with lines.showing():
        for done in range(50):
            lines(snapshot(done=done))
        lines(snapshot(segment="users=8"))
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert printed[0].startswith("0:38  users=4  0 done, 2 failed, 3 in flight, 0.97 requests/s, TTFT 1.00 s")
    assert "users=8" in printed[1]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for interactive in (True, False):
        silent = LiveView(Terminal(environ={}, verbosity=-1), "x", {}, interactive=interactive)
        with silent.showing():
            silent(snapshot())
    assert capsys.readouterr().err == ""


def test_a_terminal_is_drawn_at_most_four_times_a_second_and_the_time_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [100.0]
    drawings: list[float] = []
    monkeypatch.setattr("qwenops.cli.bench_live.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("qwenops.cli.bench_live.time.thread_time", _spending(0.01))
    live = view()
    monkeypatch.setattr(live, "_live", _Drawings(drawings, now_s))
    for _ in range(100):
        live(snapshot())
        now_s[0] += 0.1
    assert 25 <= len(drawings) <= 40
    assert all(later - earlier >= 0.25 for earlier, later in pairwise(drawings))
    assert live.cpu_share == pytest.approx(len(drawings) * 0.01 / 10.0, rel=0.01)


def _spending(seconds: float) -> Callable[[], float]:
    spent = [0.0]

    def thread_time() -> float:
        spent[0] += seconds
        return spent[0]

    return thread_time


class _Drawings:
    """Notes when something is drawn."""

    def __init__(self, drawings: list[float], now_s: list[float]) -> None:
        self._drawings = drawings
        self._now_s = now_s

    def update(self, _frame: object, *, refresh: bool) -> None:
        assert refresh
        self._drawings.append(self._now_s[0])
