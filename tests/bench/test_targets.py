"""From a text to what is measured."""

import asyncio
import os
import resource
import socket
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.listening import Listening, is_loopback
from qwenops.bench.options import BenchOptions
from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import SimulatedOptions
from qwenops.bench.simulated.server import refusing_url, serve_simulated
from qwenops.bench.target import Target
from qwenops.bench.targets import allow_connections, open_target
from qwenops.command import PIPE, spawn
from qwenops.engines.fake import FakeEngine
from qwenops.errors import ConfigError, EngineUnavailableError, ModelNotServedError
from qwenops.generation import GenerationRequest, Message, Messages, SamplingParams
from tests.engines.scripted import Reply, always, scripted

OPTIONS = BenchOptions()
KEY = "sk-do-not-show-this-key"


def server() -> ServerModel:
    return ServerModel(SimulatedOptions(model="m", prefill_tokens_per_s=0, decode_tokens_per_s=0))


async def said(target: Target) -> str:
    prompt = target.render(Messages(messages=(Message(role="user", content="Hello"),)))
    request = GenerationRequest(id="a", prompt=prompt, sampling=SamplingParams(max_tokens=4))
    return "".join([chunk.text async for chunk in target.engine.generate(request)])


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("{url}", "openai"),
        ("{url}/v1", "openai"),
        ("{url}/v1/chat/completions", "openai"),
        ("{address}", "openai"),
        ("ollama:m@{url}", "ollama"),
        ("ollama:m@{url}/api", "ollama"),
        ("ollama:m@{url}/api/chat/", "ollama"),
        ("ollama:m@{url}/api/generate", "ollama"),
        ("ollama:@{url}", "ollama"),
        ("simulated:?model=m&prefill_tokens_per_s=0&decode_tokens_per_s=0", "simulated"),
    ],
)
async def test_each_form_of_a_text_opens_its_target(form: str, kind: str) -> None:
    async with serve_simulated(server()) as url:
        target = await open_target(form.format(url=url, address=url.removeprefix("http://")), OPTIONS)
        assert (target.kind, target.model) == (kind, "m")
        assert await said(target)
        assert (target.url.startswith(url)) == (kind != "simulated")
        await target.engine.aclose()


async def test_an_engine_in_this_process_is_opened_by_who_can() -> None:
    asked: list[tuple[str, str, Mapping[str, str]]] = []

    async def open_local(engine: str, model: str, settings: Mapping[str, str]) -> Target:
        asked.append((engine, model, settings))
        return Target(text="", kind="in-process", engine=FakeEngine(), model="fake")

    target = await open_target("openvino:qwen3:0.6b?scheme=int4&threads=1", OPTIONS, open_local=open_local)
    assert asked == [("openvino", "qwen3:0.6b", {"scheme": "int4", "threads": "1"})]
    assert target.text == "openvino:qwen3:0.6b?scheme=int4&threads=1"
    await open_target("openvino:/a/folder", OPTIONS, open_local=open_local)
    assert asked[1] == ("openvino", "/a/folder", {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        "openvino:qwen3:0.6b",
        "llama:model",
        "http://user:hush@h:1",
        "http://h:1?key=hush",
        "ollama:m@http://u:hush@h",
        "ollama:m@h:1",
        "ftp://h",
        "simulated:?nothing=1",
        "openai:x",
    ],
)
async def test_what_names_nothing_or_holds_a_secret_is_refused_with_what_is_possible(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        await open_target(text, OPTIONS)
    assert refused.value.hint
    assert "hush" not in refused.value.message + refused.value.hint


async def test_a_query_that_cannot_be_read_is_refused() -> None:
    async def open_local(_engine: str, _model: str, _settings: Mapping[str, str]) -> Target:
        raise AssertionError

    with pytest.raises(ConfigError):
        await open_target("openvino:m?scheme", OPTIONS, open_local=open_local)


async def test_nobody_there_is_told_at_once() -> None:
    with refusing_url() as url:
        for text in (url, f"ollama:m@{url}"):
            with pytest.raises(EngineUnavailableError):
                await open_target(text, OPTIONS, model="m")


async def test_a_model_that_the_server_does_not_list_is_told_before_anything_is_sent() -> None:
    model = server()
    async with serve_simulated(model) as url:
        with pytest.raises(ModelNotServedError, match="does not serve nosuch") as caught:
            await open_target(url, OPTIONS, model="nosuch")
    assert caught.value.hint == "It serves: m."
    assert not model.truths


async def test_the_facts_are_what_the_server_says_without_what_is_long_and_without_the_key() -> None:
    gets: dict[str, Any] = {
        "/v1/models": {"data": [{"id": "m"}]},
        "/props": {"chat_template": "x" * 5000, "total_slots": 4, "echo": f"Bearer {KEY}"},
        "/version": {"version": "0.20.1"},
    }
    async with scripted(always(Reply()), gets=gets) as scene:
        target = await open_target(scene.url, OPTIONS, api_key=KEY)
        await target.engine.aclose()
    assert target.facts["/version"] == {"version": "0.20.1"}
    assert target.facts["/props"]["total_slots"] == 4
    assert len(target.facts["/props"]["chat_template"]) < 300
    assert "/metrics" not in target.facts
    assert "/api/v1/model" not in target.facts
    assert KEY not in repr(target)
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in scene.headers)


