import http.client
import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from qwenops.engines.fake import FakeEngine
from qwenops.engines.seam import EngineHealth, EngineInfo
from qwenops.generation import Tokens
from qwenops.serve.replies import InferenceReply, ModelInfoReply
from qwenops.text import say
from tests.serve.conftest import MODEL, Served, Start, make_served, scripted
from tests.serve.test_faults import post

INFERENCE = "/api/v1/inference"


@pytest.mark.proves("B1")
def test_only_text_is_needed_and_the_users_three_fields_come_back(start: Start) -> None:
    served = start(make_served(script=scripted("It rains.")))
    status, answer, _ = post(served, INFERENCE, {"text": "天气怎么样？"})
    assert status == 200
    InferenceReply.model_validate(answer)
    assert answer["result"] == "It rains."
    assert answer["tokens_used"] == answer["prompt_tokens"] + answer["completion_tokens"]
    assert answer["completion_tokens"] == 2
    assert 0 < answer["response_time"] < 5
    assert answer["model"] == MODEL
    assert answer["finish_reason"] == "stop"


def test_the_text_is_one_turn_of_a_person_and_thinking_is_off(server: Served) -> None:
    post(server, INFERENCE, {"text": "hi", "max_tokens": 1})
    post(server, INFERENCE, {"text": "hi", "system": "Be brief.", "enable_thinking": True, "max_tokens": 1})
    plain, thinking = (
        server.serving.model().tokenizer.decode(request.prompt.ids)
        for request in server.engine.requests
        if isinstance(request.prompt, Tokens)
    )
    assert plain == "<user>hi<assistant><think></think>"
    assert thinking == "<system>Be brief.<user>hi<assistant>"


def test_thoughts_are_kept_apart_from_the_result(start: Start) -> None:
    served = start(make_served(script=scripted("<think>\nhm\n</think>\n\nYes.")))
    _, answer, _ = post(served, INFERENCE, {"text": "x", "enable_thinking": True})
    assert (answer["result"], answer["reasoning"]) == ("Yes.", "hm")


def test_sampling_options_reach_the_engine(server: Served) -> None:
    body = {"text": "x", "max_tokens": 3, "temperature": 0, "top_p": 0.5, "top_k": 7, "seed": 9, "stop": "Z"}
    post(server, INFERENCE, body)
    sampling = server.engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (3, 0.0, 0.5, 7)
    assert (sampling.seed, sampling.stop) == (9, ("Z",))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": 5}, "text"),
        ({"text": "x", "max_tokens": 0}, "max_tokens"),
        ({"text": "x", "temperature": -1}, "temperature"),
        ({"text": "x", "max_token": 5}, "max_token"),
        ({"text": "x", "stream": True}, "stream"),
    ],
)
def test_a_wrong_body_names_the_field(server: Served, body: Any, param: str) -> None:
    status, answer, _ = post(server, INFERENCE, body)
    assert status == 400
    assert answer["error"]["param"] == param
    assert not server.engine.requests


def test_another_model_is_refused_with_the_one_that_is_served(server: Served) -> None:
    status, answer, _ = post(server, INFERENCE, {"text": "x", "model": "qwen3:70b"})
    assert status == 404
    assert MODEL in answer["error"]["hint"]
    assert server.wait_for_records(1)[0].served_model == MODEL


def model_info(server: Served, **headers: str) -> dict[str, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        connection.request("GET", "/api/v1/model", headers=headers)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    ModelInfoReply.model_validate(answer)
    return answer


def test_the_model_says_what_it_is(server: Served) -> None:
    server.engine.health = EngineHealth(memory_bytes=123)
    answer = model_info(server)
    assert answer["name"] == MODEL
    assert answer["memory_bytes"] == 123
    assert answer["kv_cache_bytes"] == server.engine.info.kv_cache_bytes
    assert answer["config_generation"] == 1
    assert answer["revision"] == ""
    assert answer["notes"] == {}
    assert answer["state"] == "ready"


class Noted(FakeEngine):
    """An engine that decided something."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, notes={"threads": say("The options say so.")})


def test_the_model_says_its_revision_and_what_was_decided_with_the_reasons_in_the_callers_language(
    start: Start,
) -> None:
    served = make_served(translate=lambda language, template: f"{language}: {template}")
    revisions = {MODEL: "abc123", "another": "def"}
    model = replace(served.serving.model(), engine=Noted(model=MODEL), revisions=revisions)
    object.__setattr__(served.serving, "model", lambda: model)
    start(served)
    answer = model_info(served)
    assert answer["revision"] == "abc123"
    assert answer["notes"] == {"threads": "The options say so."}
    assert model_info(served, **{"Accept-Language": "zh-CN"})["notes"] == {"threads": "zh: The options say so."}
