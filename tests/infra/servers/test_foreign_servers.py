"""The engine and the measuring against real servers that we did not write."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.options import BenchOptions
from qwenops.bench.target import Target
from qwenops.bench.targets import open_target
from qwenops.command import run
from qwenops.errors import InvalidRequestError, ModelNotServedError, PromptTooLongError, QwenOpsError
from qwenops.generation import (
    Chunk,
    FinishReason,
    GenerationRequest,
    JsonObject,
    Message,
    Messages,
    SamplingParams,
    Tokens,
)
from tests.infra.servers.conftest import Foreign

pytestmark = [pytest.mark.infra, pytest.mark.slow]

HELLO = Messages(messages=(Message(role="system", content="Be brief."), Message(role="user", content="您好 Hello")))
KEY = "sk-do-not-show-this-key"


@asynccontextmanager
async def measuring(server: Foreign) -> AsyncIterator[Target]:
    target = await open_target(server.url, BenchOptions(), model=server.model, api_key=KEY)
    try:
        yield target
    finally:
        await target.engine.aclose()


async def answer(target: Target, prompt: Any = HELLO, name: str = "a", **sampling: Any) -> list[Chunk]:
    wanted = SamplingParams(**{"max_tokens": 12, "temperature": 0.0, "ignore_eos": True} | sampling)
    return [c async for c in target.engine.generate(GenerationRequest(id=name, prompt=prompt, sampling=wanted))]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_an_answer_streams_and_is_counted(foreign: Foreign) -> None:
    async with measuring(foreign) as target:
        chunks = await answer(target)
        assert len(chunks) > 6
        assert chunks[-1].finish_reason is FinishReason.LENGTH
        counted = chunks[-1].usage
        assert counted is not None
        assert counted.completion_tokens == 12
        assert 15 <= counted.prompt_tokens <= 40
        assert text_of(chunks) == text_of(await answer(target))
        assert "<think>" not in text_of(chunks)


async def test_a_tiny_answer_of_one_token_has_content_and_an_end(foreign: Foreign) -> None:
    async with measuring(foreign) as target:
        chunks = await answer(target, max_tokens=1)
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 1
        assert text_of(chunks)


async def test_many_at_once_are_all_answered_and_moments_are_told(foreign: Foreign) -> None:
    told: list[tuple[str, str]] = []
    async with measuring(foreign) as target:
        await answer(target)  # by now it is known what the server does not know
        target.listen_moments(lambda name, moment: told.append((name, moment)))
        answers = await asyncio.gather(*(answer(target, name=str(each)) for each in range(6)))
    assert all(chunks[-1].finish_reason is FinishReason.LENGTH for chunks in answers)
    assert sorted(name for name, moment in told if moment == "first_byte") == [str(each) for each in range(6)]
    assert sum(moment == "connected" for _, moment in told) >= 5, "one connection was there already"


async def test_sampling_is_accepted_and_what_a_server_does_not_know_is_left_out(foreign: Foreign) -> None:
    async with measuring(foreign) as target:
        chunks = await answer(
            target, temperature=0.8, top_k=5, min_p=0.01, repetition_penalty=1.1, seed=3, stop=("never",)
        )
        assert chunks[-1].finish_reason is FinishReason.LENGTH
        noted = target.engine.info.notes.get("left_out", "")
        assert ("top_k" in noted) == (foreign.name == "transformers serve")


async def test_leaving_early_lets_the_next_one_in(foreign: Foreign) -> None:
    async with measuring(foreign) as target, asyncio.timeout(60):
        for _ in range(8):
            request = GenerationRequest(
                id="long", prompt=HELLO, sampling=SamplingParams(max_tokens=900, temperature=0.0, ignore_eos=True)
            )
            stream = target.engine.generate(request)
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined] # engines give asynchronous generators
        assert (await answer(target))[-1].finish_reason is FinishReason.LENGTH


async def test_thinking_is_told_to_the_template(foreign: Foreign) -> None:
    """The template closes the reasoning where there shall be none: `<think>`, a blank line, `</think>` are 4 tokens."""
    async with measuring(foreign) as target:
        plain = (await answer(target))[-1].usage
        thinking = (await answer(target, Messages(messages=HELLO.messages, enable_thinking=True)))[-1].usage
    assert plain is not None
    assert thinking is not None
    assert plain.prompt_tokens - thinking.prompt_tokens == 4


async def test_the_processes_behind_the_address_are_found(foreign: Foreign) -> None:
    async with measuring(foreign) as target:
        assert foreign.process_id in target.process_ids()


async def test_what_the_server_says_about_itself_is_known_and_holds_no_key(foreign: Foreign) -> None:
    async with measuring(foreign) as target:
        shown = repr(target)
        assert KEY not in shown
        assert "/v1/models" in target.facts
        if foreign.name == "llama-server":
            assert target.facts["/metrics"] is True
            assert target.engine.info.context_tokens == 1024


class TestLlamaServer:
    async def test_tokens_are_completed_and_timings_are_in_seconds(self, llama_server: Foreign) -> None:
        async with measuring(llama_server) as target:
            chunks = await answer(target, Tokens(ids=(9707, 11, 1879)))
            counted = chunks[-1].usage
            assert counted is not None
            assert counted.prompt_tokens == 3
            assert 0 < counted.reported["predicted_s"] < 10

    async def test_log_probabilities_come_with_the_tokens_numbers(self, llama_server: Foreign) -> None:
        async with measuring(llama_server) as target:
            chunks = await answer(target, logprobs=2)
            logprobs = [each for chunk in chunks for each in chunk.logprobs]
            assert 9 <= len(logprobs) <= 12, "halves of a character are sent together, with one log-probability"
            assert all(each.token_id >= 0 and each.logprob < 0 and len(each.top) == 2 for each in logprobs)

    async def test_json_is_held_to(self, llama_server: Foreign) -> None:
        async with measuring(llama_server) as target:
            assert text_of(await answer(target, structure=JsonObject(), ignore_eos=False)).lstrip().startswith("{")

    async def test_a_prompt_that_is_too_long_is_refused_as_that(self, llama_server: Foreign) -> None:
        long = Messages(messages=(Message(role="user", content="word " * 3000),))
        async with measuring(llama_server) as target:
            with pytest.raises(PromptTooLongError):
                await answer(target, long)


async def test_without_a_name_the_first_listed_model_is_taken(llama_server: Foreign) -> None:
    target = await open_target(llama_server.url + "/v1", BenchOptions())
    assert target.model == "tiny"
    await target.engine.aclose()


async def test_an_unknown_model_is_refused(transformers_server: Foreign) -> None:
    target = await open_target(transformers_server.url, BenchOptions(), model="nobody/nothing")
    with pytest.raises(QwenOpsError) as refused:
        await answer(target)
    assert isinstance(refused.value, InvalidRequestError | ModelNotServedError)
    await target.engine.aclose()


async def test_the_command_line_measures_it_from_end_to_end(foreign: Foreign, tmp_path: Path) -> None:
    """And what the server timed itself fits into what was measured from outside."""
    words = [
        "bench",
        "load",
        foreign.url,
        "--model",
        foreign.model,
        "--users",
        "2",
        "--requests",
        "12",
        "--warmup",
        "2",
    ]
    words += ["--max-tokens", "8", "--prompt-tokens", "64", "--force-length", "--out", str(tmp_path / "run"), "--json"]
    argv = [sys.executable, "-m", "qwenops", *words]
    finished = await asyncio.to_thread(run, argv, timeout_s=120, env={"QWENOPS_LANG": "en"}, cwd=tmp_path)
    assert json.loads(finished.stdout)
    records = [json.loads(line) for line in (tmp_path / "run" / "requests.jsonl").read_text().splitlines()]
    measured = [each for each in records if each["phase"] == "measure"]
    assert len(measured) == 12
    for each in measured:
        assert "failure" not in each, each
        assert each["token_source"] == "server"
        assert 1 <= each["completion_tokens"] <= 8
        assert each["sent_ns"] < each["first_byte_ns"] <= each["first_content_ns"] <= each["last_content_ns"]
        if foreign.name == "llama-server":
            assert each["completion_tokens"] == 8
            whole_s = (each["ended_ns"] - each["sent_ns"]) / 1e9
            assert each["reported"]["prompt_s"] + each["reported"]["predicted_s"] < whole_s + 0.005
    assert "http://" in (tmp_path / "run" / "manifest.json").read_text()
    assert (tmp_path / "run" / "report.html").stat().st_size < 300_000
