"""Server-sent events: one small write for each chunk, and a client that may be slow, silent or gone.

The engine's chunks wait in a `Mailbox` until the network takes them, so a slow reader holds up nobody but itself; what
has piled up meanwhile goes out in one write. Until the first chunk nothing is sent, so that an error that comes before
it has its own HTTP status; a wait that is long for proxies is bridged with comments.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from starlette.responses import Response

from qwenops.errors import QwenOpsError
from qwenops.generation import Chunk
from qwenops.serve.exchange import Answering, ClientGoneError, Exchange, unexpected
from qwenops.text import say

DONE = b"data: [DONE]\n\n"
_COMMENT = b": waiting\n\n"
KEEP_ALIVE_S = 10.0
"""Silence after which a comment is sent."""
STALLED_S = 60.0
"""A client that takes nothing for so long counts as gone."""

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Value to JSON, without spaces."""

Numbered = tuple[int, Chunk]


def event(data: Any) -> bytes:
    """Return one event that carries `data` as JSON."""
    return f"data: {encode(data)}\n\n".encode()


def error_event(body: Any) -> bytes:
    """Return the event that ends a stream in place of the end that it should have had."""
    return f"event: error\ndata: {encode(body)}\n\n".encode()


class Mailbox:
    """Chunks on their way from the engine to the network."""

    def __init__(self) -> None:
        """Start empty and open."""
        self._waiting: deque[Numbered] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    def put(self, index: int, chunk: Chunk) -> None:
        """Add a chunk of answer `index`; never waits."""
        self._waiting.append((index, chunk))
        self._arrived.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._arrived.set()

    @property
    def is_over(self) -> bool:
        """Whether everything was taken and nothing will come."""
        return self._closed and not self._waiting

    async def take(self, timeout_s: float) -> list[Numbered]:
        """Wait for something and take all that is there; empty when nothing came in time or nothing will come."""
        if not self._arrived.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        taken = list(self._waiting)
        self._waiting.clear()
        if not self._closed:
            self._arrived.clear()
        return taken


class Rendering(Protocol):
    """Turns chunks into the events of one API."""

    def render(self, taken: Sequence[Numbered]) -> bytes:
        """Return the events for these chunks; the first call's begin with those of the start."""
        ...

    def end(self) -> bytes:
        """Return the events after the last chunk."""
        ...


class EventStream(Response):
    """The response that carries an answer as it is made."""

    media_type = "text/event-stream"

    def __init__(
        self,
        *,
        work: Answering,
        mailbox: Mailbox,
        first: Sequence[Numbered],
        rendering: Rendering,
        exchange: Exchange,
        error_body: Callable[[QwenOpsError], Any],
        stalled_s: float,
        keep_alive_s: float,
    ) -> None:
        """Prepare; nothing is sent before the call."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._work = work
        self._mailbox = mailbox
        self._first = first
        self._rendering = rendering
        self._exchange = exchange
        self._error_body = error_body
        self._stalled_s = stalled_s
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the answer; close the account in whatever way it ends."""
        del scope, receive
        try:
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                await self._send_chunks(send)
            except ClientGoneError:
                raise
            except Exception as error:
                self._exchange.fail(error, started=True)
                known = error if isinstance(error, QwenOpsError) else unexpected(error)
                await self._write(send, error_event(self._error_body(known)), more=False)
                if known is not error:
                    raise
            else:
                self._exchange.succeed()
        except ClientGoneError as gone:
            self._exchange.fail(gone, started=True)
        except BaseException as error:
            self._exchange.fail(error, started=True)
            raise
        finally:
            await self._work.aclose()

    async def _send_chunks(self, send: Callable[[Any], Awaitable[None]]) -> None:
        taken = self._first
        while True:
            body = self._rendering.render(taken) if taken else _COMMENT
            if not self._mailbox.is_over:
                await self._write(send, body, more=True)
            elif self._work.has_failed:
                await self._write(send, body if taken else b"", more=True)
                await self._work.result()
            else:
                await self._write(send, (body if taken else b"") + self._rendering.end(), more=False)
                return
            taken = await self._mailbox.take(self._keep_alive_s)

    async def _write(self, send: Callable[[Any], Awaitable[None]], body: bytes, *, more: bool) -> None:
        await self._send(send, {"type": "http.response.body", "body": body, "more_body": more})

    async def _send(self, send: Callable[[Any], Awaitable[None]], message: Any) -> None:
        try:
            async with asyncio.timeout(self._stalled_s):
                await send(message)
        except (TimeoutError, OSError):
            raise ClientGoneError(
                say("The client took nothing for {stalled_s:g} seconds.", stalled_s=self._stalled_s)
            ) from None


async def first_of(mailbox: Mailbox, work: Answering, *, keep_alive_s: float) -> list[Numbered]:
    """Wait for the first chunks, or so long that something must be sent.

    Raises:
        QwenOpsError: The work failed before it made anything.
    """
    taken = await mailbox.take(keep_alive_s)
    if not taken and mailbox.is_over:
        await work.result()
    return taken
