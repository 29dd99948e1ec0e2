"""`bench startup`: how long a server takes from its command to its first token, cold and warm.

    spawned -> running      the process has become the program; what is before is ours
            -> listening    its port accepts a connection
            -> ready        its ready address answers with success
            -> first token  of one request, sent at once when it was ready

Each round starts the server anew and ends it. Cold means that the page cache held none of the server's files when it
began: they are dropped one by one, or, as root and where wanted, the whole cache is. Which files those are is told, or
found out by a first start that is not counted: the large ones that the server has mapped when it has answered. How
much of them was in memory when a round began is read back from the kernel and stated. Before a warm round all of them
are read.
"""

import asyncio
import ctypes
import math
import mmap
import os
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from qwenops.bench.collect import kernel
from qwenops.bench.conclusion import Conclusion, Finding, Outcome, Table
from qwenops.bench.record import Phase
from qwenops.bench.run import Run
from qwenops.bench.send import Line
from qwenops.bench.spawned import Confinement, SpawnedServer, spawned_server, unless_stopped
from qwenops.bench.tables import show_s
from qwenops.bench.target import Target
from qwenops.command import Environment, shown
from qwenops.errors import ConfigError
from qwenops.options import show_bytes
from qwenops.text import Text, say

T = TypeVar("T")
State = Literal["cold", "warm"]
OpenTarget = Callable[[str], Awaitable[Target]]
"""Opens what answers at an address."""

PHASES: tuple[tuple[str, Text], ...] = (
    ("running_s", say("program runs")),
    ("listening_s", say("listening")),
    ("ready_s", say("ready")),
    ("first_token_s", say("first token")),
    ("second_ttft_s", say("TTFT of the second request")),
)
_PROC = Path("/proc")
_LARGE_BYTES = 1024**2
_WHOLE_CACHE = Path("/proc/sys/vm/drop_caches")
_STILL_THERE = 0.05
"""A round in which more of the files than this was in memory was not cold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is started, and how to know that it is there."""

    argv: Sequence[str]
    """`{port}` in it, and in `url`, stands for a free port."""
    open_target: OpenTarget
    url: str = "http://127.0.0.1:{port}"
    ready: str = ""
    timeout_s: float = 600.0
    files: Sequence[Path] = ()
    """The model's files, or folders of them; without any they are found out by a start that is not counted."""
    drop_all: bool = False
    """Drop the whole page cache before a cold round, programs and libraries included; only root may."""
    under: Confinement | None = None
    env: Environment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One start."""

    state: State
    resident_ratio: float | None
    """How much of the files was in memory before it; None without files."""
    running_s: float
    listening_s: float
    ready_s: float
    first_token_s: float | None
    """Since the spawn; None when the request failed."""
    first_ttft_s: float | None
    second_ttft_s: float | None
    """Of another request of the same length, right after the first."""
    read_bytes: int | None
    """From disk, by the server's processes, up to the first token."""
    peak_memory_bytes: int | None
    """Sum of the peaks of the server's processes."""
    failure: str = ""


async def startup(run: Run, launch: Launch, *, rounds: int = 3) -> Conclusion:
    """Start a server `rounds` times cold and as often warm, and say how long each phase took.

    Raises:
        ConfigError: Something listens at the address already.
        CommandError: The server ended before it was ready.
        DeadlineError: It was not ready in time.
    """
    if launch.drop_all and not os.access(_WHOLE_CACHE, os.W_OK):
        raise ConfigError(
            say("Only root may drop the whole page cache."),
            hint=say("Name the model's files instead; they are dropped one by one."),
        )
    files = model_files(launch.files) or await unless_stopped(run.stop, _found_out(run, launch)) or ()
    states: list[State] = ["cold" if number < rounds else "warm" for number in range(2 * rounds)]
    if not files and not launch.drop_all:
        del states[:rounds]
    done: list[Round] = []
    for number, state in enumerate(states):
        if run.stop.is_set():
            break
        resident = await asyncio.to_thread(_prepare, state, files, drop_all=launch.drop_all)
        taken = await unless_stopped(run.stop, _round(run, launch, state, resident, number))
        if taken is not None:
            done.append(taken)
    return _conclude(done, files, launch.argv, interrupted=run.stop.is_set())


