"""One measurement from its beginning to its folder: what every command of `qwenops bench` is written with.

    async with begin("load", {"": target}, options, clock=clock) as run:
        conclusion = finish(run, await load(run))

A command is a sequence of segments. `Run.drive` runs one and writes its records as they end. When a run is continued,
segments that are over are answered from the journal and the command goes on where it was, so that commands need to
know nothing about it. The run's own time stands still between two sittings; the gap is marked.
"""

import asyncio
import gc
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from qwenops.bench.calibrate import calibrate
from qwenops.bench.clock import Clock
from qwenops.bench.collect.collector import Collector
from qwenops.bench.conclusion import EXIT_INVALID, Conclusion, Outcome, conclusion_data, crossed
from qwenops.bench.conclusion import SCHEMA as SUMMARY_SCHEMA
from qwenops.bench.definitions import e2e_s, ttft_s
from qwenops.bench.drive import Before, Course, Progress, drive
from qwenops.bench.folder import RunFolder, segment_data
from qwenops.bench.manifest import Fingerprint, new_manifest
from qwenops.bench.noticing import Noticing
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.resume import Opening, Past, PastSegment, check_workload, mark_gap, open_folder, pass_to
from qwenops.bench.rewind import forgets
from qwenops.bench.schedule import schedule_hash
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.send import Errand, Line
from qwenops.bench.simulated.loop import running_clock
from qwenops.bench.target import Target
from qwenops.bench.validity import ClientWatch, Validity, Verdict, bias_sentence
from qwenops.bench.workload import Workload, cache_sentence, open_workload
from qwenops.errors import QwenOpsError
from qwenops.text import Text, say

__all__ = ["Collector", "Listen", "Opening", "Run", "Snapshot", "begin", "finish", "ignore", "validity_data"]

RECENT = 60
"""Answers that a live view is shown."""
EXIT_INVALID_VERBS = frozenset({"slo"})
"""Commands whose exit code says that a run was invalid."""
SEPARATE = frozenset({"openai", "ollama"})
"""Kinds of targets whose model is certainly not computed in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a run is going, for a live view."""

    verb: str
    elapsed_s: float
    expected_s: float | None
    """How long the whole run is expected to take; None when nobody knows."""
    segment: str
    phase: Phase
    target: str = ""
    target_rate: float | None = None
    users: int | None = None
    achieved_rate: float = 0.0
    """Requests sent per second in the segment so far."""
    segment_elapsed_s: float = 0.0
    segment_expected_s: float | None = None
    sent: int = 0
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    dropped: int = 0
    recent_ttft_s: tuple[float, ...] = ()
    """Of the last answers, oldest first; at most 60."""
    recent_e2e_s: tuple[float, ...] = ()
    validity: Validity = field(default_factory=Validity)
    host: Mapping[str, Any] = field(default_factory=dict)
    """The latest sample of the host."""
    resumed: bool = False


Listen = Callable[[Snapshot], None]


def ignore(_snapshot: Snapshot) -> None:
    """Show nothing."""


@dataclass(slots=True, kw_only=True)
class _Scene:
    """The segment that is under way."""

    segment: Segment
    target: str
    number: int
    first_index: int
    began_ns: int
    """On the clock."""
    progress: Progress
    workload: Workload
    keep: Callable[[RequestRecord], None]
    positions: int = 0
    """How many were used so far."""


