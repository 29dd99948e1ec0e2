"""The simulated server as an `Engine`: the model played on a clock, real or virtual.

`Play` keeps the model and one timer for the next chunk that is due; there is no task of its own, and while nobody asks
there is no timer either. `SimulatedEngine` puts the seam around it, and `server` a network.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from qwenops.bench.clock import Clock, RealClock, running_clock
from qwenops.bench.simulated.model import Demand, Emission, Plan, ServerModel, Shed, Truth, befalls, digest_of
from qwenops.bench.simulated.options import Faults, Simulated, parse_simulated
from qwenops.bench.target import Target
from qwenops.engines.seam import EngineHealth, EngineInfo, EngineState
from qwenops.errors import (
    ConfigError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    LimitExceededError,
    MalformedAnswerError,
    OverloadedError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.generation import Chunk, FinishReason, GenerationRequest, Messages, Tokens, Usage
from qwenops.text import say

THINK, THOUGHT = "<think>\n", "\n</think>\n\n"

_FIRST_WORDS = ("您好", "请", "The", "好的", "Yes")
_WORDS = ("您", "请", "稍等", "。", " the", " line", " works", "，", " again", " now", "🙂", " 42", "谢谢", " é")
_PIECE = re.compile(r"[一-鿿]|\s*[^\s一-鿿]+|\s+")
_BLOCK_TOKENS = 16
_MIX = 0x9E37_79B9_7F4A_7C15


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One chunk of an answer: what is reasoning in it, and what is answer."""

    reasoning: str
    text: str
    num_tokens: int
    plan: Plan
    truth: Truth | None
    """Of the whole request, with its last chunk."""


class _Mail:
    """The chunks of one answer, in the order in which they left the server; whoever iterates waits for the next."""

    __slots__ = ("_arrived", "_demand", "_waiting", "over")

    def __init__(self, demand: Demand) -> None:
        self.over = False
        """Whether the last one has left the server."""
        self._demand = demand
        self._arrived: deque[Emission | QwenOpsError] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, one: Emission | QwenOpsError) -> None:
        self.over = isinstance(one, Emission) and one.truth is not None
        self._arrived.append(one)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> "_Mail":
        return self

    async def __anext__(self) -> Told:
        while not self._arrived:
            if self.over:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        one = self._arrived.popleft()
        if isinstance(one, QwenOpsError):
            raise one
        return _told(self._demand, one)


class Tags:
    """Puts the reasoning of one answer in band, as Qwen itself writes it."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._thinking = False

    def put(self, told: Told) -> str:
        """Return the chunk's text with the tags that belong before and within it."""
        text = told.text
        if told.reasoning and not self._thinking:
            opening, self._thinking = THINK, True
        else:
            opening = ""
        if text and self._thinking:
            text, self._thinking = THOUGHT + text, False
        return opening + told.reasoning + text


