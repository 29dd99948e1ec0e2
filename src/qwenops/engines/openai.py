"""Any server that speaks OpenAI's API, as an engine: conversations go to its chat, tokens to its completions.

Ours, llama-server, vLLM, SGLang, Ollama's imitation and many more differ in the fields they know beyond OpenAI's own.
A request is sent with all that it says; where the server refuses one of `openai_body.DISPENSABLE` as unknown, nothing
was computed, and it is sent once more without it, as are all later ones (`info.left_out`, `info.notes`). A field that
the server took before is left out only where a refusal names it. No failure is tried again.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json

from qwenops.engines.openai_answer import JSON, NO_STREAM, Answer, page_for_people
from qwenops.engines.openai_body import chat_body, completion_body
from qwenops.engines.options import EngineOptions
from qwenops.engines.remote import OnMoment, Remote, checked_url
from qwenops.engines.seam import EngineHealth, EngineInfo, EngineState
from qwenops.engines.sse import EventReader
from qwenops.engines.unknown import UnknownFields
from qwenops.errors import (
    ConfigError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    MalformedAnswerError,
    ModelNotServedError,
)
from qwenops.generation import Chunk, GenerationRequest, Messages, Prompt
from qwenops.text import Text, say

if TYPE_CHECKING:
    import aiohttp

MAX_WHOLE_BYTES = 64 * 1024**2
"""Of an answer that is not a stream."""

_ENDPOINT = re.compile(r"/(chat/completions|completions|models|responses)/?$")
_HAS_VERSION = re.compile(r"/v\d+[a-z0-9]*(/|$)")
_CONTEXT_NAMES = ("context_tokens", "max_model_len", "context_length", "max_context_length", "n_ctx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A model in a server's list."""

    name: str
    owner: str = ""
    context_tokens: int = 0
    quantization: str = ""