class Run:
    """A measurement under way; `begin` opens one."""

    def __init__(
        self,
        verb: str,
        targets: Mapping[str, Target],
        options: BenchOptions,
        *,
        clock: Clock,
        folder: RunFolder,
        workload: Workload,
        watch: ClientWatch,
        past: Past | None,
    ) -> None:
        """Take over what `begin` opened."""
        self.verb = verb
        self.targets = targets
        self.options = options
        self.clock = clock
        self.folder = folder
        self.workload = workload
        """What is asked."""
        self.stop = asyncio.Event()
        """Set it to end the run early: sending stops, what is in flight gets a moment, the rest is given up."""
        self.expected_s: float | None = None
        """A command that knows how long it will take says so here, for the live view."""
        self.host: Mapping[str, Any] = {}
        """The latest sample of the host."""
        self.state = "running"
        self.continued = past.note if past else None
        """From where a run in virtual time is continued, in words."""
        self.origin_ns = clock.now_ns() - (past.last_seen_ns if past else 0)
        """Where the run's own time begins on the clock."""
        self.watch = watch
        """What the client knows about itself."""
        self.noticing = Noticing(targets)
        """What turned out about the targets while they were asked."""
        self._past = past
        self._lines: dict[str, Line] = {}
        self._number = 0
        self._next_index = 0
        self._prompts = Fingerprint()
        self._schedules: list[str] = []
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._scene: _Scene | None = None
        self._failure: QwenOpsError | None = None

    def now_ns(self) -> int:
        """Return the run's own time: nanoseconds since its origin, without the gaps between sittings."""
        return self.clock.now_ns() - self.origin_ns

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end."""
        return self.stop.is_set()

    async def drive(
        self,
        segment: Segment,
        target: str = "",
        *,
        workload: Workload | None = None,
        each: Callable[[RequestRecord], None] | None = None,
        overload: bool = False,
    ) -> Driven:
        """Run one segment against one of the targets and return what came of it.

        Args:
            segment: What to send.
            target: Which target; the only one needs no name.
            workload: What to ask, where that is not the run's own.
            each: Is told each record as it ends, also those of an earlier sitting; then the returned `Driven` holds no
                records, so that a run of hours needs no more memory than one of minutes.
            overload: Whether more is to be sent than can be done; then what is not sent is no fault of the client.
        """
        past = self._past_segment(self._number)
        if past is not None:
            past.check(segment, target)
        records: list[RequestRecord] = []
        keep = each or records.append
        if past is not None and past.is_over:
            self._number += 1
            return self._replay(past, segment, keep, records, overload=overload)
        if self.interrupted:
            return Driven(
                segment=segment,
                began_ns=self.now_ns(),
                window_ns=0,
                ended_ns=self.now_ns(),
                records=(),
                interrupted=True,
            )
        scene, before = self._open_scene(segment, target, past, workload or self.workload, keep)
        self._number += 1
        course = Course(
            line=self._line(target),
            prepare=partial(self._prepare, scene),
            keep=partial(self._keep, scene),
            drop=partial(self._drop, scene),
            drain_s=self.options.drain_s,
            progress=scene.progress,
            before=before,
        )
        self._scene = scene
        async with self.watch.watching(self.clock):
            driven = await drive(segment, course, self.stop)
        if self._failure is not None:
            raise self._failure
        driven = replace(driven, records=tuple(sorted(records, key=lambda record: record.index)))
        self._close_scene(scene, driven, overload=overload)
        return driven

    def workload_with(self, **changes: Any) -> Workload:
        """Open the run's workload with other options, such as another cache policy."""
        return open_workload(replace(self.options, **changes), salt=str(self.workload.facts.get("salt", "")))

    def driven_elsewhere(
        self, segment: Segment, began_ns: int, keep: Callable[[RequestRecord], None]
    ) -> Callable[[RequestRecord], None]:
        """Show a segment that other processes drive; return what takes its records, which `keep` is told too."""
        progress = Progress()
        self._scene = scene = _Scene(
            segment=segment,
            target="",
            number=0,
            first_index=0,
            began_ns=self.origin_ns + began_ns,
            progress=progress,
            workload=self.workload,
            keep=keep,
        )
        self._note_schedule(segment)

        def take(record: RequestRecord) -> None:
            progress.sent += 1
            progress.done += record.failure is None
            progress.failed += record.failure is not None
            self._keep(scene, record)

        return take

    def validity(self) -> Validity:
        """Judge the client so far."""
        return self.watch.judge(self.noticing.doubts())

    def snapshot(self) -> Snapshot | None:
        """Return how it is going; None before the first segment."""
        scene = self._scene
        if scene is None:
            return None
        segment, progress = scene.segment, scene.progress
        elapsed_s = max(0.0, (self.clock.now_ns() - scene.began_ns) / NS_PER_S)
        load, expected_s = segment.load, segment.duration_s
        rate: float | None = None
        if isinstance(load, OpenLoop) and load.offsets_ns:
            expected_s = expected_s or load.offsets_ns[-1] / NS_PER_S
            rate = len(load.offsets_ns) / expected_s if expected_s else None
        return Snapshot(
            verb=self.verb,
            elapsed_s=self.now_ns() / NS_PER_S,
            expected_s=self.expected_s,
            segment=segment.name,
            phase=segment.phase,
            target=scene.target,
            target_rate=rate,
            users=load.users if isinstance(load, ClosedLoop) else None,
            achieved_rate=progress.sent / elapsed_s if elapsed_s else 0.0,
            segment_elapsed_s=elapsed_s,
            segment_expected_s=expected_s,
            sent=progress.sent,
            done=progress.done,
            failed=progress.failed,
            in_flight=progress.in_flight,
            dropped=progress.dropped,
            recent_ttft_s=tuple(ttft for ttft, _ in self._recent),
            recent_e2e_s=tuple(e2e for _, e2e in self._recent),
            validity=self.validity(),
            host=self.host,
            resumed=self._past is not None,
        )

    def sample(self, journal: str, sample: Mapping[str, Any]) -> None:
        """Take a collector's sample; when it cannot be written, the run ends."""
        if journal == "host":
            self.host = sample
        try:
            self.folder.add("host" if journal == "host" else "engine", sample)
        except QwenOpsError as error:
            self._failure = error
            self.stop.set()

    def hashes(self) -> dict[str, str]:
        """Return what tells whether two runs asked the same at the same times."""
        return {"prompts": str(self._prompts), "schedule": "-".join(dict.fromkeys(self._schedules))}

    def close(self) -> None:
        """Let go of the targets."""
        for line in self._lines.values():
            line.close()

    def _line(self, target: str) -> Line:
        if target not in self._lines:
            self._lines[target] = Line(
                self.targets[target],
                self.clock,
                self.origin_ns,
                name=target,
                timeout_s=self.options.timeout_s,
                record_text=self.options.record_text,
            )
        return self._lines[target]

    def _past_segment(self, number: int) -> PastSegment | None:
        if self._past is None or number >= len(self._past.segments):
            return None
        return self._past.segments[number]

    def _replay(
        self,
        past: PastSegment,
        segment: Segment,
        keep: Callable[[RequestRecord], None],
        records: list[RequestRecord],
        *,
        overload: bool,
    ) -> Driven:
        """Answer a segment that is over from the journal."""
        assert self._past is not None  # noqa: S101 -- it came from there
        number = 0
        for record in self._past.records(self.folder.path, self._number - 1):
            self._look(record)
            keep(record)
            number += 1
        driven = past.driven(segment, tuple(sorted(records, key=lambda record: record.index)))
        pass_to(self.clock, self.origin_ns + driven.ended_ns)
        self._note_schedule(segment)
        self._next_index = past.first_index + number + driven.dropped
        self.watch.close_segment(driven, number, overload=overload)
        return driven

    def _open_scene(
        self,
        segment: Segment,
        target: str,
        past: PastSegment | None,
        workload: Workload,
        keep: Callable[[RequestRecord], None],
    ) -> tuple[_Scene, Before]:
        """Begin a segment, or go on in the one that was under way."""
        progress, number = Progress(), self._number
        resting: Mapping[int, int] = {}
        self._note_schedule(segment)
        if past is None:
            began_ns, first_index, over = self.clock.now_ns(), self._next_index, frozenset[int]()
            line: dict[str, Any] = {
                "event": "began",
                "number": number,
                "at_ns": began_ns - self.origin_ns,
                "target": target,
                "first_index": first_index,
                "segment": segment_data(segment),
            }
            if workload is not self.workload:
                line["workload"] = {"name": workload.name, **workload.facts}
            self.folder.add("segments", line)
        else:
            assert self._past is not None  # noqa: S101 -- it came from there
            began_ns, first_index = past.began_ns + self.origin_ns, past.first_index
            over, moment = self._past.over(self.folder.path, number), self._past.moment
            if moment is not None:
                pass_to(self.clock, self.origin_ns + moment.at_ns)
                resting = {user: self.origin_ns + until_ns for user, until_ns in moment.resting.items()}
            progress.dropped = len(past.dropped)
            for record in self._past.records(self.folder.path, number):
                if record.failure is not Failure.INTERRUPTED:
                    self._look(record)
                    keep(record)
                    progress.sent += 1
                    progress.done += record.failure is None
                    progress.failed += record.failure is not None
        scene = _Scene(
            segment=segment,
            target=target,
            number=number,
            first_index=first_index,
            began_ns=began_ns,
            progress=progress,
            workload=workload,
            keep=keep,
            positions=max(over, default=-1) + 1,
        )
        return scene, Before(began_ns=began_ns, over=over, resumed=past is not None, resting=resting)

    def _close_scene(self, scene: _Scene, driven: Driven, *, overload: bool) -> None:
        line = {
            "event": "ended",
            "number": scene.number,
            "at_ns": driven.ended_ns,
            "window_ns": driven.window_ns,
            "interrupted": driven.interrupted,
            "positions": scene.positions,
        }
        self.folder.add("segments", line)
        self._next_index = scene.first_index + scene.positions
        self.watch.close_segment(driven, scene.progress.sent, overload=overload)

    def _prepare(self, scene: _Scene, position: int) -> Errand:
        scene.positions = max(scene.positions, position + 1)
        number = scene.segment.first_item + position
        warmup = scene.segment.phase is Phase.WARMUP
        ask = scene.workload.warmup(number) if warmup else scene.workload.ask(number)
        index = scene.first_index + position
        return self._line(scene.target).errand(ask, index=index, segment=scene.segment.name, phase=scene.segment.phase)

    def _keep(self, scene: _Scene, record: RequestRecord) -> None:
        self.folder.add_record(record)
        self._look(record)
        self.noticing.look(record)
        scene.keep(record)

    def _drop(self, scene: _Scene, position: int) -> None:
        line = {"event": "dropped", "number": scene.number, "position": position, "at_ns": self.now_ns()}
        self.folder.add("segments", line)

    def _look(self, record: RequestRecord) -> None:
        self.watch.add(record)
        self._prompts.add(record.index, record.prompt_hash)
        ttft, e2e = ttft_s(record), e2e_s(record)
        if ttft is not None and e2e is not None:
            self._recent.append((ttft, e2e))

    def _note_schedule(self, segment: Segment) -> None:
        if isinstance(segment.load, OpenLoop):
            self._schedules.append(schedule_hash(segment.load.offsets_ns))


