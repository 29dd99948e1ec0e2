"""The engine for servers of OpenAI's API, against servers that say exactly what they say."""

import asyncio
import errno
import itertools
import json
import logging
import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import Faults, SimulatedOptions
from qwenops.bench.simulated.server import refusing_url, serve_simulated
from qwenops.engines.openai import OpenAIEngine, api_url, open_engine
from qwenops.engines.options import EngineOptions
from qwenops.engines.remote import Remote
from qwenops.errors import (
    AuthenticationError,
    ConfigError,
    DeadlineError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    LimitExceededError,
    MalformedAnswerError,
    NoConnectionLeftError,
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
    Regex,
    Tokens,
    ToolCall,
    Usage,
)
from qwenops.serve.reasoning import ReasoningSplitter, Thought
from qwenops.serve.toolcalls import Call, ToolCallFinder
from tests.engines.openai_facing import (
    FINE,
    KEY,
    MODELS,
    THINKING,
    answer,
    asked,
    facing,
    listed,
    opened,
    text_of,
)
from tests.engines.scripted import Reply, always, delta, events, refusing, scripted, usage

CONVERSATION = Messages(
    messages=(
        Message(role="system", content="您好"),
        Message(
            role="assistant",
            content="",
            reasoning="hm",
            tool_calls=(ToolCall(id="c1", name="look", arguments='{"n": 1}'),),
        ),
        Message(role="tool", content="42", tool_call_id="c1"),
    ),
    tools=({"type": "function", "function": {"name": "look"}},),
    enable_thinking=True,
)
SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 7,
    "min_p": 0.1,
    "presence_penalty": 1.0,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "seed": 3,
    "stop": ("a", "b"),
    "ignore_eos": True,
    "logit_bias": ((5, -1.0),),
    "logprobs": 2,
    "structure": JsonSchema(schema='{"type": "object"}'),
}


