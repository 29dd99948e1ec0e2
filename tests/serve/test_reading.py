import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from qwenops.errors import BodyTooLargeError, InvalidRequestError
from qwenops.serve.reading import BodyTimeoutError, UnsupportedMediaTypeError, parse, read_body
from qwenops.serve.schemas import (
    IGNORED_FIELDS,
    REFUSED_FIELDS,
    ChatRequest,
    CompletionRequest,
    InferenceRequest,
)

HELLO = [{"role": "user", "content": "hello"}]


def refusal(body: Any, model: type[BaseModel] = ChatRequest) -> InvalidRequestError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequestError) as caught:
        parse(raw, model)
    return caught.value


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "EOF"),
        (b'{"messages":', "EOF"),
        (b"\xff\xfe{}", "expected value"),
        (b'{"user": "\xff"}', "unicode"),
        (b'{"user": "\\ud800"}', "escape"),
        (b'{"temperature": NaN}', "expected value"),
        (b'{"temperature": Infinity}', "expected value"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"seed": ' + b"9" * 6000 + b"}", "number out of range"),
        (b"{} {}", "trailing"),
    ],
)
def test_what_is_not_json_is_refused_with_the_place(raw: bytes, problem: str) -> None:
    error = refusal(raw)
    assert "not valid JSON" in error.message
    assert problem in error.message


@pytest.mark.parametrize(
    ("raw", "what"), [(b"[]", "an array"), (b'"x"', "a string"), (b"null", "null"), (b"1", "a number")]
)
def test_a_body_that_is_no_object_is_refused(raw: bytes, what: str) -> None:
    assert refusal(raw).message == f"The body is {what}, not a JSON object."


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "messages is missing.", "messages"),
        ({"messages": []}, "messages must have at least 1 elements.", "messages"),
        ({"messages": {}}, "messages must be an array.", "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0] has no role.", "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing.", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content must be a string or an array.",
            "messages[0].content",
        ),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens must be at least 1.", "max_tokens"),
        ({"messages": HELLO, "max_tokens": -3}, "max_tokens must be at least 1.", "max_tokens"),
        ({"messages": HELLO, "max_tokens": "5"}, "max_tokens must be an integer.", "max_tokens"),
        ({"messages": HELLO, "max_tokens": True}, "max_tokens must be an integer.", "max_tokens"),
        ({"messages": HELLO, "temperature": "hot"}, "temperature must be a number.", "temperature"),
        ({"messages": HELLO, "temperature": 2.5}, "temperature must be at most 2.", "temperature"),
        ({"messages": HELLO, "stream": "yes"}, "stream must be true or false.", "stream"),
        ({"messages": HELLO, "stop": 5}, "stop must be a string or an array.", "stop"),
        ({"messages": HELLO, "stop": ["a", 5]}, "stop[1] must be a string.", "stop[1]"),
        ({"messages": HELLO, "stop": [""]}, "stop[0] must have at least 1 characters.", "stop[0]"),
        (
            {"messages": HELLO, "stop": ["x"] * 1000},
            "stop has 1000 elements; at most 256 are possible.",
            "stop",
        ),
        ({"messages": HELLO, "stop": ["x" * 257]}, "stop[0] must have at most 256 characters.", "stop[0]"),
        (
            {"messages": HELLO, "logit_bias": {"word": 1}},
            "logit_bias.word does not match ^[0-9]{1,6}$.",
            "logit_bias.word",
        ),
        (
            {"messages": HELLO, "response_format": {"type": "xml"}},
            "response_format has the type 'xml'; possible are: 'text', 'json_object', 'json_schema'.",
            "response_format",
        ),
    ],
)
def test_what_is_wrong_in_a_chat_is_said_with_the_field(body: Any, message: str, param: str) -> None:
    error = refusal(body)
    assert error.message == message
    assert error.param == param


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt must have at least 1 elements."),
        ({}, "prompt must be a string or an array."),
        ([1, "two"], "prompt[1] must be an integer."),
        (["one", 2], "prompt[1] must be a string."),
        ([[1], [-1]], "prompt[1][0] must be at least 0."),
        ([1_000_000], "prompt[0] must be at most 999999."),
    ],
)
def test_what_is_wrong_in_a_prompt_is_said_for_the_kind_that_was_meant(prompt: Any, message: str) -> None:
    assert refusal({"prompt": prompt}, CompletionRequest).message == message


def test_a_misspelt_field_is_refused_with_the_nearest_known_one() -> None:
    error = refusal({"messages": HELLO, "temprature": 1})
    assert error.message == "The field temprature is not known."
    assert error.hint == "Did you mean 'temperature'?"
    assert error.param == "temprature"


def test_a_misspelt_field_inside_a_message_is_found_as_well() -> None:
    error = refusal({"messages": [{"role": "user", "contnt": "x"}]})
    assert error.param == "messages[0].contnt"
    assert error.hint == "Did you mean 'content'?"


def test_a_field_that_resembles_nothing_gets_the_list_of_fields() -> None:
    error = refusal({"text": "x", "qqq": 1}, InferenceRequest)
    assert "enable_thinking" in error.hint
    assert "max_tokens" in error.hint


def test_fields_of_openai_that_would_change_the_answer_are_refused_with_what_to_use() -> None:
    assert refusal({"messages": HELLO, "functions": []}).hint == "Use `tools`."
    assert refusal({"prompt": "x", "best_of": 2}, CompletionRequest).hint.startswith("Use `n`")


