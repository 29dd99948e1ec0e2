"""An engine in a process of its own, watched: a crash, a freeze or a held GIL there never takes this process down.

`WorkerEngine` starts `python -m qwenops.engines.worker`, which runs a `Stepper` (see `steploop`), and speaks with it
over a socket pair (see `wire`). What it guarantees:

* this process computes nothing and imports nothing heavy; per step of the engine it does one read for all sequences;
* a reader that is slow holds up nobody: its pieces wait merged, and an answer has at most `max_tokens` of them;
* a process that dies, or gives no sign of life for `stall_timeout_s`, is ended and started again with back-off. Its
  requests fail with `EngineCrashedError`, and the state is RESTARTING meanwhile; too many deaths in a row are FAILED;
* the process ends with this one, however this one ends.
"""

import asyncio
import copy
import dataclasses
import itertools
import logging
import random
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenops.engines.options import EngineOptions
from qwenops.engines.process import WorkerProcess, count_oom_kills
from qwenops.engines.seam import EngineHealth, EngineInfo, EngineState, retry_after_s
from qwenops.engines.steploop import Stepper, main, options_to_wire
from qwenops.engines.wire import (
    Parts,
    error_from_wire,
    is_last,
    merged_to_wire,
    pieces_from_wire,
    request_to_wire,
)
from qwenops.errors import (
    DeadlineError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    InsufficientMemoryError,
    InvalidRequestError,
    QwenOpsError,
)
from qwenops.generation import Chunk, GenerationRequest, Tokens
from qwenops.text import Text, say

__all__ = ["RestartPolicy", "Stepper", "WorkerEngine", "open_worker"]

log = logging.getLogger(__name__)