class TestWhatIsAsked:
    async def test_a_conversation_goes_to_chat_with_all_that_it_says(self) -> None:
        async with facing() as (engine, server):
            await answer(engine, asked(CONVERSATION, **SAMPLING))
        assert server.paths == ["/v1/chat/completions"]
        assert server.asked == [
            {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "您好"},
                    {
                        "role": "assistant",
                        "content": "",
                        "reasoning_content": "hm",
                        "tool_calls": [
                            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"n": 1}'}}
                        ],
                    },
                    {"role": "tool", "content": "42", "tool_call_id": "c1"},
                ],
                "tools": [{"type": "function", "function": {"name": "look"}}],
                "chat_template_kwargs": {"enable_thinking": True},
                "stream": True,
                "stream_options": {"include_usage": True},
                "max_tokens": 8,
                "temperature": 0.5,
                "top_p": 0.8,
                "top_k": 7,
                "min_p": 0.1,
                "presence_penalty": 1.0,
                "frequency_penalty": 0.5,
                "repetition_penalty": 1.1,
                "seed": 3,
                "stop": ["a", "b"],
                "ignore_eos": True,
                "logit_bias": {"5": -1.0},
                "logprobs": True,
                "top_logprobs": 2,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                },
            }
        ]

    async def test_a_greedy_request_says_little_and_that_nothing_is_to_be_thought(self) -> None:
        async with facing() as (engine, server):
            await answer(engine, asked())
        assert server.asked == [
            {
                "model": "m",
                "messages": [{"role": "user", "content": "Hello"}],
                "chat_template_kwargs": {"enable_thinking": False},
                "stream": True,
                "stream_options": {"include_usage": True},
                "max_tokens": 8,
                "temperature": 0.0,
            }
        ]

    async def test_tokens_go_to_completions(self) -> None:
        pieces = events({"choices": [{"index": 0, "text": "Hi", "finish_reason": "length"}]}, usage(2, 1), "[DONE]")
        async with facing(*pieces) as (engine, server):
            chunks = await answer(engine, asked(Tokens(ids=(1, 2)), logprobs=0))
        assert server.paths == ["/v1/completions"]
        assert (server.asked[0]["prompt"], server.asked[0]["logprobs"]) == ([1, 2], 0)
        assert (text_of(chunks), chunks[-1].finish_reason) == ("Hi", FinishReason.LENGTH)

    @pytest.mark.parametrize(
        ("owner", "structure", "told"),
        [
            ("", JsonObject(), {"response_format": {"type": "json_object"}}),
            ("vllm", Choice(choices=("yes", "no")), {"structured_outputs": {"choice": ["yes", "no"]}}),
            ("vllm", Regex(pattern="a+"), {"structured_outputs": {"regex": "a+"}}),
            ("sglang", Regex(pattern="a+"), {"regex": "a+"}),
            ("", Choice(choices=("yes", "no")), None),
            ("llamacpp", Regex(pattern="a+"), None),
        ],
    )
    async def test_a_form_is_asked_for_in_the_servers_way_or_refused(
        self, owner: str, structure: Any, told: dict[str, Any] | None
    ) -> None:
        models = {"/v1/models": {"data": [{"id": "m", "owned_by": owner}]}}
        async with scripted(lambda _: Reply(pieces=FINE), gets=models) as server, opened(server.url) as engine:
            if told is None:
                with pytest.raises(InvalidRequestError):
                    await answer(engine, asked(structure=structure))
                assert server.asked == []
            else:
                await answer(engine, asked(structure=structure))
                assert told.items() <= server.asked[0].items()

    async def test_the_last_turn_is_continued_and_llama_server_has_its_own_name_for_a_penalty(self) -> None:
        begun = Messages(messages=(Message(role="assistant", content="On"),), continue_final=True)
        models = {"/v1/models": {"data": [{"id": "m", "owned_by": "llamacpp"}]}}
        async with scripted(lambda _: Reply(pieces=FINE), gets=models) as server, opened(server.url) as engine:
            await answer(engine, asked(begun, repetition_penalty=1.2))
        assert server.asked[0]["continue_final_message"] is True
        assert server.asked[0]["repeat_penalty"] == 1.2
        assert "repetition_penalty" not in server.asked[0]

    async def test_the_headers_ask_for_plain_bytes_and_carry_key_and_trace(self) -> None:
        request = replace(asked(), trace={"traceparent": "00-1-2-01"})
        async with facing() as (engine, server):
            await answer(engine, request)
        headers = server.headers[-1]
        assert headers["Accept-Encoding"] == "identity"
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert headers["traceparent"] == "00-1-2-01"
        assert headers["User-Agent"].startswith("qwenops/")

    async def test_half_of_a_pair_of_a_character_can_be_sent(self) -> None:
        async with facing() as (engine, server):
            await answer(engine, asked(Messages(messages=(Message(role="user", content="\ud83d"),))))
        assert server.asked[0]["messages"][0]["content"] == "\ud83d"

    @pytest.mark.parametrize("request_", [asked(Tokens(ids=())), asked(max_tokens=0)])
    async def test_what_makes_no_sense_is_not_sent(self, request_: GenerationRequest) -> None:
        async with facing() as (engine, server):
            with pytest.raises(InvalidRequestError):
                await answer(engine, request_)
        assert server.asked == []


