"""What all routes share: ids, keys, languages, the shape of errors, one record for each request."""

import asyncio
import http.client
import json
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from qwenops.engines.fake import FakeEngine, FakeTiming, ManualClock, Script
from qwenops.engines.seam import EngineInfo
from qwenops.generation import GenerationRequest
from qwenops.observe.options import LogOptions
from qwenops.serve.answering import prefers_chinese
from qwenops.serve.app import create_app
from qwenops.serve.auth import KeyRing, auth_class_of, open_keyring
from qwenops.serve.options import KeyOptions, ServeOptions
from qwenops.serve.replies import ErrorReply
from qwenops.state.keys import ApiKey, KeyLimits, digest, new_secret
from qwenops.text import translator
from tests.serve.conftest import MODEL, Served, Start, make_served, scripted
from tests.serve.test_faults import CHAT, HELLO, post

SECRET = "qo-0123456789abcdef0123456789abcdef"


def ring(*, models: tuple[str, ...] = ()) -> KeyRing:
    key = ApiKey(
        id="k1",
        name="branch",
        sha256=digest(SECRET),
        limits=KeyLimits(models=models),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    keys = KeyRing([lambda: [key]])
    keys.refresh()
    return keys


def get(served: Served, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)) as connection:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_the_id_of_a_request_comes_back_and_stands_in_its_record(server: Served) -> None:
    _, _, given = post(server, CHAT, {**HELLO, "max_tokens": 1}, {"X-Request-Id": "call-17"})
    _, _, made = post(server, CHAT, {**HELLO, "max_tokens": 1})
    _, _, refused = post(server, CHAT, {**HELLO, "max_tokens": 1}, {"X-Request-Id": "no spaces, please"})
    assert given["x-request-id"] == "call-17"
    assert re.fullmatch(r"[0-9a-f]{32}", made["x-request-id"])
    assert re.fullmatch(r"[0-9a-f]{32}", refused["x-request-id"])
    assert [record.request_id for record in server.records] == [
        "call-17",
        made["x-request-id"],
        refused["x-request-id"],
    ]


def test_two_requests_with_the_same_id_do_not_meet_in_the_engine(server: Served) -> None:
    for _ in range(2):
        post(server, CHAT, {**HELLO, "max_tokens": 1}, {"X-Request-Id": "same"})
    ids = {request.id for request in server.engine.requests}
    assert len(ids) == 2
    assert all(each.startswith("same-") for each in ids)  # by which the engine's log names it


def test_the_context_of_a_trace_travels_to_the_engine(server: Served) -> None:
    post(server, CHAT, {**HELLO, "max_tokens": 1}, {"traceparent": "00-a-b-01"})
    assert server.engine.requests[0].trace == {"traceparent": "00-a-b-01"}


def test_one_record_tells_how_a_request_went(start: Start) -> None:
    served = start(make_served(script=scripted("It rains."), keys=ring()))
    post(served, CHAT, {**HELLO, "model": MODEL}, {"Authorization": f"Bearer {SECRET}"})
    record = served.wait_for_records(1)[0]
    assert (record.status, record.http_status, record.error) == ("success", 200, None)
    assert (record.endpoint, record.model, record.served_model) == (CHAT, MODEL, MODEL)
    assert (record.prompt_length, record.response_length) == (len("hello"), len("It rains."))
    assert record.prompt_tokens == len("<user>hello<assistant><think></think>")
    assert record.completion_tokens == 2
    assert record.key_name == "branch"
    assert record.finish_reason == "stop"
    assert record.ttft_s is not None
    assert 0 < record.ttft_s < record.duration_s
    assert record.prompt is None
    assert record.response is None


def test_prompts_and_answers_are_recorded_only_where_the_options_say_so(start: Start) -> None:
    options = ServeOptions(log=LogOptions(prompts=True))
    served = start(make_served(script=scripted("It rains."), options=options))
    post(served, CHAT, HELLO)
    record = served.wait_for_records(1)[0]
    assert record.prompt is not None
    assert "hello" in record.prompt
    assert record.response == "It rains."


