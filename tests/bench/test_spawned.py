import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from qwenops.bench.spawned import spawned_server
from qwenops.errors import CommandError, ConfigError, DeadlineError

SERVER = """
import http.server, subprocess, sys, time
port, wait_s, path = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
begun = time.monotonic()
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = time.monotonic() - begun > wait_s
        self.send_response(404 if self.path != path else 200 if ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""
URL = "http://127.0.0.1:{port}"


def server(wait_s: float, path: str = "/readyz") -> list[str]:
    return [sys.executable, "-c", SERVER, "{port}", str(wait_s), path]


def is_running(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until_written(path: Path) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s and not (path.exists() and path.read_text()):
        time.sleep(0.02)


async def has_ended(pid: int) -> bool:
    for _ in range(200):
        if not is_running(pid):
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.parametrize("path", ["/readyz", "/health", "/v1/models", "/api/version"])
async def test_a_server_is_given_out_when_it_is_ready_whatever_it_calls_the_address(path: str) -> None:
    async with spawned_server(server(0.5, path), url=URL, timeout_s=30) as spawned:
        timings = spawned.timings
        assert spawned.alive()
        assert "{port}" not in spawned.url
        assert 0.005 < timings.running_s <= timings.listening_s <= timings.ready_s
        # The program counts its half second from a moment between becoming itself and listening.
        assert timings.running_s + 0.5 <= timings.ready_s <= timings.listening_s + 1.0


async def test_an_address_of_ones_own_decides_alone() -> None:
    async with spawned_server(server(0.3, "/is/it"), url=URL, ready="/is/it", timeout_s=30) as spawned:
        assert spawned.timings.ready_s > 0.3


async def test_what_it_started_ends_with_it() -> None:
    async with spawned_server(server(0), url=URL, timeout_s=30) as spawned:
        child = int(spawned.tail().split()[1])
        assert is_running(child)
    assert not is_running(spawned.pid)
    assert await has_ended(child)


async def test_a_server_that_ends_too_early_is_quoted() -> None:
    argv = [sys.executable, "-c", "import sys; print('no such model'); sys.exit(7)"]
    with pytest.raises(CommandError, match=r"(?s)status 7.*no such model") as caught:
        async with spawned_server(argv, url=URL, timeout_s=30):
            pass
    assert caught.value.returncode == 7
    assert "no such model" in caught.value.hint


async def test_a_server_that_is_never_ready_is_given_up_and_ended() -> None:
    began_s = time.monotonic()
    with pytest.raises(DeadlineError, match=r"not ready after 1\.5 s.*\n.*child \d+") as caught:
        async with spawned_server(server(600), url=URL, timeout_s=1.5):
            pass
    assert time.monotonic() - began_s < 10
    assert await has_ended(int(str(caught.value).rsplit("child ", 1)[1].split()[0]))


async def test_an_address_that_is_taken_is_no_server_of_ours() -> None:
    async with spawned_server(server(0), url=URL, timeout_s=30) as first:
        with pytest.raises(ConfigError, match="listens at"):
            async with spawned_server(server(0), url=first.url, timeout_s=30):
                pass


@pytest.mark.parametrize("url", ["nowhere", "ftp://127.0.0.1", "http://127.0.0.1:port"])
async def test_what_is_no_address_is_refused_before_anything_starts(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        async with spawned_server(["/bin/true"], url=url):
            pass


async def test_cancelling_the_wait_ends_the_server(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    argv = [sys.executable, "-c", f"import os,time; open({str(note)!r},'w').write(str(os.getpid())); time.sleep(600)"]

    async def wait() -> None:
        async with spawned_server(argv, url=URL, timeout_s=60):
            pass

    waiting = asyncio.create_task(wait())
    await asyncio.to_thread(until_written, note)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not is_running(int(note.read_text()))


async def test_it_gets_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TOLD", "no")
    argv = [sys.executable, "-c", "import os,sys; print(os.environ['TOLD']); sys.exit(3)"]
    with pytest.raises(CommandError, match="yes"):
        async with spawned_server(argv, url=URL, env={"TOLD": "yes"}):
            pass


async def test_the_secret_in_the_command_of_a_server_is_in_no_error() -> None:
    argv = [sys.executable, "-c", "import sys; print('key', sys.argv[2]); sys.exit(3)", "--api-key", "geheim-geheim"]
    with pytest.raises(CommandError) as caught:
        async with spawned_server([*argv, "{port}"], url=URL, timeout_s=30):
            pass
    said = f"{caught.value.message} {caught.value.hint} {caught.value.stderr}"
    assert "key ***" in said
    assert "--api-key '***'" in said
    assert "geheim" not in said
