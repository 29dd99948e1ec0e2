"""The simulated server behind HTTP on loopback, with an OpenAI and an Ollama face.

    model = ServerModel(SimulatedOptions(slots=2))
    async with serve_simulated(model, faults=Faults(line_end="crlf")) as url: ...

It runs in the event loop of its caller, in real time. `GET /simulated/truth` tells what truly happened: what the model
said, and when the bytes were handed to the operating system (`sent_first_ns`, `sent_last_ns`), which is later where
this machine was busy; `GET /simulated/sent` tells it of each chunk of the last answers. Times there are of the
machine's monotonic clock, which all its processes share.
"""

import asyncio
import dataclasses
import itertools
import json
import socket
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from qwenops.bench.clock import RealClock
from qwenops.bench.simulated.engine import Play, Told, demand_of, faults_for, shed_error
from qwenops.bench.simulated.faces import Face, OllamaFace, OpenAIFace, ollama_request, openai_request
from qwenops.bench.simulated.model import Demand, ServerModel, Shed, Truth
from qwenops.bench.simulated.options import Faults, Simulated
from qwenops.bench.simulated.wire import HALF, event, line, pieces
from qwenops.errors import InvalidRequestError, QwenOpsError

HOST = "127.0.0.1"
_MOST_DELIVERIES = 200_000
_MOST_STAMPED = 256
_MAX_BODY_BYTES = 64 * 1024**2
_SHUTDOWN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One answer that was sent: the model's truth, and when its bytes left, on the machine's clock."""

    truth: Truth
    came_ns: int
    sent_first_ns: int
    sent_last_ns: int


@dataclass(slots=True, kw_only=True)
class Stage:
    """The server: a model that is played, and what it has sent."""

    play: Play
    simulated: Simulated
    clock: RealClock
    deliveries: deque[Delivery] = field(default_factory=lambda: deque(maxlen=_MOST_DELIVERIES))
    stamped: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_MOST_STAMPED))
    """Of the last answers: when each came, and when each of its chunks was sent."""
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def openai(self, http: web.Request) -> web.StreamResponse:
        """Answer `/v1/chat/completions` and `/v1/completions`."""
        came_ns, number = self.clock.now_ns(), next(self.numbers)
        chat = http.path.endswith("/chat/completions")
        try:
            body = await _body(http)
            demand = demand_of(openai_request(body, self.simulated, chat=chat), self.simulated)
            faults = faults_for(self.simulated, demand, self.play.now_ns())
            face = OpenAIFace(
                simulated=self.simulated,
                faults=faults,
                id=f"{'chatcmpl' if chat else 'cmpl'}-{number}",
                stream=bool(body.get("stream")),
                chat=chat,
                with_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            )
            return await self._answer(http, face, demand, faults, (number, came_ns))
        except QwenOpsError as error:
            return _failed(http, error)

    async def ollama(self, http: web.Request) -> web.StreamResponse:
        """Answer `/api/chat` and `/api/generate`."""
        came_ns, number = self.clock.now_ns(), next(self.numbers)
        chat = http.path.endswith("/chat")
        try:
            body = await _body(http)
            demand = demand_of(ollama_request(body, self.simulated, chat=chat), self.simulated)
            faults = faults_for(self.simulated, demand, self.play.now_ns())
            face = OllamaFace(simulated=self.simulated, faults=faults, stream=bool(body.get("stream", True)), chat=chat)
            return await self._answer(http, face, demand, faults, (number, came_ns))
        except QwenOpsError as error:
            return _failed(http, error)

    async def truth(self, _http: web.Request) -> web.Response:
        """Tell everything that was sent."""
        found = [
            dataclasses.asdict(each.truth)
            | {"came_ns": each.came_ns, "sent_first_ns": each.sent_first_ns, "sent_last_ns": each.sent_last_ns}
            for each in self.deliveries
        ]
        return web.json_response({"begin_ns": self.play.begin_ns, "requests": found})

    async def sent(self, _http: web.Request) -> web.Response:
        """Tell when each chunk of the last answers was sent."""
        return web.json_response({"requests": list(self.stamped)})

    async def _answer(
        self, http: web.Request, face: Face, demand: Demand, faults: Faults, came: tuple[int, int]
    ) -> web.StreamResponse:
        number, came_ns = came
        await self._thaw()
        if faults.status:
            return _failure(http, "The simulated server does not answer this.", faults.status, faults.retry_after)
        try:
            with self.play.asked(str(number), demand) as chunks:
                if faults.slow_headers_s:
                    await asyncio.sleep(faults.slow_headers_s)
                sending = _Sending(http=http, face=face, faults=faults, clock=self.clock)
                await sending.begin()
                async for told in chunks:
                    if not await sending.send(told):
                        break
                    if told.truth is not None:
                        self._note(told.truth, came_ns, sending)
                        await sending.end(told.truth)
        except Shed:
            raise shed_error(self.simulated) from None
        return sending.response

    def _note(self, truth: Truth, came_ns: int, sending: "_Sending") -> None:
        first_ns, last_ns = sending.first_ns or 0, sending.last_ns or 0
        self.stamped.append({"came_ns": came_ns, "sent_ns": sending.stamps})
        self.deliveries.append(Delivery(truth=truth, came_ns=came_ns, sent_first_ns=first_ns, sent_last_ns=last_ns))

    async def _thaw(self) -> None:
        """Wait until the server is not frozen."""
        now_ns = self.play.now_ns()
        until_ns = self.play.model.frozen_until_ns(now_ns)
        if until_ns > now_ns:
            await self.clock.sleep_until_ns(self.play.begin_ns + until_ns)


@dataclass(slots=True, kw_only=True)
class _Sending:
    """One answer on its way."""

    http: web.Request
    face: Face
    faults: Faults
    clock: RealClock
    response: web.StreamResponse = field(init=False)
    tolds: list[Told] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    count: int = 0
    first_ns: int | None = None
    last_ns: int | None = None

    async def begin(self) -> None:
        """Send the head of a stream, and what comes before content."""
        self.response = web.StreamResponse(headers={"Content-Type": self.face.content_type})
        if self.face.stream:
            await self.response.prepare(self.http)
            await self._write(self.face.first())

    async def send(self, told: Told) -> bool:
        """Send one chunk; return whether the answer goes on."""
        if await self._goes_wrong():
            return False
        self.count += 1
        data = self.face.piece(told) if self.face.stream else b""
        self.last_ns = self.clock.now_ns()
        self.first_ns = self.first_ns or self.last_ns
        self.stamps.append(self.last_ns)
        if self.face.stream:
            await self._write(data)
        else:
            self.tolds.append(told)
        return True

    async def end(self, truth: Truth) -> None:
        """Send the end."""
        if self.face.stream:
            await self._write(self.face.last(truth))
            await self.response.write_eof()
            return
        body = self.face.whole(self.tolds, truth)
        self.last_ns = self.first_ns = self.clock.now_ns()
        self.response = web.Response(body=body, content_type=self.face.content_type)

    async def _goes_wrong(self) -> bool:
        faults, at = self.faults, self.count
        write = event if isinstance(self.face, OpenAIFace) else line
        if at == faults.hang_after:
            await asyncio.get_running_loop().create_future()
        if at == faults.malformed_after:
            await self._fault(write(HALF, faults))
        elif at == faults.error_after:
            error = {"message": "The simulated server failed.", "type": "server_error", "code": 500}
            whole = {"error": error if isinstance(self.face, OpenAIFace) else error["message"]}
            await self._fault(write(json.dumps(whole), faults))
        elif at == faults.cut_after:
            if self.http.transport is not None:
                self.http.transport.close()
        else:
            return False
        return True

    async def _fault(self, data: bytes) -> None:
        """Send what is wrong, and end."""
        if self.face.stream:
            await self._write(data)
            await self.response.write_eof()
        else:
            self.response = web.Response(body=HALF.encode(), content_type="application/json")

    async def _write(self, data: bytes) -> None:
        for piece in pieces(data, self.faults) if data else ():
            await self.response.write(piece)


@asynccontextmanager
async def serve_simulated(model: ServerModel, *, faults: Faults | None = None, port: int = 0) -> AsyncGenerator[str]:
    """Serve `model` until the block is left, and yield the address, such as `http://127.0.0.1:40000`.

    The model has the truth of every request (`model.truths`); its time 0 is when the block was entered.
    """
    clock = RealClock()
    simulated = Simulated(server=model.options, faults=faults or Faults())
    stage = Stage(play=Play(model, clock), simulated=simulated, clock=clock)
    runner = web.AppRunner(
        application(stage),
        handle_signals=False,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port, backlog=4096)
        await site.start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def refusing_url() -> Generator[str]:
    """Yield an address at which every connection is refused; nobody else can take its port meanwhile."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield f"http://{HOST}:{held.getsockname()[1]}"