@asynccontextmanager
async def begin(
    verb: str,
    targets: Mapping[str, Target],
    options: BenchOptions,
    *,
    clock: Clock | None = None,
    listen: Listen = ignore,
    collectors: Sequence[Collector] = (),
    workload: Workload | None = None,
    opening: Opening | None = None,
) -> AsyncIterator[Run]:
    """Open a run's folder, measure the client, watch the host, and give the run out.

    Args:
        verb: The command's name.
        targets: What is measured, by the names that records have; a single target has the empty name.
        options: How.
        clock: Real or virtual; without one that of the loop that runs.
        listen: Is told how it goes.
        collectors: What else is looked at meanwhile.
        workload: What is asked; without one what `options.workload` names.
        opening: Where it is written, and whether it is continued.

    Raises:
        RunFolderError: The folder is in use, damaged, or of a run with other options.
        InsufficientDiskError: There is no room for it.
    """
    clock, opening = clock or running_clock(), opening or Opening()
    async with AsyncExitStack() as stack:
        new = new_manifest(verb, targets, options, clock, opening.command)
        folder, manifest, past = open_folder(new, options, opening, forgetful=forgets(targets))
        stack.callback(folder.close)
        workload = workload or open_workload(options, salt=manifest["salt"])
        check_workload(manifest, workload.facts)
        quiet = clock.virtual or opening.calibrate_s <= 0
        separate = all(each.kind in SEPARATE for each in targets.values())
        watch = ClientWatch(
            cores=manifest["machine"]["usable_cores"],
            separate=separate,
            calibration=None if quiet else await calibrate(clock, opening.calibrate_s, over_http=separate),
        )
        run = Run(verb, targets, options, clock=clock, folder=folder, workload=workload, watch=watch, past=past)
        stack.callback(run.close)
        run.noticing.recall(manifest.get("notices", ()))
        if past is not None:
            mark_gap(folder, manifest, past, clock)
        manifest["workload"] = {"name": workload.name, **workload.facts}
        folder.write_manifest(manifest)
        try:
            async with _looked_at(run, collectors, listen, opening.tick_s):
                yield run
        except BaseException as error:
            run.state = _state_of(error)
            manifest["error"] = f"{type(error).__name__}: {error}"
            raise
        else:
            run.state = "unfinished" if run.state == "running" else run.state
        finally:
            folder.write_manifest(manifest | _ending(run))


