"""Ollama by its own API, as an engine: conversations go to `/api/chat` or, where it is wanted, to `/api/generate`.

Its timings (nanoseconds, in the last line of an answer) become `Usage.reported`, in seconds by Ollama's names. Fields
that are zero are missing in its answers (Go's `omitempty`); a prompt that was cached as a whole has no
`prompt_eval_count`. Ollama knows no `ignore_eos`, takes no tokens, and reloads the model when `num_ctx` changes, so
that is sent only where it was set.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from qwenops.engines.inband import InBand
from qwenops.engines.lines import LineReader
from qwenops.engines.logprobs import read_logprob
from qwenops.engines.options import EngineOptions
from qwenops.engines.refusal import failure_within
from qwenops.engines.remote import OnMoment, Remote, checked_url
from qwenops.engines.seam import EngineHealth, EngineInfo, EngineState
from qwenops.errors import (
    EngineCrashedError,
    InvalidRequestError,
    MalformedAnswerError,
    ModelNotServedError,
)
from qwenops.generation import (
    Chunk,
    FinishReason,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    Messages,
    SamplingParams,
    Structure,
    Usage,
)
from qwenops.text import Text, say

DEFAULT_URL = "http://127.0.0.1:11434"
Api = Literal["chat", "generate"]
_OK = 200
_COUNTS = {"prompt_eval_count": "prompt_tokens", "eval_count": "completion_tokens"}
"""What Ollama counts, and what it is called here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaModel:
    """What Ollama says about a model."""

    name: str
    context_tokens: int = 0
    quantization: str = ""
    thinks: bool = True
    """Whether `think` may be sent."""
    version: str = ""
    """Of Ollama."""