class TestWhatIsAnswered:
    async def test_content_comes_at_once_and_the_end_comes_with_the_usage(self) -> None:
        async with facing() as (engine, _):
            assert await answer(engine) == [
                Chunk(text="Hi"),
                Chunk(
                    finish_reason=FinishReason.STOP,
                    usage=Usage(prompt_tokens=3, completion_tokens=1, unsaid=frozenset({"cached_tokens"})),
                ),
            ]

    async def test_what_closes_an_open_thought_is_marked_as_added(self) -> None:
        pieces = events(delta(reasoning_content="so"), delta(reason="stop"), usage(3, 1), "[DONE]")
        async with facing(*pieces) as (engine, _):
            chunks = await answer(engine, asked(THINKING))
        assert [(each.text, each.is_added) for each in chunks] == [("<think>\nso", False), ("\n</think>\n\n", True)]

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({}, None),
            ({"prompt_tokens_details": {"cached_tokens": 0}}, 0),
            ({"prompt_tokens_details": {"cached_tokens": None}}, None),
            ({"timings": {"cache_n": 0}}, 0),
        ],
    )
    async def test_what_the_server_does_not_say_is_not_known(self, more: dict[str, Any], said: int | None) -> None:
        timings = {"timings": more["timings"]} if "timings" in more else {}
        last = usage(9, 4, **{name: each for name, each in more.items() if name != "timings"}) | timings
        async with facing(*events(delta(content="a", reason="stop"), last, "[DONE]")) as (engine, _):
            found = (await answer(engine))[-1].usage
        assert found is not None
        assert (found.cached_tokens, "cached_tokens" in found.unsaid) == (0, said is None)

    async def test_a_piece_is_given_out_before_the_next_one_comes(self) -> None:
        pieces: list[bytes | float] = [
            *events(delta(content="a")),
            5.0,
            *events(delta(content="b", reason="stop"), "[DONE]"),
        ]
        async with facing(*pieces) as (engine, _), asyncio.timeout(3):
            stream = engine.generate(asked())
            assert (await anext(stream)).text == "a"
            await stream.aclose()  # type: ignore[attr-defined] # engines give asynchronous generators

    @pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
    async def test_reasoning_stands_in_band_as_qwen_writes_it(self, name: str) -> None:
        pieces = events(
            delta(role="assistant", **{name: "Let me"}),
            delta(**{name: " see."}),
            delta(content="Yes"),
            delta(content="."),
            delta(reason="stop"),
            "[DONE]",
        )
        async with facing(*pieces) as (engine, _):
            chunks = await answer(engine, asked(THINKING))
        assert text_of(chunks) == "<think>\nLet me see.\n</think>\n\nYes."
        assert [chunk.text for chunk in chunks[:2]] == ["<think>\nLet me", " see."]

    async def test_blank_reasoning_that_nobody_asked_for_is_nothing(self) -> None:
        pieces = events(delta(reasoning_content="\n\n"), delta(content="Yes"), delta(reason="stop"), "[DONE]")
        async with facing(*pieces) as (engine, _):
            assert [chunk.text for chunk in await answer(engine)] == ["Yes", ""]
            assert text_of(await answer(engine, asked(THINKING))) == "<think>\n\n</think>\n\nYes"

    async def test_reasoning_that_was_cut_is_not_closed(self) -> None:
        async with facing(*events(delta(reasoning="Let"), delta(reason="length"), "[DONE]")) as (engine, _):
            assert text_of(await answer(engine)) == "<think>\nLet"

    async def test_calls_of_tools_stand_in_band_and_our_own_reader_finds_them(self) -> None:
        def piece(index: int, arguments: str, **more: Any) -> dict[str, Any]:
            return delta(tool_calls=[{"index": index, "function": {"arguments": arguments, **more}}])

        pieces = events(
            delta(reasoning_content="hm"),
            delta(content="I look."),
            piece(0, "", name="look_up"),
            piece(0, '{"number"'),
            piece(0, ": 17}"),
            piece(1, "", name='say "hi"'),
            delta(reason="tool_calls"),
            usage(5, 20),
            "[DONE]",
        )
        async with facing(*pieces) as (engine, _):
            chunks = await answer(engine)
        assert text_of(chunks) == (
            "<think>\nhm\n</think>\n\nI look."
            '\n<tool_call>\n{"name": "look_up", "arguments": {"number": 17}}\n</tool_call>'
            '\n<tool_call>\n{"name": "say \\"hi\\"", "arguments": {}}\n</tool_call>'
        )
        splitter, finder = ReasoningSplitter(), ToolCallFinder(lambda: "id")
        parts = [part for chunk in chunks for part in splitter.push(chunk.text)] + splitter.finish()
        speech = [part.text for part in parts if not isinstance(part, Thought)]
        found = [each for text in speech for each in finder.push(text)] + finder.finish()
        calls = [(each.call.name, json.loads(each.call.arguments)) for each in found if isinstance(each, Call)]
        assert calls == [("look_up", {"number": 17}), ('say "hi"', {})]
        assert chunks[-1].finish_reason is FinishReason.STOP

    async def test_what_the_server_counted_and_timed_is_kept_in_seconds(self) -> None:
        last = usage(9, 4, prompt_tokens_details={"cached_tokens": 6})
        last["timings"] = {"prompt_ms": 250.0, "predicted_ms": 1000, "prompt_per_second": 12.0, "cache_n": 6}
        async with facing(*events(delta(content="a", reason="stop"), last, "[DONE]")) as (engine, _):
            chunks = await answer(engine)
        assert chunks[-1].usage == Usage(
            prompt_tokens=9, completion_tokens=4, cached_tokens=6, reported={"prompt_s": 0.25, "predicted_s": 1.0}
        )

    async def test_a_server_that_counts_nothing_leaves_the_usage_open(self) -> None:
        async with facing(*events(delta(content="a", reason="stop"), "[DONE]")) as (engine, _):
            assert (await answer(engine))[-1].usage is None

    async def test_log_probabilities_are_read_in_both_forms(self) -> None:
        best = {"token": "您", "logprob": -0.1, "bytes": list("您".encode()), "id": 7}
        told = delta(content="您") | {}
        told["choices"][0]["logprobs"] = {"content": [{**best, "top_logprobs": [best, {"token": "a", "logprob": -3}]}]}
        async with facing(*events(told, delta(reason="stop"), "[DONE]")) as (engine, _):
            (first, _) = await answer(engine, asked(logprobs=2))
        assert [(each.token_id, each.raw, each.logprob) for each in first.logprobs] == [(7, "您".encode(), -0.1)]
        assert [(each.token_id, each.raw, each.logprob) for each in first.logprobs[0].top] == [
            (7, "您".encode(), -0.1),
            (-1, b"a", -3),
        ]
        older = {
            "tokens": ["a"],
            "token_logprobs": [-0.2],
            "top_logprobs": [{"b": -2.0, "a": -0.2}],
            "text_offset": [0],
        }
        piece = {"choices": [{"index": 0, "text": "a", "logprobs": older, "finish_reason": "stop"}]}
        async with facing(*events(piece, "[DONE]")) as (engine, _):
            (first, _) = await answer(engine, asked(Tokens(ids=(1,)), logprobs=2))
        assert [(each.raw, each.logprob) for each in first.logprobs] == [(b"a", -0.2)]
        assert [each.raw for each in first.logprobs[0].top] == [b"a", b"b"]

    async def test_an_answer_that_is_no_stream_is_read_all_the_same(self) -> None:
        whole = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        }
        async with facing(json.dumps(whole).encode(), content_type="application/json") as (engine, _):
            chunks = await answer(engine)
        assert (text_of(chunks), chunks[-1].finish_reason) == ("Hi", FinishReason.LENGTH)
        assert chunks[-1].usage == Usage(prompt_tokens=3, completion_tokens=1, unsaid=frozenset({"cached_tokens"}))

    @pytest.mark.parametrize(
        "ending",
        [[], ["[DONE]"], [usage(3, 1)]],
        ids=["connection ends", "done without usage", "usage without done"],
    )
    async def test_an_answer_with_a_reason_is_whole_however_it_ends(self, ending: list[Any]) -> None:
        async with facing(*events(delta(content="a", reason="stop"), *ending)) as (engine, _):
            assert (await answer(engine))[-1].finish_reason is FinishReason.STOP

    async def test_an_empty_answer_ends_well(self) -> None:
        async with facing(*events(delta(role="assistant"), delta(reason="stop"), "[DONE]")) as (engine, _):
            chunks = await answer(engine)
        assert (len(chunks), chunks[0].text) == (1, "")


