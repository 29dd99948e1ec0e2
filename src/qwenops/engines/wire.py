"""The words of the seam as bytes: how the API process and an engine's process speak.

A frame is four bytes of length (big-endian) and one msgpack array whose first element names the kind of message. What
crosses is plain data, never code: nothing that arrives is executed, and whatever is not understood is an `EngineError`.
A dataclass becomes the array of its fields. A piece of an answer is `[id, text, token ids, finish reason, usage,
logprobs]`, or `[id, None, error]`; what is missing at its end was absent, so that a plain token costs few bytes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgpack

from qwenops.crossing import error_of, error_parts, plain, text_of
from qwenops.errors import BodyTooLargeError, EngineError, QwenOpsError
from qwenops.generation import (
    Choice,
    Chunk,
    FinishReason,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    Messages,
    Prompt,
    Regex,
    SamplingParams,
    Structure,
    TokenLogprob,
    Tokens,
    ToolCall,
    Usage,
)
from qwenops.text import say

MAX_FRAME_BYTES = 64 * 1024 * 1024
_HEAD_BYTES = 4
_BIG_INTEGER, _PATH, _TEXT = 1, 2, 3

Parts = list[Any]
"""Plain data: a message as it arrives (its kind, then what belongs to it), or a part of one."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

_STRUCTURES: dict[str, Callable[..., Structure]] = {
    each.__name__: each for each in (JsonSchema, JsonObject, Regex, Choice)
}
_SAMPLING_FIELDS = tuple(each.name for each in dataclasses.fields(SamplingParams))


def frame(kind: str, *parts: Any) -> bytes:
    """Return one message as bytes.

    Raises:
        BodyTooLargeError: It is over `MAX_FRAME_BYTES`.
    """
    payload: bytes = msgpack.packb((kind, *parts), default=_extended, unicode_errors="surrogatepass")
    if len(payload) > MAX_FRAME_BYTES:
        raise BodyTooLargeError(
            say("A message of {size} bytes is over the limit of {limit}.", size=len(payload), limit=MAX_FRAME_BYTES),
            hint=say("Send less at once."),
        )
    return len(payload).to_bytes(_HEAD_BYTES, "big") + payload


class FrameReader:
    """Cuts a stream of bytes into messages."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        """Start with nothing."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Parts]:
        """Take bytes as they come; yield each message that is complete.

        Raises:
            EngineError: The bytes are no message. The stream is of no use any more.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _HEAD_BYTES:
                size = int.from_bytes(buffer[start : start + _HEAD_BYTES], "big")
                if size > MAX_FRAME_BYTES:
                    raise _not_a_message(f"a frame of {size} bytes")
                end = start + _HEAD_BYTES + size
                if len(buffer) < end:
                    return
                payload = bytes(buffer[start + _HEAD_BYTES : end])
                start = end
                yield _unpacked(payload)
        finally:
            del buffer[:start]


def _unpacked(payload: bytes) -> Parts:
    try:
        message = msgpack.unpackb(payload, ext_hook=_restored, unicode_errors="surrogatepass")
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise _not_a_message(repr(error)) from error
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise _not_a_message(type(message).__name__)
    return message


def _not_a_message(found: str) -> EngineError:
    return EngineError(
        say("The other process sent something that is no message: {found}.", found=found[:200]),
        hint=say("If another version was installed meanwhile, restart the server."),
    )


def _understood(read: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function that takes plain data apart raise EngineError when the data is not what it expects."""

    @functools.wraps(read)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return read(*args, **kwargs)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise _not_a_message(repr(error)) from error

    return checked