def finish(run: Run, conclusion: Conclusion) -> Conclusion:
    """Write the summary and the manifest's end; return the conclusion with the verdict on the client in it."""
    validity = run.validity()
    conclusion = replace(conclusion, findings=(*conclusion.findings, *run.noticing.findings()))
    if "cache" not in conclusion.data:  # else the command has its own policies, and has said them
        conclusion = replace(
            conclusion,
            sentences=tuple(dict.fromkeys((*conclusion.sentences, cache_sentence(run.options.cache)))),
            data={**conclusion.data, "cache": run.options.cache},
        )
    run.state = "interrupted" if run.interrupted else "done"
    warnings: list[Text] = []
    if run.interrupted:
        warnings.append(
            say("The run was stopped after {seconds:.1f} s; this is what it had measured.", seconds=run.now_ns() / 1e9)
        )
    if validity.verdict is not Verdict.VALID:
        warnings += (say("This measurement is {verdict}.", verdict=validity.verdict.value), *validity.reasons)
    bias = bias_sentence(validity)
    conclusion = replace(conclusion, sentences=(*warnings, *conclusion.sentences, *(() if bias is None else (bias,))))
    if validity.verdict is Verdict.INVALID and run.verb in EXIT_INVALID_VERBS:
        conclusion = replace(conclusion, outcome=Outcome.INVALID, exit_code=EXIT_INVALID)
    summary = {
        "schema": SUMMARY_SCHEMA,
        "verb": run.verb,
        "state": run.state,
        "validity": validity_data(validity),
        **conclusion_data(conclusion),
    }
    run.folder.write_summary(summary)
    return conclusion