async def test_the_times_of_a_record_are_those_of_the_clock_that_was_passed_in() -> None:
    clock = ManualClock()
    served = make_served()
    timing = FakeTiming(prefill_tokens_per_s=10.0, decode_tokens_per_s=4.0)
    engine = FakeEngine(
        model=MODEL,
        timing=timing,
        clock=clock,
        sleep=clock.sleep,
        script=lambda _: Script(pieces=("", "a", "b", "c")),
    )
    serving = replace_engine(served, engine, clock)
    app = create_app(serving)
    body = json.dumps({"prompt": "x" * 20}).encode()
    sent: list[Any] = []
    await clock.run(app(scope_of("/v1/completions", body), receive_of(body), collect(sent)))
    record = served.records[0]
    assert record.ttft_s == pytest.approx(20 / 10 + 1 / 4), "the first token is half a character: no text yet"
    assert record.duration_s == pytest.approx(20 / 10 + 4 / 4)
    assert record.last_s == pytest.approx(20 / 10 + 3 / 4), "the end of the text comes as a chunk of its own"
    assert record.tpot_s == pytest.approx((3 - 1) / 4 / (4 - 1))
    assert json.loads(sent[1]["body"])["choices"][0]["text"] == "abc"


def replace_engine(served: Served, engine: FakeEngine, clock: ManualClock) -> Any:
    model = replace(served.serving.model(), engine=engine)
    return replace(served.serving, model=lambda: model, clock=clock)


def scope_of(path: str, body: bytes) -> dict[str, Any]:
    headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


def receive_of(body: bytes) -> Any:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if waiting:
            return waiting.pop()
        return await asyncio.Event().wait()

    return receive


def collect(sent: list[Any]) -> Any:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


def test_without_a_key_nothing_is_read_where_keys_are_needed(start: Start) -> None:
    served = start(make_served(keys=ring()))
    status, answer, headers = post(served, CHAT, b"not json")
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert answer["error"]["type"] == "authentication_error"
    assert headers["www-authenticate"] == "Bearer"
    assert served.wait_for_records(1)[0].http_status == 401


def test_a_key_opens_only_the_models_on_its_list_and_has_its_own_prefix_cache(start: Start) -> None:
    served = start(make_served(keys=ring(models=("other",))))
    bearer = {"Authorization": f"Bearer {SECRET}"}
    status, answer, _ = post(served, CHAT, HELLO, bearer)
    assert (status, answer["error"]["type"]) == (403, "permission_error")
    served = start(make_served(keys=ring(models=(MODEL,))))
    assert post(served, CHAT, {**HELLO, "max_tokens": 1}, bearer)[0] == 200
    assert served.engine.requests[0].namespace == "k1"


def test_a_key_that_was_made_a_moment_ago_opens_at_once(start: Start, tmp_path: Path) -> None:
    file, fresh = tmp_path / "keys", new_secret()
    file.write_text(f"old {SECRET}\n")
    served = start(make_served(keys=open_keyring(KeyOptions(file=file), environ={})))
    bearer, body = {"Authorization": f"Bearer {fresh}"}, {**HELLO, "max_tokens": 1}
    assert post(served, CHAT, body, bearer)[0] == 401
    file.write_text(f"old {SECRET}\nnew {fresh}\n")
    assert post(served, CHAT, body, bearer)[0] == 200


def page(served: Served, headers: dict[str, str]) -> tuple[int, str, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)) as connection:
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read().decode()


def test_a_browser_finds_a_page_that_says_what_is_where_in_its_language(start: Start) -> None:
    served = start(make_served(keys=ring(), translate=lambda _, template: translator("zh")(template)))
    status, kind, english = page(served, {})
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    assert english.startswith(f"qwenops {version('qwenops')}\n")
    for path in ("/v1", "/openapi.json", "/readyz", "/docs"):
        assert path in english
    _, _, chinese = page(served, {"Accept-Language": "zh-CN,zh;q=0.9"})
    assert chinese != english
    assert len(re.findall(r"^/.*[一-鿿]", chinese, re.MULTILINE)) == len(re.findall(r"^/", english, re.MULTILINE)) == 3