async def _round(run: Run, launch: Launch, state: State, resident: float | None, number: int) -> Round:
    async with _started(run, launch) as server:
        target = await launch.open_target(server.url)
        try:
            first, second = await _ask_twice(run, target, server, number)
        finally:
            await target.engine.aclose()
        read_bytes, peak_bytes = _used_by(server.pid)
        return Round(
            state=state,
            resident_ratio=resident,
            running_s=server.timings.running_s,
            listening_s=server.timings.listening_s,
            ready_s=server.timings.ready_s,
            first_token_s=first.since_spawn_s,
            first_ttft_s=first.ttft_s,
            second_ttft_s=second.ttft_s,
            read_bytes=read_bytes,
            peak_memory_bytes=peak_bytes,
            failure=first.failure or second.failure,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    ttft_s: float | None
    since_spawn_s: float | None
    failure: str


async def _ask_twice(run: Run, target: Target, server: SpawnedServer, number: int) -> tuple[_First, _First]:
    """Send two requests, one after the other, with different prompts behind the same beginning."""
    line = Line(target, run.clock, server.spawned_ns, timeout_s=run.options.timeout_s)
    found: list[_First] = []
    try:
        for turn in range(2):
            ask = run.workload.ask(2 * number + turn)
            sampling = replace(ask.sampling, max_tokens=min(ask.sampling.max_tokens, _FEW_TOKENS))
            errand = line.errand(
                replace(ask, sampling=sampling), index=2 * number + turn, segment="startup", phase=Phase.MEASURE
            )
            record = await line.send(errand, run.clock.now_ns())
            at_ns, sent_ns = record.first_content_ns, record.sent_ns
            found.append(
                _First(
                    ttft_s=None if at_ns is None or sent_ns is None else (at_ns - sent_ns) / 1e9,
                    since_spawn_s=None if at_ns is None else at_ns / 1e9,
                    failure="" if record.failure is None else f"{record.failure.value}: {record.message}",
                )
            )
    finally:
        line.close()
    return found[0], found[1]


_FEW_TOKENS = 4


def model_files(places: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files among some files and folders, each once.

    Raises:
        ConfigError: One of them is not there.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise ConfigError(say("{path} is not there.", path=place), hint=say("Name the model's files or folder."))
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        found.update(dict.fromkeys(each.resolve() for each in inside if each.is_file()))
    return tuple(found)


def drop_cached(files: Sequence[Path]) -> None:
    """Ask the kernel to forget the pages of some files; pages that a process has mapped stay."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)  # a page that is not written yet cannot be forgotten
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident_ratio(files: Sequence[Path]) -> float | None:
    """Return which part of some files is in memory, by what the kernel says of each page (mincore).

    None where it does not say: it tells nobody but those who own a file or may write it.
    """
    if not files or not all(each.stat().st_uid == os.geteuid() or os.access(each, os.W_OK) for each in files):
        return None
    resident = pages = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for path in files:
        size = path.stat().st_size
        if size == 0:
            continue
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
            count = -(-size // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * count)()
            start = ctypes.c_char.from_buffer(mapped)
            try:
                outcome = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), states)
            finally:
                del start
            if outcome == 0:
                pages += count
                resident += sum(each & 1 for each in bytes(states))
    return resident / pages if pages else 0.0


async def _found_out(run: Run, launch: Launch) -> tuple[Path, ...]:
    """Start the server once, ask it something, and return the large files that it then has mapped."""
    async with _started(run, launch) as server:
        target = await launch.open_target(server.url)
        try:
            await _ask_twice(run, target, server, 0)
        finally:
            await target.engine.aclose()
        processes = kernel.read_processes(_PROC)
        maps = [kernel.read_mapped(_PROC, each) for each in kernel.tree_of([server.pid], processes)]
    mine = kernel.read_mapped(_PROC, os.getpid())  # what this program has mapped too cannot be dropped
    found = {path for each in maps for path in each} - mine
    return tuple(sorted(path for path in found if _is_large(path)))


def _is_large(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size >= _LARGE_BYTES and os.access(path, os.R_OK)
    except OSError:
        return False


def _started(run: Run, launch: Launch) -> AbstractAsyncContextManager[SpawnedServer]:
    return spawned_server(
        launch.argv,
        url=launch.url,
        ready=launch.ready,
        timeout_s=launch.timeout_s,
        under=launch.under,
        env=launch.env,
        clock=run.clock,
    )


def _prepare(state: State, files: Sequence[Path], *, drop_all: bool) -> float | None:
    """Empty or fill the page cache, and return how much of the files is in memory now."""
    if state == "cold":
        if drop_all:
            os.sync()
            _WHOLE_CACHE.write_text("3\n")
        drop_cached(files)
    else:
        for path in files:
            _read_through(path)
    return resident_ratio(files)


def _read_through(path: Path) -> None:
    with path.open("rb") as opened:
        while opened.read(1 << 24):
            pass


def _used_by(pid: int) -> tuple[int | None, int | None]:
    """Return bytes read from disk and the sum of the peaks in memory of a process and its children."""
    tree = kernel.tree_of([pid], kernel.read_processes(_PROC))
    read = [amount for each in tree if (amount := kernel.read_disk_bytes(_PROC, each)) is not None]
    peaks = [amount for each in tree if (amount := kernel.read_peak_bytes(_PROC, each)) is not None]
    return (sum(read) if read else None), (sum(peaks) if peaks else None)


def _conclude(rounds: Sequence[Round], files: Sequence[Path], argv: Sequence[str], *, interrupted: bool) -> Conclusion:
    by_state: Mapping[State, Sequence[Round]] = {
        state: [each for each in rounds if each.state == state] for state in ("cold", "warm")
    }
    size_bytes = sum(each.stat().st_size for each in files if each.exists())
    if by_state["cold"]:
        what = say(
            "Before each cold start {number} files of the server ({amount}) were dropped from memory.",
            number=len(files),
            amount=show_bytes(size_bytes),
        )
    else:
        what = say("Not measured cold: the server has no large file mapped, and none was named.")
    findings = [Finding(text=what), *_remarks(rounds)]
    sentences = [_sentence(state, taken) for state, taken in by_state.items() if taken]
    sentences += difference(by_state)
    if interrupted:
        sentences.append(say("Interrupted: {number} starts were measured.", number=len(rounds)))
    return Conclusion(
        outcome=Outcome.DONE,
        sentences=(*sentences, say("Prefix cache: empty at each start.")),
        tables=(_phases_table(by_state), _rounds_table(rounds)) if rounds else (),
        findings=tuple(findings),
        data={
            "rounds": [_plain(each) for each in rounds],
            "files": [each.name for each in files],
            "files_bytes": size_bytes,
            "interrupted": interrupted,
            "cache": "empty",
            "command": shown(argv),
        },
    )


def _sentence(state: State, rounds: Sequence[Round]) -> Text:
    ready_s = statistics.median(each.ready_s for each in rounds)
    firsts = [each.first_token_s for each in rounds if each.first_token_s is not None]
    if not firsts:
        return say(
            "{state} start: ready after {ready} (median of {number}); no request was answered.",
            state=_STATES[state],
            ready=show_s(ready_s),
            number=len(rounds),
        )
    return say(
        "{state} start: ready after {ready}, first token after {first} (median of {number}).",
        state=_STATES[state],
        ready=show_s(ready_s),
        first=show_s(statistics.median(firsts)),
        number=len(rounds),
    )


def difference(by_state: Mapping[State, Sequence[Round]]) -> list[Text]:
    """Say where so many starts do not show that cold ones differ from warm ones."""
    cold, warm = ([each.ready_s for each in by_state[state]] for state in ("cold", "warm"))
    if not cold or not warm:
        return []
    if min(cold) <= max(warm) and min(warm) <= max(cold):
        return [say("Cold and warm starts took about as long as one another: the difference is within their noise.")]
    if math.comb(len(cold) + len(warm), len(cold)) < _ORDERS:
        return [
            say(
                "So few starts prove no difference between cold and warm: with {number} of each, such an order comes "
                "by chance too often. Start it {least} times or more (--starts).",
                number=min(len(cold), len(warm)),
                least=_LEAST_STARTS,
            )
        ]
    return []


_LEAST_STARTS = 4
"""Of each kind; when all of one kind are quicker than all of the other, that is by chance in 2 of 70 cases."""
_ORDERS = 40
"""So many orders must be possible that two of them are no more than 5 %."""
_STATES: Mapping[State, Text] = {"cold": say("Cold"), "warm": say("Warm")}


def _remarks(rounds: Sequence[Round]) -> list[Finding]:
    found = [
        Finding(text=say("A request failed: {why}", why=each.failure), severity="error")
        for each in rounds
        if each.failure
    ]
    left_ratio = max((each.resident_ratio or 0.0 for each in rounds if each.state == "cold"), default=0.0)
    if left_ratio > _STILL_THERE:
        text = say(
            "Not quite cold: up to {share:.0%} of the model's files stayed in memory; a process has them mapped.",
            share=left_ratio,
        )
        found.append(Finding(text=text, severity="warning"))
    return found


def _phases_table(by_state: Mapping[State, Sequence[Round]]) -> Table:
    """Return median and range of each phase, cold and warm."""
    rows = []
    for key, title in PHASES:
        cells: list[str | float | None] = [title]
        for taken in by_state.values():
            values = [value for each in taken if (value := getattr(each, key)) is not None]
            cells.append(round(statistics.median(values), 3) if values else None)
            cells.append(f"{min(values):.3f} - {max(values):.3f}" if values else None)
        rows.append(tuple(cells))
    return Table(
        title=say("Seconds since the command (median and range)"),
        headings=(say("phase"), say("cold"), say("range"), say("warm"), say("range")),
        rows=tuple(rows),
    )


def _rounds_table(rounds: Sequence[Round]) -> Table:
    return Table(
        title=say("Each start"),
        headings=(
            say("start"),
            say("files in memory before"),
            say("ready (s)"),
            say("first token (s)"),
            say("read from disk"),
            say("peak memory"),
        ),
        rows=tuple(
            (
                _STATES[each.state],
                None if each.resident_ratio is None else f"{each.resident_ratio:.0%}",
                round(each.ready_s, 3),
                None if each.first_token_s is None else round(each.first_token_s, 3),
                None if each.read_bytes is None else show_bytes(each.read_bytes),
                None if each.peak_memory_bytes is None else show_bytes(each.peak_memory_bytes),
            )
            for each in rounds
        ),
    )


def _plain(one: Round) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Round.__dataclass_fields__}
