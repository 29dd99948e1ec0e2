"""An engine of exactly known behaviour: the truth that serving and measuring are tested against.

It computes nothing. With `P` prompt tokens and a free slot at time `t`, token number `k` (from 0) comes at
`t + P / prefill_tokens_per_s + k / decode_tokens_per_s`, whatever the others do; requests without a slot wait in order.
A `Script` says what a request is answered and where it fails. Under a `ManualClock` all of that takes no time at all.
"""

import asyncio
import hashlib
import heapq
import itertools
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import EngineHealth, EngineInfo, EngineState
from qwenops.engines.stopping import StopStrings
from qwenops.errors import (
    EngineCrashedError,
    EngineUnavailableError,
    InvalidRequestError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.generation import (
    Choice,
    Chunk,
    FinishReason,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Messages,
    Prompt,
    TokenLogprob,
    Tokens,
    Usage,
)
from qwenops.text import say

_T = TypeVar("_T")

VOCABULARY_SIZE = 151_936
EOS_TOKEN_ID = 151_645
_WORDS = ("您好", "请", "稍等", "。", " the", " line", " works", " again", " now", "🙂", " 42", "\n")
_PIECE = re.compile(r"[一-鿿]|\s*[^\s一-鿿]+|\s+")
_SURE = 50.0
"""A bias on the end-of-text token from which on it is always chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeTiming:
    """How fast the fake works; infinite rates take no time."""

    prefill_tokens_per_s: float = math.inf
    decode_tokens_per_s: float = math.inf
    slots: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one request gets.

    `text` None is an endless text that depends on the prompt alone. `pieces` are its tokens, where the cut matters.
    After `fail_after` tokens `error` is raised; after `stall_after` tokens nothing comes any more.
    """

    text: str | None = None
    pieces: tuple[str, ...] = ()
    error: QwenOpsError | None = None
    fail_after: int = 0
    stall_after: int | None = None
    cached_tokens: int = 0


def endless(request: GenerationRequest) -> Script:  # noqa: ARG001 -- the type of a script function
    """Answer with the endless text of the prompt."""
    return Script()


class ManualClock:
    """Time that stands still until it is moved: `clock()` reads it, `sleep` waits for it."""

    def __init__(self, start_s: float = 0.0) -> None:
        """Begin at `start_s`."""
        self._now_s = start_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now_s

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been moved by `delay_s`."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        waking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + delay_s, next(self._order), waking))
        await waking

    async def advance(self, delay_s: float) -> None:
        """Move the clock; everybody who is due in between wakes at exactly their time."""
        until_s = self._now_s + delay_s
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= until_s:
            await self._wake_next()
        self._now_s = until_s
        await self._settle()

    async def run(self, work: Awaitable[_T]) -> _T:
        """Await `work`, moving the clock to the next sleeper whenever everybody sleeps."""
        task = asyncio.ensure_future(work)
        await self._settle()
        while not task.done():
            if self._sleepers:
                await self._wake_next()
            else:
                await asyncio.sleep(0)
        return await task

    async def _wake_next(self) -> None:
        due_s, _, waking = heapq.heappop(self._sleepers)
        self._now_s = max(self._now_s, due_s)
        if not waking.done():
            waking.set_result(None)
            await self._settle()

    @staticmethod
    async def _settle() -> None:
        """Let every task run until it waits; the number is far above the depth of any chain of callbacks."""
        for _ in range(64):
            await asyncio.sleep(0)


class FakeEngine:
    """An `Engine` and `LabelScorer` that follows its scripts and its timing.

    Args:
        model: The name it is served under.
        timing: How fast it works.
        script: What each request gets.
        context_tokens: Longest prompt and answer together.
        clock: Where the time is read.
        sleep: How it waits.
    """

    def __init__(
        self,
        *,
        model: str = "fake",
        timing: FakeTiming | None = None,
        script: Callable[[GenerationRequest], Script] = endless,
        context_tokens: int = 8192,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Make it; nothing starts."""
        self.timing = timing or FakeTiming()
        self.health = EngineHealth()
        """What `info.health` says, apart from the counts; assign to it to play a state."""
        self.requests: list[GenerationRequest] = []
        """Every request that was accepted, in order."""
        self.cancelled: list[str] = []
        """Ids of the requests whose iterator was closed before the end."""
        self._model = model
        self._script = script
        self._context_tokens = context_tokens
        self._clock = clock
        self._sleep = sleep
        self._slots = asyncio.Semaphore(self.timing.slots)
        self._failures: dict[str, asyncio.Future[QwenOpsError]] = {}
        self._running: set[str] = set()

    @property
    def info(self) -> EngineInfo:
        """Describe the fake as it is now."""
        return EngineInfo(
            engine="fake",
            model=self._model,
            accepts="both",
            context_tokens=self._context_tokens,
            quantization="none",
            max_running=self.timing.slots,
            logprobs=True,
            structure=True,
            threads=1,
            health=replace(self.health, running=len(self._running), waiting=len(self._failures) - len(self._running)),
        )

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Answer as the script says, at the times that the timing says."""
        return self._generate(request)

    async def _generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        num_prompt = self._checked(request)
        failure: asyncio.Future[QwenOpsError] = asyncio.get_running_loop().create_future()
        self._failures[request.id] = failure
        self.requests.append(request)
        done = False
        try:
            async with self._slots:
                self._running.add(request.id)
                async for chunk in self._answer(request, num_prompt, failure):
                    done = chunk.finish_reason is not None
                    yield chunk
        except QwenOpsError:
            done = True
            raise
        finally:
            self._running.discard(request.id)
            self._failures.pop(request.id, None)
            if not done:
                self.cancelled.append(request.id)

    async def _answer(
        self, request: GenerationRequest, num_prompt: int, failure: "asyncio.Future[QwenOpsError]"
    ) -> AsyncIterator[Chunk]:
        script = self._script(request)
        sampling = request.sampling
        stops = StopStrings(sampling.stop, include=sampling.include_stop)
        room = min(sampling.max_tokens, self._context_tokens - num_prompt)
        first_s = self._clock() + (num_prompt - script.cached_tokens) / self.timing.prefill_tokens_per_s
        pieces = _pieces_of(request, script)
        count = 0
        while True:
            await self._until(first_s + count / self.timing.decode_tokens_per_s, failure)
            if script.stall_after == count:
                raise await failure
            if script.error is not None and script.fail_after == count:
                raise script.error
            piece = next(pieces, None)
            text = stops.push(piece) if piece is not None else ""
            count += piece is not None
            over = piece is None or stops.found is not None
            reason = FinishReason.STOP if over else FinishReason.LENGTH if count >= room else None
            yield Chunk(
                text=text + (stops.finish() if reason else ""),
                token_ids=() if piece is None else (token_id(piece),),
                logprobs=_logprobs(piece, sampling.logprobs),
                finish_reason=reason,
                usage=Usage(prompt_tokens=num_prompt, completion_tokens=count, cached_tokens=script.cached_tokens)
                if reason
                else None,
            )
            if reason:
                return

    async def score(self, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> list[tuple[float, ...]]:
        """Return probabilities that depend on prompt and labels alone, after the prefill's time."""
        if len(set(label_ids)) < 2 or any(not 0 <= each < VOCABULARY_SIZE for each in label_ids):  # noqa: PLR2004 -- two sides
            raise InvalidRequestError(
                say("The labels {labels} are not two or more tokens of the vocabulary.", labels=list(label_ids)),
                hint=say("Give two or more token ids from 0 to {last}.", last=VOCABULARY_SIZE - 1),
                param="labels",
            )
        for prompt in prompts:
            if len(prompt.ids) > self._context_tokens:
                raise _too_long(len(prompt.ids), self._context_tokens)
        async with self._slots:
            await self._sleep(sum(len(prompt.ids) for prompt in prompts) / self.timing.prefill_tokens_per_s)
        return [_scores(prompt, label_ids) for prompt in prompts]

    def crash(self, *, state: EngineState = EngineState.RESTARTING) -> None:
        """Die: every request in flight fails, new ones are refused until `recover`."""
        error = EngineCrashedError(say("The fake engine was told to crash."), hint=say("Try again."))
        self.health = replace(self.health, state=state, reason=str(error), restarts=self.health.restarts + 1)
        for failure in self._failures.values():
            if not failure.done():
                failure.set_result(error)

    def recover(self) -> None:
        """Be ready again."""
        self.health = replace(self.health, state=EngineState.READY, reason="", load_progress=1.0)

    async def aclose(self) -> None:
        """Refuse everything from now on; requests in flight fail."""
        if self.health.state is EngineState.CLOSED:
            return
        self.health = replace(self.health, state=EngineState.CLOSED)
        for failure in self._failures.values():
            if not failure.done():
                failure.set_result(EngineUnavailableError(say("The engine was closed.")))

    def _checked(self, request: GenerationRequest) -> int:
        """Return the number of prompt tokens of a request that can be answered."""
        if self.health.state is not EngineState.READY:
            raise EngineUnavailableError(
                say("The engine is {state}.", state=self.health.state.value),
                hint=say("Try again when it is ready."),
                retry_after_s=1.0,
            )
        if request.sampling.max_tokens < 1:
            raise InvalidRequestError(
                say("max_tokens is {given}.", given=request.sampling.max_tokens),
                hint=say("Ask for at least one token."),
                param="max_tokens",
            )
        num_prompt = count_tokens(request.prompt)
        if num_prompt == 0:
            raise InvalidRequestError(say("The prompt is empty."), hint=say("Send at least one token."), param="prompt")
        if num_prompt >= self._context_tokens:
            raise _too_long(num_prompt, self._context_tokens)
        return num_prompt

    async def _until(self, time_s: float, failure: "asyncio.Future[QwenOpsError]") -> None:
        """Wait for a time, or raise the failure that comes first."""
        delay_s = time_s - self._clock()
        if delay_s <= 0:
            await asyncio.sleep(0)
        else:
            nap: asyncio.Future[None] = asyncio.ensure_future(self._sleep(delay_s))
            either: list[asyncio.Future[Any]] = [nap, failure]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                nap.cancel()
        if failure.done():
            raise failure.result()


async def open_engine(options: EngineOptions) -> FakeEngine:
    """Open a fake that answers at once."""
    return FakeEngine(
        model=options.model_name or "fake",
        timing=FakeTiming(slots=options.max_running),
        context_tokens=options.context_tokens,
    )


def count_tokens(prompt: Prompt) -> int:
    """Count a prompt's tokens as the fake sees them: two more for each message."""
    if isinstance(prompt, Tokens):
        return len(prompt.ids)
    return sum(2 + len(_PIECE.findall(message.content)) for message in prompt.messages)


def token_id(piece: str) -> int:
    """Return the fake's token id of a piece of text."""
    return 1000 + int.from_bytes(hashlib.blake2s(piece.encode(), digest_size=4).digest()) % 100_000


def _pieces_of(request: GenerationRequest, script: Script) -> Iterator[str]:
    """Yield the tokens of the answer; the end of them is the end of the text."""
    structure = request.sampling.structure
    if any(token == EOS_TOKEN_ID and bias >= _SURE for token, bias in request.sampling.logit_bias):
        return iter(())
    if script.pieces:
        pieces = script.pieces
    elif script.text is not None:
        pieces = tuple(_PIECE.findall(script.text))
    elif isinstance(structure, Choice):
        pieces = (structure.choices[_digest(request.prompt) % len(structure.choices)],)
    elif isinstance(structure, JsonObject | JsonSchema):
        pieces = ("{", "}")
    else:
        return _endless(_digest(request.prompt))
    return itertools.cycle(pieces) if request.sampling.ignore_eos and pieces else iter(pieces)


def _endless(seed: int) -> Iterator[str]:
    state = seed
    while True:
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        yield _WORDS[(state >> 33) % len(_WORDS)]


def _digest(prompt: Prompt) -> int:
    if isinstance(prompt, Messages):
        said = repr([(message.role, message.content) for message in prompt.messages])
    else:
        said = repr(prompt.ids)
    return int.from_bytes(hashlib.blake2s(said.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _logprobs(piece: str | None, wanted: int | None) -> tuple[TokenLogprob, ...]:
    """Give the chosen piece half of the probability, the next half of the rest, and so on."""
    if piece is None or wanted is None:
        return ()
    names = [piece, *(word for word in _WORDS if word != piece)][: max(wanted, 1)]
    best = tuple(
        TokenLogprob(token_id=token_id(name), raw=name.encode(), logprob=-(rank + 1) * math.log(2))
        for rank, name in enumerate(names)
    )
    return (replace(best[0], top=best[:wanted]),)


def _scores(prompt: Tokens, label_ids: Sequence[int]) -> tuple[float, ...]:
    weights = [math.exp(_digest(Tokens(ids=(*prompt.ids, label))) / 2**62) for label in label_ids]
    return tuple(weight / sum(weights) for weight in weights)


def _too_long(num_tokens: int, context_tokens: int) -> PromptTooLongError:
    return PromptTooLongError(
        say(
            "The prompt has {tokens} tokens; prompt and answer together may have {limit}.",
            tokens=num_tokens,
            limit=context_tokens,
        ),
        hint=say("Shorten the prompt."),
        param="prompt",
    )
