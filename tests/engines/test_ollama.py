"""The engine for Ollama, against servers that say what Ollama says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import Faults, SimulatedOptions
from qwenops.bench.simulated.server import refusing_url, serve_simulated
from qwenops.engines.ollama import Api, OllamaEngine, open_engine, open_server
from qwenops.engines.options import EngineOptions
from qwenops.engines.remote import Remote
from qwenops.errors import (
    DeadlineError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    LimitExceededError,
    MalformedAnswerError,
    ModelNotServedError,
    OverloadedError,
    QwenOpsError,
)
from qwenops.generation import (
    Choice,
    Chunk,
    FinishReason,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Message,
    Messages,
    Prompt,
    SamplingParams,
    Tokens,
    ToolCall,
    Usage,
)
from tests.engines.scripted import Reply, Scripted, always, lines, refusing, scripted

HELLO = Messages(messages=(Message(role="user", content="Hello"),))
THINKING = replace(HELLO, enable_thinking=True)
GETS = {"/api/version": {"version": "0.33.0"}, "/api/tags": {"models": [{"name": "qwen3:0.6b"}, {"name": "b"}]}}
SHOWN = {
    "details": {"quantization_level": "Q4_K_M"},
    "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
    "capabilities": ["completion", "tools", "thinking"],
}
END = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 2_500_000_000,
    "load_duration": 500_000_000,
    "prompt_eval_count": 9,
    "prompt_eval_duration": 1_000_000_000,
    "eval_count": 4,
    "eval_duration": 900_000_000,
}


def said(content: str = "", **more: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": "x", "message": {"role": "assistant", "content": content} | more, "done": False}


def end(**more: Any) -> dict[str, Any]:
    return said() | END | more


def asked(prompt: Prompt = HELLO, name: str = "a", **sampling: Any) -> GenerationRequest:
    wanted = SamplingParams(**{"max_tokens": 8, "temperature": 0.0} | sampling)
    return GenerationRequest(id=name, prompt=prompt, sampling=wanted)


async def answer(engine: OllamaEngine, request: GenerationRequest | None = None) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(request or asked())]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@asynccontextmanager
async def facing(
    *data: Any, shown: Any = SHOWN, api: Api = "chat", num_ctx: int | None = None, **reply: Any
) -> AsyncIterator[tuple[OllamaEngine, Scripted]]:
    """Open an engine at a server that always answers the same."""

    def answering(body: dict[str, Any]) -> Reply:
        if "stream" not in body:
            return shown if isinstance(shown, Reply) else Reply(content_type="application/json", pieces=lines(shown))
        return Reply(content_type="application/x-ndjson", pieces=lines(*data), **reply)

    async with scripted(answering, gets=GETS) as server:
        engine = await open_server(Remote(server.url), "m", api=api, num_ctx=num_ctx)
        server.asked.clear()
        server.paths.clear()
        try:
            yield engine, server
        finally:
            await engine.aclose()


CONVERSATION = Messages(
    messages=(
        Message(role="user", content="您好"),
        Message(
            role="assistant",
            content="",
            reasoning="hm",
            tool_calls=(ToolCall(id="c", name="look", arguments='{"n": 1}'),),
        ),
        Message(role="tool", content="42", name="look"),
    ),
    tools=({"type": "function", "function": {"name": "look"}},),
    enable_thinking=True,
)
WANTED = asked(
    CONVERSATION,
    temperature=0.5,
    top_k=7,
    top_p=0.9,
    min_p=0.1,
    repetition_penalty=1.1,
    presence_penalty=1.0,
    frequency_penalty=0.5,
    seed=3,
    stop=("a",),
    logprobs=2,
    structure=JsonSchema(schema='{"type": "object"}'),
)


class TestWhatIsAsked:
    async def test_a_conversation_goes_to_chat_by_ollamas_names(self) -> None:
        async with facing(end(), num_ctx=2048) as (engine, server):
            await answer(engine, WANTED)
        assert server.paths == ["/api/chat"]
        assert server.asked == [
            {
                "model": "m",
                "stream": True,
                "options": {
                    "num_predict": 8,
                    "temperature": 0.5,
                    "top_k": 7,
                    "top_p": 0.9,
                    "min_p": 0.1,
                    "repeat_penalty": 1.1,
                    "presence_penalty": 1.0,
                    "frequency_penalty": 0.5,
                    "seed": 3,
                    "stop": ["a"],
                    "num_ctx": 2048,
                },
                "messages": [
                    {"role": "user", "content": "您好"},
                    {
                        "role": "assistant",
                        "content": "",
                        "thinking": "hm",
                        "tool_calls": [{"function": {"name": "look", "arguments": {"n": 1}}}],
                    },
                    {"role": "tool", "content": "42", "tool_name": "look"},
                ],
                "tools": [{"type": "function", "function": {"name": "look"}}],
                "think": True,
                "format": {"type": "object"},
                "logprobs": True,
                "top_logprobs": 2,
            }
        ]

    async def test_thinking_is_switched_off_where_it_can_be(self) -> None:
        async with facing(end()) as (engine, server):
            await answer(engine)
        assert server.asked[0]["think"] is False
        assert "num_ctx" not in server.asked[0]["options"]
        async with facing(end(), shown=SHOWN | {"capabilities": ["completion"]}) as (engine, server):
            await answer(engine)
        assert "think" not in server.asked[0]

    async def test_one_turn_can_go_to_generate(self) -> None:
        prompt = Messages(messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hello")))
        piece = {"model": "m", "response": "Hi", "done": False}
        async with facing(piece, {"response": ""} | END, api="generate") as (engine, server):
            assert text_of(await answer(engine, asked(prompt))) == "Hi"
            assert server.paths == ["/api/generate"]
            assert (server.asked[0]["prompt"], server.asked[0]["system"]) == ("Hello", "Be brief.")
            with pytest.raises(InvalidRequestError):
                await answer(engine, asked(Messages(messages=(*prompt.messages, *prompt.messages))))

    async def test_what_ollama_cannot_do_is_refused_or_noted(self) -> None:
        async with facing(end()) as (engine, server):
            for wrong in (asked(Tokens(ids=(1,))), asked(max_tokens=0), asked(structure=Choice(choices=("a", "b")))):
                with pytest.raises(InvalidRequestError):
                    await answer(engine, wrong)
            assert server.asked == []
            await answer(engine, asked(ignore_eos=True, structure=JsonObject()))
            assert server.asked[0]["format"] == "json"
            assert "ignore_eos" in engine.info.notes["left_out"]


class TestWhatIsAnswered:
    async def test_its_timings_are_kept_in_seconds_by_its_names(self) -> None:
        async with facing(said("Hi"), end()) as (engine, _):
            assert await answer(engine) == [
                Chunk(text="Hi"),
                Chunk(
                    finish_reason=FinishReason.STOP,
                    usage=Usage(
                        prompt_tokens=9,
                        completion_tokens=4,
                        unsaid=frozenset({"cached_tokens"}),
                        reported={
                            "total_duration": 2.5,
                            "load_duration": 0.5,
                            "prompt_eval_duration": 1.0,
                            "eval_duration": 0.9,
                        },
                    ),
                ),
            ]

    async def test_what_is_missing_is_not_taken_for_zero(self) -> None:
        async with facing(said("Hi"), {"message": {"role": "assistant", "content": ""}, "done": True}) as (engine, _):
            chunks = await answer(engine)
        assert chunks[-1].finish_reason is FinishReason.STOP
        unsaid = frozenset({"prompt_tokens", "completion_tokens", "cached_tokens"})
        assert chunks[-1].usage == Usage(prompt_tokens=0, completion_tokens=0, unsaid=unsaid)

    async def test_the_last_line_may_hold_content_and_say_that_the_length_ended_it(self) -> None:
        async with facing(said("a"), said("b") | END | {"done_reason": "length"}) as (engine, _):
            chunks = await answer(engine)
        assert (text_of(chunks), chunks[-1].finish_reason) == ("ab", FinishReason.LENGTH)

    async def test_thoughts_and_calls_stand_in_band(self) -> None:
        call = {"function": {"name": "look", "arguments": {"n": "十"}}}
        data = (
            said(thinking="hm"),
            said(thinking="."),
            said("Yes"),
            said(tool_calls=[call]),
            said(tool_calls=[call]),
            end(),
        )
        async with facing(*data) as (engine, _):
            text = text_of(await answer(engine, asked(THINKING)))
        written = '\n<tool_call>\n{"name": "look", "arguments": {"n": "十"}}\n</tool_call>'
        assert text == "<think>\nhm.\n</think>\n\nYes" + written * 2

    async def test_log_probabilities_are_read(self) -> None:
        told = said("a") | {
            "logprobs": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1}]}]
        }
        async with facing(told, end()) as (engine, _):
            (first, _) = await answer(engine, asked(logprobs=1))
        assert [(each.raw, each.logprob, each.top[0].raw) for each in first.logprobs] == [(b"a", -0.5, b"b")]

    @pytest.mark.parametrize("writing", [{}, {"split_bytes": 1}, {"split_bytes": 7}, {"line_end": "crlf"}], ids=str)
    async def test_however_the_lines_are_cut_the_answer_is_the_same(self, writing: dict[str, Any]) -> None:
        options = SimulatedOptions(model="m", prefill_tokens_per_s=0, decode_tokens_per_s=0, thinking_tokens=3)
        texts = set[str]()
        for faults in (Faults(), Faults(**writing)):
            async with serve_simulated(ServerModel(options), faults=faults) as url:
                engine = await open_server(Remote(url), "m")
                chunks = await answer(engine, asked(THINKING, max_tokens=12))
                await engine.aclose()
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 12
            texts.add(text_of(chunks))
        assert len(texts) == 1
        assert texts.pop().startswith("<think>\n")


class TestWhatGoesWrong:
    @pytest.mark.parametrize(
        ("faults", "kind"),
        [
            (Faults(status=400), InvalidRequestError),
            (Faults(status=429), LimitExceededError),
            (Faults(status=500), EngineError),
            (Faults(status=503), OverloadedError),
            (Faults(cut_after=0), EngineCrashedError),
            (Faults(cut_after=2), EngineCrashedError),
            (Faults(malformed_after=1), MalformedAnswerError),
            (Faults(error_after=1), EngineError),
            (Faults(hang_after=2), DeadlineError),
        ],
        ids=str,
    )
    async def test_each_failure_has_its_type(self, faults: Faults, kind: type[QwenOpsError]) -> None:
        options = SimulatedOptions(model="m", prefill_tokens_per_s=0, decode_tokens_per_s=0)
        async with serve_simulated(ServerModel(options), faults=faults) as url:
            engine = await open_server(Remote(url, silence_s=0.3), "m")
            with pytest.raises(QwenOpsError) as failed:
                await answer(engine)
            await engine.aclose()
        assert type(failed.value) is kind

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ("model 'm' not found", ModelNotServedError),
            ("an error was encountered while running the model: CUDA error", EngineError),
        ],
    )
    async def test_an_error_within_an_answer_that_began_well_is_one(self, error: str, kind: type[QwenOpsError]) -> None:
        async with facing(said("a"), {"error": error}) as (engine, _):
            with pytest.raises(EngineError if kind is EngineError else QwenOpsError):
                await answer(engine)

    async def test_an_answer_without_an_end_is_a_cut(self) -> None:
        async with facing(said("a")) as (engine, _):
            with pytest.raises(EngineCrashedError):
                await answer(engine)

    @pytest.mark.parametrize("data", [[], 7, {"message": 7}, {"message": {"tool_calls": [{}]}}, "x"], ids=str)
    async def test_what_is_no_line_of_the_api_is_malformed(self, data: Any) -> None:
        async with facing(data, end()) as (engine, _):
            with pytest.raises(MalformedAnswerError):
                await answer(engine)

    async def test_leaving_early_closes_the_connection(self) -> None:
        more: list[bytes | float] = [0.05, *lines(said("b"))]
        reply = Reply(content_type="application/x-ndjson", pieces=[*lines(said("a")), *more * 200])
        shown = Reply(content_type="application/json", pieces=lines(SHOWN))
        async with (
            scripted(lambda body: reply if "stream" in body else shown, gets=GETS) as server,
            asyncio.timeout(5),
        ):
            engine = await open_server(Remote(server.url), "m")
            stream = engine.generate(asked())
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined] # engines give asynchronous generators
            await server.left.wait()
            await engine.aclose()


class TestOpening:
    async def test_it_says_what_the_server_said_of_the_model(self) -> None:
        async with facing(end()) as (engine, _):
            info = engine.info
        assert (info.engine, info.model, info.accepts) == ("ollama", "m", "messages")
        assert (info.context_tokens, info.quantization, info.version) == (40960, "Q4_K_M", "0.33.0")

    async def test_without_a_name_the_first_model_is_taken(self) -> None:
        shown = always(Reply(content_type="application/json", pieces=lines(SHOWN)))
        async with scripted(shown, gets=GETS) as server:
            engine = await open_engine(EngineOptions(url=server.url))
            assert engine.info.model == "qwen3:0.6b"
            await engine.aclose()

    async def test_an_unknown_model_says_how_to_get_it(self) -> None:
        missing = always(refusing(404, {"error": "model 'qwen3:0.6b' not found"}))
        async with scripted(missing, gets=GETS) as server:
            with pytest.raises(ModelNotServedError) as refused:
                await open_engine(EngineOptions(url=server.url, model_name="qwen3:0.6b"))
        assert "ollama pull qwen3:0.6b" in refused.value.hint

    async def test_a_server_without_models_or_without_an_answer_says_so(self) -> None:
        async with scripted(always(Reply()), gets=GETS | {"/api/tags": {"models": []}}) as server:
            with pytest.raises(ModelNotServedError):
                await open_engine(EngineOptions(url=server.url))
        async with scripted(always(Reply()), gets={"/api/version": ["no"]}) as server:
            with pytest.raises(MalformedAnswerError):
                await open_engine(EngineOptions(url=server.url, model_name="m"))
        with refusing_url() as url, pytest.raises(EngineUnavailableError):
            await open_engine(EngineOptions(url=url, model_name="m"))