def application(stage: Stage) -> web.Application:
    """Return both faces as one application."""
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    served = stage.simulated.server.model
    for path in ("/v1/chat/completions", "/v1/completions"):
        app.router.add_post(path, stage.openai)
    for path in ("/api/chat", "/api/generate"):
        app.router.add_post(path, stage.ollama)
    app.router.add_get("/simulated/truth", stage.truth)
    app.router.add_get("/simulated/sent", stage.sent)
    facts: dict[str, Any] = {
        "/health": {"status": "ok"},
        "/v1/models": {
            "object": "list",
            "data": [{"id": served, "object": "model", "owned_by": "qwenops", "created": 0}],
        },
        "/api/version": {"version": "0.0.0"},
        "/api/tags": {"models": [{"name": served, "model": served, "size": 0, "digest": "", "details": {}}]},
        "/api/ps": {"models": []},
    }
    for path, fact in facts.items():
        app.router.add_get(path, _telling(fact))
    return app


def _telling(fact: Any) -> Any:
    async def tell(_http: web.Request) -> web.Response:
        return web.json_response(fact)

    return tell


async def _body(http: web.Request) -> dict[str, Any]:
    try:
        found = await http.json()
    except ValueError as error:
        raise InvalidRequestError(str(error)) from None
    if not isinstance(found, dict):
        raise InvalidRequestError("The body is no object.")
    return found


def _failure(http: web.Request, message: str, status: int, retry_after: str) -> web.Response:
    """Say in the words of the API that was asked why there is no answer."""
    error: Any = message if http.path.startswith("/api/") else {"message": message, "type": "error", "code": status}
    headers = {"Retry-After": retry_after} if retry_after else None
    return web.json_response({"error": error}, status=status, headers=headers)


def _failed(http: web.Request, error: QwenOpsError) -> web.Response:
    after_s = error.retry_after_s
    return _failure(http, error.message, error.http_status, "" if after_s is None else f"{after_s:g}")
