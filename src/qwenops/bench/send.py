"""One request: what is asked, and the moments at which something of the answer came.

The clock is read around the engine's chunks and nowhere else, so every target has the same definitions. Between two
chunks nothing happens but that; what can wait is worked out when the answer is over.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from qwenops.bench.clock import Clock
from qwenops.bench.record import Failure, Phase, RequestRecord, TokenSource
from qwenops.bench.redacting import without
from qwenops.bench.target import Target
from qwenops.bench.workload import Ask
from qwenops.engines.remote import Moment
from qwenops.errors import (
    AuthenticationError,
    DeadlineError,
    EngineCrashedError,
    EngineUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    LimitExceededError,
    MalformedAnswerError,
    ModelNotFoundError,
    NoConnectionLeftError,
    OverloadedError,
    QwenOpsError,
)
from qwenops.generation import Chunk, FinishReason, GenerationRequest, Usage

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
CLOSE_TIMEOUT_S = 5.0
"""How long an engine may take to let go of a request that was given up."""

_FAILURES: tuple[tuple[tuple[type[QwenOpsError], ...], Failure], ...] = (
    ((NoConnectionLeftError,), Failure.CLIENT),
    ((EngineUnavailableError,), Failure.CONNECT),
    ((EngineCrashedError,), Failure.CUT),
    ((MalformedAnswerError,), Failure.MALFORMED),
    ((DeadlineError,), Failure.TIMEOUT),
    ((LimitExceededError, OverloadedError), Failure.SHED),
    ((InvalidRequestError, AuthenticationError, ForbiddenError, ModelNotFoundError), Failure.REJECTED),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One request, ready to be sent."""

    index: int
    segment: str
    phase: Phase
    ask: Ask
    request: GenerationRequest


class FirstAnswer:
    """Finds the first content after the reasoning, in a text that arrives in pieces.

    Reasoning stands in band, between the tags with which Qwen writes it; a tag may be cut anywhere.
    """

    __slots__ = ("_closed", "_held", "_open", "at_ns")

    def __init__(self) -> None:
        """Begin before the first piece."""
        self.at_ns: int | None = None
        self._held = ""
        self._open: bool | None = None
        self._closed = False

    def push(self, text: str, now_ns: int, first_ns: int) -> None:
        """Take a piece that came at `now_ns`; the answer's first one came at `first_ns`."""
        held = self._held + text
        if self._open is None:
            seen = held.lstrip()
            if seen.startswith(THINK_OPEN):
                self._open = True
                held = seen[len(THINK_OPEN) :]
            elif not THINK_OPEN.startswith(seen):
                self.at_ns = first_ns
        if self._open and not self._closed:
            before, closed, after = held.partition(THINK_CLOSE)
            self._closed = bool(closed)
            held = after if closed else before[1 - len(THINK_CLOSE) :]
        if self._closed:
            held = held.lstrip()
            if held:
                self.at_ns = now_ns
        self._held = held

    def finish(self, first_ns: int | None) -> int | None:
        """Return the moment; a text that only began like a tag was the answer itself."""
        if self._open is None and self._held:
            self.at_ns = first_ns
        return self.at_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a request has no good answer, in words."""

    failure: Failure
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the records of one target have in common."""

    origin_ns: int
    """The run's origin on the clock; records count from it."""
    name: str = ""
    """What records call the target; empty where there is only one."""
    record_text: bool = False
    """Whether prompt and answer go into the record."""


