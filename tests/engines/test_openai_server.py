"""What the engine learns of a server: fields it does not know, how it treats connections, what it serves."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import SimulatedOptions
from qwenops.bench.simulated.server import serve_simulated
from qwenops.engines.openai import OpenAIEngine, api_url, open_engine
from qwenops.engines.options import EngineOptions
from qwenops.engines.remote import Remote
from qwenops.engines.seam import EngineState
from qwenops.errors import (
    ConfigError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    MalformedAnswerError,
    ModelNotServedError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.generation import (
    JsonObject,
)
from tests.engines.openai_facing import (
    FINE,
    HELLO,
    MODELS,
    THINKING,
    answer,
    asked,
    facing,
    listed,
    opened,
    text_of,
)
from tests.engines.scripted import Reply, always, delta, events, refusing, scripted


class TestWhatAServerDoesNotKnow:
    """Each field that some server refuses is left out, once and for all; what changes the meaning is not."""

    @staticmethod
    def strict(known: set[str], say: Any) -> Any:
        def reply(body: dict[str, Any]) -> Reply:
            unknown = sorted(body.keys() - known)
            return say(unknown) if unknown else Reply(pieces=FINE)

        return reply

    PLAIN = frozenset({"model", "messages", "stream", "max_tokens", "temperature", "top_p"})

    @pytest.mark.parametrize(
        "refusal",
        [
            lambda unknown: refusing(400, {"error": {"message": f"Unknown parameter: '{unknown[0]}'."}}),
            lambda unknown: refusing(
                400, {"error": {"message": "This parameter is not supported.", "param": unknown[0]}}
            ),
            lambda unknown: refusing(
                422,
                {
                    "detail": [
                        {"type": "extra_forbidden", "loc": ["body", each], "msg": "Extra inputs are not permitted"}
                        for each in unknown
                    ]
                },
            ),
            lambda _: refusing(400, {"error": {"message": "Unrecognized request argument supplied"}}),
            lambda unknown: refusing(422, {"error": f"unknown field `{unknown[0]}`, expected one of ..."}),
        ],
        ids=["one at a time", "by param", "all at once", "without a name", "in Rust's words"],
    )
    async def test_it_is_left_out_and_stays_out(self, refusal: Any) -> None:
        wanted = asked(THINKING, temperature=1.0, ignore_eos=True, seed=1, presence_penalty=1.0)
        async with (
            scripted(self.strict(set(self.PLAIN), refusal), gets=MODELS) as server,
            opened(server.url) as engine,
        ):
            assert text_of(await answer(engine, wanted)) == "Hi"
            tries = len(server.asked)
            assert tries <= 10
            await answer(engine, wanted)
            assert len(server.asked) == tries + 1
            assert server.asked[-1].keys() == self.PLAIN
            assert "ignore_eos" in engine.info.notes["left_out"]

    async def test_those_that_were_refused_at_the_same_time_all_learn_it(self) -> None:
        def slowly(body: dict[str, Any]) -> Reply:
            unknown = {"top_k"} & body.keys()
            return refusing(400, {"error": f"unknown field {unknown}"}) if unknown else Reply(pieces=FINE)

        async with scripted(slowly, gets=MODELS) as server, opened(server.url) as engine:
            answers = await asyncio.gather(*(answer(engine, asked(name=str(n), temperature=1.0)) for n in range(9)))
        assert [text_of(each) for each in answers] == ["Hi"] * 9

    async def test_only_what_is_refused_is_left_out(self) -> None:
        known = set(self.PLAIN) | {"top_k", "min_p", "chat_template_kwargs"}
        refusal = lambda unknown: refusing(400, {"error": {"message": f"The field {unknown[0]} is not known."}})  # noqa: E731 -- short
        async with scripted(self.strict(known, refusal), gets=MODELS) as server, opened(server.url) as engine:
            await answer(engine, asked(temperature=1.0))
            assert server.asked[-1].keys() == known

    async def test_a_refusal_in_the_middle_that_names_nothing_takes_no_field_away(self) -> None:
        tries = 0

        def reply(_: dict[str, Any]) -> Reply:
            nonlocal tries
            tries += 1
            return refusing(400, {"error": "unexpected trouble"}) if tries == 2 else Reply(pieces=FINE)

        async with scripted(reply, gets=MODELS) as server, opened(server.url) as engine:
            await answer(engine, asked(ignore_eos=True))
            with pytest.raises(InvalidRequestError):
                await answer(engine, asked(ignore_eos=True))
            await answer(engine, asked(ignore_eos=True))
            assert len(server.asked) == 3
            assert "ignore_eos" in server.asked[-1]
            assert engine.info.left_out == ()

    async def test_what_a_refusal_lists_as_known_is_not_left_out(self) -> None:
        said = {"error": "unknown field `ignore_eos`, expected one of `model`, `seed`, `stream_options`"}
        reply = lambda body: refusing(422, said) if "ignore_eos" in body else Reply(pieces=FINE)  # noqa: E731 -- short
        async with scripted(reply, gets=MODELS) as server, opened(server.url) as engine:
            await answer(engine, asked(ignore_eos=True, seed=1, temperature=1.0))
            assert engine.info.left_out == ("ignore_eos",)

    async def test_a_refusal_of_what_must_stay_takes_nothing_else_away(self) -> None:
        said = {"error": {"message": "Unknown parameter: 'tools'."}}
        async with scripted(lambda _: refusing(400, said), gets=MODELS) as server, opened(server.url) as engine:
            with pytest.raises(InvalidRequestError):
                await answer(engine, asked(replace(HELLO, tools=({"type": "function"},))))
            assert len(server.asked) == 1

    async def test_whoever_listens_is_told_that_a_request_goes_out_again(self) -> None:
        told: list[str] = []
        refusal = lambda unknown: refusing(400, {"error": f"unknown field {unknown}"})  # noqa: E731 -- short
        known = set(self.PLAIN) | {"chat_template_kwargs"}
        async with scripted(self.strict(known, refusal), gets=MODELS) as server, opened(server.url) as engine:
            engine.listen_moments(lambda _, moment: told.append(moment))
            await answer(engine, asked(temperature=1.0))
            assert told.count("again") == len(server.asked) - 1 > 0

    async def test_structure_and_tools_are_never_left_out(self) -> None:
        refusal = lambda unknown: refusing(400, {"error": {"message": f"Unknown parameter: '{unknown[-1]}'."}})  # noqa: E731 -- short
        known = set(self.PLAIN) | {"stream_options", "chat_template_kwargs"}
        for prompt, sampling in (
            (HELLO, {"structure": JsonObject()}),
            (replace(HELLO, tools=({"type": "function"},)), {}),
            (HELLO, {"logprobs": 1}),
        ):
            async with scripted(self.strict(known, refusal), gets=MODELS) as server, opened(server.url) as engine:
                with pytest.raises(InvalidRequestError):
                    await answer(engine, asked(prompt, **sampling))

    async def test_a_wrong_value_is_not_taken_for_an_unknown_field(self) -> None:
        said = {"error": {"message": "top_k must be at least 1, got 0.", "param": "top_k"}}
        async with scripted(lambda _: refusing(400, said), gets=MODELS) as server, opened(server.url) as engine:
            with pytest.raises(InvalidRequestError):
                await answer(engine, asked(temperature=1.0))
            assert len(server.asked) == 1
            assert engine.info.notes == {}

    async def test_a_prompt_that_is_too_long_is_just_that(self) -> None:
        said = {"error": {"message": "extra long: the context length is 4096", "code": "context_length_exceeded"}}
        async with scripted(lambda _: refusing(400, said), gets=MODELS) as server, opened(server.url) as engine:
            with pytest.raises(PromptTooLongError):
                await answer(engine)
            assert len(server.asked) == 1


class TestConnections:
    async def test_one_after_the_other_share_a_connection_and_its_moments_are_told(self) -> None:
        told: list[tuple[str, str]] = []
        async with facing() as (engine, server):
            engine.listen_moments(lambda name, moment: told.append((name, moment)))
            for name in ("a", "b", "c"):
                await answer(engine, asked(name=name))
            engine.listen_moments(None)
            await answer(engine)
            assert len(server.connections) == 1
        assert told == [("a", "connected"), ("a", "first_byte"), ("b", "first_byte"), ("c", "first_byte")]

    async def test_leaving_early_closes_the_connection(self) -> None:
        more: list[bytes | float] = [0.05, *events(delta(content="b"))]
        pieces = [*events(delta(content="a")), *more * 200]
        async with facing(*pieces) as (engine, server), asyncio.timeout(5):
            stream = engine.generate(asked())
            await anext(stream)
            assert engine.info.health.running == 1
            await stream.aclose()  # type: ignore[attr-defined] # engines give asynchronous generators
            await server.left.wait()
            assert engine.info.health.running == 0

    async def test_a_cancelled_request_closes_the_connection_also_before_its_head(self) -> None:
        came = asyncio.Event()
        gone = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            came.set()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            gone.set()
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server, asyncio.timeout(5):
            port = server.sockets[0].getsockname()[1]
            engine = OpenAIEngine(Remote(api_url(f"http://127.0.0.1:{port}")), listed("m"))
            task = asyncio.ensure_future(answer(engine))
            await came.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await gone.wait()
            await engine.aclose()

    async def test_closing_ends_what_runs_and_refuses_what_comes(self) -> None:
        async with facing(*events(delta(content="a")), 30.0) as (engine, _), asyncio.timeout(5):
            stream = engine.generate(asked())
            await anext(stream)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.05)
            await engine.aclose()
            await engine.aclose()
            with pytest.raises(EngineUnavailableError):
                await waiting
            assert engine.info.health.state is EngineState.CLOSED
            with pytest.raises(EngineUnavailableError):
                await answer(engine)

    async def test_a_server_that_closes_without_a_word_is_no_failing_server(self) -> None:
        """As llama-server does after each stream, though it promises to keep the connection."""
        answered = 0
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\nKeep-Alive: timeout=5\r\n\r\n"
        )
        body = b"".join(each for each in FINE if isinstance(each, bytes))

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal answered
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head % len(body) + body)
            await writer.drain()
            answered += 1
            await asyncio.sleep(0.005)  # the next request is on its way by now
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            engine = OpenAIEngine(Remote(api_url(f"http://127.0.0.1:{port}")), listed("m"))
            told: list[str] = []
            engine.listen_moments(lambda _, moment: told.append(moment))
            for _ in range(20):
                assert text_of(await answer(engine)) == "Hi"
            assert answered == 20
            assert told.count("again") == 1
            assert "connections" in engine.info.notes
            await engine.aclose()
            await asyncio.sleep(0.05)

    async def test_no_more_connections_are_opened_than_are_allowed(self) -> None:
        for limit, expected in ((2, 2), (0, 8)):
            pieces: list[bytes | float] = [0.05, *FINE]
            async with (
                scripted(always(Reply(pieces=pieces)), gets=MODELS) as server,
                opened(server.url, num_connections=limit) as engine,
            ):
                await asyncio.gather(*(answer(engine, asked(name=str(each))) for each in range(8)))
                assert len(server.connections) == expected

    @pytest.mark.slow
    async def test_three_hundred_streams_at_once_are_all_answered(self) -> None:
        options = SimulatedOptions(
            model="m", slots=1000, prefill_tokens_per_s=0, decode_tokens_per_s=40, contention=0, coherence=0
        )
        async with serve_simulated(ServerModel(options)) as url, opened(url) as engine:
            requests = [asked(name=str(each), max_tokens=20, ignore_eos=True) for each in range(300)]
            answers = await asyncio.gather(*(answer(engine, each) for each in requests))
        assert all(chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 20 for chunks in answers)


class TestOpening:
    @pytest.mark.parametrize(
        ("given", "url"),
        [
            ("http://h:1", "http://h:1/v1"),
            ("http://h:1/", "http://h:1/v1"),
            ("http://h:1/v1", "http://h:1/v1"),
            ("http://h:1/v1/", "http://h:1/v1"),
            ("http://h:1/v1/chat/completions", "http://h:1/v1"),
            ("http://h:1/v1/completions/", "http://h:1/v1"),
            ("http://h:1/v1/models", "http://h:1/v1"),
            ("https://h/api/v3", "https://h/api/v3"),
            ("https://h/v1beta/openai", "https://h/v1beta/openai"),
            ("https://h/proxy", "https://h/proxy/v1"),
            ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ],
    )
    def test_the_address_of_the_api_is_found_from_any_of_its_addresses(self, given: str, url: str) -> None:
        assert api_url(given) == url

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "h:1",
            "ftp://h",
            "http://",
            "http://u:secret@h:1",
            "http://h?key=secret",
            "http://h:x",
            "http://h#secret",
        ],
    )
    def test_what_is_no_address_or_holds_a_secret_is_refused_without_showing_it(self, given: str) -> None:
        with pytest.raises(ConfigError) as refused:
            api_url(given)
        assert "secret" not in refused.value.message + refused.value.hint

    async def test_the_model_is_asked_for_when_none_is_named(self) -> None:
        async with scripted(lambda _: Reply(pieces=FINE), gets=MODELS) as server:
            engine = await open_engine(EngineOptions(url=server.url))
            assert (engine.info.model, engine.info.context_tokens) == ("m", 4096)
            assert engine.info.notes == {}
            await engine.aclose()

    async def test_of_several_the_first_is_taken_and_the_choice_is_noted(self) -> None:
        models = {"/v1/models": {"data": [{"id": "a", "meta": {"n_ctx": 99}}, {"id": "b"}]}}
        async with scripted(lambda _: Reply(pieces=FINE), gets=models) as server:
            engine = await open_engine(EngineOptions(url=server.url))
            assert (engine.info.model, engine.info.context_tokens) == ("a", 99)
            assert "a, b" in engine.info.notes["model"]
            await engine.aclose()
            engine = await open_engine(EngineOptions(url=server.url, model_name="c"))
            assert "does not list c" in engine.info.notes["model"]
            await engine.aclose()

    async def test_a_server_without_a_list_is_taken_at_its_word(self) -> None:
        async with scripted(lambda _: Reply(pieces=FINE)) as server:
            engine = await open_engine(EngineOptions(url=server.url, model_name="m"))
            assert text_of(await answer(engine)) == "Hi"
            await engine.aclose()
            with pytest.raises(InvalidRequestError):
                await open_engine(EngineOptions(url=server.url))

    @pytest.mark.parametrize(
        ("models", "kind"),
        [({"data": []}, ModelNotServedError), ({"data": [{}]}, MalformedAnswerError), ([], MalformedAnswerError)],
    )
    async def test_a_list_that_helps_nobody_is_said_to_be_one(self, models: Any, kind: type[QwenOpsError]) -> None:
        async with scripted(lambda _: Reply(), gets={"/v1/models": models}) as server:
            with pytest.raises(kind):
                await open_engine(EngineOptions(url=server.url))

    async def test_a_list_that_fails_does_not_matter_where_the_model_is_named(self) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with opened(url) as engine:
                assert engine.info.model == "m"
            with pytest.raises(EngineError):
                await open_engine(EngineOptions(url=url))

    async def test_without_an_address_it_says_where_to_set_one(self) -> None:
        with pytest.raises(ConfigError):
            await open_engine(EngineOptions())
