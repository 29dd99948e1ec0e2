import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import Faults, SimulatedOptions, parameters
from qwenops.bench.simulated.server import refusing_url, serve_simulated
from qwenops.bench.simulated.wire import event, pieces
from qwenops.command import PIPE, spawn
from qwenops.engines.sse import EventReader

QUICK = SimulatedOptions(prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0)
CHAT = "/v1/chat/completions"


def chat(**more: Any) -> dict[str, Any]:
    return {
        "model": "simulated",
        "messages": [{"role": "user", "content": "你好 there"}],
        "max_tokens": 6,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


@asynccontextmanager
async def posted(
    path: str, body: Any, faults: Faults | None = None, options: SimulatedOptions = QUICK
) -> AsyncIterator[aiohttp.ClientResponse]:
    async with (
        serve_simulated(ServerModel(options), faults=faults) as url,
        aiohttp.ClientSession() as session,
        session.post(url + path, json=body) as response,
    ):
        yield response


async def events(faults: Faults, **more: Any) -> list[str]:
    async with posted(CHAT, chat(**more), faults) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        reader = EventReader()
        found = reader.push(await response.read()) + reader.finish()
    return [each.data.decode() for each in found]


def content(found: list[str], field: str = "content") -> str:
    deltas = [json.loads(each)["choices"] for each in found if each != "[DONE]"]
    return "".join(choice["delta"].get(field) or "" for choices in deltas for choice in choices)


async def test_a_stream_has_its_role_its_tokens_its_reason_its_usage_and_its_end() -> None:
    found = await events(Faults())
    assert found[-1] == "[DONE]"
    first, *middle, finish, usage = (json.loads(each) for each in found[:-1])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(middle) == 6
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6


async def test_usage_is_told_only_where_it_was_asked_for() -> None:
    assert not any("usage" in each for each in await events(Faults(), stream_options={}))
    assert not any("usage" in each for each in await events(Faults(usage=False)))


@pytest.mark.parametrize(
    "faults",
    [
        Faults(line_end="crlf"),
        Faults(line_end="cr"),
        Faults(comments=True),
        Faults(multiline=True, line_end="crlf"),
        Faults(split_bytes=1),
        Faults(split_bytes=7, line_end="cr", comments=True),
        Faults(blank_end=False),
        Faults(done=False, blank_end=False),
        Faults(role_chunk=False),
    ],
    ids=str,
)
async def test_however_events_are_written_they_say_the_same(faults: Faults) -> None:
    plain = await events(Faults())
    odd = await events(faults)
    assert content(odd) == content(plain) != ""


def test_a_cut_into_single_bytes_is_also_one_within_a_character() -> None:
    data = event('{"content":"好"}', Faults())
    assert list(pieces(data, Faults(split_bytes=1))) == [bytes([each]) for each in data]
    with pytest.raises(UnicodeDecodeError):
        next(piece for piece in pieces(data, Faults(split_bytes=1)) if piece[0] > 127).decode()


async def test_reasoning_stands_where_the_server_is_told_to_put_it() -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 24}
    field = await events(Faults(), **thinking)
    other = await events(Faults(reasoning="reasoning"), **thinking)
    in_band = await events(Faults(reasoning="in_band"), **thinking)
    thought, said = content(field, "reasoning_content"), content(field)
    assert thought
    assert said
    assert content(other, "reasoning") == thought
    assert content(in_band) == f"<think>\n{thought}\n</think>\n\n{said}"


async def test_who_wants_no_stream_gets_one_object() -> None:
    async with posted(CHAT, chat(stream=False)) as response:
        whole = await response.json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == content(await events(Faults()))
    assert whole["usage"]["completion_tokens"] == 6
    async with posted("/v1/completions", {"prompt": "x", "max_tokens": 3}) as response:
        assert (await response.json())["choices"][0]["text"]
    async with posted("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 3, "stream": True}) as response:
        assert "text_completion" in await response.text()


async def test_ollama_lines_end_with_timings_in_nanoseconds_and_no_zeros() -> None:
    body = {"model": "simulated", "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 4}}
    timed = SimulatedOptions(prefill_tokens_per_s=0.0, decode_tokens_per_s=100.0)
    async with posted("/api/chat", body, options=timed) as response:
        assert response.content_type == "application/x-ndjson"
        lines = [json.loads(each) for each in (await response.text()).splitlines()]
    assert [each["done"] for each in lines] == [False] * 4 + [True]
    last = lines[-1]
    assert last["eval_count"] == 4
    assert last["eval_duration"] == 30_000_000
    assert "prompt_eval_duration" not in last
    assert last["done_reason"] == "length"
    async with posted("/api/generate", {"prompt": "x", "stream": False, "options": {"num_predict": 2}}) as response:
        whole = await response.json()
    assert whole["done"]
    assert whole["response"]


async def test_ollama_thinks_in_a_field_of_its_own() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "think": True, "options": {"num_predict": 20}}
    async with posted("/api/chat", body) as response:
        lines = [json.loads(each)["message"] for each in (await response.text()).splitlines()]
    assert "".join(each.get("thinking", "") for each in lines)
    assert "".join(each["content"] for each in lines)


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
@pytest.mark.parametrize(("status", "after"), [(429, "2"), (503, "Fri, 31 Dec 1999 23:59:59 GMT"), (500, "")])
async def test_a_refusal_has_its_status_and_its_retry_after(path: str, status: int, after: str) -> None:
    async with posted(path, chat(), Faults(status=status, retry_after=after)) as response:
        assert response.status == status
        assert response.headers.get("Retry-After", "") == after
        assert "error" in await response.json()


async def test_a_full_queue_sheds_with_a_retry_after() -> None:
    options = SimulatedOptions(slots=1, queue_limit=0, decode_tokens_per_s=5.0, retry_after_s=3.0, shed_status="429")
    async with (
        serve_simulated(ServerModel(options)) as url,
        aiohttp.ClientSession() as session,
        session.post(url + CHAT, json=chat()),
        session.post(url + CHAT, json=chat()) as second,
    ):
        assert (second.status, second.headers["Retry-After"]) == (429, "3")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("no object", 400),
        ({"messages": []}, 400),
        ({"messages": [{"role": "user"}]}, 400),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}, 400),
        ({"model": "other", "messages": [{"role": "user", "content": "x"}]}, 404),
    ],
)
async def test_a_wrong_request_is_refused(body: Any, status: int) -> None:
    async with posted(CHAT, body) as response:
        assert response.status == status


