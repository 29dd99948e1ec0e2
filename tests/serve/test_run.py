"""Whole servers, each a process of its own, told by signals and by HTTP what to do."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from qwenops.engines.fake import FakeEngine
from qwenops.observe.options import LogOptions
from qwenops.serve import run
from qwenops.serve.auth import KeyRing
from qwenops.serve.lifecycle import Report
from qwenops.serve.listen import listen
from qwenops.serve.options import ServeOptions
from qwenops.serve.run import GRACE_S, Surroundings
from qwenops.serve.runfile import running
from qwenops.serve.serving import ServedModel
from qwenops.serve.site import build_site
from qwenops.state.keys import ApiKey, digest
from tests.serve.conftest import MODEL, CharacterTokenizer

Plan = dict[str, Any]


class Running:
    """A server process and its address."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, timeout_s: float = 15.0) -> tuple[int, str]:
        """Wait for the end; return the exit status and what it said on standard error."""
        _, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, errors


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a server and waits until it listens."""
    started: list[subprocess.Popen[str]] = []

    def launch(environ: dict[str, str] | None = None, options: Plan | None = None, **plan: Any) -> Running:
        plan["options"] = {"port": 0, "drain_delay_s": 0.3, "log.dir": str(tmp_path / "logs")} | (options or {})
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serve.real_server", json.dumps(plan)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | (environ or {}),
        )
        started.append(process)
        assert process.stdout is not None
        return Running(process, process.stdout.readline().strip())

    yield launch
    for each in started:
        if each.poll() is None:
            each.kill()
        each.communicate()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def get(client: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    async with client.get(url) as answer:
        return answer.status, await answer.json()


async def wait_for(client: aiohttp.ClientSession, url: str, status: int, timeout_s: float = 10.0) -> dict[str, Any]:
    until_s = time.monotonic() + timeout_s
    while True:
        found, body = await get(client, url)
        if found == status:
            return body
        assert time.monotonic() < until_s, (url, found, body)
        await asyncio.sleep(0.02)


async def stream(client: aiohttp.ClientSession, url: str, max_tokens: int) -> list[dict[str, Any]]:
    """Ask for a streamed completion; return every event, the last one being `[DONE]` as an empty object."""
    body = {"model": "qwen3:test", "prompt": "hello", "max_tokens": max_tokens, "stream": True}
    events: list[dict[str, Any]] = []
    async with client.post(f"{url}/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                events.append({} if data == b"[DONE]" else json.loads(data))
    return events


def is_complete(events: list[dict[str, Any]]) -> bool:
    reasons = [each.get("finish_reason") for event in events for each in event.get("choices", ())]
    return events[-1] == {} and reasons[-1] == "length"


@pytest.mark.slow
async def test_sigterm_under_load_loses_no_request_and_ends_with_status_0(
    start: Start, client: aiohttp.ClientSession
) -> None:
    server = start(options={"drain_delay_s": 1.0}, tokens_per_s=40.0, slots=8)
    await wait_for(client, f"{server.url}/readyz", 200)
    streams = [asyncio.create_task(stream(client, server.url, 60)) for _ in range(12)]
    await asyncio.sleep(0.5)
    server.signal(signal.SIGTERM)
    unready = await wait_for(client, f"{server.url}/readyz", 503)
    assert unready["reasons"] == ["draining"]
    assert (await get(client, f"{server.url}/livez"))[0] == 200
    # Balancers have not heard yet: requests that come during the delay are answered as well.
    streams += [asyncio.create_task(stream(client, server.url, 20)) for _ in range(4)]
    answers = await asyncio.gather(*streams)
    assert all(map(is_complete, answers))
    status, errors = await asyncio.to_thread(server.ended)
    assert status == 0, errors
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(client, f"{server.url}/livez")


@pytest.mark.slow
async def test_answers_that_take_longer_than_the_drain_end_with_a_typed_error(
    start: Start, client: aiohttp.ClientSession
) -> None:
    server = start(options={"drain_delay_s": 0.1, "drain_timeout_s": 0.5}, tokens_per_s=20.0, slots=1)
    await wait_for(client, f"{server.url}/readyz", 200)
    running_one = asyncio.create_task(stream(client, server.url, 5000))
    await asyncio.sleep(0.3)
    body = {"prompt": "hello", "max_tokens": 5}
    waiting = asyncio.create_task(client.post(f"{server.url}/v1/completions", json=body))
    await asyncio.sleep(0.1)
    async with client.post(f"{server.url}/admin/drain") as answer:
        assert answer.status == 202
        assert (await answer.json())["state"] == "draining"
    events = await running_one
    error = next(event["error"] for event in events if "error" in event)
    assert error["code"] == "overloaded"
    async with await waiting as refused:
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
    status, errors = await asyncio.to_thread(server.ended)
    assert status == 0, errors


@pytest.mark.slow
async def test_a_second_signal_does_not_wait_for_answers(start: Start, client: aiohttp.ClientSession) -> None:
    server = start(options={"drain_delay_s": 60.0, "drain_timeout_s": 60.0}, tokens_per_s=20.0)
    await wait_for(client, f"{server.url}/readyz", 200)
    long_one = asyncio.create_task(stream(client, server.url, 5000))
    await asyncio.sleep(0.3)
    before_s = time.monotonic()
    server.signal(signal.SIGTERM)
    await wait_for(client, f"{server.url}/readyz", 503)
    server.signal(signal.SIGTERM)
    events = await long_one
    assert any("error" in event for event in events)
    status, errors = await asyncio.to_thread(server.ended)
    assert status == 0, errors
    assert time.monotonic() - before_s < 5.0


@pytest.mark.slow
async def test_the_end_takes_at_most_five_seconds_more_than_the_drain_whatever_hangs(
    start: Start, client: aiohttp.ClientSession
) -> None:
    server = start(options={"drain_delay_s": 0.1, "drain_timeout_s": 0.3}, tokens_per_s=20.0, close_s=600.0)
    await wait_for(client, f"{server.url}/readyz", 200)
    endless_one = asyncio.create_task(stream(client, server.url, 5000))
    await asyncio.sleep(0.3)
    before_s = time.monotonic()
    server.signal(signal.SIGTERM)
    status, errors = await asyncio.to_thread(server.ended)
    assert time.monotonic() - before_s < 0.1 + 0.3 + GRACE_S
    assert status == 0, errors
    assert "the engine did not end within" in errors
    assert any("error" in event for event in await endless_one)


def test_all_waits_after_the_drain_fit_into_the_grace_with_time_to_spare() -> None:
    assert run._LAST_WORDS_S + run._ABORT_S + run._CLOSE_ENGINE_S + run._LAST_LINES_S <= GRACE_S - 0.5


@pytest.mark.slow
async def test_a_drain_and_then_one_signal_let_running_answers_finish(
    start: Start, client: aiohttp.ClientSession
) -> None:
    server = start(options={"drain_delay_s": 0.1}, tokens_per_s=40.0)
    await wait_for(client, f"{server.url}/readyz", 200)
    running_one = asyncio.create_task(stream(client, server.url, 60))
    await asyncio.sleep(0.3)
    async with client.post(f"{server.url}/admin/drain") as answer:
        assert answer.status == 202
    await asyncio.sleep(0.3)
    server.signal(signal.SIGTERM)
    assert is_complete(await running_one)
    status, errors = await asyncio.to_thread(server.ended)
    assert status == 0, errors
    assert "cut off" not in errors


@pytest.mark.slow
async def test_a_reader_that_stands_still_does_not_hold_the_end_up(start: Start, client: aiohttp.ClientSession) -> None:
    server = start(options={"drain_delay_s": 0.1, "drain_timeout_s": 0.5}, tokens_per_s=1e9)
    await wait_for(client, f"{server.url}/readyz", 200)
    port = int(server.url.rpartition(":")[2])
    body = json.dumps({"prompt": "hello", "max_tokens": 8000, "stream": True, "logprobs": 5}).encode()
    with socket.socket() as still:
        still.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        still.connect(("127.0.0.1", port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        still.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        await asyncio.sleep(0.5)
        server.signal(signal.SIGTERM)
        status, errors = await asyncio.to_thread(server.ended, 12.0)
    assert status == 0, errors
    assert "draining took too long" in errors


@pytest.mark.slow
async def test_it_answers_probes_while_it_starts_and_tells_how_far_it_is(
    start: Start, client: aiohttp.ClientSession
) -> None:
    server = start(open_s=1.5)
    assert (await get(client, f"{server.url}/livez"))[0] == 200
    await asyncio.sleep(0.5)
    status, body = await get(client, f"{server.url}/startupz")
    assert status == 503
    assert body["phase"] == "loading"
    assert 0 < body["progress"] < 1
    assert 0 < body["eta_s"] < 5
    status, body = await get(client, f"{server.url}/readyz")
    assert status == 503
    assert re.match(r"starting: loading \d+ %, weights", body["reasons"][0])
    async with client.post(f"{server.url}/v1/completions", json={"prompt": "hello"}) as answer:
        assert answer.status == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 5
    body = await wait_for(client, f"{server.url}/startupz", 200)
    assert body["state"] == "ready"
    assert (await get(client, f"{server.url}/health"))[0] == 200


@pytest.mark.slow
async def test_a_signal_during_the_start_ends_it(start: Start) -> None:
    server = start(open_s=60.0)
    server.signal(signal.SIGINT)
    status, errors = await asyncio.to_thread(server.ended)
    assert status == 0, errors


@pytest.mark.slow
async def test_an_engine_that_cannot_be_opened_ends_the_server_with_its_error(start: Start) -> None:
    server = start(open_s=0.1, open_error="The weights are cut.")
    status, errors = await asyncio.to_thread(server.ended)
    assert status == 1
    assert '"The weights are cut."' in errors
    assert "never retrieved" not in errors


@pytest.mark.slow
async def test_a_taken_port_is_refused_with_the_name_of_who_listens(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(options={"port": port})
        status, errors = await asyncio.to_thread(server.ended)
    assert server.url == ""
    assert status == 2
    said = json.loads(errors.splitlines()[-1])
    assert f"Port {port} on 127.0.0.1 is taken by" in said["error"]
    assert f"(pid {os.getpid()})" in said["error"]
    assert "--port" in said["hint"]


@pytest.mark.slow
async def test_a_public_address_without_keys_does_not_listen_at_all(start: Start) -> None:
    server = start(options={"host": "0.0.0.0"})
    status, errors = await asyncio.to_thread(server.ended)
    assert (server.url, status) == ("", 2)
    assert "without an API key" in errors


@pytest.mark.slow
async def test_keys_of_a_mounted_file_open_the_server_and_appear_in_no_log(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    secret = "qo-" + "5ec2e7" * 8
    (tmp_path / "keys").write_text(f"shop {secret}\n")
    server = start({"QWENOPS_API_KEYS_FILE": str(tmp_path / "keys")}, {"host": "0.0.0.0"})
    await wait_for(client, f"{server.url}/readyz", 200)
    url, body = f"{server.url}/v1/completions", {"prompt": "hello", "max_tokens": 3}
    for headers, expected in (({}, 401), ({"authorization": f"Bearer {secret}"}, 200)):
        async with client.post(url, json=body, headers=headers) as answer:
            assert answer.status == expected
    async with client.post(f"{server.url}/admin/drain", headers={"authorization": f"Bearer {secret}"}) as answer:
        assert answer.status == 403
    server.signal(signal.SIGTERM)
    status, errors = await asyncio.to_thread(server.ended)
    assert status == 0
    logs = "".join(each.read_text() for each in (tmp_path / "logs").iterdir())
    assert '"key_name":"shop"' in logs
    assert secret not in errors + logs


@pytest.mark.slow
@pytest.mark.proves("A6")
async def test_a_reload_by_signal_request_or_changed_file_takes_live_options_over(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    server = start(options={"reload_poll_s": 0}, config=str(config))
    await wait_for(client, f"{server.url}/readyz", 200)

    async def too_long() -> bool:
        async with client.post(f"{server.url}/v1/completions", json={"prompt": "x" * 50, "max_tokens": 1}) as answer:
            return answer.status == 400

    async def generation() -> float:
        async with client.get(f"{server.url}/metrics") as answer:
            found = re.search(r"^qwen3_config_generation (\S+)$", await answer.text(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    assert not await too_long()
    config.write_text('{"limits.max_prompt_tokens": 20, "host": "127.0.0.2"}')
    async with client.post(f"{server.url}/admin/reload?dry_run=1") as answer:
        report = await answer.json()
    assert [each["key"] for each in report["applied"]] == ["limits.max_prompt_tokens"]
    assert [each["key"] for each in report["needs_restart"]] == ["host"]
    assert not await too_long()
    server.signal(signal.SIGHUP)
    until_s = time.monotonic() + 5
    while not await too_long():
        assert time.monotonic() < until_s
        await asyncio.sleep(0.02)
    assert await generation() == 2
    config.write_text('{"limits.max_prompt_tokens": "many')
    async with client.post(f"{server.url}/admin/reload") as answer:
        assert answer.status == 400
        assert "The file is wrong" in await answer.text()
    assert await too_long()
    assert await generation() == 2


@pytest.mark.slow
async def test_a_changed_file_is_noticed_without_being_told(
    start: Start, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    server = start(options={"reload_poll_s": 0.05}, config=str(config))
    await wait_for(client, f"{server.url}/readyz", 200)
    (tmp_path / "new.json").write_text('{"limits.max_stop_strings": 0}')
    (tmp_path / "new.json").rename(config)
    body = {"prompt": "hello", "max_tokens": 1, "stop": ["x"]}
    until_s = time.monotonic() + 5
    while True:
        async with client.post(f"{server.url}/v1/completions", json=body) as answer:
            if answer.status == 400:
                break
        assert time.monotonic() < until_s
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_run_file_stands_while_the_server_runs(start: Start, tmp_path: Path) -> None:
    server = start(run_folder=str(tmp_path / "servers"))
    (found,) = running(tmp_path / "servers")
    assert (found.url, found.pid, found.model) == (server.url, server.process.pid, "qwen3:test")
    server.signal(signal.SIGTERM)
    await asyncio.to_thread(server.ended)
    assert list((tmp_path / "servers").iterdir()) == []


@pytest.mark.slow
async def test_systemd_hears_of_start_readiness_life_and_end(start: Start, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(address))
        heard.settimeout(10)
        server = start({"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "200000"}, {"drain_delay_s": 0.0}, open_s=0.3)
        messages: list[str] = []
        while not any("READY=1" in each for each in messages):
            messages.append((await asyncio.to_thread(heard.recv, 4096)).decode())
        while sum("WATCHDOG=1" in each for each in messages) < 3:
            messages.append((await asyncio.to_thread(heard.recv, 4096)).decode())
        server.signal(signal.SIGTERM)
        while not any("STOPPING=1" in each for each in messages):
            messages.append((await asyncio.to_thread(heard.recv, 4096)).decode())
    assert "EXTEND_TIMEOUT_USEC=" in messages[0]
    assert any(each.startswith("STATUS=starting") for each in messages)
    assert any("serving qwen3:test on http://127.0.0.1:" in each for each in messages)
    assert (await asyncio.to_thread(server.ended))[0] == 0


@pytest.mark.slow
async def test_a_reload_while_it_starts_does_not_tell_systemd_that_it_is_ready(start: Start, tmp_path: Path) -> None:
    address, config = tmp_path / "notify", tmp_path / "config.json"
    config.write_text("{}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(address))
        heard.settimeout(10)
        server = start({"NOTIFY_SOCKET": str(address)}, {"reload_poll_s": 0}, open_s=1.0, config=str(config))
        server.signal(signal.SIGHUP)
        messages: list[str] = []
        while not any("serving " in each for each in messages):
            messages.append((await asyncio.to_thread(heard.recv, 4096)).decode())
        assert not [each for each in messages[:-1] if "READY=1" in each or "RELOADING=1" in each]
        server.signal(signal.SIGHUP)
        later = [(await asyncio.to_thread(heard.recv, 4096)).decode() for _ in range(2)]
    assert "RELOADING=1" in later[0]
    assert later[1] == "READY=1\nSTATUS=configuration generation 1"


async def test_work_in_the_background_goes_on_after_an_error_so_a_revoked_key_is_refused(
    client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("_KEYS_POLL_S", "_BEGIN_ANEW_S"):
        monkeypatch.setattr(run, name, 0.02)
    secret = "qo-" + "5ec2e7" * 8
    key = ApiKey(id="1", name="shop", sha256=digest(secret), created_at=datetime(2030, 1, 1, tzinfo=UTC))
    looks: list[int] = []

    def source() -> list[ApiKey]:
        looks.append(len(looks))
        if len(looks) == 2:
            raise MemoryError("for a moment")
        return [key] if len(looks) < 6 else []

    async def open_engine(_: Report) -> ServedModel:
        return ServedModel(engine=FakeEngine(model=MODEL), tokenizer=CharacterTokenizer())

    keys = KeyRing([source])
    keys.refresh()
    options = ServeOptions(drain_delay_s=0.0, log=LogOptions(destination="off"))
    with listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(run.serve(open_engine, options, keys, listener, Surroundings()))
        try:
            await wait_for(client, f"{url}/readyz", 200)
            until_s = time.monotonic() + 5
            while True:
                async with client.get(f"{url}/v1/models", headers={"authorization": f"Bearer {secret}"}) as answer:
                    if answer.status == 401:
                        break
                assert time.monotonic() < until_s
                await asyncio.sleep(0.02)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    (said,) = [each for each in caplog.records if "reading the keys again failed" in each.getMessage()]
    assert said.exc_info is not None


async def test_a_reload_that_nobody_waits_for_logs_whatever_went_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[int] = []

    def source() -> list[ApiKey]:
        looks.append(len(looks))
        raise OSError("the disk is gone")

    site = build_site(ServeOptions(log=LogOptions(dir=tmp_path)), KeyRing([source]))
    await run._reload(site)
    assert await asyncio.to_thread(site.writer.close)
    assert looks
    (said,) = [each for each in caplog.records if "the old configuration stays" in each.getMessage()]
    assert said.exc_info is not None


@pytest.mark.slow
async def test_ten_thousand_requests_over_the_limit_are_shed_in_bounded_memory_while_probes_answer(
    start: Start, client: aiohttp.ClientSession
) -> None:
    server = start(options={"limits.queue_requests": 4, "limits.max_wait_s": 600}, tokens_per_s=10.0, slots=1)
    await wait_for(client, f"{server.url}/readyz", 200)
    held = [asyncio.create_task(stream(client, server.url, 5000)) for _ in range(5)]
    await asyncio.sleep(0.5)
    process = psutil.Process(server.process.pid)
    body = {"prompt": "hello", "max_tokens": 5}
    counts: dict[int, int] = {}
    probes_s: list[float] = []

    async def flood(count: int) -> None:
        for _ in range(count):
            async with client.post(f"{server.url}/v1/completions", json=body) as answer:
                counts[answer.status] = counts.get(answer.status, 0) + 1
                assert int(answer.headers["retry-after"]) >= 1
                await answer.read()

    async def probe() -> None:
        for _ in range(20):
            before_s = time.monotonic()
            async with client.get(f"{server.url}/metrics") as answer:
                assert answer.status == 200
                await answer.read()
            assert (await get(client, f"{server.url}/readyz"))[0] == 200
            probes_s.append(time.monotonic() - before_s)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(flood(10) for _ in range(100)))
    before_bytes = process.memory_info().rss
    await asyncio.gather(probe(), *(flood(100) for _ in range(100)))
    grown_bytes = process.memory_info().rss - before_bytes
    assert counts == {503: 11_000}
    assert grown_bytes < 24 * 1024**2
    assert sorted(probes_s)[len(probes_s) // 2] < 2.0
    async with client.get(f"{server.url}/metrics") as answer:
        text = await answer.text()
    assert 'qwen3_shed_requests_total{reason="queue_requests"} 11000.0' in text
    assert re.search(r"^qwen3_queue_requests 4\.0$", text, re.MULTILINE)
    assert re.search(r"^qwen3_saturation_ratio 5\.0$", text, re.MULTILINE)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)


@pytest.mark.slow
async def test_clients_that_go_away_free_their_places(start: Start, client: aiohttp.ClientSession) -> None:
    server = start(tokens_per_s=10.0, slots=1)
    await wait_for(client, f"{server.url}/readyz", 200)
    held = [asyncio.create_task(stream(client, server.url, 5000)) for _ in range(5)]
    await asyncio.sleep(0.5)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    events = await asyncio.wait_for(stream(client, server.url, 3), 5.0)
    assert is_complete(events)
