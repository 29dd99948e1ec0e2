"""`qwenops classify FILE`: every call of a file classified exactly once, however many sittings it takes.

    reading ──portions──> new calls, as prompts ──judge──> predictions ──finish──> shard file, journal line
             (a thread)                      (the engine's process)       (a thread)

While the engine computes one portion, the next is read and the last one written, so the engine waits for nobody. What
is in memory is three portions, however long the file is. A call counts by its conversation id and the model: one that
was classified before is passed over, one that comes twice in a file is rejected the second time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qwenops.calls.problems import Problem, Severity
from qwenops.calls.readers import Entry, Reading
from qwenops.calls.schema import Call
from qwenops.classify.prediction import Prediction
from qwenops.classify.score import Prepared
from qwenops.classify.shards import Seen
from qwenops.errors import EngineCrashedError, EngineUnavailableError
from qwenops.options import format_seconds, show_number
from qwenops.text import Report, Text, say

TRIES = 5
"""An engine that dies is started again by itself; so often the same portion is given to it."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class Judge(Protocol):
    """What says what calls are about."""

    @property
    def ref(self) -> str:
        """What predictions call it."""
        ...

    def prepare(self, calls: Sequence[Call]) -> Prepared:
        """Turn calls into what is judged; those that cannot be are refused, each with its reason."""
        ...

    async def judge(self, prepared: Prepared) -> list[Prediction]:
        """Return what it says, in the order of the calls."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A portion that is done."""

    calls: tuple[Call, ...]
    """Redacted."""
    predictions: tuple[Prediction, ...]
    problems: tuple[Problem, ...]
    """What was wrong with the input meanwhile."""


Finish = Callable[[Judged], None]
"""Keeps a portion for good; called one after the other, each in a thread."""


@dataclass(slots=True, kw_only=True)
class SoFar:
    """How far the input is read; the reader's `report` is `note`."""

    fraction: float = 0.0
    passed_over: int = 0
    """Calls that were classified before."""

    def note(self, fraction: float, _doing: str) -> None:
        """Take note of how far reading is."""
        self.fraction = fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Calls that are judged together, as they will be, and what was wrong with the input between them."""

    prepared: Prepared
    problems: tuple[Problem, ...]
    fraction: float
    """How much of the input was read by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """What one sitting did."""

    classified: int
    passed_over: int
    rejected: int
    warnings: int
    tokens: int
    elapsed_s: float
    decisions: dict[str, int] = field(default_factory=dict)

    @property
    def calls_per_s(self) -> float:
        """Calls classified in a second."""
        return self.classified / self.elapsed_s if self.elapsed_s > 0 else 0.0


def portions(reading: Reading[Entry], judge: Judge, seen: Seen, *, size: int, so_far: SoFar) -> Iterator[Portion]:
    """Yield the calls of a file that are new, with what was wrong, a portion at a time.

    Args:
        reading: The file.
        judge: What turns calls into prompts.
        seen: The calls that are done; those that come are added.
        size: Calls and problems of a portion.
        so_far: Is told how many were passed over, and by the reader how far it is.

    Raises:
        InvalidDataError: The file as a whole cannot be read.
    """
    new: list[Entry] = []
    problems: list[Problem] = []
    for entry in reading:
        is_done, first = seen.meet(entry.call.conversation_id, f"{entry.source}:{entry.line}")
        if first:
            problems.append(_problem(entry, say("The call was there already: {place}.", place=first)))
        elif is_done:
            so_far.passed_over += 1
        else:
            new.append(entry)
        if len(new) + len(problems) + len(reading.problems) >= size:
            yield _portion(reading, judge, new, problems, so_far.fraction)
            new, problems = [], []
    if new or problems or reading.problems:
        yield _portion(reading, judge, new, problems, 1.0)


