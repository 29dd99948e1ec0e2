"""A server that was started to be measured: waited for, watched, and ended with all that it started.

The times are those a client sees: when its port accepts a connection, when its ready address answers with success.
They are found by asking again and again, each time after a fiftieth of the time that has passed, so a time is known to
2 % and a server that takes minutes is not kept busy by the questions.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from qwenops.bench.clock import Clock, RealClock
from qwenops.bench.record import NS_PER_S
from qwenops.command import STDOUT, Environment, Spawned, hide, secrets_in, shown, spawn
from qwenops.errors import CommandError, ConfigError, DeadlineError, QwenOpsError
from qwenops.text import say

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

READY_PATHS = ("/readyz", "/health", "/v1/models", "/api/version")
"""Asked in this order; the first that the server knows decides. Ours; llama-server and vLLM; most; Ollama."""

_UNKNOWN = frozenset({404, 405, 501})
_SHARE = 50
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.25
_ASK_TIMEOUT_S = 5.0
_GRACE_S = 20.0
_TAIL_BYTES = 2000
_GUARD_WORD = b"prctl(1"
"""Stands in the command line of a process until it has become the program (see `command.spawn`)."""


class Confinement(Protocol):
    """Limits under which a command may be run (`under.py` has the real ones)."""

    def confine(self, argv: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Give the argv that runs `argv` within the limits; leaving the block takes away what was set up for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimings:
    """When a server reached what, in seconds after it was spawned."""

    running_s: float
    """The process was the program itself; what is before is ours."""
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
    spawned_ns: int
    """On the clock that was given."""
    timings: StartTimings
    tail: Callable[[], str]
    """Returns the end of what it said, both streams."""
    alive: Callable[[], bool]


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Do a piece of work; when the run is stopped meanwhile, give it up, which ends the server that it started."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        return await doing if doing.done() else None
    finally:
        stopping.cancel()
        doing.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


@asynccontextmanager
async def spawned_server(
    argv: Sequence[str],
    *,
    url: str,
    ready: str = "",
    timeout_s: float = 600.0,
    under: Confinement | None = None,
    env: Environment | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[SpawnedServer]:
    """Start a server, give it out when it is ready, and end it with its children when the block is left.

    Args:
        argv: The command. `{port}` in it and in `url` stands for a free port, chosen here.
        url: Where it will answer.
        ready: Path (or whole address) that answers with success when it is ready; empty tries the usual ones.
        timeout_s: Longest time until it is ready.
        under: Limits to run it under.
        env: Variables on top of this process's own.
        clock: Where the time is read; the machine's by default.

    Raises:
        ConfigError: Something listens at the address already, or it is none.
        CommandError: It ended before it was ready; the message has the end of what it said.
        DeadlineError: It was not ready in time; the message has the end of what it said.
    """
    time = clock or RealClock()
    port = str(free_port())
    url, words = url.replace("{port}", port), [each.replace("{port}", port) for each in argv]
    address = _address(url)
    if await _accepts(address):
        raise ConfigError(
            say("Something listens at {url} already.", url=url),
            hint=say("End it, or give another port; {port} in the command and the address stands for a free one."),
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qwenops-server-")))
        log = folder / "log"
        said = stack.enter_context(log.open("wb"))
        if under is not None:
            words = list(stack.enter_context(under.confine(words)))
        secrets = secrets_in(words)
        spawned_ns = time.now_ns()
        child = spawn(words, env=env, stdout=said, stderr=STDOUT)
        try:
            start = _Start(child=child, words=words, log=log, clock=time, spawned_ns=spawned_ns, timeout_s=timeout_s)
            timings = await start.until_ready(url, address, ready)
            yield SpawnedServer(
                pid=child.pid,
                url=url,
                spawned_ns=spawned_ns,
                timings=timings,
                tail=lambda: hide(_tail(log), secrets),
                alive=lambda: child.poll() is None,
            )
        finally:
            await asyncio.shield(asyncio.to_thread(_end, child))


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """A server on its way to being ready."""

    child: Spawned
    words: Sequence[str]
    log: Path
    clock: Clock
    spawned_ns: int
    timeout_s: float

    def passed_s(self) -> float:
        return (self.clock.now_ns() - self.spawned_ns) / NS_PER_S

    async def until_ready(self, url: str, address: tuple[str, int], ready: str) -> StartTimings:
        running_s = await self._until(self._runs)
        listening_s = await self._until(lambda: _accepts(address))
        paths = [urljoin(url, ready)] if ready else [urljoin(url, path) for path in READY_PATHS]
        import aiohttp

        limit = aiohttp.ClientTimeout(total=_ASK_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=limit, trust_env=False) as session:
            ready_s = await self._until(lambda: _answers(session, paths))
        return StartTimings(running_s=running_s, listening_s=listening_s, ready_s=ready_s)

    async def _until(self, reached: Callable[[], Awaitable[bool]]) -> float:
        while True:
            is_reached, passed_s = await reached(), self.passed_s()
            if is_reached:
                return passed_s
            if (status := self.child.poll()) is not None:
                raise self._ended(status)
            if passed_s > self.timeout_s:
                raise self._too_slow()
            await asyncio.sleep(min(max(passed_s / _SHARE, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))

    def _said(self) -> str:
        return hide(_tail(self.log), secrets_in(self.words))

    async def _runs(self) -> bool:
        return _runs(self.child.pid)

    def _ended(self, status: int) -> QwenOpsError:
        said = self._said()
        return CommandError(
            say(
                "The server ended with status {status} before it was ready. It said last:\n{said}",
                status=status,
                said=said,
            ),
            hint=say("The whole command: {command}", command=shown(self.words)),
            returncode=status,
            stderr=said,
        )

    def _too_slow(self) -> QwenOpsError:
        return DeadlineError(
            say(
                "The server was not ready after {seconds:g} s. It said last:\n{said}",
                seconds=self.timeout_s,
                said=self._said(),
            ),
            hint=say("Give it more time, or name the address that tells when it is ready."),
        )


def _runs(pid: int) -> bool:
    """Whether a process has become the program that it was started for."""
    with contextlib.suppress(OSError):
        said = Path("/proc", str(pid), "cmdline").read_bytes()
        return bool(said) and _GUARD_WORD not in said  # it is empty for a moment while a program takes over
    return True  # gone, or a system without /proc


async def _accepts(address: tuple[str, int]) -> bool:
    """Whether a connection is accepted."""
    try:
        async with asyncio.timeout(_ASK_TIMEOUT_S):
            _, writer = await asyncio.open_connection(*address)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _answers(session: "aiohttp.ClientSession", addresses: Sequence[str]) -> bool:
    """Whether the first address that the server knows answers with success."""
    import aiohttp

    for address in addresses:
        try:
            async with session.get(address) as answer:
                if answer.status not in _UNKNOWN:
                    return answer.ok
        except (aiohttp.ClientError, TimeoutError):
            return False
    return False


def _address(url: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        ConfigError: It is none.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    if not parts.hostname or port is None:
        raise ConfigError(
            say("{url!r} is no address of a server.", url=url), hint=say("Write for example http://127.0.0.1:{port}.")
        )
    return parts.hostname, port


def _tail(log: Path) -> str:
    """Return the end of what a server said."""
    with contextlib.suppress(OSError):
        size = log.stat().st_size
        with log.open("rb") as said:
            said.seek(max(0, size - _TAIL_BYTES))
            return said.read().decode("utf-8", "replace").strip()
    return ""


def _end(child: Spawned) -> None:
    """Ask a server to end, and make it end with all that is in its group."""
    with child:
        child.stop(grace_s=_GRACE_S)