class Trace:
    """The moments of one request, whoever waits for them and however."""

    __slots__ = (
        *("answer", "connected_ns", "finish_reason", "first_byte_ns", "num_ids", "parts", "stamps", "tries", "usage"),
    )

    def __init__(self, *, record_text: bool = False) -> None:
        """Begin before the request is sent."""
        self.tries = 1
        self.connected_ns: int | None = None
        self.first_byte_ns: int | None = None
        self.stamps: list[int] = []
        self.answer = FirstAnswer()
        self.parts: list[str] | None = [] if record_text else None
        self.num_ids = 0
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None

    def take(self, chunk: Chunk, now_ns: Callable[[], int]) -> None:
        """Note when content comes; the only code that runs for each chunk."""
        text = chunk.text
        if text:
            if not chunk.is_added:
                moment_ns = now_ns()
                self.stamps.append(moment_ns)
                if self.answer.at_ns is None:
                    self.answer.push(text, moment_ns, self.stamps[0])
            if self.parts is not None:
                self.parts.append(text)
        self.num_ids += len(chunk.token_ids)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
            self.usage = chunk.usage

    def fault(self) -> Fault | None:
        """Return what is wrong with an answer that ended without an error; None where nothing is."""
        if self.finish_reason is None:
            return Fault(failure=Failure.CUT, message="the stream ended before its end")
        if not self.stamps:
            return Fault(failure=Failure.EMPTY, message="the answer holds no content")
        return None

    def record(
        self,
        errand: "Errand",
        fault: Fault | None,
        when_ns: tuple[int, int, int],
        setting: Setting,
        user: int | None = None,
    ) -> RequestRecord:
        """Return the record; `when_ns` is when it was due, when it was sent, and when it was over, on the clock."""
        scheduled_ns, sent_ns, ended_ns = when_ns
        stamps, usage, origin_ns = self.stamps, self.usage, setting.origin_ns
        first_ns = stamps[0] if stamps else None
        completion_tokens, source = _tokens(self, is_whole=fault is None)
        return RequestRecord(
            index=errand.index,
            segment=errand.segment,
            phase=errand.phase,
            item=errand.ask.item,
            prompt_hash=errand.ask.prompt_hash,
            user=user,
            target=setting.name,
            scheduled_ns=scheduled_ns - origin_ns,
            sent_ns=sent_ns - origin_ns,
            tries=self.tries,
            connected_ns=_since(self.connected_ns, origin_ns),
            first_byte_ns=_since(self.first_byte_ns, origin_ns),
            first_content_ns=_since(first_ns, origin_ns),
            first_answer_ns=_since(self.answer.finish(first_ns), origin_ns),
            last_content_ns=_since(stamps[-1] if stamps else None, origin_ns),
            ended_ns=ended_ns - origin_ns,
            chunk_gaps_us=_gaps_us(stamps),
            prompt_tokens=said_count(usage, "prompt_tokens"),
            completion_tokens=completion_tokens,
            cached_tokens=said_count(usage, "cached_tokens"),
            token_source=source,
            finish_reason=self.finish_reason.value if self.finish_reason else None,
            failure=fault.failure if fault else None,
            message=_message(errand.ask, fault, setting),
            retry_after_s=fault.retry_after_s if fault else None,
            reported=dict(usage.reported) if usage else {},
            prompt=_prompt_text(errand.ask) if setting.record_text else None,
            answer=None if self.parts is None else "".join(self.parts),
        )


