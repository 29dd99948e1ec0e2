"""One request over a connection that blocks: what is sent, what comes back, and when.

The same readers, the same moments, the same record and the same second try without an unknown field as everywhere else
(`engines/`, `bench/send.py`); only the waiting is Locust's, in greenlets. Nothing here imports Locust.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.send import Errand, Fault, Setting, Trace, fault_of
from qwenops.bench.workload import Ask
from qwenops.engines.openai_answer import JSON, NO_STREAM, Answer, page_for_people
from qwenops.engines.openai_body import chat_body
from qwenops.engines.refusal import refusal_of
from qwenops.engines.remote import OUT_OF, encoded
from qwenops.engines.sse import EventReader
from qwenops.engines.unknown import UnknownFields
from qwenops.errors import (
    DeadlineError,
    EngineCrashedError,
    EngineUnavailableError,
    InvalidRequestError,
    NoConnectionLeftError,
    QwenOpsError,
)
from qwenops.generation import Chunk, GenerationRequest
from qwenops.text import say

OK = 200


class Response(Protocol):
    """What came back: the head is there, the body arrives line by line."""

    status: int
    headers: Mapping[str, str]

    def line(self) -> bytes:
        """Wait for the next line and return it with its end; empty at the end of the body.

        Raises:
            OSError: The connection broke.
        """
        ...

    def rest(self) -> bytes:
        """Return what is left of the body."""
        ...


class StaleConnectionError(ConnectionError):
    """A connection that was used before turned out to be closed, before one byte of an answer."""


Post = Callable[[str, bytes, Mapping[str, str]], Response]
"""Sends a body to a path and returns when the head of the response is there; raises OSError where nobody answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Who is asked."""

    url: str
    model: str
    owner: str = ""
    api_key: str = field(default="", repr=False)
    unknown: UnknownFields = field(default_factory=UnknownFields)
    """What it turned out not to know; the callers of one process share it."""

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def path(self) -> str:
        """Path of the chat endpoint."""
        before = urlsplit(self.url).path.rstrip("/")
        return f"{before if before.endswith('/v1') else before + '/v1'}/chat/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        """Return the request for one ask, with all that it says."""
        return chat_body(self.model, ask.messages, ask.sampling, self.owner)

    @property
    def headers(self) -> dict[str, str]:
        """Return what is sent with every request."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity", **key}


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request under way; `record` is the whole of it once it is over."""

    index: int
    segment: str
    phase: Phase
    ask: Ask
    user: int | None
    scheduled_ns: int
    record_text: bool = False
    trace: Trace = field(init=False)
    error: QwenOpsError | None = None
    fault: Fault | None = None
    sent_ns: int = 0
    ended_ns: int = 0

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        self.trace = Trace(record_text=self.record_text)

    @property
    def failure(self) -> Failure | None:
        """What it is counted as."""
        return None if self.fault is None else self.fault.failure

    def run(self, server: Server, post: Post, now_ns: Callable[[], int]) -> None:
        """Send it and read the answer to its end. What goes wrong is kept; only what ends the greenlet passes."""
        body = server.body(self.ask)
        self.fault = Fault(failure=Failure.INTERRUPTED, message="the run was stopped")
        self.sent_ns = now_ns()
        try:
            self._read(server, self._accepted(server, post, body, now_ns), now_ns)
            self.fault = self.trace.fault()
        except QwenOpsError as error:
            self.error, self.fault = error, fault_of(error)
        finally:
            self.ended_ns = now_ns()

    def give_up(self, seconds: float) -> None:
        """Take note that it took too long."""
        self.error = DeadlineError(say("There was no whole answer within {seconds:g} s.", seconds=seconds))
        self.fault = Fault(failure=Failure.TIMEOUT, message=f"no whole answer within {seconds:g} s")

    def _accepted(self, server: Server, post: Post, body: Mapping[str, Any], now_ns: Callable[[], int]) -> Response:
        """Send it, without the fields that the server turns out not to know."""
        while True:
            sent = server.unknown.without(body)
            response = _posted(server, post, encoded(sent), self.trace)
            self.trace.first_byte_ns = now_ns()
            if response.status == OK:
                server.unknown.took(sent)
                return response
            refusal = _refusal(server, response)
            if not isinstance(refusal, InvalidRequestError) or not server.unknown.learn(sent, refusal):
                raise refusal
            self.trace.tries += 1

    def _read(self, server: Server, response: Response, now_ns: Callable[[], int]) -> None:
        events, answer = EventReader(), Answer(server.url, thinking=self.ask.messages.enable_thinking)
        try:
            kind = _content_type(response)
            if kind in NO_STREAM:
                if kind != JSON:
                    raise page_for_people(server.url)
                self._take(answer.take(response.rest()), now_ns)
            else:
                while not answer.is_done and (line := response.line()):
                    for event in events.push(line):
                        self._take(answer.take(event.data), now_ns)
        except OSError as error:
            if not answer.is_complete:
                raise _broken(server, error) from error
        for event in events.finish():
            self._take(answer.take_rest(event.data), now_ns)
        self.trace.take(answer.last(), now_ns)

    def _take(self, chunk: Chunk | None, now_ns: Callable[[], int]) -> None:
        if chunk is not None:
            self.trace.take(chunk, now_ns)

    def record(self, origin_ns: int, target: str = "") -> RequestRecord:
        """Return its record; times count from `origin_ns`."""
        request = GenerationRequest(id=str(self.index), prompt=self.ask.messages, sampling=self.ask.sampling)
        errand = Errand(index=self.index, segment=self.segment, phase=self.phase, ask=self.ask, request=request)
        setting = Setting(origin_ns=origin_ns, name=target, record_text=self.record_text)
        return self.trace.record(
            errand, self.fault, (self.scheduled_ns, self.sent_ns, self.ended_ns), setting, self.user
        )


def _content_type(response: Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _refusal(server: Server, response: Response) -> QwenOpsError:
    try:
        said = response.rest()
    except OSError:
        said = b""
    text = said.decode(errors="replace")
    return refusal_of(
        server.url,
        response.status,
        response.headers,
        text.replace(server.api_key, "***") if server.api_key else text,
    )


def _posted(server: Server, post: Post, body: bytes, trace: Trace) -> Response:
    try:
        try:
            return post(server.path, body, server.headers)
        except StaleConnectionError:  # nobody read it
            trace.tries += 1
            return post(server.path, body, server.headers)
    except OSError as error:
        if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
            raise _broken(server, error) from error
        if error.errno in OUT_OF:
            raise NoConnectionLeftError(
                say("This machine cannot open one more connection: {reason}.", reason=os.strerror(error.errno or 0)),
                hint=say("Raise the limit of open files (`ulimit -n`), or ask with fewer connections."),
            ) from error
        raise EngineUnavailableError(
            say("{url} cannot be reached: {reason}.", url=server.url, reason=str(error) or type(error).__name__),
            hint=say("Start the server, or check its address."),
        ) from error


def _broken(server: Server, error: OSError) -> EngineCrashedError:
    return EngineCrashedError(
        say("{url} broke off: {reason}.", url=server.url, reason=str(error) or type(error).__name__),
        hint=say("Look into the server's log."),
    )


def line_of(data: Mapping[str, Any]) -> str:
    """Return a journal's line."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"