class OpenAIEngine:
    """An `Engine` that is a server elsewhere. Open it with `open_server`.

    Args:
        remote: The server; its address ends with the version (`/v1`).
        model: The model in every request.
        max_running: How many requests it is said to compute at the same time.
        notes: What was found at opening.
    """

    def __init__(
        self, remote: Remote, model: Listed, *, max_running: int = 1, notes: Mapping[str, Text] | None = None
    ) -> None:
        """Keep what it is made of; nothing is connected yet."""
        self.remote = remote
        self.model = model
        self._max_running = max_running
        self._notes = dict(notes or {})
        self._unknown = UnknownFields()
        self._running = 0

    @property
    def info(self) -> EngineInfo:
        """What is known about the server."""
        return EngineInfo(
            engine="openai",
            model=self.model.name,
            accepts="both",
            context_tokens=self.model.context_tokens,
            quantization=self.model.quantization,
            max_running=self._max_running,
            logprobs=True,
            structure=True,
            notes={**self._notes, **self.remote.notes},
            left_out=tuple(sorted(self._unknown.left_out)),
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
        self._running += 1
        try:
            response = await self._accepted(request)
            try:
                answer = Answer(self.remote.url, thinking=_thinks(request.prompt))
                if response.content_type in NO_STREAM:
                    chunk = answer.take(await self._whole(response))
                    if chunk is not None:
                        yield chunk
                else:
                    events = EventReader()
                    with self.remote.reading(response) as read:
                        while not answer.is_done and (piece := await read()):
                            for event in events.push(piece):
                                chunk = answer.take(event.data)
                                if chunk is not None:
                                    yield chunk
                    for event in events.finish():
                        chunk = answer.take_rest(event.data)
                        if chunk is not None:
                            yield chunk
                    if answer.is_done:
                        await self.remote.drain(response)
                yield answer.last()
            finally:
                self.remote.let_go(response)
        finally:
            self._running -= 1

    async def _accepted(self, request: GenerationRequest) -> "aiohttp.ClientResponse":
        """Send a request, without the fields that the server turns out not to know."""
        path, body = self._asked(request)
        while True:
            sent = self._unknown.without(body)
            try:
                response = await self.remote.post(path, sent, request_id=request.id, trace=request.trace)
            except InvalidRequestError as error:
                if not self._leave_out(sent, error):
                    raise
                self.remote.tell(request.id, "again")
            else:
                self._unknown.took(sent)
                return response

    async def _whole(self, response: "aiohttp.ClientResponse") -> bytes:
        """Return the body of an answer that is no stream."""
        if response.content_type != JSON:
            raise page_for_people(self.remote.url)
        return await self.remote.whole(response, MAX_WHOLE_BYTES)

    async def aclose(self) -> None:
        """Close every connection; answers in flight fail."""
        await self.remote.aclose()

    def _asked(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        sampling = request.sampling
        if sampling.max_tokens < 1:
            raise InvalidRequestError(
                say("max_tokens is {given}.", given=sampling.max_tokens),
                hint=say("Ask for at least one token."),
                param="max_tokens",
            )
        model = request.model or self.model.name
        prompt = request.prompt
        if not (prompt.messages if isinstance(prompt, Messages) else prompt.ids):
            raise InvalidRequestError(say("The prompt is empty."), hint=say("Send at least one token."), param="prompt")
        if isinstance(prompt, Messages):
            return "/chat/completions", chat_body(model, prompt, sampling, self.model.owner)
        return "/completions", completion_body(model, prompt, sampling, self.model.owner)

    def _leave_out(self, body: Mapping[str, Any], error: InvalidRequestError) -> bool:
        """Learn from the refusal of `body` what the server does not know; say whether that is anything."""
        if not self._unknown.learn(body, error):
            return False
        self._notes["left_out"] = say(
            "The server does not know {fields}; requests go without.", fields=", ".join(self.info.left_out)
        )
        return True


def _thinks(prompt: Prompt) -> bool:
    return isinstance(prompt, Messages) and prompt.enable_thinking


def api_url(url: str) -> str:
    """Return the address that all of the API's share, from any of them or from the server's own."""
    parts = checked_url(url)
    path = _ENDPOINT.sub("", parts.path.rstrip("/")).rstrip("/")
    if not _HAS_VERSION.search(path):
        path += "/v1"
    return parts._replace(path=path).geturl()


def server_url(api: str) -> str:
    """Return the address of the server itself: that of its API without the version."""
    parts = urlsplit(api)
    return parts._replace(path=re.sub(r"/v\d+[a-z0-9]*$", "", parts.path)).geturl().rstrip("/")


async def listed_models(remote: Remote) -> tuple[Listed, ...]:
    """Return the models that a server lists.

    Raises:
        QwenOpsError: It does not answer, or refuses.
        MalformedAnswerError: It answers with something else.
    """
    status, body = await remote.ask("/models")
    if status != 200:  # noqa: PLR2004 -- fine
        raise remote.refusal(status, {}, body)
    try:
        data = from_json(body)["data"] or ()
        return tuple(_listed(each) for each in data)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise MalformedAnswerError(
            say("{url} lists no models where OpenAI's API has them.", url=remote.url),
            hint=say("Check the address; of most servers it ends with /v1."),
        ) from error


def _listed(told: Mapping[str, Any]) -> Listed:
    more = told.get("meta") if isinstance(told.get("meta"), Mapping) else {}
    context = next((value for name in _CONTEXT_NAMES for value in (told.get(name), (more or {}).get(name)) if value), 0)
    return Listed(
        name=str(told["id"]),
        owner=str(told.get("owned_by") or ""),
        context_tokens=context if isinstance(context, int) else 0,
        quantization=str(told.get("quantization") or ""),
    )


async def open_engine(options: EngineOptions) -> OpenAIEngine:
    """Open the server at `options.url`; without `options.model_name` it is asked for its models.

    Raises:
        ConfigError: There is no address, or it is none.
        EngineUnavailableError: Nobody answers there.
        ModelNotServedError: No model is named, and the server lists none; or it must list the one named, and lists
            others.
    """
    if not options.url:
        raise ConfigError(
            say("The engine openai has no address."),
            hint=say("Set `url` under [engine], such as {example}.", example="http://127.0.0.1:8000"),
        )
    remote = Remote(api_url(options.url), api_key=options.api_key, silence_s=options.load_timeout_s)
    return await open_server(remote, options.model_name, max_running=options.max_running)


async def open_server(
    remote: Remote, model: str = "", *, max_running: int = 1, must_list: bool = False
) -> OpenAIEngine:
    """Ask a server for its models and return the engine of `model`, or of the first that it lists.

    A server that lists nothing is taken at its word where the model is named; one that lists others too, unless
    `must_list`. Where this fails, `remote` is closed.

    Raises:
        EngineUnavailableError: Nobody answers there.
        ModelNotServedError: No model is named, and the server lists none.
        QwenOpsError: The server refuses, for example the key.
    """
    try:
        found, notes = _chosen(remote, model, await _listed_models(remote, needed=not model), must_list=must_list)
    except BaseException:
        await remote.aclose()
        raise
    return OpenAIEngine(remote, found, max_running=max_running, notes=notes)


async def _listed_models(remote: Remote, *, needed: bool) -> tuple[Listed, ...]:
    try:
        return await listed_models(remote)
    except EngineUnavailableError:
        raise
    except (InvalidRequestError, EngineError):
        if needed:
            raise
        return ()


def _chosen(remote: Remote, model: str, listed: Sequence[Listed], *, must_list: bool) -> tuple[Listed, dict[str, Text]]:
    """Return the model to ask for, and what is worth noting about the choice."""
    names = ", ".join(each.name for each in listed) or "-"
    if not model:
        if not listed:
            raise ModelNotServedError(
                say("{url} lists no model.", url=remote.url), hint=say("Name the model, or load one there.")
            )
        several = say("The first of those that the server lists: {names}.", names=names)
        return listed[0], {"model": several} if len(listed) > 1 else {}
    for each in listed:
        if each.name == model:
            return each, {}
    if must_list and listed:
        raise ModelNotServedError(
            say("{url} does not serve {model}.", url=remote.url, model=model),
            hint=say("It serves: {names}.", names=names),
        )
    unlisted = say("The server does not list {model}, but: {names}.", model=model, names=names)
    return Listed(name=model, owner=listed[0].owner if listed else ""), {"model": unlisted}