class Line:
    """An open line to one target: sends requests and returns their records.

    Args:
        target: Who is asked.
        clock: Where the moments come from.
        origin_ns: The run's origin on that clock; records count from it.
        name: What records call the target; empty where there is only one.
        timeout_s: How long an answer may take.
        record_text: Whether prompt and answer go into the record.
    """

    def __init__(
        self,
        target: Target,
        clock: Clock,
        origin_ns: int,
        *,
        name: str = "",
        timeout_s: float = 300.0,
        record_text: bool = False,
    ) -> None:
        """Remember them; nothing is sent yet."""
        self.target = target
        self.clock = clock
        self.origin_ns = origin_ns
        self.name = name
        self._setting = Setting(origin_ns=origin_ns, name=name, record_text=record_text)
        self._timeout_s = timeout_s
        self._traces: dict[str, Trace] = {}
        self._given_up = Fault(failure=Failure.INTERRUPTED, message="the run was stopped")
        target.listen_moments(self._moment)

    def close(self) -> None:
        """Stop listening to the engine's moments."""
        self.target.listen_moments(None)

    def errand(self, ask: Ask, *, index: int, segment: str, phase: Phase) -> Errand:
        """Make everything ready for sending, so that nothing is left to do when the time has come."""
        request = GenerationRequest(
            id=f"bench-{self.name}-{index}" if self.name else f"bench-{index}",
            prompt=self.target.render(ask.messages),
            sampling=ask.sampling,
            model=self.target.model,
        )
        return Errand(index=index, segment=segment, phase=phase, ask=ask, request=request)

    def give_up_as(self, failure: Failure, message: str) -> None:
        """Say what a request is recorded as whose task is cancelled from now on."""
        self._given_up = Fault(failure=failure, message=message)

    async def send(self, errand: Errand, scheduled_ns: int, user: int | None = None) -> RequestRecord:
        """Send it and return its record, whatever happens; `scheduled_ns` is on the clock.

        A task that is cancelled returns its record too, so that whoever started it knows what became of the request.
        """
        trace = self._traces[errand.request.id] = Trace(record_text=self._setting.record_text)
        fault: Fault | None = None
        sent_ns = self.clock.now_ns()
        stream = self.target.engine.generate(errand.request)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._read(stream, trace)
        except TimeoutError:
            fault = Fault(failure=Failure.TIMEOUT, message=f"no whole answer within {self._timeout_s:g} s")
        except asyncio.CancelledError:
            fault = self._given_up
        except QwenOpsError as error:
            fault = fault_of(error)
        finally:
            ended_ns = self.clock.now_ns()
            self._traces.pop(errand.request.id, None)
        if fault is not None:
            await _close(stream)
        else:
            fault = trace.fault()
        return trace.record(errand, fault, (scheduled_ns, sent_ns, ended_ns), self._setting, user)

    def abandon(self, errand: Errand, scheduled_ns: int, sent_ns: int, user: int | None) -> RequestRecord:
        """Return the record of a request whose task does not end, as what `give_up_as` said."""
        trace = self._traces.pop(errand.request.id, None) or Trace(record_text=self._setting.record_text)
        when_ns = scheduled_ns, sent_ns, self.clock.now_ns()
        return trace.record(errand, self._given_up, when_ns, self._setting, user)

    async def _read(self, stream: AsyncIterator[Chunk], trace: Trace) -> None:
        now_ns, take = self.clock.now_ns, trace.take
        async for chunk in stream:
            take(chunk, now_ns)

    def _moment(self, request_id: str, moment: Moment) -> None:
        trace = self._traces.get(request_id)
        if trace is None:
            return
        if moment == "connected":
            trace.connected_ns = self.clock.now_ns()
        elif moment == "first_byte":
            trace.first_byte_ns = self.clock.now_ns()
        else:
            trace.tries += 1


def fault_of(error: QwenOpsError) -> Fault:
    """Return what an error means for the request that it ended."""
    return Fault(failure=failure_of(error), message=str(error.message), retry_after_s=error.retry_after_s)


def failure_of(error: QwenOpsError) -> Failure:
    """Return the class of a failed request."""
    return next((failure for classes, failure in _FAILURES if isinstance(error, classes)), Failure.FAILED)


def _message(ask: Ask, fault: Fault | None, setting: Setting) -> str:
    """Return what went wrong; without what it repeats of the prompt, unless that is recorded anyway."""
    if fault is None or setting.record_text:
        return fault.message if fault else ""
    return without(fault.message, [each.content for each in ask.messages.messages])


def _since(at_ns: int | None, origin_ns: int) -> int | None:
    return None if at_ns is None else at_ns - origin_ns


def _tokens(trace: Trace, *, is_whole: bool) -> tuple[int | None, TokenSource | None]:
    """Return how many tokens the answer has, and who says so; that of a failed one is not guessed."""
    said = said_count(trace.usage, "completion_tokens")
    if said is not None:
        return said, "server"
    if trace.num_ids:
        return trace.num_ids, "tokenizer"
    return (len(trace.stamps), "estimate") if is_whole else (None, None)


def said_count(usage: Usage | None, name: str) -> int | None:
    """Return one of the counts of a usage; None where nobody said it."""
    if usage is None or name in usage.unsaid:
        return None
    number: int = getattr(usage, name)
    return number


def _gaps_us(stamps: list[int]) -> tuple[int, ...]:
    """Return the gaps so that they add up to the whole: each border is rounded, not each gap."""
    if not stamps:
        return ()
    borders = [(each - stamps[0] + 500) // 1000 for each in stamps]
    return tuple(later - earlier for earlier, later in itertools.pairwise(borders))


def _prompt_text(ask: Ask) -> str:
    said = [{"role": each.role, "content": each.content} for each in ask.messages.messages]
    return json.dumps(said, ensure_ascii=False)


async def _close(stream: Any) -> None:
    """Close a stream that was given up; an engine that does not let go is left to itself, and so is a second stop."""
    close = getattr(stream, "aclose", None)
    if close is None:
        return
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await close()
    except (TimeoutError, asyncio.CancelledError, QwenOpsError):
        return