async def test_every_stream_may_have_a_connection() -> None:
    allow_connections()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


class TestProcesses:
    def test_the_listener_and_its_children_are_found_and_found_again_when_it_is_another(self) -> None:
        code = textwrap.dedent("""
            import socket, subprocess, sys
            door = socket.create_server(("127.0.0.1", int(sys.argv[1])))
            child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
            print(door.getsockname()[1], child.pid, flush=True)
            sys.stdin.read()
        """)
        with spawn([sys.executable, "-c", code, "0"], stdin=PIPE, stdout=PIPE) as first:
            assert first.stdout is not None
            port, child = map(int, first.stdout.readline().split())
            listening = Listening("127.0.0.1", port)
            assert listening.process_ids() == (first.pid, child)
            assert listening.process_ids() == (first.pid, child)
        assert listening.process_ids() == ()
        with spawn([sys.executable, "-c", code, str(port)], stdin=PIPE, stdout=PIPE) as second:
            assert second.stdout is not None
            _, child = map(int, second.stdout.readline().split())
            assert listening.process_ids() == (second.pid, child)

    def test_another_machine_has_no_processes_here(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as door:
            port = door.getsockname()[1]
            assert Listening("127.0.0.1", port).process_ids() == (os.getpid(),)
            assert Listening("192.0.2.1", port).process_ids() == ()

    def test_a_kernel_that_tells_no_children_leaves_the_listener(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as door:
            found = Listening("localhost", door.getsockname()[1], proc=tmp_path).process_ids()
        assert found == (os.getpid(),)

    @pytest.mark.parametrize(
        ("host", "here"),
        [
            ("127.0.0.1", True),
            ("127.1.2.3", True),
            ("::1", True),
            ("localhost", True),
            ("10.0.0.1", False),
            ("h", False),
        ],
    )
    def test_loopback_is_here(self, host: str, here: bool) -> None:  # noqa: FBT001 -- a parameter of the test
        assert is_loopback(host) is here

    async def test_a_target_knows_its_servers_process(self) -> None:
        async with serve_simulated(server()) as url:
            target = await open_target(url, OPTIONS)
            assert os.getpid() in await asyncio.to_thread(target.process_ids)
            await target.engine.aclose()


async def test_a_target_knows_its_key_and_does_not_show_it() -> None:
    async with serve_simulated(server()) as url:
        target = await open_target(url, OPTIONS, api_key=KEY)
        await target.engine.aclose()
    assert target.api_key is not None
    assert target.api_key.reveal() == KEY
    assert KEY not in repr(target)
