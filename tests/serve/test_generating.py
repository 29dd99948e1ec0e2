import threading
from dataclasses import replace
from typing import Any

import pytest

from qwenops.engines.fake import FakeEngine
from qwenops.engines.seam import EngineInfo
from qwenops.errors import InvalidRequestError, PromptTooLongError
from qwenops.generation import JsonObject, Message, Messages, ToolCall
from qwenops.serve.exchange import Exchange
from qwenops.serve.generating import conditions_of, fit, request_id_of, sampling_of, tokens_of, trace_of
from qwenops.serve.line import Priority
from qwenops.serve.options import LimitOptions, SamplingDefaults, ServeOptions
from qwenops.serve.schemas import InferenceRequest
from tests.serve.conftest import MODEL, CharacterTokenizer, Start, make_served
from tests.serve.test_faults import CHAT, HELLO, post

INFO = EngineInfo(engine="fake", model="m", accepts="tokens", context_tokens=100)


@pytest.mark.parametrize(
    ("prompt", "wanted", "info", "limits", "expected"),
    [
        (10, 20, {}, {}, 20),
        (10, 500, {}, {}, 90),
        (99, 5, {}, {}, 1),
        (10, 500, {"kv_capacity_tokens": 64}, {}, 54),
        (10, 500, {"kv_capacity_tokens": 640}, {}, 90),
        (10, 500, {}, {"max_output_tokens": 30}, 30),
        (10, 5, {}, {"max_output_tokens": 30}, 5),
        (50, 5, {}, {"max_prompt_tokens": 50}, 5),
    ],
)
def test_an_answer_gets_the_room_that_there_is(
    prompt: int, wanted: int, info: dict[str, Any], limits: dict[str, Any], expected: int
) -> None:
    given = replace(INFO, **info)
    assert fit(given, LimitOptions(**limits), prompt_tokens=prompt, wanted_tokens=wanted, param="text") == expected


@pytest.mark.parametrize(
    ("prompt", "info", "limits", "remedy"),
    [
        (100, {}, {}, "--context-tokens"),
        (100, {"kv_capacity_tokens": 640}, {}, "--context-tokens"),
        (64, {"kv_capacity_tokens": 64}, {}, "--kv-cache"),
        (100, {"kv_capacity_tokens": 100}, {}, "--kv-cache"),
        (51, {}, {"max_prompt_tokens": 50}, "--max-prompt-tokens"),
        (51, {"model_context_tokens": 100}, {"max_prompt_tokens": 50}, "--max-prompt-tokens"),
        (100, {"model_context_tokens": 40_960}, {}, "--context-tokens"),
        (100, {"model_context_tokens": 100}, {}, "no option"),
        (100, {"model_context_tokens": 100, "kv_capacity_tokens": 100}, {}, "no option"),
        (64, {"model_context_tokens": 100, "kv_capacity_tokens": 64}, {}, "--kv-cache"),
    ],
)
def test_a_prompt_that_leaves_no_room_is_refused_with_the_limit_to_raise(
    prompt: int, info: dict[str, Any], limits: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(PromptTooLongError, match=f"{prompt} tokens; at most {prompt - 1} ") as caught:
        fit(replace(INFO, **info), LimitOptions(**limits), prompt_tokens=prompt, wanted_tokens=1, param="messages")
    assert remedy in caught.value.hint
    assert caught.value.param == "messages"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="empty") as caught:
        fit(INFO, LimitOptions(), prompt_tokens=0, wanted_tokens=1, param="prompt")
    assert caught.value.param == "prompt"


def test_what_a_request_leaves_out_is_taken_from_the_options() -> None:
    defaults = SamplingDefaults(max_tokens=77, temperature=0.1, top_p=0.2, top_k=3, min_p=0.4, repetition_penalty=1.5)
    sampling = sampling_of(InferenceRequest(text="x"), defaults, LimitOptions(), JsonObject())
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (77, 0.1, 0.2, 3)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.4, 1.5)
    assert sampling.structure == JsonObject()
    assert sampling.seed is None
    greedy = sampling_of(InferenceRequest(text="x", temperature=0, top_k=0), defaults, LimitOptions())
    assert (greedy.temperature, greedy.top_k) == (0, 0)


def exchange(**limits: Any) -> Exchange:
    served = make_served(options=ServeOptions(limits=LimitOptions(**limits)))
    return Exchange(served.serving, request_id="r", endpoint=CHAT)


