"""From a checked body to the engine: prompts to tokens, options to sampling, then one place and its chunks.

The three APIs meet here. A `Plan` is what one HTTP request asks of the engine: one engine request for each answer,
behind one admission.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar, cast

from qwenops.engines.seam import EngineInfo
from qwenops.errors import InvalidRequestError, PromptTooLongError, QwenOpsError
from qwenops.generation import Chunk, GenerationRequest, Messages, Prompt, SamplingParams, Structure, Tokens
from qwenops.serve.admission import Priority, Ticket, parse_deadline
from qwenops.serve.auth import Principal
from qwenops.serve.exchange import Exchange
from qwenops.serve.options import LimitOptions, SamplingDefaults
from qwenops.serve.serving import ServedModel
from qwenops.text import Text, say

_Number = TypeVar("_Number", int, float)
_LONG_TEXT = 20_000
"""Characters from which on tokenising goes to a thread: it would hold the other streams up."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
_NO_TIME = re.compile(r"\s*-.*|[+0.]*s?|.*(inf|nan|_|e[+-]?\d).*|.*\s.*", re.IGNORECASE | re.DOTALL)
"""What Python reads as a number and nobody means as a deadline."""
_TRACE_HEADERS = ("traceparent", "tracestate")


class SamplingWishes(Protocol):
    """What the bodies of all three APIs say about sampling."""

    @property
    def max_tokens(self) -> int | None: ...  # noqa: D102 -- the names of the API
    @property
    def temperature(self) -> float | None: ...  # noqa: D102 -- the names of the API
    @property
    def top_p(self) -> float | None: ...  # noqa: D102 -- the names of the API
    @property
    def top_k(self) -> int | None: ...  # noqa: D102 -- the names of the API
    @property
    def seed(self) -> int | None: ...  # noqa: D102 -- the names of the API
    @property
    def stop(self) -> str | list[str] | None: ...  # noqa: D102 -- the names of the API


class FullSamplingWishes(SamplingWishes, Protocol):
    """What the bodies of OpenAI's APIs say about sampling besides."""

    @property
    def min_p(self) -> float | None: ...  # noqa: D102 -- the names of the API
    @property
    def repetition_penalty(self) -> float | None: ...  # noqa: D102 -- the names of the API
    @property
    def presence_penalty(self) -> float | None: ...  # noqa: D102 -- the names of the API
    @property
    def frequency_penalty(self) -> float | None: ...  # noqa: D102 -- the names of the API
    @property
    def ignore_eos(self) -> bool | None: ...  # noqa: D102 -- the names of the API
    @property
    def logit_bias(self) -> dict[str, float] | None: ...  # noqa: D102 -- the names of the API


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one HTTP request asks of the engine."""

    served: ServedModel
    requests: tuple[GenerationRequest, ...]
    num_choices: int
    """Requests in a row that answer the same prompt."""
    prompt_tokens: int
    """Of all different prompts together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which conditions a request is admitted; read from its headers."""

    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None


_Body = TypeVar("_Body")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Generic[_Body]):
    """A request as it was read: its checked body, who sent it, and under which conditions."""

    body: _Body
    exchange: Exchange
    principal: Principal
    conditions: Conditions
    trace: Mapping[str, str]
    receive: Callable[[], Awaitable[Any]]
    """The connection; tells when the client goes away."""
    error_body: Callable[[QwenOpsError], Any]
    """An error as this client is told of it, in its language."""


def conditions_of(headers: Mapping[str, str], exchange: Exchange) -> Conditions:
    """Read `X-Request-Deadline` and `X-Priority`, and count what has passed since the arrival.

    Raises:
        InvalidRequestError: One of them is not understood.
    """
    asked = headers.get("x-priority", "interactive").lower()
    if asked.upper() not in Priority.__members__:
        raise InvalidRequestError(
            say("There is no priority {asked!r}.", asked=asked[:64]),
            hint=say("Send X-Priority as `interactive` or `batch`, or leave it out."),
            param="X-Priority",
        )
    serving = exchange.serving
    deadlines = []
    if (text := headers.get("x-request-deadline")) is not None:
        if _NO_TIME.fullmatch(text):
            raise InvalidRequestError(
                say("The deadline {text!r} leaves no time.", text=text[:64]),
                hint=say("Write X-Request-Deadline as seconds above 0, or as a time as in ISO 8601."),
                param="X-Request-Deadline",
            )
        deadlines.append(parse_deadline(text, now=datetime.fromtimestamp(serving.now(), tz=UTC)))
    if longest_s := serving.options().limits.max_request_s:
        deadlines.append(longest_s)
    left_s = min(deadlines) - exchange.elapsed_s if deadlines else None
    return Conditions(priority=Priority[asked.upper()], deadline_s=left_s)


def request_id_of(headers: Mapping[str, str], new_id: Callable[[], str]) -> str:
    """Return the id that the client gave, if it is a harmless one, or a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else new_id()


def trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the W3C trace context of a request."""
    return {name: headers[name] for name in _TRACE_HEADERS if name in headers}


def choose_model(exchange: Exchange, principal: Principal, asked: str | None) -> ServedModel:
    """Return the served model, if it is the one that is asked for and the caller may use it.

    Raises:
        EngineUnavailableError: It is being loaded.
        ModelNotServedError: Another one is asked for.
        ForbiddenError: The caller's key does not open it.
    """
    served = exchange.serving.model()
    info = served.engine.info
    exchange.model = asked or info.model
    exchange.served_model = info.model
    if asked is not None:
        exchange.model = served.known_as(asked)
        principal.check_model(exchange.model)
    elif not served.is_open_to(principal.limits.models):
        principal.check_model(info.model)
    return served


async def tokens_of(served: ServedModel, prompt: Messages | str) -> Tokens:
    """Turn a conversation or a text into tokens; long ones in a thread.

    Raises:
        InvalidRequestError: The chat template refuses the conversation.
    """

    def work() -> Tokens:
        if isinstance(prompt, str):
            return Tokens(ids=tuple(served.tokenizer.encode(prompt)))
        return served.tokenizer.render(prompt)

    return await asyncio.to_thread(work) if _is_long(prompt) else work()


def _is_long(prompt: Messages | str) -> bool:
    """Whether so much is to be rendered, tools and their calls counted, that other streams would notice."""
    left, waiting = _LONG_TEXT, list[Any]([prompt])
    if isinstance(prompt, Messages):
        calls = [call.arguments for message in prompt.messages for call in message.tool_calls]
        waiting = [calls, prompt.tools]
        left -= length_of(prompt)
    while waiting and left >= 0:
        each = waiting.pop()
        if isinstance(each, str):
            left -= len(each)
        elif isinstance(each, Mapping):
            waiting.extend((*each, *each.values()))
        elif isinstance(each, list | tuple):
            waiting.extend(each)
        else:
            left -= 1
    return left < 0


def length_of(prompt: Messages) -> int:
    """Return the characters of a conversation."""
    return sum(len(message.content) + len(message.reasoning or "") for message in prompt.messages)


def fit(info: EngineInfo, limits: LimitOptions, *, prompt_tokens: int, wanted_tokens: int, param: str) -> int:
    """Return the longest answer that has room behind the prompt, at most `wanted_tokens`.

    Args:
        info: Has the sizes of the engine.
        limits: Those of the server.
        prompt_tokens: Length of the prompt.
        wanted_tokens: Longest answer that is asked for.
        param: The field of the request that the prompt came in.

    Raises:
        PromptTooLongError: The prompt leaves no room.
        InvalidRequestError: The prompt is empty.
    """
    capacity = info.context_tokens
    if info.kv_capacity_tokens:
        capacity = min(capacity, info.kv_capacity_tokens)
    longest = min(capacity - 1, limits.max_prompt_tokens or capacity)
    if prompt_tokens > longest:
        raise PromptTooLongError(
            say("The prompt has {given} tokens; at most {longest} are possible.", given=prompt_tokens, longest=longest),
            hint=_more_room(info, limits, longest),
            param=param,
        )
    if prompt_tokens == 0:
        raise InvalidRequestError(say("The prompt is empty."), hint=say("Send at least one token."), param=param)
    return min(wanted_tokens, capacity - prompt_tokens, limits.max_output_tokens or capacity)


def _more_room(info: EngineInfo, limits: LimitOptions, longest: int) -> Text:
    """Say what to raise: the one of three limits that stands in the way, if it is not the model's own."""
    if limits.max_prompt_tokens == longest:
        return say("Shorten the prompt, or serve with a larger --max-prompt-tokens.")
    if 0 < info.model_context_tokens <= longest + 1:
        return say("Shorten the prompt: no option lets this model read more.")
    if 0 < info.kv_capacity_tokens <= info.context_tokens:
        return say("Shorten the prompt, or serve with a larger --kv-cache or with more memory.")
    return say("Shorten the prompt, or serve with a larger --context-tokens.")


def sampling_of(
    wishes: SamplingWishes, defaults: SamplingDefaults, limits: LimitOptions, structure: Structure | None = None
) -> SamplingParams:
    """Turn what a body says about sampling into the engine's words.

    Raises:
        InvalidRequestError: There are too many stop strings.
    """
    stop = _stops(wishes.stop, limits.max_stop_strings)
    top_k = defaults.top_k if wishes.top_k is None else max(0, wishes.top_k)
    return SamplingParams(
        max_tokens=_or(wishes.max_tokens, defaults.max_tokens),
        temperature=_or(wishes.temperature, defaults.temperature),
        top_k=top_k,
        top_p=_or(wishes.top_p, defaults.top_p),
        min_p=defaults.min_p,
        repetition_penalty=defaults.repetition_penalty,
        seed=None if wishes.seed is None else wishes.seed % 2**63,
        stop=stop,
        structure=structure,
    )