WRITINGS = [
    {"line_end": line_end, "multiline": multiline, "split_bytes": split_bytes, "comments": comments}
    for line_end, multiline, split_bytes, comments in itertools.product(
        ("lf", "crlf", "cr"), (False, True), (0, 1, 5), (False, True)
    )
] + [
    {"blank_end": False},
    {"done": False},
    {"done": False, "blank_end": False},
    {"role_chunk": False},
    {"usage": False},
]


@pytest.mark.parametrize("writing", WRITINGS, ids=str)
async def test_however_a_server_writes_its_events_the_answer_is_the_same(writing: dict[str, Any]) -> None:
    options = SimulatedOptions(model="m", prefill_tokens_per_s=0, decode_tokens_per_s=0, thinking_tokens=3)
    texts = set[str]()
    for faults in (Faults(), Faults(**writing), Faults(**writing, reasoning="in_band")):
        async with serve_simulated(ServerModel(options), faults=faults) as url, opened(url) as engine:
            chunks = await answer(engine, asked(THINKING, max_tokens=12))
            texts.add(text_of(chunks))
            counted = chunks[-1].usage
            assert counted is None if not faults.usage else counted is not None and counted.completion_tokens == 12
    assert len(texts) == 1
    assert texts.pop().startswith("<think>\n")


