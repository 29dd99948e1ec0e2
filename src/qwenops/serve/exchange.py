"""One inference request from its arrival to its end: who asked, what it took, how it ended.

Whatever happens, `close` is called once and makes one record, which moves the metrics and becomes one log line. The
times are read here, around the engine's chunks, with the clock that was passed in.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from qwenops.errors import QwenOpsError
from qwenops.generation import Chunk
from qwenops.observe.record import RequestRecord, Status
from qwenops.serve.serving import Serving
from qwenops.text import say

CLIENT_CLOSED_REQUEST = 499
"""The status that is logged for a client that went away; nobody receives it."""


class ClientGoneError(QwenOpsError):
    """The client closed its connection before the answer was complete."""

    http_status = CLIENT_CLOSED_REQUEST
    code = "client_closed_request"


class Exchange:
    """The account of one request."""

    def __init__(self, serving: Serving, *, request_id: str, endpoint: str) -> None:
        """Note the arrival."""
        self.serving = serving
        self.request_id = request_id
        self.unique_id = uuid.uuid4().hex
        """Differs from all others, which the id that a client sends may not."""
        self.endpoint = endpoint
        self.arrived_s = serving.clock()
        self.model = ""
        self.served_model = ""
        self.key_name = ""
        self.stream = False
        self.prompt_length = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.response_length = 0
        self.queue_s = 0.0
        self.first_s: float | None = None
        self.last_s = 0.0
        self.finish_reason: str | None = None
        self.prompt: str | None = None
        self.response: list[str] | None = None
        self._cached: dict[int, int] = {}
        self._closed = False

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that the prefix cache held, each prompt counted once like the prompts themselves."""
        return sum(self._cached.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the arrival."""
        return self.serving.clock() - self.arrived_s

    def saw(self, chunk: Chunk, *, prompt: int = 0) -> None:
        """Take note of a chunk of an answer to prompt number `prompt`, in the moment it comes from the engine."""
        if chunk.text:
            self.last_s = self.serving.clock()
            if self.first_s is None:
                self.first_s = self.last_s
            self.response_length += len(chunk.text)
            if self.response is not None:
                self.response.append(chunk.text)
        self.completion_tokens += len(chunk.token_ids)
        if chunk.usage is not None:
            # Of several answers to one prompt the later ones find what the first has just computed.
            cached = chunk.usage.cached_tokens
            self._cached[prompt] = min(cached, self._cached.get(prompt, cached))

    def succeed(self) -> None:
        """Close the account of a complete answer."""
        self._close(status="success", http_status=200, error=None)

    def fail(self, error: BaseException, *, started: bool = False) -> None:
        """Close the account of a request that ended with an error; `started` is whether status 200 went out before."""
        if isinstance(error, ClientGoneError | asyncio.CancelledError):
            gone = error if isinstance(error, ClientGoneError) else None
            self._close(status="cancelled", http_status=CLIENT_CLOSED_REQUEST, error=gone)
        else:
            known = error if isinstance(error, QwenOpsError) else unexpected(error)
            self._close(status="error", http_status=200 if started else known.http_status, error=known)

    def _close(self, *, status: Status, http_status: int, error: QwenOpsError | None) -> None:
        if self._closed:
            return
        self._closed = True
        record = RequestRecord(
            request_id=self.request_id,
            endpoint=self.endpoint,
            model=self.model[:256],
            served_model=self.served_model,
            status=status,
            http_status=http_status,
            error=error.message if error else None,
            error_code=error.code if error else None,
            prompt_length=self.prompt_length,
            response_length=self.response_length,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            queue_s=self.queue_s,
            ttft_s=None if self.first_s is None else self.first_s - self.arrived_s,
            last_s=None if self.first_s is None else self.last_s - self.arrived_s,
            duration_s=self.elapsed_s,
            finish_reason=self.finish_reason,
            stream=self.stream,
            key_name=self.key_name,
            at=datetime.fromtimestamp(self.serving.now(), tz=UTC),
            prompt=self.prompt,
            response=None if self.response is None else "".join(self.response),
        )
        self.serving.finished(record)


def unexpected(error: BaseException) -> QwenOpsError:
    """Return what a client is told of an error that nobody foresaw: that it happened, and nothing of its inside."""
    return QwenOpsError(
        say("The server failed in a way that was not foreseen ({name}).", name=type(error).__name__),
        hint=say("Look for the request id in the server's log."),
    )


class Answering:
    """The making of an answer, for a client that may go away: it is cancelled then and gives back what it held."""

    def __init__(
        self, work: Coroutine[Any, Any, None], receive: Callable[[], Awaitable[Any]], *, ended: Callable[[], None]
    ) -> None:
        """Start working and watching; `ended` is called when the work is over, in whatever way."""
        self._gone = False
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(lambda _: ended())
        self._watch = asyncio.create_task(self._watch_client(receive))

    async def _watch_client(self, receive: Callable[[], Awaitable[Any]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.give_up()

    def give_up(self) -> None:
        """Cancel the work: nobody waits for it any more."""
        self._gone = True
        self._task.cancel()

    @property
    def has_failed(self) -> bool:
        """Whether the work ended without being complete."""
        return self._task.done() and (self._task.cancelled() or self._task.exception() is not None)

    async def result(self) -> None:
        """Wait for the end.

        Raises:
            ClientGoneError: The client went away first.
            QwenOpsError: What the work raised.
        """
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._gone:
                raise
            raise ClientGoneError(say("The client closed the connection.")) from None
        finally:
            self._watch.cancel()

    async def aclose(self) -> None:
        """Cancel what still runs and wait until it has given everything back."""
        for task in (self._watch, self._task):
            task.cancel()
        for task in (self._watch, self._task):
            with contextlib.suppress(asyncio.CancelledError, QwenOpsError):
                await task
