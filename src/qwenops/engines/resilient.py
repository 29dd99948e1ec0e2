"""An engine made of engines: it tries again, it falls back, it makes do with less memory, and it never hides that.

* A model that does not load is tried `attempts` times, with growing waits; then the fallback serves in its place.
  A download that failed has had tries of its own, so that the fallback serves at once.
  `info.fallback_for` names the configured model and `health.reason` says what happened.
* While the fallback serves, the configured model is tried again every `retry_primary_every_s`; once it is ready it
  takes over, and the fallback finishes what it is answering and is closed. Two cases are left alone: what another try
  cannot mend, and lack of memory, for two models in it would cost the fallback its life.
* A model that loads and then dies again and again gives way to the fallback at once.
* Out of memory, at load or in flight, is answered by opening the same model with smaller options.

Both models must share their tokenizer, as the sizes of Qwen3 do: prompts arrive as tokens.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import Engine, EngineHealth, EngineInfo, EngineState
from qwenops.errors import (
    ConfigError,
    DownloadError,
    EngineError,
    EngineUnavailableError,
    InsufficientMemoryError,
    MissingPartError,
    ModelNotFoundError,
    QwenOpsError,
    UnsupportedModelError,
)
from qwenops.generation import Chunk, GenerationRequest, Tokens
from qwenops.text import say

log = logging.getLogger(__name__)

HOPELESS = (ConfigError, MissingPartError, ModelNotFoundError, UnsupportedModelError)
"""Failures that another try cannot mend."""
TRIED_ALREADY = (DownloadError,)
"""Failures that come after several tries; only time may mend them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that can be opened; `name` is the engine's name in `engines.ENGINES`."""

    name: str
    open: Callable[[EngineOptions], Awaitable[Engine]]
    options: EngineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """How hard to try, and how long to wait."""

    attempts: int = 3
    first_delay_s: float = 1.0
    longest_delay_s: float = 60.0
    retry_primary_every_s: float = 300.0
    drain_timeout_s: float = 60.0
    look_every_s: float = 1.0
    shrinks: int = 3
    """How often the options may be made smaller."""

    def delay_s(self, tries: int, jitter: float) -> float:
        """Return the wait after try number `tries`; `jitter` from 0 to 1 takes up to a quarter away."""
        return min(self.first_delay_s * 2.0 ** (tries - 1), self.longest_delay_s) * (1 - 0.25 * jitter)


@runtime_checkable
class _Loading(Protocol):
    """An engine that loads in the background."""

    async def ready(self) -> None: ...


