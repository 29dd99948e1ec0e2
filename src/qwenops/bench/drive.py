"""Send the requests of one segment and collect what came of them.

An open loop sends on an absolute schedule and never waits for answers; a server that stands still delays no send, so
nothing is omitted from the figures. A closed loop keeps a number of callers busy. What is in flight at the end of the
window is waited for (up to a limit) and counted: a request belongs to the window by its schedule alone.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenops.bench.record import NS_PER_S, Failure, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.send import Errand, Line

STOP_DRAIN_S = 3.0
"""How long answers in flight are waited for when the run is stopped."""
PAUSE_S = 1.0
"""How long a caller of a closed loop waits after a failure that does not say how long."""
LONGEST_PAUSE_S = 30.0
"""A caller of a closed loop waits no longer, whatever it is told: a server may say an hour."""
MOST_REFUSALS = 20
"""So often in a row a caller comes back before such a pause is over; where nothing else ends a segment it gives up."""
CUT_TIMEOUT_S = 10.0
"""How long a request may take to end after it was given up; longer than an engine may take to close."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How a segment is going, for whoever looks from outside while it runs."""

    sent: int = 0
    done: int = 0
    failed: int = 0
    dropped: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What has been done of a segment before it is driven: its beginning was written down, or a sitting ended in it."""

    began_ns: int
    """When it began, on the clock (the gap between the sittings left out)."""
    over: frozenset[int] = frozenset()
    """Positions in the segment that have a record or were dropped."""
    resumed: bool = False
    """Whether what was due before now, and is not over, is sent again at once."""
    resting: Mapping[int, int] = field(default_factory=dict)
    """Of a closed loop whose callers were all resting: until when each does, on the clock."""
    waiting: Sequence[int] = ()
    """Of a closed loop whose window was over: which callers still waited for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """All that driving a segment needs besides the segment."""

    line: Line
    prepare: Callable[[int], Errand]
    """Makes the request at a position of the segment, from 0, ready."""
    keep: Callable[[RequestRecord], None]
    """Is given each record as it ends."""
    drop: Callable[[int], None] = lambda _position: None
    """Is told the positions that are not sent because of `max_in_flight`."""
    drain_s: float = 300.0
    progress: Progress = field(default_factory=Progress)
    before: Before | None = None


