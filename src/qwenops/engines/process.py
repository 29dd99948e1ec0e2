"""The API process's hold on an engine's process: start it, speak with it, hear its last words, reap it."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwenops.command import Spawned, spawn
from qwenops.engines.wire import FrameReader, Parts, frame
from qwenops.errors import EngineError
from qwenops.hardware import detect_machine, plan_environment, plan_threads
from qwenops.hardware.cgroups import read_cgroups
from qwenops.hardware.files import parse_int, read_table
from qwenops.text import say

log = logging.getLogger(__name__)

_LINES_KEPT = 40
_POLL_S = 0.005
_LAST_WORDS_S = 0.3
"""How long a frozen process gets to write down where it hangs."""
_REAP_S = 10.0


class WorkerProcess(asyncio.Protocol):
    """One run of an engine's process, from its start until it is reaped.

    Args:
        receive: Called with each message, in the event loop.
        clock: Seconds that never go back.
    """

    def __init__(self, receive: Callable[[Parts], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is started yet; there must be a running event loop."""
        self.lost: asyncio.Future[EngineError | None] = asyncio.get_running_loop().create_future()
        """Done when nothing can come any more; with an error when what came was no message."""
        self.heard_s = clock()
        """When the last bytes came."""
        self.said: deque[str] = deque(maxlen=_LINES_KEPT)
        """The last lines of its standard error."""
        self.returncode: int | None = None
        self._receive = receive
        self._clock = clock
        self._reader = FrameReader()
        self._child: Spawned | None = None
        self._transport: asyncio.Transport | None = None
        self._stderr: asyncio.ReadTransport | None = None
        self._lines = _Lines(self.said)

    @property
    def pid(self) -> int:
        """Its process id; 0 before it is started."""
        return self._child.pid if self._child else 0

    async def start(self, *, threads: int = 0) -> None:
        """Start it with what its arithmetic needs from the start. Call `end` in any case.

        Args:
            threads: How many will compute; 0 is what this machine allows.

        Raises:
            CommandError: It could not be started.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        read, write = os.pipe()
        try:
            # -P: modules of the folder we happen to be in are nobody's business.
            argv = [sys.executable, "-P", "-m", "qwenops.engines.worker", str(theirs.fileno())]
            machine = detect_machine()
            environment = plan_environment(machine, threads or plan_threads(machine).value).value
            self._child = spawn(argv, pass_fds=(theirs.fileno(),), env=environment, stderr=write)
        except BaseException:
            ours.close()
            os.close(read)
            raise
        finally:
            theirs.close()
            os.close(write)
        ours.settimeout(0.0)  # the event loop never waits
        pipe = os.fdopen(read, "rb", buffering=0)
        self._stderr, _ = await loop.connect_read_pipe(lambda: self._lines, pipe)
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=ours)

    def send(self, kind: str, *parts: Any) -> None:
        """Send one message; nothing happens when the process is gone.

        Raises:
            BodyTooLargeError: The message is over the limit.
        """
        data = frame(kind, *parts)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def end(self, *, grace_s: float) -> int:
        """Let it end by itself for `grace_s`, else kill it; reap it, close everything, return its exit status."""
        child = self._child
        try:
            if child is None:
                return 0
            if grace_s > 0:
                self.send("close")
            if await self._ended_within(child, grace_s) is None:
                child.kill()
            returncode = await self._ended_within(child, _REAP_S)
            self.returncode = -signal.SIGKILL if returncode is None else returncode
            return self.returncode
        finally:
            await self._closed()

    async def tell_where_it_hangs(self) -> None:
        """Ask for a traceback of native and Python code on its standard error, and wait a moment for it."""
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGUSR1)
            await asyncio.sleep(_LAST_WORDS_S)

    async def _ended_within(self, child: Spawned, timeout_s: float) -> int | None:
        deadline_s = self._clock() + timeout_s
        while (returncode := child.poll()) is None and self._clock() < deadline_s:  # noqa: ASYNC110 -- the kernel sets no event of ours
            await asyncio.sleep(_POLL_S)
        return returncode

    async def _closed(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        if self._stderr is not None:
            await asyncio.wait([self._lines.ended], timeout=_LAST_WORDS_S)
            self._stderr.close()
        await asyncio.sleep(0)  # transports close their files in the loop's next turn

    def data_received(self, data: bytes) -> None:
        """Take bytes that came over the socket."""
        self.heard_s = self._clock()
        try:
            for message in self._reader.feed(data):
                self._receive(message)
        except EngineError as error:
            self._lose(error)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            self._lose(EngineError(say("The engine's process sent a message that is wrong: {error!r}.", error=error)))

    def connection_lost(self, _exc: Exception | None) -> None:
        """Notice that the other end is closed: the process has ended, or is about to."""
        self._lose(None)

    def _lose(self, error: EngineError | None) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
        if self._transport is not None:
            self._transport.abort()


class _Lines(asyncio.Protocol):
    """Keeps the last lines of a process's standard error, and logs each."""

    def __init__(self, kept: deque[str]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kept = kept
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-4096:]
        for line in lines:
            self._keep(line)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._rest:
            self._keep(self._rest)
            self._rest = b""
        if not self.ended.done():
            self.ended.set_result(None)

    def _keep(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._kept.append(text[:1000])
            log.info("engine process: %s", text)


def count_oom_kills(root: Path = Path("/")) -> int:
    """Count the processes of this control group that the kernel killed for lack of memory.

    Where no group counts them, the whole machine's count is returned; 0 where there is none either.
    """
    for group in read_cgroups(root).memory:
        name = "memory.events" if group.version == "v2" else "memory.oom_control"
        count = parse_int(read_table(group.folder / name).get("oom_kill"))
        if count is not None:
            return count
    return parse_int(read_table(root / "proc/vmstat").get("oom_kill")) or 0
