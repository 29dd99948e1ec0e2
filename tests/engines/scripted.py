"""A server that answers exactly what a test says, byte by byte, and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What comes back: `pieces` one after the other, a number is a pause in seconds."""

    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Sequence[bytes | float] = ()
    cut: bool = False
    """Whether the connection is broken after them."""


@dataclass(kw_only=True)
class Scripted:
    """What a test sees of the server."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of the posts."""
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a caller has left before the end."""


Answering = Callable[[dict[str, Any]], Reply]


def events(*data: Any) -> list[bytes]:
    """Write events: objects as JSON, text as it is."""
    return [
        b"data: " + (each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)).encode() + b"\n\n"
        for each in data
    ]


def delta(**said: Any) -> dict[str, Any]:
    """Return a piece of a chat; `reason` is its finish reason."""
    reason = said.pop("reason", None)
    return {"choices": [{"index": 0, "delta": said, "finish_reason": reason}]}


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    """Return the piece that has the usage."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion} | more}


def lines(*data: Any) -> list[bytes]:
    """Write lines of JSON."""
    return [json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in data]


def always(reply: Reply) -> Answering:
    """Answer every request the same."""
    return lambda _body: reply


def refusing(status: int, body: Any, **headers: str) -> Reply:
    """Refuse with a status."""
    return Reply(status=status, content_type="application/json", headers=headers, pieces=[json.dumps(body).encode()])


@asynccontextmanager
async def scripted(answer: Answering, *, gets: dict[str, Any] | None = None) -> AsyncIterator[Scripted]:
    """Serve `answer` for every post, and `gets` by path."""
    seen = Scripted()

    async def post(request: web.Request) -> web.StreamResponse:
        seen.connections.add(request.transport)
        seen.paths.append(request.path)
        seen.headers.append(dict(request.headers))
        body = await request.json()
        seen.asked.append(body)
        reply = answer(body)
        response = web.StreamResponse(
            status=reply.status, headers={"Content-Type": reply.content_type, **reply.headers}
        )
        try:
            await response.prepare(request)
            for piece in reply.pieces:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    await response.write(piece)
            if reply.cut:
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            seen.left.set()
            raise
        return response

    async def get(request: web.Request) -> web.Response:
        told = (gets or {}).get(request.path)
        seen.headers.append(dict(request.headers))
        return web.Response(status=404) if told is None else web.json_response(told)

    app = web.Application()
    app.router.add_post("/{path:.*}", post)
    app.router.add_get("/{path:.*}", get)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        seen.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield seen
    finally:
        await runner.cleanup()
