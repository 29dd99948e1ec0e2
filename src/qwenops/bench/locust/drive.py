"""Runs Locust as child processes, a master and its workers, and merges what the workers recorded into the run."""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.atomic import write_text
from qwenops.bench.conclusion import Conclusion
from qwenops.bench.folder import read_manifest, record_of, segment_data
from qwenops.bench.load import concluded
from qwenops.bench.locust.effort import Effort
from qwenops.bench.locust.plan import (
    KEY_VARIABLE,
    ORIGIN_VARIABLE,
    RECORDS_VARIABLE,
    SALT_VARIABLE,
    WORKERS_VARIABLE,
    LocustPlan,
    locustfile,
    master_argv,
    plan_of,
    worker_argv,
)
from qwenops.bench.objective import parse_slo
from qwenops.bench.record import NS_PER_S, RequestRecord
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.command import DEVNULL, Secret, Spawned, spawn
from qwenops.errors import CommandError, ConfigError, DeadlineError, MissingPartError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.bench.run import Run

NAME = "locust"
FILE = "locustfile.py"
RECORDS = "locust"
"""Folder within the run's folder: the journals and the logs of Locust's processes."""
LOOK_S = 0.25
START_S = 90.0
"""Longest time until the workers are there, and to end after the last answer."""
STOP_GRACE_S = 15.0
TAIL_CHARACTERS = 1500


def check_installed() -> None:
    """Raise unless Locust is there.

    Raises:
        MissingPartError: It is not installed.
    """
    if find_spec("locust") is None:
        raise MissingPartError(
            say("Locust is not installed."), hint=say("Install it with `pip install 'qwenops[locust]'`.")
        )


def plan_for(run: "Run", *, spawn_rate: float | None, workers: int) -> LocustPlan:
    """Return what Locust is told for the run's only target.

    Raises:
        ConfigError: The target is no server that speaks OpenAI's protocol.
    """
    (target,) = run.targets.values()
    if target.kind != "openai" or not target.url:
        raise ConfigError(
            say("Locust measures a URL; {target} is none.", target=target.text),
            hint=say("Give the address of a server that speaks OpenAI's protocol."),
        )
    return plan_of(target.url, target.model, run.options, spawn_rate=spawn_rate, workers=workers)


async def locust(run: "Run", plan: LocustPlan, *, api_key: str = "") -> Conclusion:
    """Run it and conclude.

    Raises:
        MissingPartError: Locust is not installed.
        CommandError: A process of Locust's failed; the message has the end of what it said.
        DeadlineError: Locust did not end in time.
    """
    check_installed()
    folder = run.folder.path / RECORDS
    folder.mkdir(exist_ok=True)
    file = run.folder.path / FILE
    write_text(file, locustfile(plan))
    run.expected_s = None if plan.options.requests else plan.run_time_s
    merged = Merged(run=run, folder=folder, segment=_segment(plan))
    with ExitStack() as stack:
        group = _started(stack, plan, file, _environ(run, plan, folder, api_key), folder)
        effort = Effort((os.getpid(), *(each.pid for each in (group.master, *group.workers))))
        await _until_over(run, plan, group, merged, effort)
    _watch(run, effort)
    slo = parse_slo(plan.options.slo) if plan.options.slo else None
    return concluded(run, [merged.finish(plan)], slo)


def _watch(run: "Run", effort: Effort) -> None:
    """Tell the client's watch what Locust took of this machine."""
    total = effort.total()
    if total is not None:
        run.watch.add_cpu(*total)
    else:
        run.watch.doubt(say("What Locust's processes took of this machine could not be watched."))


def _segment(plan: LocustPlan) -> Segment:
    options = plan.options
    load: OpenLoop | ClosedLoop = ClosedLoop(users=plan.users, requests=options.requests)
    if options.rate:
        duration_s = options.duration_s or (None if options.requests else plan.run_time_s)
        load = OpenLoop(
            offsets_ns=arrivals(
                options.arrivals,
                options.rate,
                duration_s=duration_s,
                count=options.requests,
                seed=options.seed,
                burstiness=options.burstiness,
            )
        )
    return Segment(name=NAME, load=load, duration_s=plan.run_time_s)


def _nobody(record: RequestRecord) -> None:
    raise ValueError(record.index)  # a journal begins with its beginning


