"""How the simulated server speaks: what each API's requests ask, and the JSON of its answers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qwenops.bench.simulated.engine import Tags, Told, durations_ns
from qwenops.bench.simulated.model import Truth
from qwenops.bench.simulated.options import Faults, Simulated
from qwenops.bench.simulated.wire import DONE, compact, event, line
from qwenops.errors import InvalidRequestError, ModelNotServedError
from qwenops.generation import GenerationRequest, Message, Messages, SamplingParams
from qwenops.text import say

_CREATED = 1_767_225_600
_CREATED_TEXT = "2026-01-01T00:00:00Z"
_DEFAULT_TOKENS = 128
Json = dict[str, Any]


class Face(Protocol):
    """One API: what leaves the server for one request, as bytes."""

    @property
    def content_type(self) -> str:
        """Of the answer."""
        ...

    @property
    def stream(self) -> bool:
        """Whether it is sent as it is written."""
        ...

    def first(self) -> bytes:
        """Return what is sent before any content."""
        ...

    def piece(self, told: Told) -> bytes:
        """Return one chunk of a stream."""
        ...

    def last(self, truth: Truth) -> bytes:
        """Return the end of a stream."""
        ...

    def whole(self, tolds: Sequence[Told], truth: Truth) -> bytes:
        """Return the answer to who wants no stream."""
        ...


@dataclass(slots=True, kw_only=True)
class OpenAIFace:
    """`/v1/chat/completions` and `/v1/completions`."""

    simulated: Simulated
    faults: Faults
    id: str
    stream: bool
    chat: bool
    """Or plain completions."""
    with_usage: bool
    tags: Tags = field(default_factory=Tags)

    @property
    def content_type(self) -> str:
        """Of the answer."""
        return "text/event-stream" if self.stream else "application/json"

    def first(self) -> bytes:
        """Name the role, as most servers do in a chunk of its own."""
        if not self.chat or not self.faults.role_chunk:
            return b""
        return self._event(self._choice({"role": "assistant", "content": ""}))

    def piece(self, told: Told) -> bytes:
        """Return one chunk; what is reasoning stands in a field of its own, or in band."""
        if self.faults.empty:
            return b""
        if not self.chat:
            return self._event(self._choice(self._in_band(told)))
        return self._event(self._choice(self._delta(told)))

    def last(self, truth: Truth) -> bytes:
        """Say why it ended, what it took, and that this was all."""
        closing = self._choice({} if self.chat else "", finish=finish_of(truth))
        parts = [compact(closing)]
        if self.with_usage and self.faults.usage:
            parts.append(compact(self._body([]) | {"usage": _usage(truth)}))
        if self.faults.done:
            parts.append(DONE)
        return b"".join(event(part, self.faults, last=part is parts[-1]) for part in parts)

    def whole(self, tolds: Sequence[Told], truth: Truth) -> bytes:
        """Return the answer as one object."""
        finish = finish_of(truth)
        told = _joined(tolds, self.faults)
        if self.chat:
            message = {"role": "assistant", "content": "", **self._delta(told)}
            choice: Json = {"index": 0, "message": message, "finish_reason": finish}
        else:
            choice = {"index": 0, "text": self._in_band(told), "finish_reason": finish}
        body = self._body([choice])
        if self.faults.usage:
            body["usage"] = _usage(truth)
        return compact(body | {"object": body["object"].removesuffix(".chunk")}).encode()

    def _delta(self, told: Told) -> Json:
        if self.faults.reasoning == "in_band":
            return {"content": self._in_band(told)}
        field = "reasoning" if self.faults.reasoning == "reasoning" else "reasoning_content"
        found: Json = {}
        if told.reasoning:
            found[field] = told.reasoning
        if told.text or not told.reasoning:
            found["content"] = told.text
        return found

    def _in_band(self, told: Told) -> str:
        return self.tags.put(told)

    def _choice(self, said: Json | str, *, finish: str | None = None) -> Json:
        part: Json = {"delta": said} if self.chat else {"text": said}
        return self._body([{"index": 0, **part, "finish_reason": finish}])

    def _body(self, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": _CREATED,
            "model": self.simulated.server.model,
            "choices": choices,
        }

    def _event(self, body: Json) -> bytes:
        return event(compact(body), self.faults)


@dataclass(slots=True, kw_only=True)
class OllamaFace:
    """`/api/chat` and `/api/generate`: lines of JSON, durations in nanoseconds, zeros left out."""

    simulated: Simulated
    faults: Faults
    stream: bool
    chat: bool

    @property
    def content_type(self) -> str:
        """Of the answer."""
        return "application/x-ndjson" if self.stream else "application/json"

    def first(self) -> bytes:
        """Send nothing before the first token."""
        return b""

    def piece(self, told: Told) -> bytes:
        """Return one line."""
        if self.faults.empty:
            return b""
        return line(compact(self._body(told.text, told.reasoning) | {"done": False}), self.faults)

    def last(self, truth: Truth) -> bytes:
        """Return the line with the reason and the timings."""
        return line(compact(self._body("", "") | self._facts(truth)), self.faults, last=True)

    def whole(self, tolds: Sequence[Told], truth: Truth) -> bytes:
        """Return the answer as one object."""
        told = _joined(tolds, self.faults)
        return compact(self._body(told.text, told.reasoning) | self._facts(truth)).encode()

    def _body(self, text: str, reasoning: str) -> Json:
        head: Json = {"model": self.simulated.server.model, "created_at": _CREATED_TEXT}
        if not self.chat:
            return {**head, "response": text, **({"thinking": reasoning} if reasoning else {})}
        message = {"role": "assistant", "content": text, **({"thinking": reasoning} if reasoning else {})}
        return {**head, "message": message}

    def _facts(self, truth: Truth) -> Json:
        timings = durations_ns(truth)
        del timings["queue_duration"]
        counts = {"prompt_eval_count": truth.prompt_tokens, "eval_count": truth.num_tokens}
        told = {name: value for name, value in (timings | counts).items() if value}
        return {"done": True, "done_reason": finish_of(truth), **(told if self.faults.usage else {})}


def openai_request(body: Mapping[str, Any], simulated: Simulated, *, chat: bool) -> GenerationRequest:
    """Read what a request to the OpenAI face asks.

    Raises:
        InvalidRequestError: A field is missing or is not what it must be.
        ModelNotServedError: It names another model.
    """
    _check_model(body, simulated)
    num_tokens = body.get("max_completion_tokens") or body.get("max_tokens") or _DEFAULT_TOKENS
    template = body.get("chat_template_kwargs") or {}
    thinking = bool(template.get("enable_thinking", body.get("enable_thinking", False)))
    messages = _messages(body.get("messages")) if chat else (Message(role="user", content=_plain_prompt(body)),)
    return _request(messages, num_tokens, thinking=thinking, forced=bool(body.get("ignore_eos")))


def ollama_request(body: Mapping[str, Any], simulated: Simulated, *, chat: bool) -> GenerationRequest:
    """Read what a request to the Ollama face asks.

    Raises:
        InvalidRequestError: A field is missing or is not what it must be.
        ModelNotServedError: It names another model.
    """
    _check_model(body, simulated)
    options = body.get("options") or {}
    num_tokens = options.get("num_predict", _DEFAULT_TOKENS)
    messages = _messages(body.get("messages")) if chat else (Message(role="user", content=_plain_prompt(body)),)
    return _request(messages, num_tokens, thinking=bool(body.get("think")), forced=False)


def finish_of(truth: Truth) -> str:
    """Say why an answer ended, in the words of both APIs."""
    return "length" if truth.by_limit else "stop"


def _joined(tolds: Sequence[Told], faults: Faults) -> Told:
    """Return a whole answer as one chunk."""
    whole = tolds[-1]
    said = "" if faults.empty else "".join(told.text for told in tolds)
    thought = "" if faults.empty else "".join(told.reasoning for told in tolds)
    return Told(reasoning=thought, text=said, num_tokens=0, plan=whole.plan, truth=whole.truth)


def _usage(truth: Truth) -> Json:
    return {
        "prompt_tokens": truth.prompt_tokens,
        "completion_tokens": truth.num_tokens,
        "total_tokens": truth.prompt_tokens + truth.num_tokens,
        "prompt_tokens_details": {"cached_tokens": truth.cached_tokens},
    }


def _check_model(body: Mapping[str, Any], simulated: Simulated) -> None:
    asked = body.get("model") or simulated.server.model
    if asked != simulated.server.model:
        raise ModelNotServedError(
            say("The model {asked!r} is not served here.", asked=str(asked)),
            hint=say("Ask for {served!r}.", served=simulated.server.model),
        )


def _messages(given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise InvalidRequestError(say("messages is empty."), param="messages")
    found = []
    for each in given:
        content = each.get("content") if isinstance(each, dict) else None
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str) or each.get("role") not in {"system", "user", "assistant", "tool"}:
            raise InvalidRequestError(say("A message has no role or no text."), param="messages")
        found.append(Message(role=each["role"], content=content))
    return tuple(found)


def _plain_prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return " ".join(map(str, prompt))
    if not isinstance(prompt, str):
        raise InvalidRequestError(say("prompt is no text."), param="prompt")
    return prompt


def _request(messages: tuple[Message, ...], num_tokens: Any, *, thinking: bool, forced: bool) -> GenerationRequest:
    if not isinstance(num_tokens, int):
        raise InvalidRequestError(say("The number of tokens to write is no number."), param="max_tokens")
    prompt = Messages(messages=messages, enable_thinking=thinking)
    return GenerationRequest(id="", prompt=prompt, sampling=SamplingParams(max_tokens=num_tokens, ignore_eos=forced))