def full_sampling_of(
    wishes: FullSamplingWishes, served: ServedModel, defaults: SamplingDefaults, limits: LimitOptions
) -> SamplingParams:
    """Do as `sampling_of` with the fields that only OpenAI's APIs have.

    Raises:
        InvalidRequestError: There are too many stop strings, or a bias is for a token that does not exist.
    """
    bias = tuple((int(token), value) for token, value in (wishes.logit_bias or {}).items())
    check_token_ids([token for token, _ in bias], served, param="logit_bias")
    return replace(
        sampling_of(wishes, defaults, limits),
        min_p=_or(wishes.min_p, defaults.min_p),
        repetition_penalty=_or(wishes.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=_or(wishes.presence_penalty, 0.0),
        frequency_penalty=_or(wishes.frequency_penalty, 0.0),
        ignore_eos=bool(wishes.ignore_eos),
        logit_bias=bias,
    )


def _or(given: _Number | None, default: _Number) -> _Number:
    return default if given is None else given


def _stops(given: str | list[str] | None, most: int) -> tuple[str, ...]:
    stops = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    if len(stops) > most:
        raise InvalidRequestError(
            say("There are {count} stop strings; at most {most} are possible.", count=len(stops), most=most),
            hint=say("Send fewer."),
            param="stop",
        )
    return stops


def check_token_ids(ids: Sequence[int], served: ServedModel, *, param: str) -> None:
    """Refuse tokens that the vocabulary does not have.

    Raises:
        InvalidRequestError: There is one.
    """
    size = served.tokenizer.vocab_size
    wrong = next((each for each in ids if not 0 <= each < size), None)
    if wrong is not None:
        raise InvalidRequestError(
            say("There is no token {wrong}.", wrong=wrong),
            hint=say("Use ids from 0 to {last}.", last=size - 1),
            param=param,
        )


def check_choices(count: int, limits: LimitOptions, *, param: str) -> None:
    """Refuse more answers than one request may have.

    Raises:
        InvalidRequestError: There are more.
    """
    if count > limits.max_choices:
        raise InvalidRequestError(
            say("{count} answers are asked for; at most {most} are possible.", count=count, most=limits.max_choices),
            hint=say("Send several requests."),
            param=param,
        )


def plan_of(
    asked: "Asked[Any]",
    served: ServedModel,
    prompts: Sequence[tuple[Prompt, SamplingParams]],
    *,
    num_choices: int,
    prompt_tokens: int,
) -> Plan:
    """Make the engine's requests: `num_choices` for each prompt, each with a seed of its own."""
    exchange = asked.exchange
    requests: list[GenerationRequest] = []
    for prompt, params in prompts:
        for choice in range(num_choices):
            seeded = params if params.seed is None else replace(params, seed=(params.seed + choice) % 2**63)
            requests.append(
                GenerationRequest(
                    # The id that the caller knows, for the log; the rest tells two of the same id apart.
                    id=f"{exchange.request_id}-{exchange.unique_id[:16]}-{len(requests)}",
                    prompt=prompt,
                    sampling=seeded,
                    model=exchange.served_model,
                    namespace=asked.principal.key_id,
                    trace=asked.trace,
                )
            )
    exchange.prompt_tokens = prompt_tokens
    return Plan(served=served, requests=tuple(requests), num_choices=num_choices, prompt_tokens=prompt_tokens)


async def generate(asked: "Asked[Any]", plan: Plan, put: Callable[[int, Chunk], None]) -> None:
    """Wait for a place, let the engine work, and `put` each chunk with the number of its answer as it comes.

    Raises:
        QwenOpsError: What admission or the engine raises; the other answers are cancelled then.
    """
    exchange, principal = asked.exchange, asked.principal
    async with exchange.serving.admission.admit(
        key_id=principal.key_id,
        prompt_tokens=plan.prompt_tokens,
        max_tokens=sum(request.sampling.max_tokens for request in plan.requests),
        places=len(plan.requests),
        deadline_s=asked.conditions.deadline_s,
        priority=asked.conditions.priority,
        limits=principal.limits,
    ) as ticket:
        exchange.queue_s = ticket.queue_s
        try:
            if len(plan.requests) == 1:
                await _pump(plan, 0, ticket, exchange, put)
            else:
                await _pump_all(plan, ticket, exchange, put)
        finally:
            ticket.completion_tokens = exchange.completion_tokens


async def _pump(plan: Plan, index: int, ticket: Ticket, exchange: Exchange, put: Callable[[int, Chunk], None]) -> None:
    # The seam says that closing the iterator cancels, so it is a generator.
    stream = cast("AsyncGenerator[Chunk]", plan.served.engine.generate(plan.requests[index]))
    async with aclosing(stream):
        async for chunk in ticket.watch(stream):
            exchange.saw(chunk, prompt=index // plan.num_choices)
            put(index, chunk)


async def _pump_all(plan: Plan, ticket: Ticket, exchange: Exchange, put: Callable[[int, Chunk], None]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for index in range(len(plan.requests)):
                group.create_task(_pump(plan, index, ticket, exchange, put))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
