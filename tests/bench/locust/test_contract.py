"""Both readers of OpenAI's API over the same answers of a real socket: the engine's and Locust's must say the same."""

import asyncio
import http.client
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from qwenops.bench.clock import RealClock
from qwenops.bench.locust.exchange import Exchange, Response, Server
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.send import Line
from qwenops.bench.target import Target
from qwenops.bench.workload import Ask
from qwenops.generation import Message, Messages, SamplingParams
from tests.engines.openai_facing import FINE, MODELS, opened
from tests.engines.scripted import Reply, delta, events, refusing, scripted, usage

QUESTION = "Where is the parcel that I sent to my sister?"
ASK = Ask(
    item="one",
    messages=Messages(messages=(Message(role="user", content=QUESTION),)),
    sampling=SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True),
    prompt_hash="abc",
)
THINKING = replace(ASK, messages=replace(ASK.messages, enable_thinking=True))
CALL = {"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"n": 1}'}}
WHOLE = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


def good(*pieces: Any) -> Reply:
    return Reply(pieces=events(*pieces, "[DONE]"))


def strict(*names: str) -> Callable[[dict[str, Any]], Reply]:
    """Refuse what is unknown, one after the other."""

    def answer(body: dict[str, Any]) -> Reply:
        unknown = [name for name in names if name in body]
        said = {"error": {"message": f"Unknown parameter: '{unknown[0]}'.", "param": unknown[0]}} if unknown else {}
        return refusing(400, said) if unknown else Reply(pieces=FINE)

    return answer


CORPUS: dict[str, Callable[[dict[str, Any]], Reply]] = {
    "plain": lambda _: Reply(pieces=FINE),
    "cached": lambda _: good(
        delta(content="a"), delta(reason="length"), usage(9, 4, prompt_tokens_details={"cached_tokens": 0})
    ),
    "no usage": lambda _: good(delta(content="a"), delta(content="b"), delta(reason="stop")),
    "a thought that is left open": lambda _: good(delta(reasoning_content="so"), delta(reason="stop"), usage(3, 1)),
    "a thought and an answer": lambda _: good(
        delta(reasoning_content="\n\n"), delta(reasoning_content="so"), delta(content="Hi", reason="stop"), usage(3, 2)
    ),
    "a call": lambda _: good(delta(tool_calls=[CALL]), delta(reason="tool_calls"), usage(3, 5)),
    "no stream": lambda _: Reply(pieces=[json.dumps(WHOLE).encode()], content_type="application/json"),
    "a page": lambda _: Reply(pieces=[b"<html>"], content_type="text/html"),
    "empty": lambda _: good(delta(reason="stop"), usage(3, 0)),
    "ends too early": lambda _: Reply(pieces=events(delta(content="a"))),
    "broken off": lambda _: Reply(pieces=events(delta(content="a"), delta(content="b")), cut=True),
    "half a piece": lambda _: Reply(pieces=[b'data: {"choices": [\n\n']),
    "half a piece at the end": lambda _: Reply(pieces=[*events(delta(content="a", reason="stop")), b'data: {"cho']),
    "failed in the middle": lambda _: good(delta(content="a"), {"error": {"message": "Out of memory", "code": 500}}),
    "busy": lambda _: refusing(429, {"error": {"message": "busy"}}, **{"Retry-After": "7"}),
    "another busy": lambda _: refusing(503, {"error": "full"}),
    "500": lambda _: refusing(500, {"error": "no"}),
    "a refusal that repeats the prompt": lambda body: refusing(
        400, {"error": {"message": f"Cannot read {body['messages'][0]['content']!r}."}}
    ),
    "unknown fields": strict("ignore_eos", "chat_template_kwargs"),
}


@dataclass
class Blocking:
    """A response of `http.client`."""

    response: http.client.HTTPResponse
    status: int
    headers: Mapping[str, str]

    def line(self) -> bytes:
        try:
            return self.response.readline()
        except http.client.HTTPException as error:
            raise ConnectionResetError(str(error)) from error

    def rest(self) -> bytes:
        return self.response.read()


def by_locust(url: str, ask: Ask, *, record_text: bool) -> RequestRecord:
    """Ask as Locust's callers do, on a connection that blocks."""
    parts = urlsplit(url)

    def post(path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        closing.callback(connection.close)
        connection.request("POST", path, body=body, headers=dict(headers))
        response = closing.enter_context(connection.getresponse())
        named = {name.title(): value for name, value in response.getheaders()}
        return Blocking(response=response, status=response.status, headers=named)

    exchange = Exchange(
        index=7,
        segment="part",
        phase=Phase.MEASURE,
        ask=ask,
        user=1,
        scheduled_ns=time.perf_counter_ns(),
        record_text=record_text,
    )
    with ExitStack() as closing:
        exchange.run(Server(url=f"{url}/v1", model="m", owner="someone"), post, time.perf_counter_ns)
    return exchange.record(0)


async def by_engine(url: str, ask: Ask, *, record_text: bool) -> RequestRecord:
    """Ask as every other command does."""
    async with opened(url) as engine:
        target = Target(
            text=url, kind="openai", engine=engine, model="m", listen_moments=engine.listen_moments, url=url
        )
        clock = RealClock()
        line = Line(target, clock, 0, record_text=record_text)
        errand = line.errand(ask, index=7, segment="part", phase=Phase.MEASURE)
        return await line.send(errand, clock.now_ns(), user=1)


def told(record: RequestRecord) -> dict[str, Any]:
    """Return what of a record is no moment, and which moments came."""
    same: tuple[str, ...] = (
        "index",
        "segment",
        "item",
        "user",
        "prompt_hash",
        "tries",
        "prompt_tokens",
        "completion_tokens",
    )
    same += ("cached_tokens", "token_source", "finish_reason", "failure", "retry_after_s", "prompt", "answer")
    came = ("first_byte_ns", "first_content_ns", "first_answer_ns", "last_content_ns")
    return (
        {name: getattr(record, name) for name in same}
        | {name: getattr(record, name) is not None for name in came}
        | {"num_chunks": record.num_chunks}
    )


@pytest.mark.parametrize("record_text", [True, False], ids=["with text", "without text"])
@pytest.mark.parametrize("ask", [ASK, THINKING], ids=["without thinking", "thinking"])
@pytest.mark.parametrize("name", CORPUS)
async def test_both_readers_say_the_same_of_the_same_answer(name: str, ask: Ask, *, record_text: bool) -> None:
    async with scripted(CORPUS[name], gets=MODELS) as server:
        ours = await by_engine(server.url, ask, record_text=record_text)
        asked = list(server.asked)
        theirs = await asyncio.to_thread(by_locust, server.url, ask, record_text=record_text)
        assert server.asked[len(asked) :] == asked
    assert told(theirs) == told(ours)
    if name != "broken off":  # the one names what its library calls it
        assert theirs.message == ours.message
    assert record_text or QUESTION not in theirs.message + ours.message
    assert (theirs.failure is Failure.REJECTED) is ("repeats" in name)