class _Flight:
    """The requests of a segment that are under way."""

    def __init__(self, segment: Segment, course: Course) -> None:
        self.course = course
        self.clock = course.line.clock
        self.sitting_ns = self.clock.now_ns()
        self.began_ns = course.before.began_ns if course.before else self.sitting_ns
        self.over = course.before.over if course.before else frozenset()
        self.resumed = course.before is not None and course.before.resumed
        self.resting_until = course.before.resting if course.before else {}
        self.waiting = course.before.waiting if course.before else ()
        duration_s = segment.duration_s
        self.end_ns = None if duration_s is None else self.began_ns + round(duration_s * NS_PER_S)
        self.closing = False
        self.resting: set[asyncio.Task[Any]] = set()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._most = segment.max_in_flight
        self._tasks: set[asyncio.Task[Any]] = set()
        self._aloft: dict[int, tuple[Errand, int, int, int | None]] = {}
        """What was sent and has no record yet: when it was due, when it was sent, and whose it is."""
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something beside the others; if it fails, everything is broken."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None and not self.broken.done():
            self.broken.set_exception(error)

    async def fly(self, errand: Errand, scheduled_ns: int, user: int | None = None) -> RequestRecord:
        """Send one request, keep its record and return it."""
        progress = self.course.progress
        progress.sent += 1
        progress.in_flight += 1
        self._aloft[errand.index] = errand, scheduled_ns, self.clock.now_ns(), user
        try:
            record = await self.course.line.send(errand, scheduled_ns, user)
        finally:
            is_late = self._aloft.pop(errand.index, None) is None
            progress.in_flight -= not is_late
        if not is_late:  # else it was given up, and has its record
            self._keep(record)
        return record

    def _keep(self, record: RequestRecord) -> None:
        progress = self.course.progress
        if record.failure is None:
            progress.done += 1
        elif record.failure is not Failure.INTERRUPTED:
            progress.failed += 1
        self.course.keep(record)

    async def rest(self, until_ns: int) -> None:
        """Let a caller think; when sending is over its task is cancelled in here."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- only tasks run coroutines here
        self.resting.add(task)
        try:
            await self.clock.sleep_until_ns(until_ns)
        finally:
            self.resting.discard(task)

    def is_full(self) -> bool:
        """Whether another request would be one too many."""
        return self._most is not None and len(self._tasks) >= self._most

    def is_over(self) -> bool:
        """Whether callers shall ask nothing more."""
        return self.closing or (self.end_ns is not None and self.clock.now_ns() >= self.end_ns)

    async def landed(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    async def until(self, *either: "asyncio.Future[Any]", timeout_s: float | None = None) -> None:
        """Wait for one of these; raise what a request raised."""
        await asyncio.wait((*either, self.broken), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self.broken.done():
            self.broken.result()

    async def cut(self, failure: Failure, message: str) -> None:
        """Give up what is still in flight; each has a record afterwards, also where its task does not end."""
        self.closing = True
        self.course.line.give_up_as(failure, message)
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(tuple(self._tasks), timeout=CUT_TIMEOUT_S)
        for index in tuple(self._aloft):
            self.course.progress.in_flight -= 1
            self._keep(self.course.line.abandon(*self._aloft.pop(index)))


async def drive(segment: Segment, course: Course, stop: asyncio.Event) -> Driven:
    """Run one segment; `stop` ends it early with what is there.

    Each record goes to `course.keep` as it ends; the returned `Driven` has none.

    Raises:
        QwenOpsError: `course.keep` raised it; what was in flight is given up first.
    """
    loop = asyncio.get_running_loop()
    flight = _Flight(segment, course)
    work = (
        _send_open(flight, segment.load) if isinstance(segment.load, OpenLoop) else _send_closed(flight, segment.load)
    )
    sending, stopping = loop.create_task(work), loop.create_task(stop.wait())
    stopped_ns: int | None = None
    try:
        await flight.until(sending, stopping)
        if sending.done():
            sending.result()
        else:
            stopped_ns = flight.clock.now_ns()
            await _cancel(sending)
        await _drain(flight, stopping)
    except BaseException:
        await _cancel(sending)
        await flight.cut(Failure.INTERRUPTED, "the run ended")
        raise
    finally:
        await _cancel(stopping)
        flight.broken.cancel()
    ended_ns = flight.clock.now_ns()
    return Driven(
        segment=segment,
        began_ns=flight.began_ns - course.line.origin_ns,
        window_ns=_window_ns(segment, flight.began_ns, ended_ns, stopped_ns),
        ended_ns=ended_ns - course.line.origin_ns,
        records=(),
        dropped=course.progress.dropped,
        interrupted=stop.is_set(),
    )


async def _drain(flight: _Flight, stopping: "asyncio.Task[bool]") -> None:
    """Wait for the answers in flight; give up what takes too long."""
    drain_s = flight.course.drain_s
    flight.closing = True
    for task in tuple(flight.resting):
        task.cancel()
    landed = asyncio.get_running_loop().create_task(flight.landed())
    try:
        await flight.until(landed, stopping, timeout_s=drain_s)
        if stopping.done():
            await flight.until(landed, timeout_s=min(drain_s, STOP_DRAIN_S))
            await flight.cut(Failure.INTERRUPTED, "the run was stopped")
        else:
            await flight.cut(Failure.TIMEOUT, f"no whole answer {drain_s:g} s after the end of the window")
    finally:
        await _cancel(landed)


async def _send_open(flight: _Flight, load: OpenLoop) -> None:
    """Send on schedule. Each request is made ready before its time, and is on its way before the next is prepared."""
    course, clock = flight.course, flight.clock
    late_ns = flight.sitting_ns - flight.began_ns if flight.resumed else 0
    for position, offset_ns in enumerate(load.offsets_ns):
        if position in flight.over:
            continue
        # What an earlier sitting sent and did not finish is sent again at once, scheduled for now.
        due_ns = flight.began_ns + offset_ns if offset_ns >= late_ns else flight.sitting_ns
        errand = course.prepare(position)
        await clock.sleep_until_ns(due_ns)
        if flight.is_full():
            course.progress.dropped += 1
            course.drop(position)
        else:
            flight.start(flight.fly(errand, due_ns))
        await asyncio.sleep(0)
    if flight.end_ns is not None:
        await clock.sleep_until_ns(flight.end_ns)


async def _send_closed(flight: _Flight, load: ClosedLoop) -> None:
    """Keep the callers busy until the window or the requests are over."""
    numbers = itertools.count() if load.requests is None else iter(range(load.requests))
    positions = (each for each in numbers if each not in flight.over)
    if flight.resumed and flight.is_over():
        # The window closed while these were in flight: they are asked again, and nothing else.
        for user, position in zip(flight.waiting, positions, strict=False):
            flight.start(flight.fly(flight.course.prepare(position), flight.clock.now_ns(), user))
        return
    for user in sorted(range(load.users), key=lambda each: flight.resting_until.get(each, 0)):
        flight.start(_caller(flight, load, positions, user))
    if flight.end_ns is None:
        await flight.landed()
        return
    loop = asyncio.get_running_loop()
    landed, over = loop.create_task(flight.landed()), loop.create_task(flight.clock.sleep_until_ns(flight.end_ns))
    try:
        await flight.until(landed, over)
    finally:
        await _cancel(landed)
        await _cancel(over)


async def _caller(flight: _Flight, load: ClosedLoop, positions: Iterator[int], user: int) -> None:
    """Ask, wait for the answer, think, and ask again; who was turned away comes back when told, or a little later.

    Without that pause a caller would flood a server that refuses at once. Where nothing else ends the segment, a caller
    that is told to stay away for long, again and again, gives up.
    """
    clock, refusals = flight.clock, 0
    until_ns = flight.resting_until.get(user, 0)
    while True:
        if until_ns > clock.now_ns() and not flight.is_over():
            await flight.rest(until_ns)
        if flight.is_over() or (position := next(positions, None)) is None:
            return
        errand = flight.course.prepare(position)
        record = await flight.fly(errand, clock.now_ns(), user)
        until_ns = clock.now_ns() + _pause_ns(load, record)
        refusals = refusals + 1 if (record.retry_after_s or 0.0) > LONGEST_PAUSE_S else 0
        if refusals >= MOST_REFUSALS and flight.end_ns is None:
            return


def rest_ns(load: ClosedLoop, record: RequestRecord) -> int:
    """Return until when the caller of a request that is over rests, in the run's own time."""
    return (record.ended_ns or 0) + _pause_ns(load, record)