class OllamaEngine:
    """An `Engine` that is an Ollama server. Open it with `open_server`.

    Args:
        remote: The server.
        model: What is asked for in every request.
        api: Which of its two ways of answering.
        num_ctx: Length of the context to ask for; None leaves the server's.
        max_running: How many requests it is said to compute at the same time.
    """

    def __init__(
        self,
        remote: Remote,
        model: OllamaModel,
        *,
        api: Api = "chat",
        num_ctx: int | None = None,
        max_running: int = 1,
    ) -> None:
        """Keep what it is made of; nothing is connected yet."""
        self.remote = remote
        self.model = model
        self._api = api
        self._num_ctx = num_ctx
        self._max_running = max_running
        self._notes: dict[str, Text] = {}
        self._left_out: tuple[str, ...] = ()
        self._running = 0

    @property
    def info(self) -> EngineInfo:
        """What is known about the server."""
        return EngineInfo(
            engine="ollama",
            model=self.model.name,
            accepts="messages",
            context_tokens=self._num_ctx or self.model.context_tokens,
            model_context_tokens=self.model.context_tokens,
            quantization=self.model.quantization,
            version=self.model.version,
            max_running=self._max_running,
            logprobs=True,
            structure=True,
            notes={**self._notes, **self.remote.notes},
            left_out=self._left_out,
            health=EngineHealth(
                state=EngineState.CLOSED if self.remote.is_closed else EngineState.READY, running=self._running
            ),
        )

    def listen_moments(self, hook: OnMoment | None) -> None:
        """Tell `hook` the id of a request when its new connection stands and when the head of its answer is there."""
        self.remote.listen_moments(hook)

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Yield the answer as it arrives; closing the iterator closes the connection."""
        return self._generate(request)

    async def _generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        body = self._asked(request)
        self._running += 1
        try:
            response = await self.remote.post(f"/api/{self._api}", body, request_id=request.id, trace=request.trace)
            try:
                answer, lines = _Answer(self.remote.url, thinking=bool(body.get("think"))), LineReader()
                with self.remote.reading(response) as read:
                    while not answer.is_done:
                        piece = await read()
                        for line in lines.push(piece) if piece else [lines.finish()]:
                            chunk = answer.take(line)
                            if chunk is not None:
                                yield chunk
                        if not piece:
                            break
                if answer.is_done:
                    await self.remote.drain(response)
                yield answer.last()
            finally:
                self.remote.let_go(response)
        finally:
            self._running -= 1

    async def aclose(self) -> None:
        """Close every connection; answers in flight fail."""
        await self.remote.aclose()

    def _asked(self, request: GenerationRequest) -> dict[str, Any]:
        prompt, sampling = request.prompt, request.sampling
        if not isinstance(prompt, Messages):
            raise InvalidRequestError(
                say("Ollama takes conversations, not tokens."), hint=say("Send messages."), param="prompt"
            )
        if not prompt.messages:
            raise InvalidRequestError(say("The prompt is empty."), hint=say("Send a message."), param="prompt")
        if sampling.max_tokens < 1:
            raise InvalidRequestError(
                say("max_tokens is {given}.", given=sampling.max_tokens),
                hint=say("Ask for at least one token."),
                param="max_tokens",
            )
        if sampling.ignore_eos:
            self._left_out = ("ignore_eos",)
            self._notes["left_out"] = say("Ollama does not know ignore_eos; answers end where the model ends them.")
        body: dict[str, Any] = {
            "model": request.model or self.model.name,
            "stream": True,
            "options": _options(sampling, self._num_ctx),
            **(_conversation(prompt) if self._api == "chat" else _single(prompt)),
        }
        if self.model.thinks or prompt.enable_thinking:
            body["think"] = prompt.enable_thinking
        if sampling.structure is not None:
            body["format"] = _format(sampling.structure)
        if sampling.logprobs is not None:
            body["logprobs"] = True
            body["top_logprobs"] = sampling.logprobs
        return body


class _Answer:
    """One answer as it arrives."""

    def __init__(self, url: str, *, thinking: bool) -> None:
        self._url = url
        self._text = InBand(thinking=thinking)
        self._num_calls = 0
        self._end: Mapping[str, Any] = {}
        self.is_done = False

    def take(self, line: bytes) -> Chunk | None:
        """Read one line; return what content it holds."""
        if not line.strip():
            return None
        try:
            piece = from_json(line)
            failure = failure_within(self._url, piece)
            if failure is None:
                return self._take(piece)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise MalformedAnswerError(
                say("{url} sent a line that is none of Ollama's API.", url=self._url),
                hint=say("Check that the address is that of an Ollama server."),
            ) from error
        raise failure

    def last(self) -> Chunk:
        """Return the last chunk."""
        if not self.is_done:
            raise EngineCrashedError(
                say("{url} ended its answer before its end.", url=self._url),
                hint=say("Look into the server's log."),
            )
        cut = self._end.get("done_reason") == "length"
        closing = self._text.finish(cut=cut)
        return Chunk(
            text=closing,
            is_added=bool(closing),
            finish_reason=FinishReason.LENGTH if cut else FinishReason.STOP,
            usage=Usage(
                prompt_tokens=int(self._end.get("prompt_eval_count") or 0),
                completion_tokens=int(self._end.get("eval_count") or 0),
                unsaid=frozenset({"cached_tokens", *(name for key, name in _COUNTS.items() if key not in self._end)}),
                reported=_seconds(self._end),
            ),
        )

    def _take(self, piece: Mapping[str, Any]) -> Chunk | None:
        message = piece.get("message")
        if message is None:
            thought, content, calls = piece.get("thinking"), piece.get("response") or "", None
        else:
            thought, content, calls = message.get("thinking"), message.get("content") or "", message.get("tool_calls")
        if piece.get("done"):
            self.is_done = True
            self._end = piece
        text = (self._text.thought(thought) if thought else "") + self._text.speech(content)
        for call in calls or ():
            told = call["function"]
            text += self._text.call(self._num_calls, told["name"], _written(told.get("arguments") or {}))
            self._num_calls += 1
        logprobs = piece.get("logprobs")
        if not text and not logprobs:
            return None
        return Chunk(text=text, logprobs=tuple(read_logprob(each) for each in logprobs or ()))


def _written(arguments: Any) -> str:
    import json

    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _seconds(end: Mapping[str, Any]) -> dict[str, float]:
    """Return the times that Ollama reports, from nanoseconds."""
    return {
        name: value / 1e9
        for name, value in end.items()
        if name.endswith("_duration") and isinstance(value, int | float)
    }


def _options(sampling: SamplingParams, num_ctx: int | None) -> dict[str, Any]:
    """Return how the answer is chosen, by Ollama's names. A model's own defaults differ, so all is told."""
    options: dict[str, Any] = {
        "num_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    if sampling.seed is not None:
        options["seed"] = sampling.seed
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    return options


def _conversation(prompt: Messages) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(each) for each in prompt.messages]}
    if prompt.tools:
        body["tools"] = list(prompt.tools)
    return body


def _message(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        told["thinking"] = message.reasoning
    if message.tool_calls:
        told["tool_calls"] = [
            {"function": {"name": each.name, "arguments": from_json(each.arguments)}} for each in message.tool_calls
        ]
    if message.name is not None and message.role == "tool":
        told["tool_name"] = message.name
    return told


def _single(prompt: Messages) -> dict[str, Any]:
    """Return a conversation of one turn, perhaps with a system message before it, as `/api/generate` has it."""
    *before, last = prompt.messages
    if prompt.tools or last.role != "user" or [each.role for each in before] not in ([], ["system"]):
        raise InvalidRequestError(
            say("/api/generate answers one message of a user, not a conversation."),
            hint=say("Ask by /api/chat."),
            param="messages",
        )
    return {"prompt": last.content, **({"system": before[0].content} if before else {})}


def _format(structure: Structure) -> Any:
    match structure:
        case JsonObject():
            return "json"
        case JsonSchema(schema=schema):
            return from_json(schema)
        case _:
            raise InvalidRequestError(
                say("Ollama holds no answer to a choice or a regular expression."),
                hint=say("Ask for JSON by a schema."),
                param="structure",
            )


async def listed_models(remote: Remote) -> tuple[str, ...]:
    """Return the names of the models that an Ollama server has.

    Raises:
        QwenOpsError: It does not answer, or refuses.
    """
    data = await _told(remote, "/api/tags")
    return tuple(str(each["name"]) for each in data.get("models") or ())


async def open_server(
    remote: Remote, model: str = "", *, api: Api = "chat", num_ctx: int | None = None, max_running: int = 1
) -> OllamaEngine:
    """Ask a server about `model`, or about the first that it has. Where this fails, `remote` is closed.

    Raises:
        EngineUnavailableError: Nobody answers there.
        ModelNotServedError: It does not have the model, or none.
    """
    try:
        found = await _found(remote, model)
    except BaseException:
        await remote.aclose()
        raise
    return OllamaEngine(remote, found, api=api, num_ctx=num_ctx, max_running=max_running)


async def _found(remote: Remote, model: str) -> OllamaModel:
    name = model or next(iter(await listed_models(remote)), "")
    if not name:
        raise ModelNotServedError(
            say("{url} has no model.", url=remote.url), hint=say("Pull one there, such as `ollama pull qwen3:0.6b`.")
        )
    version = (await _told(remote, "/api/version")).get("version")
    try:
        shown = await _told(remote, "/api/show", {"model": name})
    except ModelNotServedError as error:
        error.hint = say("Pull it there: `ollama pull {name}`.", name=name)
        raise
    except InvalidRequestError:
        shown = {}  # one of Ollama's imitators, which need not know this question
    return _described(name, str(version or ""), shown)


async def open_engine(options: EngineOptions) -> OllamaEngine:
    """Open the Ollama server at `options.url`, by default on this machine.

    Raises:
        ConfigError: The address is none.
        EngineUnavailableError: Nobody answers there.
        ModelNotServedError: It does not have the model.
    """
    url = options.url or DEFAULT_URL
    checked_url(url)
    remote = Remote(url, api_key=options.api_key, silence_s=options.load_timeout_s)
    return await open_server(
        remote, options.model_name, num_ctx=options.context_tokens, max_running=options.max_running
    )


async def _told(remote: Remote, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return what the server answers to a small question.

    Raises:
        MalformedAnswerError: It is no JSON object.
        QwenOpsError: There is no answer, or a refusal.
    """
    status, raw = await remote.ask(path, body)
    if status != _OK:
        raise remote.refusal(status, {}, raw)
    try:
        data = from_json(raw)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise MalformedAnswerError(
            say("{url} answers {path} with something else than Ollama does.", url=remote.url, path=path),
            hint=say("Check that the address is that of an Ollama server."),
        )
    return data


def _described(name: str, version: str, told: Mapping[str, Any]) -> OllamaModel:
    """Read `/api/show`; whatever of it is missing stays unknown."""
    info = told.get("model_info") or {}
    details = told.get("details") or {}
    capabilities = told.get("capabilities")
    context = next((value for key, value in info.items() if key.endswith(".context_length")), 0)
    return OllamaModel(
        name=name,
        context_tokens=context if isinstance(context, int) else 0,
        quantization=str(details.get("quantization_level") or ""),
        thinks=capabilities is None or "thinking" in capabilities,
        version=version,
    )
