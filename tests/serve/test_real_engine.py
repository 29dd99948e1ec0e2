"""The whole way with nothing played: OpenAI's client, sockets, the API, the engine's own process, a tiny model."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import pytest_asyncio
import uvicorn
from openai import AsyncOpenAI

from qwenops.engines import open_engine
from qwenops.engines.options import EngineOptions
from qwenops.engines.worker import WorkerEngine
from qwenops.models.artefact import Artefact
from qwenops.models.spec import Scheme
from qwenops.models.tokenizer import open_tokenizer
from qwenops.observe.options import LogOptions
from qwenops.serve.auth import KeyRing
from qwenops.serve.listen import listen, url_of
from qwenops.serve.options import ServeOptions
from qwenops.serve.serving import ServedModel
from qwenops.serve.site import Site, build_site

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

HELLO: Any = [{"role": "user", "content": "你好"}]
RATING: Any = {
    "type": "object",
    "properties": {"stars": {"enum": [1, 2, 3]}, "complaint": {"type": "boolean"}},
    "required": ["stars", "complaint"],
    "additionalProperties": False,
}


@dataclass(kw_only=True)
class Running:
    api: AsyncOpenAI
    site: Site
    engine: WorkerEngine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tiny_artefact: Callable[[Scheme], Artefact]) -> AsyncIterator[Running]:
    folder = tiny_artefact(Scheme.INT8).folder
    options = EngineOptions(model_dir=folder, model_name="tiny", context_tokens=1024, kv_cache_bytes=64 * 1024**2)
    engine: Any = await open_engine("openvino", options)
    await engine.ready()
    site = build_site(ServeOptions(log=LogOptions(destination="off")), KeyRing())
    site.serve_with(ServedModel(engine=engine, tokenizer=open_tokenizer(folder)))
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(site.app, interface="asgi3", lifespan="off", log_config=None))
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        async with AsyncOpenAI(base_url=f"{url_of(listener)}/v1", api_key="none", max_retries=0) as api:
            yield Running(api=api, site=site, engine=engine)
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving
    await engine.aclose()


async def test_a_streamed_answer_is_the_whole_one_piece_by_piece(running: Running) -> None:
    options: Any = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 24}
    whole = await running.api.chat.completions.create(**options)
    pieces = [
        chunk.choices[0].delta.content or ""
        async for chunk in await running.api.chat.completions.create(**options, stream=True)
    ]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 5
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24


async def test_equal_seeds_give_equal_answers_and_others_differ(running: Running) -> None:
    texts = []
    for seed in (5, 5, 6):
        answer = await running.api.chat.completions.create(
            model="tiny", messages=HELLO, temperature=1, seed=seed, max_tokens=16
        )
        texts.append(answer.choices[0].message.content)
    assert texts[0] == texts[1] != texts[2]


async def test_an_answer_keeps_to_its_schema(running: Running) -> None:
    answer = await running.api.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=256,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "rating", "schema": RATING}},
    )
    assert answer.choices[0].finish_reason == "stop"
    found = json.loads(answer.choices[0].message.content or "")
    assert found["stars"] in {1, 2, 3}
    assert isinstance(found["complaint"], bool)


async def test_a_tool_that_must_be_called_is_called_by_a_model_that_knows_nothing(running: Running) -> None:
    tool: Any = {"type": "function", "function": {"name": "rate", "parameters": RATING}}
    answer = await running.api.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=256, seed=2, tools=[tool], tool_choice="required"
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    call: Any = next(iter(answer.choices[0].message.tool_calls or ()))
    assert call.function.name == "rate"
    assert json.loads(call.function.arguments)["stars"] in {1, 2, 3}


async def test_a_schema_that_is_none_is_refused_as_the_callers_error(running: Running) -> None:
    with pytest.raises(openai.BadRequestError):
        await running.api.chat.completions.create(
            model="tiny",
            messages=HELLO,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )


async def test_log_probabilities_add_up(running: Running) -> None:
    answer = await running.api.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    assert len(content) == 4
    assert all(entry.top_logprobs[0].logprob == pytest.approx(entry.logprob) for entry in content), "greedy is the best"
    assert (
        b"".join(bytes(entry.bytes or ()) for entry in content)
        .decode("utf-8", "replace")
        .startswith((answer.choices[0].message.content or "")[:1])
    )


async def test_closing_a_stream_gives_the_engine_its_place_back(running: Running) -> None:
    stream = await running.api.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(aiter(stream))
    assert running.site.admission.num_running == 1
    await stream.close()
    async with asyncio.timeout(5):
        # Two counters in two processes, and no event for both.
        while running.site.admission.num_running or running.engine.info.health.running:  # noqa: ASYNC110 -- see above
            await asyncio.sleep(0.02)


async def test_a_prompt_over_the_cache_is_refused_before_it_is_computed(running: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="tokens; at most 1023"):
        await running.api.completions.create(model="tiny", prompt=[100] * 2000)


async def test_sixteen_streams_at_once_are_all_complete(running: Running) -> None:
    async def one(number: int) -> int:
        stream = await running.api.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"number {number}"}],
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        last = [chunk async for chunk in stream][-1]
        assert last.usage is not None
        return last.usage.completion_tokens

    assert await asyncio.gather(*(one(number) for number in range(16))) == [32] * 16