def waiting_after(load: ClosedLoop, end_ns: int, records: Iterable[RequestRecord]) -> tuple[int, ...]:
    """Return which callers wait for an answer after the window, by the records of those that do not.

    Args:
        load: Whose callers.
        end_ns: When the window closes, in the run's own time.
        records: Of the requests that are over.
    """
    free: set[int] = set()
    for record in records:
        if record.user is not None and record.failure is not Failure.INTERRUPTED and rest_ns(load, record) >= end_ns:
            free.add(record.user)
    return tuple(user for user in range(load.users) if user not in free)


def _pause_ns(load: ClosedLoop, record: RequestRecord) -> int:
    pause_s = load.think_s
    if record.failure is not None:
        told_s = PAUSE_S if record.retry_after_s is None else record.retry_after_s
        pause_s = max(pause_s, min(told_s, LONGEST_PAUSE_S))
    return round(pause_s * NS_PER_S)


def _window_ns(segment: Segment, began_ns: int, ended_ns: int, stopped_ns: int | None) -> int:
    """Return how long the window was: as planned, or until the run was stopped."""
    if segment.duration_s is not None:
        planned_ns = round(segment.duration_s * NS_PER_S)
    elif isinstance(segment.load, OpenLoop) and segment.load.offsets_ns and segment.load.offsets_ns[-1] > 0:
        planned_ns = segment.load.offsets_ns[-1]
    else:
        planned_ns = ended_ns - began_ns
    return planned_ns if stopped_ns is None else min(planned_ns, stopped_ns - began_ns)


async def _cancel(task: "asyncio.Task[Any]") -> None:
    """End a task and wait until it has ended; what it raised has been seen, or concerns nobody."""
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
