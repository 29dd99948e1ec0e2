"""A real server on a free port, in front of the fake engine."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter

from qwenops.engines.fake import FakeEngine, FakeTiming, Script, endless
from qwenops.generation import GenerationRequest, Messages, Tokens
from qwenops.observe.record import RequestRecord
from qwenops.serve.admission import Admission
from qwenops.serve.app import create_app
from qwenops.serve.auth import KeyRing
from qwenops.serve.champion import Desk
from qwenops.serve.classify import classify_router
from qwenops.serve.options import ServeOptions
from qwenops.serve.serving import ServedModel, Serving

MODEL = "qwen3:test"


class CharacterTokenizer:
    """A tokenizer whose tokens are the numbers of characters, so that tests can count in their heads."""

    vocab_size = 0x110000

    def encode(self, text: str) -> list[int]:
        return [ord(each) for each in text]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        del skip_special
        return "".join(chr(each) if not 0xD800 <= each < 0xE000 else "\ufffd" for each in ids)

    def render(self, messages: Messages) -> Tokens:
        text = "".join(f"<{each.role}>{each.content}" for each in messages.messages)
        if not messages.continue_final:
            text += "<assistant>"
        if not messages.enable_thinking:
            text += "<think></think>"
        return Tokens(ids=tuple(self.encode(text)))


@dataclass(kw_only=True)
class Served:
    """What a test sees of a server: its parts and, once it listens, its address."""

    engine: FakeEngine
    serving: Serving
    records: list[RequestRecord] = field(default_factory=list)
    desk: Desk | None = None
    decided: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0
    call: Callable[[Callable[[], Any]], None] = lambda act: act()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for_records(self, count: int, *, timeout_s: float = 5.0) -> list[RequestRecord]:
        until_s = time.monotonic() + timeout_s
        while len(self.records) < count and time.monotonic() < until_s:
            time.sleep(0.005)
        assert len(self.records) == count
        return self.records

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
        until_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until_s, "the condition did not come true in time"
            time.sleep(0.005)


def make_served(
    *,
    script: Callable[[GenerationRequest], Script] = endless,
    timing: FakeTiming | None = None,
    options: ServeOptions | None = None,
    keys: KeyRing | None = None,
    context_tokens: int = 8192,
    translate: Callable[[str, str], str] | None = None,
) -> Served:
    """Put a server's parts together; nothing listens yet."""
    options = options or ServeOptions()
    engine = FakeEngine(model=MODEL, script=script, timing=timing, context_tokens=context_tokens)
    records: list[RequestRecord] = []
    served = ServedModel(engine=engine, tokenizer=CharacterTokenizer(), since_s=1_700_000_000.0)
    serving = Serving(
        model=lambda: served,
        options=lambda: options,
        keys=keys or KeyRing(),
        admission=Admission(options.limits, slots=engine.timing.slots),
        finished=records.append,
        translate=translate or (lambda _, template: template),
    )
    return Served(engine=engine, serving=serving, records=records)


class _Door(threading.Thread):
    """One server for all tests, because starting and stopping take a while; the application behind it changes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.app: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(
            self._answer,
            http="httptools",
            loop="uvloop",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        self.server = uvicorn.Server(config)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        await self.app(scope, receive, send)

    def call(self, act: Callable[[], Any]) -> None:
        """Do something on the server's event loop, where its parts live."""
        assert self.loop is not None, "no request has come yet"
        self.loop.call_soon_threadsafe(act)

    def run(self) -> None:
        self.server.run(sockets=[self.socket])

    def stop(self) -> None:
        self.server.should_exit = True
        self.join(timeout=10)
        self.socket.close()
        assert not self.is_alive()


Start = Callable[[Served], Served]


@pytest.fixture(scope="session")
def door() -> Iterator[_Door]:
    """Return the server that all tests share."""
    thread = _Door()
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def start(door: _Door) -> Start:
    """Return a function that puts the parts it gets behind the server."""

    def run(served: Served) -> Served:
        routers: list[APIRouter] = []
        if served.desk is not None:
            routers.append(
                classify_router(served.serving, served.desk, lambda name, kind: served.decided.append((name, kind)))
            )
        door.app = create_app(served.serving, routers=routers)
        served.port = door.port
        served.call = door.call
        served.wait_until(lambda: door.server.started)
        return served

    return run


@pytest.fixture
def server(start: Start) -> Served:
    """Return a server whose engine answers at once, and without end unless it is told where to stop."""
    return start(make_served())


def scripted(text: str = "", *, pieces: tuple[str, ...] = ()) -> Callable[[GenerationRequest], Script]:
    """Return a script that answers everything with the same text."""
    return lambda _: Script(text=text, pieces=pieces)