def _extended(value: Any) -> Any:
    """Say what msgpack has no word for."""
    match value:
        case int():
            return msgpack.ExtType(_BIG_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        case Path():
            return msgpack.ExtType(_PATH, str(value).encode("utf-8", "surrogateescape"))
        case Mapping():
            return dict(value)
        case _:
            return str(value)


def _restored(code: int, data: bytes) -> Any:
    if code == _BIG_INTEGER:
        return int.from_bytes(data, "big", signed=True)
    if code == _PATH:
        return Path(data.decode("utf-8", "surrogateescape"))
    if code == _TEXT:
        return text_of(msgpack.unpackb(data, ext_hook=_restored, unicode_errors="surrogatepass"))
    raise ValueError(code)


def worded(value: Any) -> Any:
    """Return a value as plain data in which each `Text` remembers how it was made, so that it can be translated."""
    return plain(value, _text_to_wire)


def _text_to_wire(parts: Parts) -> msgpack.ExtType:
    return msgpack.ExtType(_TEXT, msgpack.packb(parts, default=_extended, unicode_errors="surrogatepass"))


def error_to_wire(error: QwenOpsError) -> Parts:
    """Return an error as plain data: class, message, hint, seconds until a retry, its own fields."""
    parts: Parts = worded(error_parts(error))
    return parts


@_understood
def error_from_wire(parts: Parts) -> QwenOpsError:
    """Return the error that the other process meant; one of a class unknown here becomes an `EngineError`."""
    return error_of(parts, EngineError)


def request_to_wire(request: GenerationRequest) -> Parts:
    """Return a request as plain data."""
    sampling = [getattr(request.sampling, name) for name in _SAMPLING_FIELDS[:-1]]
    return [
        request.id,
        _prompt_to_wire(request.prompt),
        [*sampling, _structure_to_wire(request.sampling.structure)],
        request.model,
        request.namespace,
        dict(request.trace),
    ]


@_understood
def request_from_wire(parts: Parts) -> GenerationRequest:
    """Return the request that the other process meant."""
    request_id, prompt, sampling, model, namespace, trace = parts
    given = dict(zip(_SAMPLING_FIELDS, sampling, strict=True))
    given["stop"] = tuple(given["stop"])
    given["logit_bias"] = tuple((token, bias) for token, bias in given["logit_bias"])
    given["structure"] = _structure_from_wire(given["structure"])
    return GenerationRequest(
        id=request_id,
        prompt=_prompt_from_wire(prompt),
        sampling=SamplingParams(**given),
        model=model,
        namespace=namespace,
        trace=dict(trace),
    )


def _prompt_to_wire(prompt: Prompt) -> Any:
    if isinstance(prompt, Tokens):
        return prompt.ids
    messages = [
        (
            each.role,
            each.content,
            each.reasoning,
            [(call.id, call.name, call.arguments) for call in each.tool_calls],
            each.tool_call_id,
            each.name,
        )
        for each in prompt.messages
    ]
    # A conversation is a map, tokens are an array: that tells them apart.
    return {
        "messages": messages,
        "tools": [dict(tool) for tool in prompt.tools],
        "enable_thinking": prompt.enable_thinking,
        "continue_final": prompt.continue_final,
    }


def _prompt_from_wire(prompt: Any) -> Prompt:
    if isinstance(prompt, list):
        return Tokens(ids=tuple(prompt))
    messages = tuple(
        Message(
            role=role,
            content=content,
            reasoning=reasoning,
            tool_calls=tuple(ToolCall(id=called, name=tool, arguments=given) for called, tool, given in calls),
            tool_call_id=tool_call_id,
            name=name,
        )
        for role, content, reasoning, calls, tool_call_id, name in prompt["messages"]
    )
    return Messages(
        messages=messages,
        tools=tuple(prompt["tools"]),
        enable_thinking=prompt["enable_thinking"],
        continue_final=prompt["continue_final"],
    )


def _structure_to_wire(structure: Structure | None) -> Any:
    if structure is None:
        return None
    fields = {each.name: getattr(structure, each.name) for each in dataclasses.fields(structure)}
    return type(structure).__name__, fields


def _structure_from_wire(parts: Any) -> Structure | None:
    if parts is None:
        return None
    name, fields = parts
    return _STRUCTURES[name](**{key: tuple(each) if isinstance(each, list) else each for key, each in fields.items()})


def piece_to_wire(request_id: str, piece: Chunk | QwenOpsError) -> Parts:
    """Return one piece of an answer, or its failure, as plain data."""
    if isinstance(piece, QwenOpsError):
        return [request_id, None, error_to_wire(piece)]
    if piece.finish_reason is None and piece.usage is None and not piece.logprobs:
        return [request_id, piece.text, piece.token_ids]
    usage = piece.usage
    return [
        request_id,
        piece.text,
        piece.token_ids,
        piece.finish_reason,
        None
        if usage is None
        else (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, dict(usage.reported)),
        [_logprob_to_wire(each) for each in piece.logprobs],
    ]


def is_last(parts: Parts) -> bool:
    """Whether no further piece of the same answer follows this one."""
    return parts[1] is None or (len(parts) > 3 and parts[3] is not None)  # noqa: PLR2004 -- the place of the finish reason


def merged_to_wire(pieces: Sequence[Parts]) -> list[Parts]:
    """Return consecutive pieces of one answer as few of them, still plain data: one, and a failure apart."""
    failure = [pieces[-1]] if pieces[-1][1] is None else []
    taken = pieces[: len(pieces) - len(failure)]
    merged: Parts = [pieces[0][0], "".join([each[1] for each in taken]), [], None, None, []]
    for piece in taken:
        merged[2] += piece[2]
        if len(piece) > 3:  # noqa: PLR2004 -- the place of the finish reason
            merged[3], merged[4] = piece[3], piece[4]
            merged[5] += piece[5]
    return [merged, *failure]


@_understood
def pieces_from_wire(pieces: Sequence[Parts]) -> Chunk:
    """Return consecutive pieces of one answer as one chunk; raise a failure, which must stand alone."""
    if len(pieces) == 1 and len(pieces[0]) == 3:  # noqa: PLR2004 -- the common case: id, text, token ids
        _, text, token_ids = pieces[0]
        if text is None:
            raise error_from_wire(token_ids)
        return Chunk(text=text, token_ids=tuple(token_ids))
    ((_, text, token_ids, finish, used, chosen),) = merged_to_wire(pieces)
    return Chunk(
        text=text,
        token_ids=tuple(token_ids),
        logprobs=tuple(_logprob_from_wire(each) for each in chosen),
        finish_reason=None if finish is None else FinishReason(finish),
        usage=None if used is None else _usage_from_wire(used),
    )


def _usage_from_wire(parts: Parts) -> Usage:
    prompt_tokens, completion_tokens, cached_tokens, reported = parts
    return Usage(
        prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens, reported=reported
    )


def _logprob_to_wire(each: TokenLogprob) -> Any:
    return each.token_id, each.raw, each.logprob, [_logprob_to_wire(other) for other in each.top]


def _logprob_from_wire(parts: Parts) -> TokenLogprob:
    token_id, raw, logprob, top = parts
    return TokenLogprob(
        token_id=token_id, raw=raw, logprob=logprob, top=tuple(_logprob_from_wire(each) for each in top)
    )