def test_every_route_names_the_class_of_its_callers() -> None:
    app = create_app(make_served().serving)
    routes = list(iter_route_contexts(app.routes))
    assert len(routes) >= 7
    assert [route for route in routes if auth_class_of(route) is None] == []


@pytest.mark.parametrize(
    ("accepted", "chinese"),
    [
        ("", False),
        ("en", False),
        ("zh-CN,zh;q=0.9,en;q=0.8", True),
        ("en-GB,zh;q=0.5", False),
        ("fr, zh;q=0.3, en;q=0.2", True),
        ("zh;q=nonsense", False),
        ("*", False),
    ],
)
def test_chinese_is_spoken_to_those_who_prefer_it_to_english(accepted: str, *, chinese: bool) -> None:
    assert prefers_chinese(accepted) is chinese


CATALOGUE = {
    "The field {param} is not known.": "没有字段 {param}。",
    "Did you mean {near!r}?": "是否想写 {near!r}？",
}


def test_errors_are_told_in_chinese_with_the_same_code(start: Start) -> None:
    def translate(language: str, template: str) -> str:
        assert language == "zh"
        return CATALOGUE.get(template, template)

    served = start(make_served(translate=translate))
    body = {**HELLO, "temprature": 1}
    _, chinese, headers = post(served, CHAT, body, {"Accept-Language": "zh-CN"})
    _, english, _ = post(served, CHAT, body)
    assert chinese["error"]["message"] == "没有字段 temprature。"
    assert chinese["error"]["hint"] == "是否想写 'temperature'？"
    assert headers["content-language"] == "zh"
    assert chinese["error"]["code"] == english["error"]["code"] == "invalid_request"
    assert served.wait_for_records(2)[0].error == "The field temprature is not known."


def test_the_catalogue_that_is_shipped_speaks_chinese_to_the_last_word(start: Start) -> None:
    served = start(make_served(translate=lambda _, template: translator("zh")(template)))
    _, answer, _ = post(served, CHAT, {**HELLO, "stop": 5}, {"Accept-Language": "zh"})
    assert answer["error"]["param"] == "stop"
    words = re.sub(r"/openapi\.json|stop", "", answer["error"]["message"] + answer["error"]["hint"])
    assert not re.search(r"[A-Za-z]", words)
    assert re.search(r"[一-鿿]", words)


def test_what_is_not_there_is_said_in_the_shape_of_all_errors(server: Served) -> None:
    for path, expected in (("/nothing", 404), (CHAT, 405), ("/docs", 404)):
        status, answer = get(server, path)
        assert status == expected
        ErrorReply.model_validate(answer)
        assert answer["error"]["hint"]


def test_a_header_that_is_not_understood_is_refused_with_its_name(server: Served) -> None:
    _, answer, _ = post(server, CHAT, HELLO, {"X-Priority": "urgent"})
    assert answer["error"]["param"] == "X-Priority"
    status, answer, _ = post(server, CHAT, HELLO, {"X-Request-Deadline": "soon"})
    assert (status, answer["error"]["param"]) == (400, "X-Request-Deadline")


