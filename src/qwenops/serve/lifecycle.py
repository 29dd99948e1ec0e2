"""From starting to stopped: what the probes tell, and whether requests are taken.

    starting ──> ready ──> draining ──> stopping ──> stopped
        └──────> failed (the engine could not be opened)

Draining means not ready and still taking requests, while balancers find out; stopping means that the listener is
closed, and what came through it before goes on; stopped means that whatever is left is cut off. While an engine
restarts the state stays ready, but `reasons()` is not empty, and `readiness` is the engine's state.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from qwenops.engines.seam import EngineHealth, EngineState, retry_after_s
from qwenops.errors import EngineUnavailableError, OverloadedError, QwenOpsError
from qwenops.text import clause, say

_ASK_AGAIN_S = 5.0


class State(StrEnum):
    """Where the server is between its start and its end."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Phase(StrEnum):
    """What a starting server does."""

    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    CONVERTING = "converting"
    LOADING = "loading"
    """Compiling and warming up counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a start has come."""

    phase: Phase
    ratio: float
    """Of this phase, from 0 to 1."""
    message: str
    since_s: float
    """When the phase began."""


Report = Callable[[Phase, float, str], None]
"""Called by whoever opens the engine, from any thread: phase, part of it that is done, what is done now."""


class Lifecycle:
    """The state of one server. Everything but `report` belongs to the event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with starting."""
        self._clock = clock
        self._state = State.STARTING
        self._progress = Progress(phase=Phase.RESOLVING, ratio=0.0, message="", since_s=clock())
        self._began_s = clock()
        self._health: Callable[[], EngineHealth] | None = None
        self._load_s: Callable[[], float] = lambda: 0.0
        self._last_load_s = 0.0
        self._failure: QwenOpsError | None = None
        self._asked_to_stop = False
        self.drain_wanted = asyncio.Event()
        """Set by the first request to stop, or to drain."""
        self.hurry_wanted = asyncio.Event()
        """Set by the second request to stop."""
        self.has_balancer = True
        """Whether to leave time for balancers to find out."""

    @property
    def state(self) -> State:
        """Where the server is."""
        return self._state

    @property
    def progress(self) -> Progress:
        """How far the start has come."""
        return self._progress

    @property
    def starting_s(self) -> float:
        """Time since the server began to start."""
        return self._clock() - self._began_s

    @property
    def eta_s(self) -> float | None:
        """Time until the present phase is probably over; None when nothing can be said yet."""
        ratio = self._progress.ratio
        if self._state is not State.STARTING or ratio <= 0.0:
            return None
        return (self._clock() - self._progress.since_s) * (1.0 - min(ratio, 1.0)) / ratio

    @property
    def is_started(self) -> bool:
        """Whether the engine has been opened once."""
        return self._state not in {State.STARTING, State.FAILED}

    @property
    def is_ready(self) -> bool:
        """Whether balancers should send requests here."""
        return not self.reasons()

    @property
    def readiness(self) -> str:
        """The state as a balancer sees it: an engine that cannot work right now gives its own in the place of ready."""
        engine = self._engine_state()
        if self._state is State.READY and engine is not None and engine is not EngineState.READY:
            return engine.value
        return self._state.value

    @property
    def is_hopeless(self) -> bool:
        """Whether only a new process can help; an engine that is being restarted is not hopeless."""
        return self._state is State.FAILED or self._engine_state() is EngineState.FAILED

    @property
    def failure(self) -> QwenOpsError | None:
        """Why the engine could not be opened."""
        return self._failure

    @property
    def warnings(self) -> tuple[str, ...]:
        """What should be known although requests are answered: a fallback model, less memory than wanted."""
        health = self._health() if self._health is not None else None
        return (health.reason,) if health is not None and health.state is EngineState.READY and health.reason else ()

    def reasons(self) -> list[str]:
        """Return why the server is not ready, one sentence each; empty when it is."""
        match self._state:
            case State.READY:
                return self._engine_reasons()
            case State.STARTING:
                progress = self._progress
                done = math.floor(progress.ratio * 100)
                text = say("starting: {phase} {done} %", phase=progress.phase.value, done=done)
                return [f"{text}, {progress.message}" if progress.message else text]
            case State.FAILED:
                return [
                    say("the engine could not be opened: {why}", why=self._failure.message if self._failure else "")
                ]
            case State.DRAINING | State.STOPPING | State.STOPPED:
                return [say("draining")]

    def report(self, phase: Phase, ratio: float, message: str = "") -> None:
        """Take note of the progress of the start; may be called from any thread."""
        before = self._progress
        since_s = before.since_s if before.phase is phase else self._clock()
        self._progress = Progress(phase=phase, ratio=min(1.0, max(0.0, ratio)), message=message, since_s=since_s)

    def opened(self, health: Callable[[], EngineHealth], *, load_s: Callable[[], float] = lambda: 0.0) -> None:
        """Take note that the engine is there.

        Args:
            health: How it is doing; asked from now on.
            load_s: How long it took to load the last time; 0 when it does not know.
        """
        self._health = health
        self._load_s = load_s
        self._last_load_s = load_s()
        if self._state is State.STARTING:
            self._state = State.READY

    def failed(self, error: QwenOpsError) -> None:
        """The engine could not be opened."""
        self._failure = error
        if self._state is State.STARTING:
            self._state = State.FAILED

    def ask_to_stop(self) -> None:
        """Drain; asked a second time, hurry. Readiness is gone when this returns.

        An administrator who drained before has not asked for that: whatever ends the process afterwards comes first.
        """
        if self._asked_to_stop:
            self.hurry_wanted.set()
        self._asked_to_stop = True
        self.drain()

    def ask_to_stop_soon(self) -> None:
        """Do so without the delay for balancers: somebody pressed Ctrl-C."""
        self.has_balancer = False
        self.ask_to_stop()

    def drain(self) -> None:
        """Begin to drain, if that has not begun; readiness is gone when this returns."""
        if self._state in {State.STARTING, State.READY, State.FAILED}:
            self._state = State.DRAINING
        self.drain_wanted.set()

    def stopping(self) -> None:
        """The listener closes; a request that came through it a moment ago is still answered."""
        self._state = State.STOPPING

    def stopped(self) -> None:
        """What is still in flight is cut off, and what comes is refused."""
        self._state = State.STOPPED

    def check_open(self) -> None:
        """Refuse a request where none can be taken.

        Raises:
            EngineUnavailableError: The engine is not there yet, restarts, or will not come.
            OverloadedError: The server is stopping.
        """
        if self._state is State.STOPPED:
            raise OverloadedError(
                say("This server is stopping."),
                hint=say("Send the request again; another server will take it."),
                retry_after_s=1,
            )
        if self._health is None:
            raise EngineUnavailableError(
                say("The server is not ready: {why}.", why=clause(self.reasons()[0])),
                hint=say("Ask /startupz how far it is."),
                retry_after_s=retry_after_s(self.eta_s if self.eta_s is not None else _ASK_AGAIN_S),
            )
        if reasons := self._engine_reasons():
            raise EngineUnavailableError(
                say("The engine cannot take requests now: {why}.", why=clause(reasons[0])),
                hint=say("Try again soon; it is started again by itself where that is possible."),
                retry_after_s=retry_after_s(self._restart_s()),
            )

    def _restart_s(self) -> float:
        """Return how long a restart probably takes: as the last load that was measured."""
        self._last_load_s = self._load_s() or self._last_load_s
        return self._last_load_s or _ASK_AGAIN_S

    def _engine_state(self) -> EngineState | None:
        return self._health().state if self._health is not None else None

    def _engine_reasons(self) -> list[str]:
        if self._health is None:
            return []
        health = self._health()
        if health.state is EngineState.READY:
            return []
        why = health.reason or say("no reason given")
        return [say("the engine is {state}: {why}", state=health.state.value, why=why)]