class Play:
    """A model that lives on a clock.

    Args:
        model: What would happen.
        clock: When it happens.
        begin_ns: The clock's reading at the model's time 0; that of virtual time is 0, that of real time now.
    """

    def __init__(self, model: ServerModel, clock: Clock, *, begin_ns: int | None = None) -> None:
        """Begin idle; nothing starts."""
        self.model = model
        self.begin_ns = begin_ns if begin_ns is not None else 0 if clock.virtual else clock.now_ns()
        self._clock = clock
        self._mails: dict[str, _Mail] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns: int | None = None

    def now_ns(self) -> int:
        """Return the model's time."""
        return self._clock.now_ns() - self.begin_ns

    @contextmanager
    def asked(self, request: str, demand: Demand) -> Iterator[AsyncIterator[Told]]:
        """Ask the model, and give out the chunks as they leave; who leaves before the last one cancels.

        Raises:
            Shed: The queue is full.
        """
        self._settle()
        self.model.arrive(request, demand, self.now_ns())
        mail = self._mails[request] = _Mail(demand)
        self._arm()
        try:
            yield mail
        finally:
            del self._mails[request]
            if not mail.over:
                self._settle()
                self.model.cancel(request, self.now_ns())
                self._arm()

    def fail(self, error: QwenOpsError) -> None:
        """End every request in flight with `error`."""
        for mail in self._mails.values():
            mail.put(error)

    def _settle(self) -> None:
        """Bring the model to now, and hand out what has left it."""
        for emission in self.model.advance(self.now_ns()):
            mail = self._mails.get(emission.request)
            if mail is not None:
                mail.put(emission)

    def _arm(self) -> None:
        """Set the timer to the next chunk."""
        due_ns = self.model.next_ns()
        if due_ns == self._due_ns and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_ns, self._timer = due_ns, None
        if due_ns is not None:
            delay_s = max(0, due_ns - self.now_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._settle()
        self._arm()


class SimulatedEngine:
    """An `Engine` that does what a `ServerModel` says, on any clock."""

    def __init__(self, simulated: Simulated | None = None, *, clock: Clock | None = None) -> None:
        """Make it; nothing starts. Without a clock it takes the machine's."""
        self.simulated = simulated or Simulated()
        self.model = ServerModel(self.simulated.server)
        """Has the truth of every request (`model.truths`)."""
        self.play = Play(self.model, clock or RealClock())
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        """Describe the server as it is now."""
        options = self.simulated.server
        return EngineInfo(
            engine="simulated",
            model=options.model,
            accepts="both",
            context_tokens=options.context_tokens,
            max_running=options.slots,
            health=EngineHealth(
                state=EngineState.CLOSED if self._closed else EngineState.READY,
                running=self.model.num_running,
                waiting=self.model.num_waiting,
                memory_bytes=self.model.memory_bytes(self.play.now_ns()),
            ),
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Answer as the model says, at the times that it says."""
        if self._closed:
            raise EngineUnavailableError(say("The engine was closed."))
        demand = demand_of(request, self.simulated)
        faults = faults_for(self.simulated, demand, self.play.now_ns())
        if faults.status:
            raise refused(faults.status, faults.retry_after)
        tags = Tags()
        try:
            with self.play.asked(request.id, demand) as chunks:
                count = 0
                async for told in chunks:
                    await _befall(faults, count)
                    count += 1
                    text = tags.put(told)
                    yield _chunk("" if faults.empty else text, told, demand)
        except Shed:
            raise shed_error(self.simulated) from None

    async def aclose(self) -> None:
        """Refuse everything from now on; requests in flight fail."""
        if not self._closed:
            self._closed = True
            self.play.fail(EngineUnavailableError(say("The engine was closed.")))


def open_simulated(text: str, *, clock: Clock | None = None) -> Target:
    """Return the target that a text such as `simulated:?slots=4` names; without a clock, on that of the running loop.

    Raises:
        ConfigError: The text is wrong, or wants virtual time where time is real.
    """
    simulated = parse_simulated(text)
    clock = clock or running_clock()
    if simulated.server.virtual and not clock.virtual:
        raise ConfigError(
            say("{text!r} wants virtual time, and this command runs in real time.", text=text),
            hint=say("Leave virtual=1 out, or give every target of this command in virtual time."),
        )
    engine = SimulatedEngine(simulated, clock=clock)
    return Target(text=text, kind="simulated", engine=engine, model=simulated.server.model)


def demand_of(request: GenerationRequest, simulated: Simulated) -> Demand:
    """Return what a request asks of the model.

    Raises:
        InvalidRequestError: It asks for no token, or of no prompt.
        PromptTooLongError: It does not fit.
    """
    prompt, sampling = request.prompt, request.sampling
    if isinstance(prompt, Tokens):
        said = " ".join(map(str, prompt.ids))
        num_prompt = len(prompt.ids)
    else:
        said = "\n".join(f"{message.role}\n{message.content}" for message in prompt.messages)
        num_prompt = count_tokens(said)
    if sampling.max_tokens < 1 or num_prompt == 0:
        raise InvalidRequestError(
            say(
                "A prompt of {prompt} tokens and an answer of {answer} cannot be.",
                prompt=num_prompt,
                answer=sampling.max_tokens,
            ),
            hint=say("Send at least one token, and ask for at least one."),
        )
    room = simulated.server.context_tokens - num_prompt
    if room < 1:
        raise PromptTooLongError(
            say(
                "The prompt has {tokens} tokens; {limit} fit.", tokens=num_prompt, limit=simulated.server.context_tokens
            ),
            hint=say("Shorten the prompt."),
        )
    return Demand(
        digest=digest_of(said),
        prompt_tokens=num_prompt,
        max_tokens=min(sampling.max_tokens, room),
        forced=sampling.ignore_eos,
        thinking=isinstance(prompt, Messages) and prompt.enable_thinking,
        blocks=_blocks(said) if simulated.server.cache_tokens else (),
    )


@lru_cache(maxsize=4096)
def count_tokens(text: str) -> int:
    """Count the tokens of a text as the simulated server sees them: a Chinese character, or a word, is one."""
    return len(_PIECE.findall(text))


def faults_for(simulated: Simulated, demand: Demand, at_ns: int) -> Faults:
    """Return the faults that befall a request; none for the others."""
    faults = simulated.faults
    if befalls(faults.fault_ratio, simulated.server.seed, demand.digest, at_ns):
        return faults
    return Faults(
        line_end=faults.line_end,
        comments=faults.comments,
        multiline=faults.multiline,
        split_bytes=faults.split_bytes,
        role_chunk=faults.role_chunk,
        usage=faults.usage,
        reasoning=faults.reasoning,
    )


def refused(status: int, retry_after: str) -> QwenOpsError:
    """Return the error that a client makes of an answer with this status."""
    message = say("The simulated server answers with status {status}.", status=status)
    retry_after_s = float(retry_after) if retry_after.replace(".", "", 1).isdigit() else None
    match status:
        case 429:
            return LimitExceededError(message, retry_after_s=retry_after_s)
        case 503:
            return OverloadedError(message, retry_after_s=retry_after_s)
        case _ if status < 500:  # noqa: PLR2004 -- the client's own fault
            return InvalidRequestError(message)
        case _:
            return EngineError(message)


def shed_error(simulated: Simulated) -> QwenOpsError:
    """Return what a request gets that finds the queue full."""
    return refused(int(simulated.server.shed_status), str(simulated.server.retry_after_s))


async def _befall(faults: Faults, count: int) -> None:
    """Let what shall go wrong after `count` chunks go wrong."""
    if count == faults.cut_after:
        raise EngineCrashedError(say("The simulated server ended in the middle of an answer."))
    if count == faults.malformed_after:
        raise MalformedAnswerError(say("The simulated server sent half a JSON object."))
    if count == faults.error_after:
        raise EngineError(say("The simulated server sent an error in place of a chunk."))
    if count == faults.hang_after:
        await asyncio.get_running_loop().create_future()


def durations_ns(truth: Truth) -> dict[str, int]:
    """Return the timings that Ollama would report, by its names."""
    started_ns, first_ns, last_ns = truth.started_ns or 0, truth.first_ns or 0, truth.last_ns or 0
    return {
        "total_duration": last_ns - truth.arrived_ns,
        "queue_duration": started_ns - truth.arrived_ns,
        "prompt_eval_duration": first_ns - started_ns,
        "eval_duration": last_ns - first_ns,
    }


def _chunk(text: str, told: Told, demand: Demand) -> Chunk:
    truth = told.truth
    if truth is None:
        return Chunk(text=text)
    usage = Usage(
        prompt_tokens=demand.prompt_tokens,
        completion_tokens=truth.num_tokens,
        cached_tokens=truth.cached_tokens,
        reported={name: duration_ns / 1e9 for name, duration_ns in durations_ns(truth).items()},
    )
    reason = FinishReason.LENGTH if told.plan.by_limit else FinishReason.STOP
    return Chunk(text=text, finish_reason=reason, usage=usage)


def _told(demand: Demand, emission: Emission) -> Told:
    plan = emission.plan
    numbers = range(emission.first_token, emission.first_token + emission.num_tokens)
    return Told(
        reasoning="".join(_piece(demand.digest, number) for number in numbers if number < plan.num_thinking),
        text="".join(_piece(demand.digest, number) for number in numbers if number >= plan.num_thinking),
        num_tokens=emission.num_tokens,
        plan=plan,
        truth=emission.truth,
    )


def _piece(digest: int, number: int) -> str:
    """Return the token of this number of the answer to what has this digest."""
    mixed = (digest ^ (number * _MIX)) * _MIX & 0xFFFF_FFFF_FFFF_FFFF
    words = _WORDS if number else _FIRST_WORDS
    return words[(mixed >> 40) % len(words)]


def _blocks(said: str) -> tuple[int, ...]:
    pieces = _PIECE.findall(said)
    found, before = [], 0
    for begin in range(0, len(pieces) - _BLOCK_TOKENS + 1, _BLOCK_TOKENS):
        before = digest_of(before, *pieces[begin : begin + _BLOCK_TOKENS])
        found.append(before)
    return tuple(found)