async def test_a_cut_stream_breaks_off_and_a_malformed_one_holds_half_an_object() -> None:
    async with posted(CHAT, chat(), Faults(cut_after=2)) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    found = await events(Faults(malformed_after=2))
    with pytest.raises(json.JSONDecodeError):
        json.loads(found[-1])
    assert "error" in json.loads((await events(Faults(error_after=1)))[-1])
    assert content(await events(Faults(empty=True))) == ""


async def test_a_port_that_refuses_refuses() -> None:
    with refusing_url() as url:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(url)


async def test_slow_headers_and_freezes_hold_back_the_head_itself() -> None:
    for faults, options in (
        (Faults(slow_headers_s=0.3), QUICK),
        (Faults(), SimulatedOptions(freeze=("400ms@0s",))),
    ):
        began_s = time.perf_counter()
        async with posted(CHAT, chat(), faults, options):
            assert time.perf_counter() - began_s > 0.25


async def test_an_answer_that_hangs_ends_when_the_client_has_had_enough() -> None:
    model = ServerModel(QUICK)
    async with serve_simulated(model, faults=Faults(hang_after=1)) as url, aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), session.post(url + CHAT, json=chat()) as response:
                await response.read()


async def test_a_client_that_goes_frees_its_slot() -> None:
    model = ServerModel(SimulatedOptions(decode_tokens_per_s=20.0))
    async with serve_simulated(model) as url, aiohttp.ClientSession() as session:
        async with session.post(url + CHAT, json=chat(max_tokens=1000)) as response:
            await response.content.readany()
            assert model.num_running == 1
        for _ in range(100):
            if model.idle:
                break
            await asyncio.sleep(0.02)
        assert model.idle
        assert model.truths[-1].cancelled


async def test_the_truth_has_what_the_model_said_and_when_the_bytes_left() -> None:
    options = SimulatedOptions(prefill_tokens_per_s=100.0, decode_tokens_per_s=50.0)
    async with serve_simulated(ServerModel(options)) as url, aiohttp.ClientSession() as session:
        async with session.post(url + CHAT, json=chat()) as response:
            await response.read()
        async with session.get(url + "/simulated/truth") as response:
            told = await response.json()
    (one,) = told["requests"]
    assert one["num_tokens"] == 6
    planned = [told["begin_ns"] + one[name] for name in ("arrived_ns", "first_ns", "last_ns")]
    sent = [one[name] for name in ("came_ns", "sent_first_ns", "sent_last_ns")]
    assert all(-1e6 < late - plan < 50e6 for plan, late in zip(planned[1:], sent[1:], strict=True))
    assert all(before <= after for before, after in itertools.pairwise(sent))


def test_as_a_program_it_prints_its_address_and_ends_with_its_parent() -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'qwenops.bench.simulated', 'simulated:?slots=1'],\n"
        "                         stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline().strip(), flush=True)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    pid, url = said.stdout.split()
    assert url.startswith("http://127.0.0.1:")
    deadline_s = time.monotonic() + 20
    while _lives(int(pid)):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_as_a_program_it_refuses_a_wrong_text() -> None:
    argv = [sys.executable, "-m", "qwenops.bench.simulated", "simulated:?slots=none"]
    with spawn(argv, stdout=PIPE, stderr=PIPE) as child:
        assert child.wait(timeout_s=60) == 2
        assert child.stderr is not None
        assert b"slots" in child.stderr.read()


def test_as_a_program_it_lists_everything_that_it_can_be_told() -> None:
    argv = [sys.executable, "-m", "qwenops.bench.simulated", "--help"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    assert [line.split()[0] for line in said] == [name for name, _default, _help in parameters()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
