"""Clients that misbehave and engines that fail: everybody gets a clear answer, nobody holds others up."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import openai
import psutil
import pytest
from openai import OpenAI

from qwenops.engines.fake import FakeTiming, Script
from qwenops.engines.seam import EngineState
from qwenops.errors import EngineCrashedError, EngineUnavailableError, OverloadedError
from qwenops.generation import GenerationRequest
from qwenops.serve.options import LimitOptions, ServeOptions
from tests.serve.conftest import MODEL, Served, Start, make_served

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def post(
    served: Served, path: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("POST", path, raw, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        said = {name.lower(): value for name, value in response.getheaders()}
        return response.status, json.loads(response.read()), said


@contextmanager
def connected(served: Served, body: Any, *, path: str = CHAT, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """Send a request over a plain socket and leave the answer unread."""
    raw = json.dumps(body).encode()
    with socket.socket() as link:
        link.settimeout(10)
        if receive_buffer:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        link.connect(("127.0.0.1", served.port))
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        link.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        yield link


def read_until(link: socket.socket, mark: bytes) -> bytes:
    seen = b""
    while mark not in seen:
        piece = link.recv(65536)
        assert piece, f"the connection ended before {mark!r} came: {seen!r}"
        seen += piece
    return seen


def slow(tokens_per_s: float = 100.0) -> FakeTiming:
    return FakeTiming(decode_tokens_per_s=tokens_per_s, slots=4)


def test_a_client_that_goes_away_in_mid_stream_frees_the_engine_and_its_place(start: Start) -> None:
    served = start(make_served(timing=slow()))
    with connected(served, {**HELLO, "stream": True, "max_tokens": 5000}) as link:
        read_until(link, b'"content":"')
        assert served.serving.admission.num_running == 1
    served.wait_until(lambda: served.serving.admission.num_running == 0)
    record = served.wait_for_records(1)[0]
    assert len(served.engine.cancelled) == 1
    assert record.status == "cancelled"
    assert record.error_code == "client_closed_request"
    assert record.completion_tokens > 0
    assert record.ttft_s is not None


def test_a_client_that_goes_away_before_the_first_token_frees_everything_too(start: Start) -> None:
    served = start(make_served(script=lambda _: Script(stall_after=0)))
    for stream in (True, False):
        with connected(served, {**HELLO, "stream": stream}):
            served.wait_until(lambda: served.engine.info.health.running == 1)
        served.wait_until(lambda: served.serving.admission.num_running == 0)
    assert len(served.engine.cancelled) == 2
    assert [record.status for record in served.wait_for_records(2)] == ["cancelled", "cancelled"]


def test_a_client_that_goes_away_while_it_waits_gives_its_place_up(start: Start) -> None:
    served = start(make_served(script=lambda _: Script(stall_after=0), timing=FakeTiming(slots=1)))
    with connected(served, HELLO):
        served.wait_until(lambda: served.serving.admission.num_running == 1)
        with connected(served, HELLO):
            served.wait_until(lambda: served.serving.admission.num_waiting == 1)
        served.wait_until(lambda: served.serving.admission.num_waiting == 0)
        assert served.serving.admission.num_running == 1
    served.wait_until(lambda: served.serving.admission.num_running == 0)
    assert len(served.engine.requests) == 1


def test_a_reader_that_reads_nothing_does_not_hold_others_up(start: Start) -> None:
    served = start(make_served(timing=FakeTiming(decode_tokens_per_s=2000.0, slots=4), context_tokens=100_000))
    flood = {**HELLO, "stream": True, "max_tokens": 50_000}
    with connected(served, flood, receive_buffer=4096) as stuck:
        read_until(stuck, b'"content":"')
        with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api:
            began_s = time.monotonic()
            stream = api.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True, max_tokens=100
            )
            num_chunks = sum(1 for _ in stream)
            took_s = time.monotonic() - began_s
    assert num_chunks == 102
    assert took_s < 3.0


def test_an_error_before_the_first_token_has_its_own_status_even_for_a_stream(start: Start) -> None:
    error = EngineCrashedError("The engine died.", hint="Try again.")
    served = start(make_served(script=lambda _: Script(error=error)))
    status, body, _ = post(served, CHAT, {**HELLO, "stream": True})
    assert status == 502
    assert body["error"] == {
        "message": "The engine died.",
        "type": "server_error",
        "param": None,
        "code": "engine_crashed",
        "hint": "Try again.",
    }
    assert served.wait_for_records(1)[0].http_status == 502


def test_an_error_after_the_first_token_ends_the_stream_with_a_typed_event(start: Start) -> None:
    error = EngineCrashedError("The engine died.", hint="Try again.")
    served = start(make_served(script=lambda _: Script(error=error, fail_after=3), timing=slow()))
    with connected(served, {**HELLO, "stream": True}) as link:
        seen = read_until(link, b"0\r\n\r\n")
    assert seen.count(b'"content":"') == 4, "the opening and three tokens"
    last = seen.split(b"\n\n")[-2]
    assert b"event: error\ndata: " in last
    assert b'"code":"engine_crashed"' in last
    assert b"[DONE]" not in seen
    assert b'finish_reason":"' not in seen
    record = served.wait_for_records(1)[0]
    assert (record.status, record.http_status, record.error_code) == ("error", 200, "engine_crashed")


def test_the_official_client_raises_at_an_error_in_mid_stream(start: Start) -> None:
    served = start(make_served(script=lambda _: Script(error=EngineCrashedError("The engine died."), fail_after=2)))
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as api:
        stream = api.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True, max_tokens=9
        )
        with pytest.raises(openai.APIError, match="The engine died"):
            list(stream)


def test_an_error_that_nobody_foresaw_is_told_without_its_inside(start: Start) -> None:
    def broken(_: GenerationRequest) -> Script:
        raise ZeroDivisionError("secret detail")

    served = start(make_served(script=broken))
    status, body, headers = post(served, CHAT, HELLO, {"X-Request-Id": "my-1"})
    assert status == 500
    assert body["error"]["code"] == "internal_error"
    assert "secret" not in json.dumps(body)
    assert headers["x-request-id"] == "my-1"
    assert served.wait_for_records(1)[0].error_code == "internal_error"
    assert served.serving.admission.num_running == 0


def test_one_failing_answer_of_several_ends_them_all(start: Start) -> None:
    def script(request: GenerationRequest) -> Script:
        return Script(error=EngineCrashedError("One died."), fail_after=2) if request.id.endswith("-1") else Script()

    served = start(make_served(script=script, timing=slow()))
    status, body, _ = post(served, CHAT, {**HELLO, "n": 3, "max_tokens": 1000})
    assert status == 502
    assert body["error"]["message"] == "One died."
    assert len(served.engine.cancelled) == 2
    assert served.serving.admission.num_running == 0


def test_an_engine_that_restarts_refuses_with_a_time_to_try_again(start: Start) -> None:
    served = start(make_served())
    served.engine.crash(state=EngineState.RESTARTING)
    status, body, headers = post(served, CHAT, HELLO)
    assert status == 503
    assert body["error"]["code"] == "engine_unavailable"
    assert headers["retry-after"] == "1"


def test_a_full_line_refuses_before_the_body_is_read(start: Start) -> None:
    options = ServeOptions(limits=LimitOptions(queue_requests=0))
    served = start(make_served(script=lambda _: Script(stall_after=0), timing=FakeTiming(slots=1), options=options))
    with connected(served, HELLO):
        served.wait_until(lambda: served.serving.admission.num_running == 1)
        status, body, headers = post(served, CHAT, b"{ this is not even json")
    assert status == 503
    assert body["error"]["code"] == "overloaded"
    assert int(headers["retry-after"]) >= 1


def test_an_answer_that_takes_too_long_ends_at_its_deadline(start: Start) -> None:
    served = start(make_served(timing=slow(10.0)))
    headers = {"X-Request-Deadline": "0.1"}
    status, body, _ = post(served, CHAT, {**HELLO, "max_tokens": 1000}, headers)
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    status, body, _ = post(served, CHAT, {**HELLO, "max_tokens": 1000, "n": 2}, headers)
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
    assert len(served.engine.cancelled) == 3


def test_a_drain_that_runs_out_of_time_ends_a_stream_with_a_typed_event(start: Start) -> None:
    served = start(make_served(timing=slow()))
    with connected(served, {**HELLO, "stream": True, "max_tokens": 5000}) as link:
        read_until(link, b'"content":"')
        stopping = OverloadedError("This server is stopping.", retry_after_s=1)
        served.call(lambda: served.serving.admission.interrupt_all(stopping))
        seen = read_until(link, b"0\r\n\r\n")
    assert b'"code":"overloaded"' in seen


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**HELLO, "max_tokens": 0}, "max_tokens"),
        ({**HELLO, "max_tokens": -1}, "max_tokens"),
        ({**HELLO, "stop": ["x"] * 1000}, "stop"),
        ({**HELLO, "stop": ["x"] * 17}, "stop"),
        ({**HELLO, "n": 9}, "n"),
        ({**HELLO, "temprature": 1}, "temprature"),
        ({**HELLO, "logit_bias": {"999999": 1}}, None),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, "messages"),
        ({**HELLO, "tool_choice": "required"}, "tool_choice"),
        ({**HELLO, "continue_final_message": True}, "continue_final_message"),
        ({**HELLO, "response_format": {"type": "json_object"}, "reasoning_effort": "high"}, "response_format"),
    ],
)
def test_a_request_that_cannot_be_answered_names_its_field(start: Start, body: Any, param: str | None) -> None:
    served = start(make_served())
    status, answer, _ = post(served, CHAT, {**body, "max_tokens": body.get("max_tokens", 2)})
    if param is None:
        assert status == 200
        return
    assert status == 400
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["hint"]
    assert not served.engine.requests
    record = served.wait_for_records(1)[0]
    assert (record.status, record.http_status) == ("error", 400)
    assert record.endpoint == CHAT


def test_a_prompt_over_the_limit_says_both_numbers(start: Start) -> None:
    served = start(make_served(context_tokens=100))
    status, answer, _ = post(served, "/v1/completions", {"prompt": "x" * 100})
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "100 tokens; at most 99" in answer["error"]["message"]


def test_an_answer_is_cut_to_the_room_behind_the_prompt(start: Start) -> None:
    served = start(make_served(context_tokens=100))
    status, answer, _ = post(served, "/v1/completions", {"prompt": "x" * 90, "max_tokens": 10**9})
    assert status == 200
    assert answer["usage"]["completion_tokens"] == 10
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_token_outside_the_vocabulary_is_refused(start: Start) -> None:
    served = start(make_served())
    served.serving.model().tokenizer.vocab_size = 1000  # type: ignore[misc]  # the fake one lets itself be set
    status, answer, _ = post(served, "/v1/completions", {"prompt": [5, 1000]})
    assert (status, answer["error"]["param"]) == (400, "prompt")
    status, answer, _ = post(served, CHAT, {**HELLO, "logit_bias": {"1000": 1}})
    assert (status, answer["error"]["param"]) == (400, "logit_bias")


def test_echo_and_log_probabilities_exclude_each_other(start: Start) -> None:
    served = start(make_served())
    status, answer, _ = post(served, "/v1/completions", {"prompt": "x", "echo": True, "logprobs": 1})
    assert (status, answer["error"]["param"]) == (400, "echo")


@pytest.mark.parametrize("chunked", [False, True])
def test_fifty_megabytes_are_refused_without_being_kept(start: Start, *, chunked: bool) -> None:
    served = start(make_served())
    size = 50 * 1024**2
    before = psutil.Process().memory_info().rss
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as link:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        link.sendall(f"{head}{'Transfer-Encoding: chunked' if chunked else f'Content-Length: {size}'}\r\n\r\n".encode())
        piece = b"x" * 65536
        for _ in range(size // len(piece)):
            link.sendall(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
        if chunked:
            link.sendall(b"0\r\n\r\n")
        seen = read_until(link, b'"hint"')
    assert seen.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in seen
    assert psutil.Process().memory_info().rss - before < 20 * 1024**2
    assert served.wait_for_records(1)[0].http_status == 413


def test_a_body_that_stops_in_the_middle_ends_with_the_connection(start: Start) -> None:
    served = start(make_served())
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as link:
        link.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert served.wait_for_records(1)[0].status == "cancelled"


def test_silence_before_the_first_token_is_bridged_with_comments(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenops.serve.answering.KEEP_ALIVE_S", 0.05)
    served = start(make_served(script=lambda _: Script(stall_after=0)))
    with connected(served, {**HELLO, "stream": True}) as link:
        seen = read_until(link, b": waiting\n\n")
    assert seen.startswith(b"HTTP/1.1 200 ")


def test_a_reader_that_takes_nothing_for_too_long_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenops.serve.answering.STALLED_S", 0.1)
    served = start(make_served(context_tokens=200_000))
    flood = {**HELLO, "stream": True, "max_tokens": 150_000, "top_logprobs": 20}
    with connected(served, flood, receive_buffer=4096) as link:
        read_until(link, b"HTTP/1.1 200")
        record = served.wait_for_records(1, timeout_s=30.0)[0]
    assert record.status == "cancelled"
    served.wait_until(lambda: served.serving.admission.num_running == 0)


def test_a_model_that_is_being_loaded_is_said_to_be(start: Start) -> None:
    served = make_served()

    def loading() -> Any:
        raise EngineUnavailableError("The model is being loaded.", hint="Ask /startupz.", retry_after_s=7.2)

    object.__setattr__(served.serving, "model", loading)
    start(served)
    status, body, headers = post(served, CHAT, HELLO)
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "engine_unavailable", "8")


def test_a_body_that_stops_arriving_ends_with_408_and_its_connection_is_closed(start: Start) -> None:
    served = start(make_served(options=ServeOptions(limits=LimitOptions(body_timeout_s=0.2))))
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as link:
        link.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{{".encode())
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["error"]["code"] == "body_timeout"
    assert served.wait_for_records(1)[0].http_status == 408


def test_a_request_for_three_answers_takes_three_places(start: Start) -> None:
    served = start(make_served(script=lambda _: Script(stall_after=0), timing=FakeTiming(slots=4)))
    admission = served.serving.admission
    with connected(served, {**HELLO, "n": 3}):
        served.wait_until(lambda: admission.line.running_places == 3)
        with connected(served, {**HELLO, "n": 2}):
            served.wait_until(lambda: admission.num_waiting == 1)
            assert len(served.engine.requests) == 3
    served.wait_until(lambda: admission.num_open == 0)
