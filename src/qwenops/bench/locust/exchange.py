"""One request over a connection that blocks: what is sent, what comes back, and when.

The same readers, the same definitions and the same record as everywhere else (`engines/sse.py`, `bench/send.py`); only
the waiting is Locust's, in greenlets. Nothing here imports Locust.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.send import FirstAnswer, failure_of
from qwenops.bench.workload import Ask
from qwenops.engines.openai_answer import Answer
from qwenops.engines.openai_body import chat_body
from qwenops.engines.refusal import refusal_of
from qwenops.engines.sse import EventReader
from qwenops.errors import DeadlineError, EngineCrashedError, EngineUnavailableError, QwenOpsError
from qwenops.generation import Chunk, FinishReason, Usage
from qwenops.text import say

NS_PER_US = 1000
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


Post = Callable[[str, bytes, Mapping[str, str]], Response]
"""Sends a body to a path and returns when the head of the response is there; raises OSError where nobody answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Who is asked."""

    url: str
    model: str
    owner: str = ""
    api_key: str = field(default="", repr=False)

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

    def body(self, ask: Ask) -> bytes:
        """Return the request for one ask."""
        told = chat_body(self.model, ask.messages, ask.sampling, self.owner)
        return json.dumps(told, ensure_ascii=False).encode()

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
    sent_ns: int = 0
    first_byte_ns: int | None = None
    stamps: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    answer: FirstAnswer = field(default_factory=FirstAnswer)
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    error: QwenOpsError | None = None
    failure: Failure | None = None
    ended_ns: int = 0

    def run(self, server: Server, post: Post, now_ns: Callable[[], int]) -> None:
        """Send it and read the answer to its end. What goes wrong is kept; only what ends the greenlet passes."""
        body, path, headers = server.body(self.ask), server.path, server.headers
        self.failure = Failure.INTERRUPTED
        self.sent_ns = now_ns()
        try:
            response = _posted(server, post, path, body, headers)
            self.first_byte_ns = now_ns()
            if response.status != OK:
                raise refusal_of(
                    server.url, response.status, response.headers, response.rest().decode(errors="replace")
                )
            self._read(server, response, now_ns)
            self.failure = None
            if not self.stamps:
                self.failure = Failure.EMPTY
        except QwenOpsError as error:
            self.error, self.failure = error, failure_of(error)
        finally:
            self.ended_ns = now_ns()

    def give_up(self, seconds: float) -> None:
        """Take note that it took too long."""
        self.error = DeadlineError(say("There was no whole answer within {seconds:g} s.", seconds=seconds))
        self.failure = Failure.TIMEOUT

    def _read(self, server: Server, response: Response, now_ns: Callable[[], int]) -> None:
        events, answer = EventReader(), Answer(server.url)
        try:
            while not answer.is_done and (line := response.line()):
                for event in events.push(line):
                    self._take(answer.take(event.data), now_ns)
        except OSError as error:
            if not answer.is_complete:
                raise _broken(server, error) from error
        for event in events.finish():
            self._take(answer.take(event.data), now_ns)
        self._take(answer.last(), now_ns)

    def _take(self, chunk: Chunk | None, now_ns: Callable[[], int]) -> None:
        if chunk is None:
            return
        if chunk.text:
            moment_ns = now_ns()
            self.stamps.append(moment_ns)
            if self.answer.at_ns is None:
                self.answer.push(chunk.text, moment_ns, self.stamps[0])
            if self.record_text:
                self.parts.append(chunk.text)
        if chunk.finish_reason is not None:
            self.finish_reason, self.usage = chunk.finish_reason, chunk.usage

    def record(self, origin_ns: int, target: str = "") -> RequestRecord:
        """Return its record; times count from `origin_ns`."""
        first_ns = self.stamps[0] if self.stamps else None
        usage = self.usage
        return RequestRecord(
            index=self.index,
            segment=self.segment,
            phase=self.phase,
            item=self.ask.item,
            prompt_hash=self.ask.prompt_hash,
            user=self.user,
            target=target,
            scheduled_ns=self.scheduled_ns - origin_ns,
            sent_ns=self.sent_ns - origin_ns,
            first_byte_ns=_since(self.first_byte_ns, origin_ns),
            first_content_ns=_since(first_ns, origin_ns),
            first_answer_ns=_since(self.answer.finish(first_ns), origin_ns),
            last_content_ns=_since(self.stamps[-1] if self.stamps else None, origin_ns),
            ended_ns=self.ended_ns - origin_ns,
            chunk_gaps_us=_gaps_us(self.stamps),
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else (len(self.stamps) or None),
            cached_tokens=usage.cached_tokens if usage else None,
            token_source="server" if usage else ("estimate" if self.stamps else None),
            finish_reason=self.finish_reason.value if self.finish_reason else None,
            failure=self.failure,
            message="" if self.error is None else str(self.error.message),
            retry_after_s=None if self.error is None else self.error.retry_after_s,
            reported=dict(usage.reported) if usage else {},
            answer="".join(self.parts) if self.record_text else None,
        )


def _posted(server: Server, post: Post, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
    try:
        return post(path, body, headers)
    except OSError as error:
        raise EngineUnavailableError(
            say("{url} cannot be reached: {reason}.", url=server.url, reason=str(error) or type(error).__name__),
            hint=say("Start the server, or check its address."),
        ) from error


def _broken(server: Server, error: OSError) -> EngineCrashedError:
    return EngineCrashedError(
        say("{url} broke off: {reason}.", url=server.url, reason=str(error) or type(error).__name__),
        hint=say("Look into the server's log."),
    )


def _since(at_ns: int | None, origin_ns: int) -> int | None:
    return None if at_ns is None else at_ns - origin_ns


def _gaps_us(stamps: list[int]) -> tuple[int, ...]:
    """Return the gaps so that they add up to the whole: each border is rounded, not each gap."""
    borders = [(each - stamps[0] + NS_PER_US // 2) // NS_PER_US for each in stamps]
    return tuple(later - earlier for earlier, later in itertools.pairwise(borders))


def line_of(data: Mapping[str, Any]) -> str:
    """Return a journal's line."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"
