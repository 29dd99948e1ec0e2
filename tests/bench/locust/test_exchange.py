"""One request over a connection that blocks: the same moments and the same failures as everywhere else."""

import errno
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from qwenops.bench.definitions import e2e_s, tpot_s, ttfa_s, ttft_s
from qwenops.bench.locust.exchange import Exchange, Post, Server, StaleConnectionError
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.workload import Ask
from qwenops.generation import Message, Messages, SamplingParams

MS = 1_000_000
SERVER = Server(url="http://127.0.0.1:8000", model="qwen3:0.6b", api_key="hush")
ASK = Ask(
    item="one",
    messages=Messages(messages=(Message(role="user", content="你好"),)),
    sampling=SamplingParams(max_tokens=4, temperature=0.0),
    prompt_hash="abc",
)


@dataclass
class Told:
    """A response that gives its lines out; an exception among them is raised."""

    lines: Iterator[bytes | Exception]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> bytes:
        line = next(self.lines, b"")
        if isinstance(line, Exception):
            raise line
        return line

    def rest(self) -> bytes:
        return b"".join(line for line in self.lines if isinstance(line, bytes))


def event(**delta: object) -> list[bytes]:
    piece = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return [f"data: {json.dumps(piece)}\n".encode(), b"\n"]


END = [
    b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n',
    b"\n",
    b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}\n',
    b"\n",
    b"data: [DONE]\n",
    b"\n",
]


def ticking() -> Callable[[], int]:
    """Return a clock that is 10 ms later at each look."""
    looks = itertools.count(1)
    return lambda: next(looks) * 10 * MS


def asked(post: Post) -> RequestRecord:
    exchange = Exchange(index=7, segment="locust", phase=Phase.MEASURE, ask=ASK, user=1, scheduled_ns=5 * MS)
    exchange.run(SERVER, post, ticking())
    return exchange.record(origin_ns=0)


def answering(*lines: bytes | Exception, status: int = 200, headers: Mapping[str, str] | None = None) -> Post:
    return lambda _path, _body, _headers: Told(iter(lines), status, headers or {})


def test_moments_are_those_of_content_and_role_and_usage_are_none() -> None:
    record = asked(answering(*event(role="assistant", content=""), *event(content="一"), *event(content="二三"), *END))
    assert record.failure is None
    assert record.sent_ns == 10 * MS
    assert record.first_byte_ns == 20 * MS
    assert ttft_s(record) == pytest.approx(0.020)
    assert e2e_s(record) == pytest.approx(0.030)
    assert tpot_s(record) == pytest.approx(0.005)
    assert record.chunk_gaps_us == (10_000,)
    assert (record.prompt_tokens, record.completion_tokens, record.token_source) == (9, 3, "server")


def test_the_first_answer_comes_after_the_reasoning_of_a_field() -> None:
    record = asked(answering(*event(reasoning_content="嗯"), *event(content="好"), *END))
    assert ttft_s(record) == pytest.approx(0.020)
    assert ttfa_s(record) == pytest.approx(0.030)


def test_it_sends_what_every_other_command_sends_and_the_key_only_as_a_header() -> None:
    sent: dict[str, object] = {}

    def post(path: str, body: bytes, headers: Mapping[str, str]) -> Told:
        sent.update(path=path, body=json.loads(body), headers=headers)
        return Told(iter([*event(content="x"), *END]))

    asked(post)
    assert sent["path"] == "/v1/chat/completions"
    assert sent["body"]["stream"] is True  # type: ignore[index]  # the body is an object
    assert "hush" not in json.dumps(sent["body"])
    assert sent["headers"]["Authorization"] == "Bearer hush"  # type: ignore[index]  # the headers are a mapping


@pytest.mark.parametrize(
    ("post", "failure"),
    [
        (answering(b'{"error": {"message": "full"}}', status=429, headers={"Retry-After": "7"}), Failure.SHED),
        (answering(b"no", status=500), Failure.FAILED),
        (answering(b"what?", status=400), Failure.REJECTED),
        (answering(*event(content="x")), Failure.CUT),
        (answering(*event(content="x"), ConnectionResetError("gone")), Failure.CUT),
        (answering(b"data: {half\n", b"\n"), Failure.MALFORMED),
        (answering(*END), Failure.EMPTY),
    ],
    ids=("429", "500", "400", "ended too early", "connection broke", "half an event", "no content"),
)
def test_each_failure_has_its_class(post: Post, failure: Failure) -> None:
    assert asked(post).failure is failure


def test_a_server_that_sheds_says_when_to_come_back() -> None:
    record = asked(answering(b'{"error": {"message": "full"}}', status=429, headers={"Retry-After": "7"}))
    assert record.retry_after_s == 7.0


def test_nobody_there_is_a_failure_to_connect() -> None:
    def refuse(_path: str, _body: bytes, _headers: Mapping[str, str]) -> Told:
        raise ConnectionRefusedError("refused")

    assert asked(refuse).failure is Failure.CONNECT


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ConnectionResetError("gone"), Failure.CUT),
        (OSError(errno.EMFILE, "too many"), Failure.CLIENT),
        (OSError(errno.EHOSTUNREACH, "no way"), Failure.CONNECT),
    ],
)
def test_what_breaks_before_the_head_is_told_apart(error: OSError, failure: Failure) -> None:
    def post(_path: str, _body: bytes, _headers: Mapping[str, str]) -> Told:
        raise error

    record = asked(post)
    assert (record.failure, record.tries) == (failure, 1)


def test_a_kept_connection_that_was_closed_is_told_as_a_second_try_and_not_as_a_failure() -> None:
    tries = iter([StaleConnectionError("closed"), None, StaleConnectionError("closed"), StaleConnectionError("closed")])

    def post(_path: str, _body: bytes, _headers: Mapping[str, str]) -> Told:
        if (error := next(tries)) is not None:
            raise error
        return Told(iter([*event(content="x"), *END]))

    again, failed = asked(post), asked(post)
    assert (again.failure, again.tries) == (None, 2)
    assert (failed.failure, failed.tries) == (Failure.CUT, 2)


def test_who_is_stopped_in_the_middle_is_interrupted_and_keeps_what_came() -> None:
    class Stop(BaseException):
        """As a greenlet is ended."""

    def lines() -> Iterator[bytes | Exception]:
        yield from event(content="x")
        raise Stop

    exchange = Exchange(index=0, segment="locust", phase=Phase.MEASURE, ask=ASK, user=0, scheduled_ns=0)
    with pytest.raises(Stop):
        exchange.run(SERVER, lambda *_: Told(lines()), ticking())
    record = exchange.record(origin_ns=0)
    assert record.failure is Failure.INTERRUPTED
    assert record.num_chunks == 1
