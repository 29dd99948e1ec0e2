"""An event loop in which nobody waits: when everyone sleeps, the clock jumps to the next one who is due.

    result = run(main())          # hours of timers in seconds; VirtualClock() reads the time inside

Timers and `asyncio.sleep` obey the virtual time. Work in threads (`asyncio.to_thread`, file writes) takes no virtual
time: while any is under way the clock stands still. Input that is ready already is handled before the clock moves; to
wait for a peer that computes in real time makes no sense here, and a loop that nothing can wake says so.
"""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

from qwenops.errors import DeadlineError, QwenOpsError
from qwenops.text import say

Result = TypeVar("Result")
Given = TypeVarTuple("Given")

WALL_ANCHOR_NS = 1_767_225_600_000_000_000
"""Virtual time begins at 2026-01-01 00:00:00 UTC."""

STUCK_S = 30.0
"""Real seconds without any event after which a loop that waits for nothing is given up."""

_LOOK_S = 0.05
"""Real seconds of one look at what threads are doing."""


class _Jumping(selectors.BaseSelector):
    """Waits for input as its loop asks; where the loop would wait for a timer, time passes at once."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self._loop.num_threads:
            return self._real.select(_LOOK_S)
        if timeout is not None:
            self._loop.jump(timeout)
            return ready
        began_s = time.monotonic()
        while not (ready := self._real.select(_LOOK_S)) and time.monotonic() - began_s < STUCK_S:
            pass
        if not ready:
            raise DeadlineError(
                say("Virtual time stands still: everyone waits, and nothing is due."),
                hint=say("Only what runs in this process can be waited for in virtual time."),
            )
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is virtual. It begins at zero."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.now_ns = 0
        self.num_threads = 0
        """Pieces of work in threads that are not done; the clock stands still for them."""
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return virtual seconds since the beginning."""
        return self.now_ns / 1e9

    def clock(self) -> "VirtualClock":
        """Return the clock that reads this loop's time."""
        return VirtualClock(self)

    def jump(self, delay_s: float) -> None:
        """Let virtual time pass, to the nanosecond at which the next timer is due."""
        self.now_ns = max(self.now_ns + 1, round((self.time() + delay_s) * 1e9))

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Given]], Result], *args: *Given
    ) -> asyncio.Future[Result]:
        """Run in a thread, in no virtual time."""
        self.num_threads += 1
        try:
            future = super().run_in_executor(executor, func, *args)
        except BaseException:
            self.num_threads -= 1
            raise
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the threads; no virtual time passes."""
        self.num_threads += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self.num_threads -= 1

    def _thread_done(self, _future: asyncio.Future[Any]) -> None:
        self.num_threads -= 1


class VirtualClock:
    """A `Clock` that reads the virtual loop that runs."""

    virtual = True

    def __init__(self, loop: VirtualLoop | None = None) -> None:
        """Read `loop`, or the one that runs.

        Raises:
            QwenOpsError: No virtual loop runs.
        """
        found = asyncio.get_running_loop() if loop is None else loop
        if not isinstance(found, VirtualLoop):
            raise QwenOpsError(say("There is no virtual time here."), hint=say("Start with `simulated.loop.run`."))
        self._loop = found

    def now_ns(self) -> int:
        """Return virtual nanoseconds since the loop began."""
        return self._loop.now_ns

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 as if the loop had begun at `WALL_ANCHOR_NS`."""
        return WALL_ANCHOR_NS + self._loop.now_ns

    def pass_to_ns(self, at_ns: int) -> None:
        """Let it be `at_ns` at once, where it is not later already; for what happened before and is only told again."""
        self._loop.now_ns = max(self._loop.now_ns, at_ns)

    async def sleep_until_ns(self, at_ns: int) -> None:
        """Wait until it is `at_ns`, exactly."""
        while self._loop.now_ns < at_ns:
            waking = self._loop.create_future()
            timer = self._loop.call_at(at_ns / 1e9, _wake, waking)
            try:
                await waking
            finally:
                timer.cancel()


def _wake(waking: "asyncio.Future[None]") -> None:
    if not waking.done():
        waking.set_result(None)


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` to its end in virtual time, which begins at zero, and return what it returns."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