def test_the_nearer_of_two_deadlines_counts() -> None:
    assert conditions_of({}, exchange()).deadline_s is None
    own = conditions_of({"x-request-deadline": "30"}, exchange(max_request_s=100.0)).deadline_s
    ours = conditions_of({"x-request-deadline": "300s"}, exchange(max_request_s=100.0)).deadline_s
    assert own == pytest.approx(30, abs=0.1)
    assert ours == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("text", ["0", "0.0s", "-5", "", "soon", "inf", "nan", "1e5", "1_000", " 5", "+0"])
def test_a_deadline_that_nobody_means_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        conditions_of({"x-request-deadline": text}, exchange())
    assert caught.value.param == "X-Request-Deadline"


def test_priorities_are_read_in_any_case() -> None:
    assert conditions_of({"x-priority": "Batch"}, exchange()).priority is Priority.BATCH
    assert conditions_of({}, exchange()).priority is Priority.INTERACTIVE
    with pytest.raises(InvalidRequestError):
        conditions_of({"x-priority": "urgent"}, exchange())


@pytest.mark.parametrize("given", ["", "a b", "ü", "x" * 129, "a\nb"])
def test_an_id_that_could_do_harm_is_replaced(given: str) -> None:
    assert request_id_of({"x-request-id": given}, lambda: "new") == "new"


def test_only_the_headers_of_a_trace_travel_on() -> None:
    assert trace_of({"traceparent": "00-1", "authorization": "secret"}) == {"traceparent": "00-1"}


class Plain(FakeEngine):
    """An engine that takes conversations and has nothing extra, as a remote server may be."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, accepts="messages", structure=False, logprobs=False)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {**HELLO, "response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {**HELLO, "logprobs": True}, "logprobs"),
        ("/v1/completions", {"prompt": "x"}, None),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_it_is_asked(
    start: Start, path: str, body: Any, param: str | None
) -> None:
    served = make_served()
    plain = Plain(model=MODEL)
    model = replace(served.serving.model(), engine=plain)
    object.__setattr__(served.serving, "model", lambda: model)
    start(served)
    status, answer, _ = post(served, path, body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert not plain.requests


def test_an_engine_that_takes_conversations_gets_them_as_they_are(start: Start) -> None:
    served = make_served()
    plain = Plain(model=MODEL)
    model = replace(served.serving.model(), engine=plain)
    object.__setattr__(served.serving, "model", lambda: model)
    start(served)
    for path, body in ((CHAT, HELLO), ("/api/v1/inference", {"text": "hello"})):
        status, answer, _ = post(served, path, {**body, "max_tokens": 1})
        assert status == 200, answer
    for request in plain.requests:
        assert isinstance(request.prompt, Messages)
        assert request.prompt.messages[0].content == "hello"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x" * 200}]}, "messages"),
        ("/v1/completions", {"prompt": "x" * 200}, "prompt"),
        ("/api/v1/inference", {"text": "x" * 200}, "text"),
    ],
)
def test_a_prompt_that_is_too_long_is_blamed_on_the_field_it_came_in(
    start: Start, path: str, body: Any, param: str
) -> None:
    status, answer, _ = post(start(make_served(context_tokens=100)), path, body)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert answer["error"]["param"] == param


CALLED = Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="f", arguments="x" * 30_000),))


@pytest.mark.parametrize(
    ("prompt", "aside"),
    [
        ("x" * 30_000, True),
        ("x" * 300, False),
        (Messages(messages=(Message(role="user", content="hello"),)), False),
        (Messages(messages=(Message(role="user", content="x" * 30_000),)), True),
        (Messages(messages=(CALLED,)), True),
        (Messages(messages=(Message(role="user", content="hello"),), tools=({"a": [{"b": "x" * 30_000}]},)), True),
        (Messages(messages=(Message(role="user", content="hello"),), tools=({"a": {"x" * 30_000: 1}},)), True),
        (Messages(messages=(Message(role="user", content="hello"),), tools=({"a": [[1] * 99] * 300},)), True),
        (Messages(messages=(Message(role="user", content="hello"),), tools=({"a": [[1] * 99]},)), False),
    ],
)
async def test_what_is_long_is_rendered_in_a_thread_tools_and_calls_counted(
    prompt: Messages | str, *, aside: bool
) -> None:
    threads: list[int] = []

    class Watched(CharacterTokenizer):
        def encode(self, text: str) -> list[int]:
            threads.append(threading.get_ident())
            return super().encode(text)

    served = replace(make_served().serving.model(), tokenizer=Watched())
    await tokens_of(served, prompt)
    assert (threads[0] != threading.get_ident()) is aside