@dataclass(slots=True, kw_only=True)
class Merged:
    """What the workers recorded, read as it grows and written into the run's folder, each request once."""

    run: "Run"
    folder: Path
    segment: Segment
    records: list[RequestRecord] = field(default_factory=list)
    began_ns: int | None = None
    """When the first worker had its first caller."""
    _take: Callable[[RequestRecord], None] = field(default=_nobody)
    _left_out: set[str] = field(default_factory=set)
    _read: dict[Path, int] = field(default_factory=dict)
    """By journal: how many of its bytes were read."""

    def look(self) -> None:
        """Take over what is new."""
        lines = [line for journal in sorted(self.folder.glob("worker-*.jsonl")) for line in self._new_lines(journal)]
        begins = [line["began_ns"] for line in lines if "began_ns" in line]
        records = [line for line in lines if "began_ns" not in line and "left_out" not in line]
        for line in lines:
            if "left_out" in line and line["left_out"] not in self._left_out:
                self._left_out.add(line["left_out"])
                self.run.noticing.notice_left_out(line["left_out"], line["at_ns"], doubtful=True)
        if begins and self.began_ns is None:
            self.began_ns = min(begins)
            self._note("began", at_ns=self.began_ns, first_index=0, segment=segment_data(self.segment))
            self._take = self.run.driven_elsewhere(self.segment, self.began_ns, self.records.append)
        for line in records:
            self._take(record_of(line))

    def finish(self, plan: LocustPlan) -> Driven:
        """Take over the rest, and return all of it.

        Raises:
            CommandError: No worker ever had a caller.
        """
        self.look()
        if self.began_ns is None:
            raise CommandError(
                say("Locust ended without a request."), hint=say("Look into {folder}.", folder=self.folder)
            )
        ended_ns = max((each.ended_ns or 0 for each in self.records), default=self.run.now_ns())
        sent_ns = ended_ns - self.began_ns
        window_ns = sent_ns if self.run.interrupted or plan.options.requests else round(plan.run_time_s * NS_PER_S)
        self._note(
            "ended",
            at_ns=ended_ns,
            window_ns=window_ns,
            interrupted=self.run.interrupted,
            positions=len(self.records),
        )
        driven = Driven(
            segment=self.segment,
            began_ns=self.began_ns,
            window_ns=window_ns,
            ended_ns=ended_ns,
            records=tuple(sorted(self.records, key=lambda each: each.index)),
            interrupted=self.run.interrupted,
        )
        self.run.watch.close_segment(driven, len(self.records), overload=False)
        return driven

    def _note(self, event: str, **line: Any) -> None:
        self.run.folder.add("segments", {"event": event, "number": 0, **line})

    def _new_lines(self, journal: Path) -> Iterator[dict[str, Any]]:
        with journal.open("rb") as file:
            file.seek(self._read.get(journal, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._read[journal] = self._read.get(journal, 0) + len(line)
                yield json.loads(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    master: Spawned
    workers: Sequence[Spawned]
    logs: Mapping[Spawned, Path]


def _environ(run: "Run", plan: LocustPlan, folder: Path, api_key: str) -> dict[str, str | Secret | None]:
    """Return what Locust's processes find: our facts, and nothing of the user's own settings of Locust."""
    taken: dict[str, str | Secret | None] = {name: None for name in os.environ if name.startswith("LOCUST_")}
    origin_ns = run.clock.now_ns() - run.now_ns()
    own: dict[str, str | Secret | None] = {
        RECORDS_VARIABLE: str(folder.absolute()),
        ORIGIN_VARIABLE: str(origin_ns),
        WORKERS_VARIABLE: str(plan.workers),
        SALT_VARIABLE: str(read_manifest(run.folder.path)["salt"]),
        KEY_VARIABLE: Secret(api_key) if api_key else None,
    }
    return {**taken, **own}


def _started(
    stack: ExitStack, plan: LocustPlan, file: Path, environ: Mapping[str, str | Secret | None], folder: Path
) -> _Group:
    port = _free_port()
    logs: dict[Spawned, Path] = {}

    def start(name: str, argv: Sequence[str]) -> Spawned:
        log = folder / f"{name}.log"
        with log.open("wb") as sink:
            child = stack.enter_context(spawn(argv, env=environ, cwd=folder, stdin=DEVNULL, stdout=sink, stderr=sink))
        logs[child] = log
        return child

    path = file.absolute()
    master = start("master", master_argv(plan, path, port))
    workers = [start(f"worker-{number}", worker_argv(path, port)) for number in range(plan.workers)]
    return _Group(master=master, workers=workers, logs=logs)


async def _until_over(run: "Run", plan: LocustPlan, group: _Group, merged: Merged, effort: Effort) -> None:
    """Take over what the workers record until the master has ended."""
    deadline_s = time.monotonic() + START_S + plan.run_time_s + plan.options.drain_s + START_S
    asked_to_stop = False
    while group.master.poll() is None:
        if run.stop.is_set() and not asked_to_stop:
            asked_to_stop = True
            group.master.terminate()
        if time.monotonic() > deadline_s:
            raise DeadlineError(
                say("Locust did not end in time."), hint=say("Look into {folder}.", folder=merged.folder)
            )
        _check_alive(group, group.workers)
        merged.look()
        if merged.began_ns is not None:
            effort.look(time.perf_counter_ns())
        if _all_asked(plan, merged):
            group.master.terminate()
        await asyncio.sleep(LOOK_S)
    _check_alive(group, (group.master,))
    for worker in group.workers:
        with contextlib.suppress(DeadlineError):
            await asyncio.to_thread(worker.wait, STOP_GRACE_S)


def _all_asked(plan: LocustPlan, merged: Merged) -> bool:
    return plan.options.requests is not None and len(merged.records) >= plan.options.requests


def _check_alive(group: _Group, children: Sequence[Spawned]) -> None:
    for child in children:
        code = child.poll()
        if code:
            said = group.logs[child].read_text("utf-8", errors="replace")[-TAIL_CHARACTERS:]
            raise CommandError(
                say("Locust ended with status {code}: {words}", code=code, words=" ".join(said.split())),
                hint=say("Look into {folder}.", folder=group.logs[child].parent),
                returncode=code,
            )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