def test_the_list_of_ignored_fields_is_the_one_of_the_description() -> None:
    described = {
        name
        for model in (ChatRequest, CompletionRequest)
        for name, field in model.model_fields.items()
        if field.description == "Accepted and ignored."
    }
    assert described == set(IGNORED_FIELDS)


@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
def test_no_refused_field_is_known(name: str) -> None:
    assert not {name} & (set(ChatRequest.model_fields) | set(CompletionRequest.model_fields))


def test_a_picture_is_refused_as_what_it_is() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    error = refusal({"messages": [{"role": "user", "content": [picture]}]})
    assert error.message == "messages[0].content[0].type must be one of: 'text'."


def test_null_means_left_out() -> None:
    request = parse(b'{"text": "x", "max_tokens": null, "stop": null}', InferenceRequest)
    assert request.max_tokens is None


def test_a_whole_number_may_be_written_with_a_point() -> None:
    request = parse(b'{"prompt": [[5.0, 6, 7.0], [8.0]], "max_tokens": 7.0, "temperature": 1}', CompletionRequest)
    assert (request.prompt, request.max_tokens) == ([[5, 6, 7], [8]], 7)
    assert refusal({"prompt": [5.5]}, CompletionRequest).param == "prompt[0]"
    assert refusal({"prompt": [5.0, 6], "n": -1.0}, CompletionRequest).message == "n must be at least 1."


@pytest.mark.parametrize(
    "body",
    [
        {"messages": HELLO, "x" * 1_000_000: 1},
        {"messages": [{"role": "x" * 1_000_000}]},
        {"messages": HELLO, "logit_bias": {"x" * 1_000_000: 1}},
        {"messages": [{"role": "user", "content": "x", "y" * 1_000_000: 1}]},
    ],
)
def test_an_error_does_not_repeat_a_million_characters(body: Any) -> None:
    error = refusal(body)
    assert len(error.message) + len(error.param or "") < 1000


MANY = 150_000


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages": [' + b",".join([b"{}"] * MANY) + b"]}",
        b'{"messages": [{"role": "user", "content": [' + b",".join([b"{}"] * MANY) + b"]}]}",
        b'{"messages": [{"role": "user", "content": "x"}], "stop": [' + b",".join([b"1"] * MANY) + b"]}",
        b'{"messages": [{"role": "user", "content": "x"}], "tools": [1' + b",{}" * MANY + b"]}",
        b"{" + b",".join(b'"k%d": 1' % number for number in range(MANY)) + b"}",
        b'{"messages": [], "logit_bias": {' + b",".join(b'"k%d": 1' % number for number in range(MANY)) + b"}}",
    ],
)
def test_a_body_full_of_errors_takes_neither_time_nor_memory(raw: bytes) -> None:
    tracemalloc.start()
    try:
        refusal(raw)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 60 * len(raw), "one error for each element would be kept as some hundred bytes each"


class Incoming:
    def __init__(self, pieces: list[bytes], headers: Mapping[str, str] | None = None) -> None:
        self.headers = headers or {}
        self.taken = 0
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.taken += len(piece)
            yield piece


async def test_a_body_that_declares_too_much_is_not_read_at_all() -> None:
    incoming = Incoming([b"x"], {"content-length": "50000000"})
    with pytest.raises(BodyTooLargeError, match="larger than 1000 bytes"):
        await read_body(incoming, InferenceRequest, max_bytes=1000, timeout_s=5)
    assert incoming.taken == 0


async def test_a_body_that_declares_nothing_is_dropped_when_it_is_over_the_limit() -> None:
    incoming = Incoming([b"x" * 600] * 100_000)
    with pytest.raises(BodyTooLargeError):
        await read_body(incoming, InferenceRequest, max_bytes=1000, timeout_s=5)
    assert incoming.taken == 1200


@pytest.mark.parametrize("given", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", ""])
async def test_json_may_be_declared_in_several_ways(given: str) -> None:
    request = await read_body(
        Incoming([b'{"text":', b' "x"}'], {"content-type": given}), InferenceRequest, max_bytes=1000, timeout_s=5
    )
    assert request.text == "x"


async def test_another_content_type_is_refused() -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="text/plain"):
        await read_body(
            Incoming([b"{}"], {"content-type": "text/plain"}), InferenceRequest, max_bytes=1000, timeout_s=5
        )


async def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    class Dripping(Incoming):
        async def stream(self) -> AsyncIterator[bytes]:
            while True:
                self.taken += 1
                yield b" "
                await asyncio.sleep(0.01)

    incoming = Dripping([])
    with pytest.raises(BodyTimeoutError, match=r"within 0\.1 seconds") as caught:
        await read_body(incoming, InferenceRequest, max_bytes=1000, timeout_s=0.1)
    assert caught.value.http_status == 408
    assert 1 < incoming.taken < 15


async def test_a_time_out_that_is_not_the_bodys_own_stays_what_it_is() -> None:
    class Broken(Incoming):
        async def stream(self) -> AsyncIterator[bytes]:
            raise TimeoutError("the network's own")
            yield b""

    with pytest.raises(TimeoutError, match="the network's own"):
        await read_body(Broken([]), InferenceRequest, max_bytes=1000, timeout_s=5)