@runtime_checkable
class _Scoring(Protocol):
    async def score(self, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> list[tuple[float, ...]]: ...


def halved(options: EngineOptions) -> EngineOptions:
    """Halve the requests at a time and the memory for the KV cache, where it was given."""
    return replace(options, max_running=max(1, options.max_running // 2), kv_cache_bytes=options.kv_cache_bytes // 2)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is lack of memory."""
    while error is not None:
        if isinstance(error, InsufficientMemoryError):
            return True
        error = error.__cause__
    return False


async def _failure_of(engine: Engine) -> QwenOpsError:
    """Return why an engine failed for good; one that loads in the background has kept the error."""
    if isinstance(engine, _Loading):
        try:
            await engine.ready()
        except QwenOpsError as error:
            return error
    return EngineError(engine.info.health.reason)


class _Open:
    """An engine that is open, and how many requests it is answering."""

    __slots__ = ("engine", "in_flight")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.in_flight = 0


class ResilientEngine:
    """An `Engine` and `LabelScorer` that keeps one of its candidates serving.

    Args:
        primary: The configured model.
        fallback: What serves when the configured model cannot.
        policy: How hard to try.
        shrink: Makes options that need less memory.
        clock: Seconds that never go back.
        sleep: How waits are done.
        jitter: A number from 0 to 1 at each call.
    """

    def __init__(
        self,
        primary: Candidate,
        fallback: Candidate | None = None,
        *,
        policy: RecoveryPolicy | None = None,
        shrink: Callable[[EngineOptions], EngineOptions] = halved,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Start nothing yet; see `start`."""
        self._primary = primary
        self._fallback = fallback
        self._policy = policy or RecoveryPolicy()
        self._shrink = shrink
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._state = EngineState.STARTING
        self._reason = ""
        self._why_fallback = ""
        self._broken: QwenOpsError | None = None
        """Why the primary does not serve while the fallback does."""
        self._why_small = ""
        self._shrunk = 0
        self._chosen_kv_bytes = 0
        """What the engine chose for its KV cache where the options left it the choice."""
        self._restarts = 0
        self._open: _Open | None = None
        """The engine that serves, or else the one that loads."""
        self._failure: QwenOpsError | None = None
        self._exhausted: _Open | None = None
        """The engine that ran out of memory."""
        self._alarm = asyncio.Event()
        self._steady = asyncio.Event()
        self._closing = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start loading in the background; `ready` waits for it."""
        if self._life is None:
            self._life = asyncio.get_running_loop().create_task(self._live(), name="resilient engine")

    @property
    def info(self) -> EngineInfo:
        """What serves now, in whose place, and why."""
        if self._open is None:
            options = self._primary.options
            return EngineInfo(
                engine=self._primary.name,
                model=options.model_name,
                accepts="tokens",
                context_tokens=options.context_tokens,
                max_running=options.max_running,
                health=EngineHealth(state=self._state, reason=self._reason, load_progress=0.0, restarts=self._restarts),
            )
        info = self._open.engine.info
        health = info.health
        serving = self._state is EngineState.READY
        reasons = [self._why_fallback, self._why_small, health.reason if serving else self._reason or health.reason]
        return replace(
            info,
            fallback_for=self._primary.options.model_name if self._why_fallback else "",
            health=replace(
                health,
                state=health.state if serving else self._state,
                reason=" ".join(each for each in reasons if each),
                restarts=health.restarts + self._restarts,
            ),
        )

    async def ready(self) -> None:
        """Wait until one of the candidates serves.

        Raises:
            QwenOpsError: None of them can; the error is that of the configured model.
            EngineUnavailableError: It was closed.
        """
        await self._steady.wait()
        if self._failure is not None:
            raise self._failure
        if self._closing.is_set():
            raise self._unavailable()

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Let the engine that serves now answer."""
        return self._generate(request)

    async def _generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        serving = self._serving()
        answer = serving.engine.generate(request)
        serving.in_flight += 1
        try:
            async for chunk in answer:
                yield chunk
        except QwenOpsError as error:
            self._notice(serving, error)
            raise
        finally:
            serving.in_flight -= 1
            if hasattr(answer, "aclose"):
                await answer.aclose()

    async def score(self, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> list[tuple[float, ...]]:
        """Let the engine that serves now score.

        Raises:
            EngineError: It cannot score labels.
        """
        serving = self._serving()
        engine = serving.engine
        if not isinstance(engine, _Scoring):
            raise EngineError(
                say("The engine {engine} cannot score labels.", engine=engine.info.engine),
                hint=say("Use the engine openvino."),
            )
        serving.in_flight += 1
        try:
            return await engine.score(prompts, label_ids)
        except QwenOpsError as error:
            self._notice(serving, error)
            raise
        finally:
            serving.in_flight -= 1

    async def aclose(self) -> None:
        """Close every engine that is open."""
        self._closing.set()
        self._steady.set()
        if self._life is not None:
            await asyncio.wait([self._life, *self._drains])
        self._state = EngineState.CLOSED
        self._reason = say("The engine is closed.")

    def _serving(self) -> _Open:
        if self._state is not EngineState.READY or self._open is None or self._closing.is_set():
            raise self._unavailable()
        return self._open

    def _unavailable(self) -> EngineUnavailableError:
        health = self.info.health
        state = EngineState.CLOSED if self._closing.is_set() else health.state
        coming_back = state in {EngineState.STARTING, EngineState.RESTARTING}
        return EngineUnavailableError(
            say("The engine is {state}: {reason}", state=state.value, reason=health.reason),
            hint=say("Try again in a moment.") if coming_back else say("Restart the server; its log says more."),
            retry_after_s=self._policy.first_delay_s if coming_back else None,
        )

    def _notice(self, serving: _Open, error: QwenOpsError) -> None:
        """Ring the alarm when a request shows that the memory does not suffice."""
        if serving is self._open and is_out_of_memory(error) and self._can_shrink():
            self._exhausted = serving
            self._chosen_kv_bytes = self._chosen_kv_bytes or serving.engine.info.kv_cache_bytes
            self._alarm.set()

    async def _live(self) -> None:
        """Load, then look after what serves, until closed or until nothing can serve."""
        try:
            if await self._load():
                await self._look_after()
        except Exception as error:
            log.exception("The engines cannot be looked after any more")
            self._fail(EngineError(say("The engine failed: {error}.", error=repr(error))))
            raise
        finally:
            if self._open is not None:
                await self._open.engine.aclose()

    async def _look_after(self) -> None:
        due_s = self._clock() + self._policy.retry_primary_every_s
        while True:
            await self._first_of(self._alarm.wait(), self._sleep(self._policy.look_every_s))
            if self._closing.is_set():
                return
            self._alarm.clear()
            serving = self._open
            if serving is not None and serving is self._exhausted:
                self._make_smaller(say("It ran out of memory while it worked."))
                if not await self._load_again(say("The engine ran out of memory and is being opened smaller.")):
                    return
            elif serving is not None and serving.engine.info.health.state is EngineState.FAILED:
                # It loaded and died again and again: loading it once more would end the same way.
                instead = self._fallback is not None and not self._why_fallback
                broken = await _failure_of(serving.engine) if instead else None
                if not await self._load_again(serving.engine.info.health.reason, broken=broken):
                    return
                due_s = self._clock() + self._policy.retry_primary_every_s
            elif self._may_return() and self._clock() >= due_s:
                await self._try_to_return()
                due_s = self._clock() + self._policy.retry_primary_every_s

    def _may_return(self) -> bool:
        """Whether another try of the primary could end well, and leaves the fallback that serves its memory."""
        return bool(self._why_fallback) and not (isinstance(self._broken, HOPELESS) or is_out_of_memory(self._broken))

    async def _load_again(self, reason: str, *, broken: QwenOpsError | None = None) -> bool:
        """Close what served and load anew: the primary first, or, where it is `broken`, the fallback at once."""
        log.warning("Opening the engine anew: %s", reason)
        self._state, self._reason = EngineState.RESTARTING, reason
        self._steady.clear()
        self._restarts += 1
        old, self._open = self._open, None
        if old is not None:
            self._restarts += old.engine.info.health.restarts
            await old.engine.aclose()
        return await self._load(broken)

    async def _load(self, broken: QwenOpsError | None = None) -> bool:
        """Open the primary, else the fallback; return whether one serves. A `broken` primary is not tried."""
        self._why_fallback = ""
        self._broken = None
        self._exhausted = None
        try:
            if broken is not None:
                raise broken
            await self._opened(self._primary)
        except QwenOpsError as error:
            log.warning("The model %s does not work: %s", self._primary.options.model_name, error)
            self._broken = error
            if self._fallback is None:
                self._fail(error)
                return False
            self._why_fallback = say(
                "{fallback} serves in the place of {model}, which does not work: {reason}",
                fallback=self._fallback.options.model_name,
                model=self._primary.options.model_name,
                reason=error.message,
            )
            try:
                await self._opened(self._fallback)
            except QwenOpsError as second:
                log.warning("The fallback %s does not load either: %s", self._fallback.options.model_name, second)
                self._fail(error)
                return False
        if self._open is None:
            return False  # closed meanwhile
        self._state, self._reason = EngineState.READY, ""
        self._steady.set()
        return True

    async def _opened(self, candidate: Candidate) -> None:
        """Open a candidate as the one that will serve; try several times, and smaller when memory lacks."""
        tries = 0
        while not self._closing.is_set():
            try:
                self._open = await self._ready_engine(candidate, showing=True)
            except QwenOpsError as error:
                if is_out_of_memory(error) and self._can_shrink():
                    self._make_smaller(error.message)
                    continue
                tries += 1
                if isinstance(error, HOPELESS + TRIED_ALREADY) or tries >= self._policy.attempts:
                    raise
                self._reason = say(
                    "Attempt {number} of {attempts} failed: {reason}",
                    number=tries,
                    attempts=self._policy.attempts,
                    reason=error.message,
                )
                log.warning("%s", self._reason)
                await self._first_of(self._sleep(self._policy.delay_s(tries, self._jitter())))
            else:
                return

    async def _ready_engine(self, candidate: Candidate, *, showing: bool) -> _Open | None:
        """Open a candidate once and wait until it is ready; None when we are closed meanwhile.

        Args:
            candidate: What to open.
            showing: Whether `info` shows how it loads.
        """
        engine = await candidate.open(self._small(candidate.options))
        opened = _Open(engine)
        if showing:
            self._open = opened
        kept = False
        try:
            if isinstance(engine, _Loading):
                loading = asyncio.ensure_future(engine.ready())
                await self._first_of(loading)
                if loading.done() and not loading.cancelled():
                    loading.result()
            kept = not self._closing.is_set()
        finally:
            if not kept:
                self._open = None if showing else self._open
                await engine.aclose()
        return opened if kept else None

    async def _try_to_return(self) -> None:
        """Try the primary once more beside the fallback; when it is ready, it takes over."""
        try:
            opened = await self._ready_engine(self._primary, showing=False)
        except QwenOpsError as error:
            log.warning("The model %s still does not load: %s", self._primary.options.model_name, error)
            self._broken = error
            return
        if opened is None:
            return
        old, self._open = self._open, opened
        self._why_fallback = ""
        log.info("The model %s serves again", self._primary.options.model_name)
        if old is not None:
            self._restarts += old.engine.info.health.restarts
            drain = asyncio.ensure_future(self._drained(old))
            self._drains.add(drain)
            drain.add_done_callback(self._drains.discard)

    async def _drained(self, old: _Open) -> None:
        """Close an engine when it has answered what it was asked, or after the time that it gets for that."""
        deadline_s = self._clock() + self._policy.drain_timeout_s
        while old.in_flight and self._clock() < deadline_s and not self._closing.is_set():
            await self._first_of(self._sleep(self._policy.look_every_s))
        await old.engine.aclose()

    def _small(self, options: EngineOptions) -> EngineOptions:
        """Return options as small as the lack of memory has made them so far."""
        if self._shrunk and not options.kv_cache_bytes:
            options = replace(options, kv_cache_bytes=self._chosen_kv_bytes)
        for _ in range(self._shrunk):
            options = self._shrink(options)
        return options

    def _can_shrink(self) -> bool:
        small = self._small(self._primary.options)
        return self._shrunk < self._policy.shrinks and self._shrink(small) != small

    def _make_smaller(self, reason: str) -> None:
        self._shrunk += 1
        options = self._small(self._primary.options)
        self._why_small = say(
            "It runs with max_running {max_running} and kv_cache_bytes {kv_cache_bytes} for lack of memory: {reason}",
            max_running=options.max_running,
            kv_cache_bytes=options.kv_cache_bytes,
            reason=reason,
        )
        log.warning("%s", self._why_small)

    def _fail(self, error: QwenOpsError) -> None:
        self._failure = error
        self._state, self._reason = EngineState.FAILED, error.message
        self._steady.set()

    async def _first_of(self, *waited: Awaitable[Any]) -> None:
        """Wait for the first of these or for being closed; what is left is cancelled."""
        tasks = [asyncio.ensure_future(each) for each in (*waited, self._closing.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
