"""A real server is really throttled for a while in the middle of a run, and the findings say so."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.clock import RealClock
from qwenops.bench.collect.findings import findings
from qwenops.bench.collect.host import HostWatch
from qwenops.bench.folder import read_run
from qwenops.bench.options import BenchOptions
from qwenops.bench.resume import Opening
from qwenops.bench.run import begin
from qwenops.bench.segment import ClosedLoop, Segment
from qwenops.bench.spawned import SpawnedServer, spawned_server
from qwenops.bench.target import Target
from qwenops.engines.openai import open_engine
from qwenops.engines.options import EngineOptions
from tests.infra.conftest import Limited

pytestmark = pytest.mark.infra

# Every answer takes 60 ms of CPU time, as a model would.
SERVER = """
import http.server, json, sys, time
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        begun = time.process_time()
        while time.process_time() - begun < 0.06: pass
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, reason in ({"content": "yes"}, None), ({}, "stop"):
            data = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            self.wfile.write(f"data: {json.dumps(data)}\\n\\n".encode())
        self.wfile.write(b"data: [DONE]\\n\\n")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


class Inside:
    """Starts a command as a member of a group."""

    def __init__(self, group: Limited) -> None:
        self._group = group

    def confine(self, argv: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        join = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return nullcontext(["sh", "-c", join, str(self._group.folder), *argv])


async def driven(folder: Path, server: SpawnedServer, squeeze: Mapping[float, float], group: Limited) -> Path:
    """Ask the server; at each moment of `squeeze`, in seconds, it gets so many cores."""

    async def limit() -> None:
        begun_s = 0.0
        for at_s, cores in squeeze.items():
            await asyncio.sleep(at_s - begun_s)
            begun_s = at_s
            group.limit_cpu(cores)

    clock, options = RealClock(), BenchOptions(folder=folder, workload="calls-en", prompt_tokens=64)
    engine = await open_engine(EngineOptions(url=server.url, model_name="m"))
    target = Target(text=server.url, kind="openai", engine=engine, model="m", url=server.url)
    watch = HostWatch(lambda: (server.pid,), clock, every_s=0.5)
    try:
        async with begin(
            "load", {"": target}, options, clock=clock, collectors=[watch], opening=Opening(calibrate_s=0.0)
        ) as run:
            limiting = asyncio.create_task(limit())
            await run.drive(
                Segment(name="load", load=ClosedLoop(users=1, think_s=0.05), duration_s=max(squeeze, default=0.0) + 3.0)
            )
            await limiting
            return run.folder.path
    finally:
        await engine.aclose()


async def test_slow_answers_of_a_throttled_server_are_put_down_to_its_quota(tmp_path: Path, cpu_group: Limited) -> None:
    cpu_group.limit_cpu(2.0)
    argv = [sys.executable, "-c", SERVER, "{port}"]
    async with spawned_server(argv, url="http://127.0.0.1:{port}", under=Inside(cpu_group), timeout_s=60) as server:
        path = await driven(tmp_path, server, {4.0: 0.15, 7.0: 2.0}, cpu_group)
    run = read_run(path)
    throttled: list[Mapping[str, Any]] = [each for each in run.host if each.get("throttled_ratio", 0.0) > 0.3]
    assert throttled
    assert all(3.5 < each["at_ns"] / 1e9 < 9.0 for each in throttled)
    found = [each for each in findings(run) if "CPU throttling" in str(each.text)]
    assert found
    assert found[0].severity == "warning"
    assert "Slow answers from" in str(found[0].text)
    assert found[0].from_ns is not None
    assert 3.0 < found[0].from_ns / 1e9 < 5.5


async def test_the_same_server_without_a_squeeze_is_not_said_to_be_throttled(
    tmp_path: Path, cpu_group: Limited
) -> None:
    cpu_group.limit_cpu(2.0)
    argv = [sys.executable, "-c", SERVER, "{port}"]
    async with spawned_server(argv, url="http://127.0.0.1:{port}", under=Inside(cpu_group), timeout_s=60) as server:
        path = await driven(tmp_path, server, {}, cpu_group)
    assert not [each for each in findings(read_run(path)) if "CPU throttling" in str(each.text)]