class TestWhatGoesWrong:
    @pytest.mark.parametrize(
        ("faults", "kind"),
        [
            (Faults(status=400), InvalidRequestError),
            (Faults(status=401), AuthenticationError),
            (Faults(status=429), LimitExceededError),
            (Faults(status=500), EngineError),
            (Faults(status=502), EngineCrashedError),
            (Faults(status=503), OverloadedError),
            (Faults(status=504), DeadlineError),
            (Faults(cut_after=0), EngineCrashedError),
            (Faults(cut_after=2), EngineCrashedError),
            (Faults(malformed_after=1), MalformedAnswerError),
            (Faults(error_after=1), EngineError),
            (Faults(hang_after=2), DeadlineError),
        ],
        ids=str,
    )
    async def test_each_failure_has_its_type_and_is_not_tried_again(
        self, faults: Faults, kind: type[QwenOpsError]
    ) -> None:
        options = SimulatedOptions(model="m", prefill_tokens_per_s=0, decode_tokens_per_s=0)
        model = ServerModel(options)
        async with serve_simulated(model, faults=faults) as url, opened(url, silence_s=0.3) as engine:
            with pytest.raises(QwenOpsError) as failed:
                await answer(engine)
            assert type(failed.value) is kind
            assert failed.value.message
            assert len(model.truths) <= 1

    async def test_a_refusal_says_when_to_come_back(self) -> None:
        options = SimulatedOptions(model="m", prefill_tokens_per_s=0)
        faults = Faults(status=429, retry_after="7")
        async with serve_simulated(ServerModel(options), faults=faults) as url, opened(url) as engine:
            with pytest.raises(LimitExceededError) as shed:
                await answer(engine)
        assert shed.value.retry_after_s == 7.0

    async def test_a_failed_request_was_sent_once(self) -> None:
        for reply in (refusing(500, {}), refusing(400, {"error": "no"}), Reply(pieces=[b"data: {"], cut=True)):
            async with scripted(always(reply), gets=MODELS) as server, opened(server.url) as engine:
                with pytest.raises(QwenOpsError):
                    await answer(engine)
                assert len(server.asked) == 1

    async def test_a_cut_within_an_event_is_a_cut_and_not_a_malformed_answer(self) -> None:
        async with facing(b'data: {"choices": [{"del', cut=True) as (engine, _):
            with pytest.raises(EngineCrashedError):
                await answer(engine)
        async with facing(b'data: {"choices": [{"del') as (engine, _):
            with pytest.raises(EngineCrashedError):
                await answer(engine)

    @pytest.mark.parametrize(
        "data",
        ["{", "[]", "7", '"x"', '{"choices": [7]}', '{"choices": [{"delta": {"content": 7}}]}', '{"choices": 1}'],
    )
    async def test_what_is_no_piece_of_the_api_is_malformed(self, data: str) -> None:
        async with facing(*events(data, delta(reason="stop"), "[DONE]")) as (engine, _):
            with pytest.raises(MalformedAnswerError):
                await answer(engine)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ({"message": "no", "code": "engine_crashed"}, EngineCrashedError),
            ({"message": "no", "code": 503}, OverloadedError),
            ({"message": "no", "type": "server_error"}, EngineError),
            ("out of memory", EngineError),
        ],
    )
    async def test_an_error_within_a_stream_is_typed_and_never_sent_again(
        self, error: Any, kind: type[QwenOpsError]
    ) -> None:
        async with facing(*events(delta(content="a"), {"error": error})) as (engine, server):
            with pytest.raises(QwenOpsError) as failed:
                await answer(engine, asked(top_k=3, temperature=1.0))
            assert type(failed.value) is kind
            assert len(server.asked) == 1

    async def test_a_page_for_people_is_said_to_be_one(self) -> None:
        async with facing(b"<html>", content_type="text/html") as (engine, _):
            with pytest.raises(MalformedAnswerError, match="page for people"):
                await answer(engine)

    async def test_nobody_listening_is_no_connection(self) -> None:
        with refusing_url() as url:
            with pytest.raises(EngineUnavailableError, match="refused"):
                await open_engine(EngineOptions(url=url))
            engine = OpenAIEngine(Remote(api_url(url)), listed("m"))
            with pytest.raises(EngineUnavailableError):
                await answer(engine)
            await engine.aclose()

    async def test_a_name_that_nobody_knows_is_said_without_words_about_tls(self) -> None:
        import aiohttp
        from aiohttp.client_reqrep import ConnectionKey

        key = ConnectionKey("nosuch.invalid", 80, False, True, None, None, None)  # noqa: FBT003 -- its fields have no defaults
        unknown = aiohttp.ClientConnectorError(key, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        found = Remote(api_url("http://nosuch.invalid")).failure(unknown)
        assert "cannot be reached: Name or service not known" in str(found.message)
        assert "ssl" not in str(found.message)

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
    async def test_a_client_without_a_connection_left_blames_itself(
        self, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        async with facing() as (engine, _):
            monkeypatch.setattr("aiohappyeyeballs.start_connection", refuse)
            with pytest.raises(NoConnectionLeftError, match="This machine"):
                await answer(engine)

    async def test_what_is_no_http_is_malformed(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(MalformedAnswerError):
                await open_engine(EngineOptions(url=f"http://127.0.0.1:{port}"))

    async def test_a_redirect_is_not_followed(self) -> None:
        reply = refusing(307, {}, Location="http://x/")
        async with scripted(lambda _: reply, gets=MODELS) as server, opened(server.url) as engine:
            with pytest.raises(InvalidRequestError) as sent_away:
                await answer(engine)
        assert "http://x/" in sent_away.value.hint

    async def test_the_key_is_in_no_message_and_no_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        for status in (400, 401, 500):
            body = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "x"}}
            async with (
                scripted(always(refusing(status, body)), gets=MODELS) as server,
                opened(server.url, api_key=KEY) as engine,
            ):
                with pytest.raises(QwenOpsError) as failed:
                    await answer(engine)
                shown = repr(failed.value) + failed.value.message + failed.value.hint + repr(engine.info)
                assert KEY not in shown + repr(engine) + repr(engine.remote) + repr(vars(engine))
                assert "***" in failed.value.message
        assert KEY not in caplog.text
        with pytest.raises(ConfigError) as refused:
            Remote("http://127.0.0.1:1", api_key=KEY + "\n")
        assert KEY not in str(refused.value)
