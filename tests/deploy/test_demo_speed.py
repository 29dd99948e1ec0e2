"""The course of the demo of speed: what it asks, how it measures, and what it does when the server breaks off."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from qwenops.deploy import demo_speed as demo
from qwenops.deploy.demo_speed import (
    MAX_TOKENS,
    PROMPTS,
    Answer,
    Question,
    last_words,
    questions,
    server_argv,
    server_environ,
)
from qwenops.errors import EngineError
from qwenops.text import say

QUESTION = Question(name=say("One"), messages=({"role": "user", "content": "hello"},))


def test_it_asks_the_prompts_of_the_users_design_and_calls_in_both_languages() -> None:
    prompts, calls = questions()
    assert [question.messages[0]["content"] for question in prompts] == list(PROMPTS)
    texts = [question.messages[0]["content"] for question in calls]
    assert len(texts) == 6
    assert sum("客服" in text for text in texts) == 3
    assert sum("Agent" in text for text in texts) == 3


def test_the_calls_hold_no_number_that_could_be_anybodys() -> None:
    for question in questions()[1]:
        for number in re.findall(r"\d[\d-]{4,}", question.messages[0]["content"]):
            assert number == "555-0100", number


def test_the_server_is_for_this_machine_alone() -> None:
    argv = server_argv("random:tiny", engine="fake", scheme="int8")
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--port") + 1] == "0"


def test_the_server_gets_nothing_of_the_users_file_variables_and_keys(tmp_path: Path) -> None:
    users = {
        "QWENOPS_API_KEYS": "qo-secret",
        "QWENOPS_SERVE_PORT": "80",
        "QWENOPS_CONFIG": "/etc/qwenops.toml",
        "QWENOPS_HOME": "/models",
        "HF_TOKEN": "hf",
    }
    environ = server_environ(users, tmp_path)
    assert (environ["QWENOPS_API_KEYS"], environ["QWENOPS_SERVE_PORT"]) == (None, None)
    assert environ["QWENOPS_HOME"] == "/models"
    assert "HF_TOKEN" not in environ
    assert Path(environ["QWENOPS_CONFIG"] or "").read_text() == ""
    assert Path(environ["QWENOPS_SERVE_KEYS_DATABASE"] or "").parent == tmp_path
    assert "QWENOPS_HOME" not in server_environ({}, tmp_path)


def test_tokens_per_second_count_from_the_first_token() -> None:
    answer = Answer(question=QUESTION, text="x", prompt_tokens=9, completion_tokens=11, ttft_s=1.0, total_s=3.0)
    assert answer.tokens_per_s == 5.0
    lone = Answer(question=QUESTION, text="x", prompt_tokens=9, completion_tokens=1, ttft_s=1.0, total_s=1.0)
    assert lone.tokens_per_s == 0.0


@asynccontextmanager
async def answering(*events: str, status: int = 200) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Serve one stream of events to everyone who asks."""

    async def complete(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["max_tokens"] == MAX_TOKENS
        reply = web.StreamResponse(status=status, headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for event in events:
            await reply.write(f"data: {event}\n\n".encode())
        if events[-1:] != ("[DONE]",) and request.transport is not None:
            request.transport.close()
        return reply

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def event(text: str | None = None, **more: object) -> str:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return json.dumps({"choices": choices, **more})


async def test_an_answer_is_put_together_and_its_pieces_are_shown() -> None:
    shown: list[str] = []
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    opening = json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    async with answering(opening, event("你"), event("好"), event(usage=usage), "[DONE]") as (session, url):
        answer = await demo._answer(session, url, QUESTION, shown.append)
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("你好", 3, 2)
    assert shown == ["", "你", "好"]
    assert 0 < answer.ttft_s <= answer.total_s


@pytest.mark.parametrize(
    ("events", "status", "said"),
    [
        ((event("half"), json.dumps({"error": {"message": "out of memory"}})), 200, "out of memory"),
        ((event("half"),), 200, "broke off"),
        (("no", "[DONE]"), 503, "refused"),
    ],
)
async def test_an_answer_that_breaks_off_or_is_refused_is_a_typed_error(
    events: tuple[str, ...], status: int, said: str
) -> None:
    async with answering(*events, status=status) as (session, url):
        with pytest.raises(EngineError, match=said):
            await demo._answer(session, url, QUESTION)


async def test_one_failed_call_ends_all_of_them_with_its_own_error() -> None:
    async with answering(json.dumps({"error": {"message": "it broke"}})) as (session, url):
        with pytest.raises(EngineError, match="it broke"):
            await demo._answer_all(session, url, [QUESTION] * 3, lambda _fraction, _doing: None)


def test_a_server_that_ended_is_quoted_from_its_last_error_on() -> None:
    assert last_words("INFO listening\nError: No room.\n  Free some.\n") == "Error: No room. Free some."
    assert last_words("INFO 开始\n错误：没有空间。\n") == "错误：没有空间。"
    assert last_words("\n".join(str(number) for number in range(9))) == "4 5 6 7 8"
    assert last_words("") == ""