@asynccontextmanager
async def _looked_at(run: Run, collectors: Sequence[Collector], listen: Listen, tick_s: float) -> AsyncIterator[None]:
    """Let collectors and listener look at the run until the block is left."""
    async with AsyncExitStack() as stack:
        if not run.clock.virtual:
            # What exists by now lives as long as the run; to look through it again and again would only cause pauses.
            gc.collect()
            gc.freeze()
            stack.callback(gc.unfreeze)
        for collector in collectors:
            sample = partial(run.sample, collector.journal)
            await stack.enter_async_context(collector.watching(run.origin_ns, sample))
        if listen is not ignore:
            telling = asyncio.get_running_loop().create_task(_tell(run, listen, tick_s))
            stack.push_async_callback(_ended, telling)
        yield


async def _tell(run: Run, listen: Listen, tick_s: float) -> None:
    while True:
        await run.clock.sleep_until_ns(run.clock.now_ns() + round(tick_s * NS_PER_S))
        snapshot = run.snapshot()
        if snapshot is not None:
            listen(snapshot)


async def _ended(task: "asyncio.Task[None]") -> None:
    """End a task; what it raised is raised here."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _state_of(error: BaseException) -> str:
    return "interrupted" if isinstance(error, asyncio.CancelledError | KeyboardInterrupt) else "failed"


def _ending(run: Run) -> dict[str, Any]:
    """Return what a manifest says when the run is over."""
    return {
        "state": run.state,
        "ended_wall_ns": run.clock.wall_ns(),
        "elapsed_ns": run.now_ns(),
        "hashes": run.hashes(),
        "validity": validity_data(run.validity()),
        "notices": run.noticing.data(),
    }


def validity_data(validity: Validity) -> dict[str, Any]:
    """Return a verdict on the client as JSON holds it."""
    return {
        "verdict": validity.verdict.value,
        "reasons": crossed(validity.reasons),
        "figures": dict(validity.figures),
    }