async def classify_all(
    waiting: Iterator[Portion],
    judge: Judge,
    finish: Finish,
    *,
    so_far: SoFar,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> BatchSummary:
    """Judge portion after portion, and keep each before the next but one is begun.

    Args:
        waiting: The portions; the next is taken in a thread while one is judged.
        judge: What judges.
        finish: Keeps what is done.
        so_far: How far the input is read.
        report: Is told the progress, and how long the rest will take.
        clock: Seconds that never go back.
        sleep: Waits for an engine that is started again.

    Raises:
        InvalidDataError: The input cannot be read on; what was done before is kept.
        EngineError: The engine fails again and again.
    """
    began_s = clock()
    count: Counter[str] = Counter()
    decisions: Counter[str] = Counter()
    pace = _Pace(began_s=began_s)
    following = asyncio.create_task(asyncio.to_thread(_next, waiting))
    writing: asyncio.Task[None] | None = None
    try:
        while (portion := await asyncio.shield(following)) is not None:
            following = asyncio.create_task(asyncio.to_thread(_next, waiting))
            predictions = await _judged(judge, portion.prepared, sleep)
            if writing is not None:
                await asyncio.shield(writing)
            done = Judged(calls=portion.prepared.calls, predictions=tuple(predictions), problems=portion.problems)
            writing = asyncio.create_task(asyncio.to_thread(finish, done))
            _count(count, decisions, done)
            report(portion.fraction, pace.said(count["classified"], portion.fraction, so_far, clock()))
        if writing is not None:
            await asyncio.shield(writing)
    finally:
        # A thread goes on to its end, and what it holds must not be closed before.
        await asyncio.gather(following, *([writing] if writing else []), return_exceptions=True)
    return BatchSummary(
        classified=count["classified"],
        passed_over=so_far.passed_over,
        rejected=count["rejected"],
        warnings=count["warnings"],
        tokens=count["tokens"],
        elapsed_s=clock() - began_s,
        decisions=dict(decisions),
    )


@dataclass(slots=True, kw_only=True)
class _Pace:
    """How fast it goes in this sitting; what was passed over at its beginning does not count."""

    began_s: float
    began_fraction: float | None = None

    def said(self, num_done: int, fraction: float, so_far: SoFar, now_s: float) -> Text:
        """Say how far it is."""
        if self.began_fraction is None:
            self.began_fraction = fraction if so_far.passed_over else 0.0
        elapsed_s = now_s - self.began_s
        speed = show_number(num_done / elapsed_s) if elapsed_s > 0 else "-"
        covered = fraction - self.began_fraction
        if covered <= 0 or fraction >= 1:
            return say("{count} calls classified, {speed} a second.", count=num_done, speed=speed)
        left = format_seconds(float(round(elapsed_s * (1 - fraction) / covered)))
        return say(
            "{count} calls classified, {speed} a second, about {left} left.", count=num_done, speed=speed, left=left
        )


def _next(waiting: Iterator[Portion]) -> Portion | None:
    return next(waiting, None)


async def _judged(judge: Judge, prepared: Prepared, sleep: Callable[[float], Awaitable[None]]) -> Sequence[Prediction]:
    """Let a portion be judged, again where the engine died of it and is being started anew."""
    pause_s = _FIRST_PAUSE_S
    for _ in range(TRIES - 1):
        try:
            return await judge.judge(prepared)
        except (EngineCrashedError, EngineUnavailableError) as error:
            await sleep(min(max(pause_s, error.retry_after_s or 0.0), _LONGEST_PAUSE_S))
            pause_s *= 2
    return await judge.judge(prepared)


def _portion(
    reading: Reading[Entry], judge: Judge, new: Sequence[Entry], problems: Sequence[Problem], fraction: float
) -> Portion:
    prepared = judge.prepare([entry.call for entry in new])
    refused = [_problem(new[each.place], each.reason) for each in prepared.refused]
    found = (*reading.problems, *problems, *refused)
    reading.problems.clear()
    return Portion(prepared=prepared, problems=found, fraction=fraction)


def _problem(entry: Entry, what: Text) -> Problem:
    return Problem(what=what, source=entry.source, line=entry.line, conversation_id=entry.call.conversation_id)


def _count(count: Counter[str], decisions: Counter[str], done: Judged) -> None:
    count["classified"] += len(done.predictions)
    count["tokens"] += sum(each.tokens or 0 for each in done.predictions)
    num_errors = sum(each.severity is Severity.ERROR for each in done.problems)
    count["rejected"] += num_errors
    count["warnings"] += len(done.problems) - num_errors
    decisions.update(each.decision.value for each in done.predictions)