def test_the_description_names_every_status_and_loads_nothing_from_elsewhere(server: Served) -> None:
    status, document = get(server, "/openapi.json")
    assert status == 200
    assert document["openapi"].startswith("3.1")
    chat = document["paths"][CHAT]["post"]
    assert set(chat["responses"]) == {
        "200", "400", "401", "403", "404", "405", "408", "413", "415", "429", "500", "502", "503", "504"
    }  # fmt: skip
    assert "405" in document["paths"]["/v1/models"]["get"]["responses"]
    assert document["components"]["schemas"]["ChatRequest"]["examples"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def test_the_description_asks_for_a_key_where_one_is_needed(start: Start) -> None:
    opened = get(start(make_served()), "/openapi.json")[1]
    guarded = get(start(make_served(keys=ring())), "/openapi.json")[1]
    assert "security" not in opened["paths"][CHAT]["post"]
    assert guarded["paths"][CHAT]["post"]["security"] == [{"key": []}]
    assert guarded["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_a_failing_script_still_leaves_one_record(start: Start) -> None:
    def broken(_: GenerationRequest) -> Script:
        raise KeyError

    served = start(make_served(script=broken))
    assert post(served, CHAT, {**HELLO, "stream": True})[0] == 500
    assert len(served.wait_for_records(1)) == 1


class Fallback(FakeEngine):
    """A fake that stands in for another model."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, fallback_for="qwen3:1.7b")


def test_a_fallback_answers_for_the_configured_model_and_says_so(start: Start) -> None:
    served = make_served()
    fallback = replace(served.serving.model(), engine=Fallback(model=MODEL))
    object.__setattr__(served.serving, "model", lambda: fallback)
    start(served)
    for path, body in ((CHAT, HELLO), ("/v1/completions", {"prompt": "x"}), ("/api/v1/inference", {"text": "x"})):
        status, answer, _ = post(served, path, {**body, "max_tokens": 1, "model": "qwen3:1.7b"})
        assert status == 200
        assert answer["model"] == answer["served_model"] == MODEL
    assert get(served, "/v1/models")[1]["data"][0]["fallback_for"] == "qwen3:1.7b"
    assert get(served, "/v1/models/qwen3:1.7b")[1]["id"] == MODEL
    assert get(served, "/v1/models/qwen3:4b")[0] == 404
    assert [record.model for record in served.records] == ["qwen3:1.7b"] * 3
    assert {record.served_model for record in served.records} == {MODEL}


@pytest.mark.parametrize(("models", "status"), [(("qwen3:1.7b",), 200), ((MODEL,), 200), (("other",), 403)])
def test_a_key_for_the_configured_model_opens_what_stands_in_for_it(
    start: Start, models: tuple[str, ...], status: int
) -> None:
    served = make_served(keys=ring(models=models))
    fallback = replace(served.serving.model(), engine=Fallback(model=MODEL))
    object.__setattr__(served.serving, "model", lambda: fallback)
    start(served)
    bearer = {"Authorization": f"Bearer {SECRET}"}
    listed = get(served, "/v1/models", bearer)[1]["data"]
    assert [each["id"] for each in listed] == ([MODEL] if status == 200 else [])
    assert post(served, CHAT, {**HELLO, "max_tokens": 1}, bearer)[0] == status
    for name in models:
        expected = {200: 200, 403: 404}[status]
        assert get(served, f"/v1/models/{name}", bearer)[0] == expected


def test_a_model_is_also_known_by_what_the_command_line_called_it_and_recorded_under_its_name(start: Start) -> None:
    served = make_served()
    model = replace(served.serving.model(), aliases={"/srv/models/mine": MODEL})
    object.__setattr__(served.serving, "model", lambda: model)
    start(served)
    status, answer, _ = post(served, CHAT, {**HELLO, "max_tokens": 1, "model": "/srv/models/mine"})
    assert (status, answer["model"]) == (200, MODEL)
    assert get(served, "/v1/models//srv/models/mine")[1]["id"] == MODEL
    assert served.wait_for_records(1)[0].model == MODEL


@pytest.mark.slow
def test_the_api_process_is_small_and_loads_no_engine() -> None:
    code = (
        "import sys, qwenops.serve.run;"
        "print(any(name in sys.modules for name in ('openvino', 'numpy', 'torch', 'transformers', 'llguidance')));"
        "print(int(open('/proc/self/statm').read().split()[1]) * 4096)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy, resident_bytes = done.stdout.split()
    assert heavy == "False"
    assert int(resident_bytes) < 100 * 1024**2, "the tokenizer needs about 50 MiB of the 150 that are allowed"
