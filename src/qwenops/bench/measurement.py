"""A measurement under way: its segments, their records, and how it is going.

A command is a sequence of segments. `Run.drive` runs one and writes its records as they end. When a run is continued,
segments that are over are answered from the journal and the command goes on where it was, so that commands need to
know nothing about it. The run's own time stands still between two sittings; the gap is marked.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from qwenops.bench.clock import Clock
from qwenops.bench.definitions import e2e_s, ttft_s
from qwenops.bench.drive import Before, Course, Progress, drive, waiting_after
from qwenops.bench.folder import RunFolder, segment_data
from qwenops.bench.manifest import Fingerprint
from qwenops.bench.noticing import Noticing
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.resume import Past, PastSegment, pass_to
from qwenops.bench.schedule import schedule_hash
from qwenops.bench.segment import SEGMENT_ITEMS, ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.send import Errand, Line
from qwenops.bench.target import Target
from qwenops.bench.unanswered import Unanswered
from qwenops.bench.validity import ClientWatch, Validity
from qwenops.bench.workload import Workload, open_workload
from qwenops.errors import QwenOpsError

RECENT = 60
"""Answers that a live view is shown."""


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
        self.unanswered = Unanswered()
        """What the requests without a good answer have in common."""
        self._past = past
        self._lines: dict[str, Line] = {}
        self._number = 0
        self._next_index = 0
        self._asked: Counter[tuple[str, bool]] = Counter()
        """How many segments each target was sent, by whether they only warm up: their items are others."""
        self._prompts = Fingerprint()
        self._schedules: list[str] = []
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._scene: _Scene | None = None
        self._failure: QwenOpsError | None = None

    def now_ns(self) -> int:
        """Return the run's own time: nanoseconds since its origin, without the gaps between sittings."""
        return self.clock.now_ns() - self.origin_ns

    def moment(self, at_ns: int) -> str:
        """Say a moment of the run's own time: by the clock on the wall, or in seconds where sittings lie apart."""
        if self._past is not None or self.clock.virtual:
            return f"{at_ns / NS_PER_S:.0f} s"
        wall_ns = self.clock.wall_ns() - self.now_ns() + at_ns
        return f"{datetime.fromtimestamp(wall_ns / NS_PER_S, tz=UTC).astimezone():%H:%M:%S}"

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
        segment = self._numbered(segment, target)
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

    def _numbered(self, segment: Segment, target: str) -> Segment:
        """Return the segment with the item that it begins with.

        It depends on the segment's place alone, so that two runs of one plan ask the same, however much each got done.
        """
        place = target, segment.phase is Phase.WARMUP
        number = self._asked[place]
        self._asked[place] += 1
        return segment if segment.first_item is not None else replace(segment, first_item=number * SEGMENT_ITEMS)

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
        waiting: tuple[int, ...] = ()
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
            if moment is None and isinstance(segment.load, ClosedLoop) and segment.duration_s is not None:
                end_ns = past.began_ns + round(segment.duration_s * NS_PER_S)
                waiting = waiting_after(segment.load, end_ns, self._past.records(self.folder.path, number))
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
        return scene, Before(began_ns=began_ns, over=over, resumed=past is not None, resting=resting, waiting=waiting)

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
        number = (scene.segment.first_item or 0) + position
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
        self.unanswered.look(record)
        self._prompts.add(record.index, record.prompt_hash)
        ttft, e2e = ttft_s(record), e2e_s(record)
        if ttft is not None and e2e is not None:
            self._recent.append((ttft, e2e))

    def _note_schedule(self, segment: Segment) -> None:
        if isinstance(segment.load, OpenLoop):
            self._schedules.append(schedule_hash(segment.load.offsets_ns))