_PIECES_BEFORE_MERGE = 64
_SCORED_TOKENS_AT_ONCE = 2048
"""Prompts of a call that wait in the engine together; those who come meanwhile wait for them, not for all."""
_CLOSE_GRACE_S = 5.0
_PING_EVERY_S = 2.0
_INFO_FIELDS = {each.name for each in dataclasses.fields(EngineInfo)} - {"engine", "model", "health", "fallback_for"}
_STATS_FIELDS = {each.name for each in dataclasses.fields(EngineHealth)} - {
    "state",
    "reason",
    "restarts",
    "load_progress",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How often and how soon a dead engine is started again."""

    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    limit: int = 5
    """With more deaths than this within the window, the engine is FAILED."""
    window_s: float = 600.0

    def delay_s(self, deaths: int, jitter: float) -> float:
        """Return the wait before start number `deaths` + 1; `jitter` from 0 to 1 takes up to a quarter away."""
        return min(self.first_delay_s * 2.0 ** (deaths - 1), self.longest_delay_s) * (1 - 0.25 * jitter)


class _Answer:
    """The pieces of one answer that have arrived and were not yet read."""

    __slots__ = ("failure", "pieces", "waiter")

    def __init__(self) -> None:
        self.pieces: list[Parts] = []
        self.failure: EngineError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def put(self, piece: Parts) -> None:
        """Add a piece; a reader who does not come finds few and long ones."""
        self.pieces.append(piece)
        if len(self.pieces) > _PIECES_BEFORE_MERGE:
            self.pieces = merged_to_wire(self.pieces)
        self.wake()

    def fail(self, error: EngineError) -> None:
        """End it by an error that comes after what has arrived."""
        self.failure = error
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def next(self) -> Chunk:
        """Wait for something and return all of it as one chunk."""
        while not self.pieces:
            if self.failure is not None:
                raise self.failure
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
            self.waiter = None
        pieces, self.pieces = self.pieces, []
        if len(pieces) > 1 and pieces[-1][1] is None:  # what came before a failure is shown first
            self.pieces = [pieces.pop()]
        return pieces_from_wire(pieces)


class WorkerEngine:
    """An `Engine` and `LabelScorer` whose computing happens in a watched child process.

    Args:
        stepper: `module:function` that opens the stepper, called in the child with the options.
        options: What the engine is told.
        name: The engine's name in `engines.ENGINES`.
        policy: How it is started again.
        clock: Seconds that never go back.
        sleep: How the wait before a restart is done.
        jitter: A number from 0 to 1 at each call.
    """

    def __init__(
        self,
        stepper: str,
        options: EngineOptions,
        *,
        name: str,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Start nothing yet; see `start`."""
        self._stepper = stepper
        self._options = options
        self._policy = policy or RestartPolicy()
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._info = EngineInfo(
            engine=name,
            model=options.model_name,
            accepts="tokens",
            context_tokens=options.context_tokens,
            max_running=options.max_running,
        )
        self._health = EngineHealth(
            state=EngineState.STARTING, load_progress=0.0, reason=say("Its process was started.")
        )
        self._stats: Mapping[str, Any] = {}
        self._steady = asyncio.Event()
        self._closing = asyncio.Event()
        self._failure: QwenOpsError | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[str, _Answer] = {}
        self._scores: dict[str, asyncio.Future[list[tuple[float, ...]]]] = {}
        self._process: WorkerProcess | None = None
        self._loaded = asyncio.Event()
        self._last_error: QwenOpsError | None = None
        self._num_steps = 0
        self._gone_s: float | None = None
        """When the last engine that worked was gone; None while one works."""
        self._life: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start loading in the background; `ready` waits for it."""
        if self._life is None:
            self._life = asyncio.get_running_loop().create_task(self._live(), name="engine process")

    @property
    def info(self) -> EngineInfo:
        """What runs, and how it is doing. Requests are counted here, so the counts are never late."""
        in_flight = len(self._answers)
        waiting = min(self._stats.get("waiting", 0), in_flight)
        running = min(in_flight - waiting, self._info.max_running)
        counts = {**self._stats, "running": running, "waiting": in_flight - running}
        return replace(self._info, health=replace(self._health, **counts))

    @property
    def pid(self) -> int:
        """The child's process id; 0 while there is none."""
        return self._process.pid if self._process else 0

    async def ready(self) -> None:
        """Wait until the engine can work.

        Raises:
            QwenOpsError: It failed for good; the error says why.
            EngineUnavailableError: It was closed.
        """
        await self._steady.wait()
        if self._failure is not None:
            raise self._failure
        if self._health.state is EngineState.CLOSED:
            raise self._unavailable()

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Yield the answer piece by piece; closing the iterator cancels the request in the child."""
        return self._generate(request)

    async def _generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        if not isinstance(request.prompt, Tokens) and self._info.accepts == "tokens":
            raise InvalidRequestError(
                say("This engine takes tokens, not messages."),
                hint=say("Render the conversation first."),
                param="prompt",
            )
        process = self._working()
        # An id of our own: a cancelled request's last pieces can never be taken for those of a new one.
        key = f"{next(self._numbers)}:{request.id}"  # see `_id_of`
        process.send("generate", request_to_wire(replace(request, id=key)))
        answer = self._answers[key] = _Answer()
        try:
            while True:
                chunk = await answer.next()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            if self._answers.pop(key, None) is not None and process is self._process:
                process.send("cancel", key)

    async def score(self, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> list[tuple[float, ...]]:
        """Return the probabilities of the labels after each prompt; many prompts go in several groups."""
        labels = list(label_ids)
        scores: list[tuple[float, ...]] = []
        for group in _groups(prompts):
            process = self._working()
            name = f"{next(self._numbers)}:score"
            waiting = self._scores[name] = asyncio.get_running_loop().create_future()
            try:
                process.send("score", name, [prompt.ids for prompt in group], labels)
                scores += await waiting
            finally:
                del self._scores[name]
                if waiting.cancelled() and process is self._process:
                    process.send("cancel", name)
        return scores

    async def aclose(self) -> None:
        """End the child, and wait until it is gone."""
        if self._health.state is not EngineState.CLOSED:
            self._health = replace(self._health, state=EngineState.CLOSED, reason=say("The engine is closed."))
            self._fail_all(self._unavailable())
            self._steady.set()
            self._closing.set()
        if self._life is not None:
            await asyncio.wait([self._life])

    def _working(self) -> WorkerProcess:
        """Return the process when it is ready."""
        if self._process is None or self._health.state is not EngineState.READY:
            raise self._unavailable()
        return self._process

    def _unavailable(self) -> EngineUnavailableError:
        coming_back = self._health.state in {EngineState.STARTING, EngineState.RESTARTING}
        return EngineUnavailableError(
            say("The engine is {state}: {reason}", state=self._health.state.value, reason=self._health.reason),
            hint=say("Try again in a moment.") if coming_back else say("Restart the server; its log says more."),
            retry_after_s=retry_after_s(self._info.load_s) if coming_back else None,
        )

    async def _live(self) -> None:
        """Run one process after the other until closed or failed."""
        deaths: deque[float] = deque()
        try:
            while not self._closing.is_set():
                starting = self._health.state is EngineState.STARTING
                error = await self._one_life()
                if error is None or self._closing.is_set():
                    return
                deaths.append(self._clock())
                while deaths[0] < self._clock() - self._policy.window_s:
                    deaths.popleft()
                final = (starting and not self._loaded.is_set()) or len(deaths) > self._policy.limit
                self._mourn(error, final=final)
                if final:
                    return
                pause = asyncio.ensure_future(self._sleep(self._policy.delay_s(len(deaths), self._jitter())))
                await self._first_of(pause)
                pause.cancel()
        except Exception as error:
            log.exception("The engine's process cannot be looked after any more")
            self._mourn(EngineError(say("The engine failed: {error}.", error=repr(error))), final=True)
            raise

    def _mourn(self, error: QwenOpsError, *, final: bool) -> None:
        """Fail what was in flight, and say what comes next."""
        log.error("The engine's process is gone: %s", error)
        if self._answers:
            log.error("requests that failed with it: %s", ", ".join(_id_of(key) for key in self._answers))
        crash = error if isinstance(error, EngineCrashedError) else _crashed(error.message, cause=error)
        self._fail_all(crash)
        self._stats = {}
        if final:
            self._failure = error
            self._steady.set()
        state = EngineState.FAILED if final else EngineState.RESTARTING
        self._health = replace(
            self._health, state=state, reason=error.message, restarts=self._health.restarts + (not final)
        )

    async def _one_life(self) -> QwenOpsError | None:
        """Start a process, wait until it is loaded, and watch it; return why it is gone, None when we are closing."""
        oom_kills = count_oom_kills()
        self._last_error = None
        self._loaded.clear()
        process = WorkerProcess(self._receive, clock=self._clock)
        stopped: QwenOpsError | None = None
        try:
            await process.start(threads=self._options.threads)
            process.send("open", self._stepper, options_to_wire(self._options))
            stopped = await self._loading(process)
            if self._loaded.is_set() and not self._closing.is_set():
                self._process = process
                self._health = replace(self._health, state=EngineState.READY, reason="", load_progress=1.0)
                self._steady.set()
                self._say_that_it_is_back()
                stopped = await self._watched(process)
        except QwenOpsError as error:
            stopped = error
        finally:
            self._process = None  # from here on nothing may be sent
            if self._loaded.is_set() and not self._closing.is_set():
                self._steady.clear()
                self._gone_s = self._clock()
                reason = say("The engine's process is being started again.")
                self._health = replace(self._health, state=EngineState.RESTARTING, reason=reason)
            in_peace = stopped is None and (self._loaded.is_set() or process.lost.done())
            await process.end(grace_s=_CLOSE_GRACE_S if in_peace else 0.0)
        if self._closing.is_set():
            return None
        return self._why(process, stopped, oom_killed=count_oom_kills() > oom_kills)

    def _say_that_it_is_back(self) -> None:
        if self._gone_s is not None:
            log.info("engine ready again after %.1f s", self._clock() - self._gone_s)
            self._gone_s = None

    async def _first_of(self, *waited: asyncio.Future[Any], timeout_s: float | None = None) -> None:
        """Wait for the first of these, for the end of the time, or for being closed."""
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait([*waited, closing], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()

    async def _loading(self, process: WorkerProcess) -> QwenOpsError | None:
        """Wait until the child has opened its stepper; return an error when that takes too long."""
        loaded = asyncio.ensure_future(self._loaded.wait())
        try:
            await self._first_of(loaded, process.lost, timeout_s=self._options.load_timeout_s)
        finally:
            loaded.cancel()
        if process.lost.done():
            return process.lost.result()
        if self._loaded.is_set() or self._closing.is_set():
            return None
        return DeadlineError(
            say("Loading the model took longer than {seconds:g} s.", seconds=self._options.load_timeout_s),
            hint=say("Raise load_timeout_s, or look whether the disk is slow."),
        )

    async def _watched(self, process: WorkerProcess) -> QwenOpsError | None:
        """Watch a working process until it is gone; return an error when it froze or sent nonsense."""
        tick_s = min(self._options.stall_timeout_s / 4, _PING_EVERY_S)
        silent_s, heard_s, looked_s = 0.0, process.heard_s, self._clock()
        while True:
            process.send("ping")
            await self._first_of(process.lost, timeout_s=tick_s)
            if self._closing.is_set():
                return None
            if process.lost.done():
                return process.lost.result()
            # When it was this process that slept, what the child said is still unread: a tick counts at most double.
            silent_s = 0.0 if process.heard_s != heard_s else silent_s + min(self._clock() - looked_s, 2 * tick_s)
            heard_s, looked_s = process.heard_s, self._clock()
            if silent_s > self._options.stall_timeout_s:
                await process.tell_where_it_hangs()
                return _crashed(
                    say(
                        "The engine made no progress for {seconds:g} s after step {step} and was stopped.",
                        seconds=self._options.stall_timeout_s,
                        step=self._num_steps,
                    )
                )

    def _why(self, process: WorkerProcess, stopped: QwenOpsError | None, *, oom_killed: bool) -> QwenOpsError:
        """Say why a process is gone."""
        if self._last_error is not None:
            error = self._last_error
        elif stopped is not None:
            error = _crashed(stopped.message) if type(stopped) is EngineError else stopped
        elif process.returncode == -signal.SIGKILL and oom_killed:
            error = _out_of_memory(loading=not self._loaded.is_set())
        else:
            error = _crashed(_ending(process.returncode or 0, process.said))
        if process.said:
            error.add_note("Last words of the engine's process:\n" + "\n".join(process.said))
        return error

    def _fail_all(self, error: EngineError) -> None:
        """Fail every request in flight, each with an error object of its own."""
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.fail(_copied(error))
        for score in self._scores.values():
            if not score.done():
                score.set_exception(_copied(error))

    def _receive(self, message: Parts) -> None:
        """Take one message of the child."""
        match message:
            case ["step", int(number), list(pieces), stats]:
                self._take_step(number, pieces, stats)
            case ["scored", str(name), scores, error]:
                self._take_scores(name, scores, error)
            case ["loading", progress, str(doing)] if self._health.state is EngineState.STARTING:
                self._health = replace(self._health, load_progress=min(max(float(progress), 0.0), 1.0), reason=doing)
            case ["loading", *_]:
                pass
            case ["ready", dict(facts), dict(stats)]:
                self._info = replace(self._info, **_known(facts, _INFO_FIELDS))
                self._stats = _known(stats, _STATS_FIELDS)
                self._loaded.set()
            case ["failed" | "dying", list(error)]:
                self._last_error = error_from_wire(error)
            case _:
                raise EngineError(say("An unknown message arrived: {kind!r}.", kind=message[0]))

    def _take_step(self, number: int, pieces: list[Parts], stats: Mapping[str, Any] | None) -> None:
        """Hand the pieces of one step out; this runs for every token of every answer, so it does little."""
        self._num_steps = number
        if stats is not None:
            self._stats = _known(stats, _STATS_FIELDS)
        answers = self._answers
        for piece in pieces:
            answer = answers.get(piece[0])
            if answer is not None:
                answer.put(piece)
                if is_last(piece):
                    del answers[piece[0]]

    def _take_scores(self, name: str, scores: Parts | None, error: Parts | None) -> None:
        waiting = self._scores.get(name)
        if waiting is None or waiting.done():
            return
        if scores is None:
            waiting.set_exception(error_from_wire(error or []))
        else:
            waiting.set_result([tuple(each) for each in scores])


async def open_worker(stepper: str, options: EngineOptions, *, name: str) -> WorkerEngine:
    """Make a `WorkerEngine` and start it; it loads in the background."""
    engine = WorkerEngine(stepper, options, name=name)
    engine.start()
    return engine


def _id_of(key: str) -> str:
    """Return the id that a request came with."""
    return key.partition(":")[2]


def _known(given: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _groups(prompts: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """Cut prompts into groups of a bounded number of tokens, so that others get their turn in between."""
    group: list[Tokens] = []
    size = 0
    for prompt in prompts:
        if group and size + len(prompt.ids) > _SCORED_TOKENS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(prompt)
        size += len(prompt.ids)
    if group:
        yield group


def _crashed(message: str, *, cause: QwenOpsError | None = None) -> EngineCrashedError:
    error = EngineCrashedError(
        message, hint=cause.hint if cause and cause.hint else say("It is started again; send the request again.")
    )
    error.__cause__ = cause
    return error


def _copied(error: EngineError) -> EngineError:
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    return again


def _out_of_memory(*, loading: bool) -> QwenOpsError:
    cause = InsufficientMemoryError(
        say("The kernel killed the engine's process because its memory limit was reached."),
        needed_bytes=0,
        available_bytes=0,
        hint=say("Lower max_running or kv_cache_bytes, choose a smaller model, or give it more memory."),
    )
    return cause if loading else _crashed(cause.message, cause=cause)


def _ending(returncode: int, said: Sequence[str]) -> Text:
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = str(-returncode)
        return say("The engine's process was ended by {signal}.", signal=name)
    if said:
        return say("The engine's process ended with status {status}: {said}", status=returncode, said=said[-1])
    return say("The engine's process ended with status {status}.", status=returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
