import asyncio
import os
import sys
from pathlib import Path
from typing import Literal

import pytest

from qwenops.bench.clock import RealClock
from qwenops.bench.conclusion import Conclusion, Outcome
from qwenops.bench.options import BenchOptions
from qwenops.bench.resume import Opening
from qwenops.bench.run import begin
from qwenops.bench.startup import Launch, Round, difference, drop_cached, model_files, resident_ratio, startup
from qwenops.bench.target import Target
from qwenops.engines.openai import open_engine
from qwenops.engines.options import EngineOptions
from qwenops.errors import ConfigError

# A server that reads its "model" at the start, takes 0.4 s to be ready, and answers the first request more slowly.
SERVER = """
import http.server, json, sys, time
port, model = int(sys.argv[1]), open(sys.argv[2], "rb").read()
time.sleep(0.2)
begun, asked = time.monotonic(), 0
class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        ready = time.monotonic() - begun > 0.4
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        global asked
        self.rfile.read(int(self.headers["Content-Length"]))
        asked += 1
        time.sleep(0.5 if asked == 1 else 0.1)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for delta, reason in ({"role": "assistant"}, None), ({"content": "yes"}, None), ({}, "stop"):
            data = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            self.wfile.write(f"data: {json.dumps(data)}\\n\\n".encode())
        self.wfile.write(b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}\\n\\n')
        self.wfile.write(b"data: [DONE]\\n\\n")
        self.close_connection = True
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""


async def open_it(url: str) -> Target:
    engine = await open_engine(EngineOptions(url=url, model_name="m"))
    return Target(text=url, kind="openai", engine=engine, model="m", url=url)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "weights.bin"
    path.parent.mkdir()
    path.write_bytes(os.urandom(8 * 1024 * 1024))
    return path


async def measured(folder: Path, launch: Launch, rounds: int = 1) -> Conclusion:
    options = BenchOptions(folder=folder, workload="calls-en", prompt_tokens=64)
    async with begin("startup", {}, options, clock=RealClock(), opening=Opening(calibrate_s=0.0)) as run:
        return await startup(run, launch, rounds=rounds)


@pytest.mark.proves("C3")
@pytest.mark.slow
async def test_each_phase_is_what_the_server_is_known_to_take(tmp_path: Path, model: Path) -> None:
    argv = [sys.executable, "-c", SERVER, "{port}", str(model)]
    launch = Launch(argv=argv, open_target=open_it, ready="/readyz", timeout_s=60, files=[model.parent])
    conclusion = await measured(tmp_path / "runs", launch, rounds=2)
    assert conclusion.outcome is Outcome.DONE
    rounds = conclusion.data["rounds"]
    assert [each["state"] for each in rounds] == ["cold", "cold", "warm", "warm"]
    for each in rounds:
        assert each["failure"] == ""
        # At least what it waits for, and on a busy machine not much more.
        assert 0.2 <= each["listening_s"] - each["running_s"] < 3.0
        assert 0.35 <= each["ready_s"] - each["listening_s"] < 2.0
        assert 0.5 <= each["first_ttft_s"] <= each["first_token_s"] - each["ready_s"] < 2.0
        assert 0.1 <= each["second_ttft_s"] < each["first_ttft_s"]
        assert each["peak_memory_bytes"] > 8 * 1024 * 1024
        # It read the model once: from disk where it was cold. The kernel may take a page back at any time.
        assert each["resident_ratio"] == pytest.approx(0.0 if each["state"] == "cold" else 1.0, abs=0.01)
        assert (each["read_bytes"] >= 8 * 1024 * 1024) == (each["state"] == "cold")
    assert str(conclusion.sentences[0]).startswith("Cold start: ready after ")
    assert str(conclusion.sentences[1]).startswith("Warm start: ready after ")
    assert len(conclusion.tables[1].rows) == 4


@pytest.mark.slow
async def test_files_that_nobody_named_are_found_out_by_a_start_that_is_not_counted(
    tmp_path: Path, model: Path
) -> None:
    mapping = "import mmap, os\n" + SERVER.replace(
        'open(sys.argv[2], "rb").read()',
        "memoryview(mmap.mmap(os.open(sys.argv[2], os.O_RDONLY), 0, access=1)); held = bytes(model)",
    )
    argv = [sys.executable, "-c", mapping, "{port}", str(model)]
    conclusion = await measured(tmp_path / "runs", Launch(argv=argv, open_target=open_it, timeout_s=60))
    rounds = conclusion.data["rounds"]
    assert [each["state"] for each in rounds] == ["cold", "warm"]
    assert "weights.bin" in conclusion.data["files"]
    assert rounds[0]["read_bytes"] >= 8 * 1024 * 1024
    assert rounds[1]["read_bytes"] < 1024 * 1024
    assert "were dropped from memory" in str(conclusion.findings[0].text)


@pytest.mark.slow
async def test_without_any_large_file_there_is_no_cold_start_and_it_is_said(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_text("x")
    argv = [sys.executable, "-c", SERVER, "{port}", str(nothing)]
    conclusion = await measured(tmp_path / "runs", Launch(argv=argv, open_target=open_it, timeout_s=60))
    assert [each["state"] for each in conclusion.data["rounds"]] == ["warm"]
    assert "Not measured cold" in str(conclusion.findings[0].text)


async def test_who_stops_it_in_the_middle_of_a_start_does_not_wait_for_the_server(tmp_path: Path, model: Path) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(600)", "{port}"]
    options = BenchOptions(folder=tmp_path / "runs", workload="calls-en", prompt_tokens=64)
    async with begin("startup", {}, options, clock=RealClock(), opening=Opening(calibrate_s=0.0)) as run:
        asyncio.get_running_loop().call_later(0.5, run.stop.set)
        launch = Launch(argv=argv, open_target=open_it, timeout_s=600, files=[model])
        async with asyncio.timeout(30):
            conclusion = await startup(run, launch)
    assert conclusion.data["rounds"] == []
    assert "Interrupted: 0 starts" in str(conclusion.sentences[0])


def started(state: Literal["cold", "warm"], ready_s: float) -> Round:
    return Round(
        state=state,
        resident_ratio=0.0,
        running_s=0.01,
        listening_s=0.1,
        ready_s=ready_s,
        first_token_s=ready_s + 0.1,
        first_ttft_s=0.1,
        second_ttft_s=0.1,
        read_bytes=0,
        peak_memory_bytes=0,
    )


@pytest.mark.parametrize(
    ("cold", "warm", "said"),
    [
        ((2.0, 2.2), (2.1, 2.3), "within their noise"),
        ((3.0, 3.2), (2.1, 2.3), "So few starts prove no difference"),
        ((3.0, 3.1, 3.2, 3.3), (2.1, 2.2, 2.3, 2.4), ""),
    ],
)
def test_a_difference_that_so_few_starts_cannot_show_is_not_told_as_one(
    cold: tuple[float, ...], warm: tuple[float, ...], said: str
) -> None:
    found = difference({"cold": [started("cold", s) for s in cold], "warm": [started("warm", s) for s in warm]})
    assert [said in str(each) for each in found] == ([True] if said else [])


def test_dropped_files_are_not_in_memory_and_read_ones_are(model: Path) -> None:
    assert model.read_bytes()
    assert resident_ratio([model]) == 1.0
    drop_cached([model])
    assert resident_ratio([model]) == 0.0
    with model.open("rb") as opened:
        opened.seek(4 * 1024 * 1024)
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        opened.read(1024 * 1024)
    assert resident_ratio([model]) == pytest.approx(1 / 8, abs=1 / 16)


def test_folders_stand_for_their_files_each_once(model: Path) -> None:
    (model.parent / "link.bin").symlink_to(model)
    assert model_files([model.parent, model]) == (model.resolve(),)
    with pytest.raises(ConfigError, match="is not there"):
        model_files([model.parent / "nothing"])
