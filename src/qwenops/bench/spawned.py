"""A server that was started to be measured: waited for, watched, and ended with all that it started."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwenops.bench.clock import Clock, RealClock


class Confinement(Protocol):
    """Limits under which a command may be run (`under.py` has the real ones)."""

    def confine(self, argv: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Give the argv that runs `argv` within the limits; leaving the block takes away what was set up for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimings:
    """When a server reached what, in seconds after it was spawned."""

    listening_s: float
    """A connection to its port was accepted."""
    ready_s: float
    """Its ready address answered with success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnedServer:
    """A server that runs and is ready."""

    pid: int
    """The process that was started; it leads its own group."""
    url: str
    timings: StartTimings
    log: Path
    """What it said, both streams."""
    alive: Callable[[], bool]


@asynccontextmanager
async def spawned_server(
    argv: Sequence[str],
    *,
    url: str,
    ready: str = "",
    timeout_s: float = 600.0,
    under: Confinement | None = None,
    env: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[SpawnedServer]:
    """Start a server, give it out when it is ready, and end it with its children when the block is left.

    Args:
        argv: The command. `{port}` in it and in `url` stands for a free port, chosen here.
        url: Where it will answer.
        ready: Path (or whole address) that answers 200 when it is ready; empty tries the usual ones.
        timeout_s: Longest time until it is ready.
        under: Limits to run it under.
        env: Variables on top of this process's own.
        clock: Where the time is read; the machine's by default.

    Raises:
        CommandError: It ended before it was ready; the message has the end of what it said.
        DeadlineError: It was not ready in time; the message has the end of what it said.
    """
    raise NotImplementedError
    yield  # pragma: no cover
    _ = (clock or RealClock(), argv, url, ready, timeout_s, under, env)
