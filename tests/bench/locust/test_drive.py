"""Locust itself, headless with two workers, against the simulated server: every request once, with raw moments."""

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.definitions import e2e_s, ttft_s
from qwenops.bench.folder import read_manifest, read_run
from qwenops.bench.locust.drive import locust
from qwenops.bench.locust.plan import plan_of
from qwenops.bench.options import BenchOptions
from qwenops.bench.resume import Opening
from qwenops.bench.run import begin, finish
from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import SimulatedOptions
from qwenops.bench.simulated.server import serve_simulated
from qwenops.bench.targets import open_target
from tests.engines.openai_facing import FINE, MODELS
from tests.engines.scripted import Reply, refusing, scripted

QUICK = SimulatedOptions(prefill_tokens_per_s=20_000.0, decode_tokens_per_s=200.0, slots=8)


async def measured(out: Path, model: ServerModel, options: BenchOptions, *, stop_after_s: float | None = None) -> str:
    """Run Locust with two workers; return the outcome in words."""
    async with serve_simulated(model) as url:
        target = await open_target(url, options)
        try:
            async with begin("locust", {"": target}, options, opening=Opening(out=out, calibrate_s=0.0)) as run:
                if stop_after_s is not None:
                    asyncio.get_running_loop().call_later(stop_after_s, run.stop.set)
                plan = plan_of(target.url, target.model, options, workers=2)
                conclusion = finish(run, await locust(run, plan))
        finally:
            await target.engine.aclose()
    return " ".join(conclusion.sentences)


@pytest.mark.slow
@pytest.mark.proves("C2")
async def test_two_workers_record_every_request_once_with_its_raw_moments(tmp_path: Path) -> None:
    model = ServerModel(QUICK)
    options = BenchOptions(users=4, duration_s=3.0, max_tokens=16, prompt_tokens=64, timeout_s=10.0)
    said = await measured(tmp_path / "run", model, options)
    (driven,) = read_run(tmp_path / "run").drivens
    records = driven.records
    assert len(records) == len(model.truths) > 20
    assert all(record.failure is None for record in records), Counter(record.message for record in records)
    assert max(Counter(record.index for record in records).values()) == 1
    assert {record.user for record in records} == {0, 1, 2, 3}
    assert len(list((tmp_path / "run" / "locust").glob("worker-*.jsonl"))) == 2
    truths = sorted(truth.ttft_s for truth in model.truths if truth.ttft_s is not None)
    found = sorted(value for record in records if (value := ttft_s(record)) is not None)
    middle = len(found) // 2
    # The client may be late, never early; its clock has nanoseconds, so nothing is a whole millisecond.
    assert truths[middle] - 0.001 <= found[middle] <= truths[middle] + 0.05
    milliseconds = [value * 1000 for value in map(e2e_s, records) if value is not None]
    assert any(round(value, 2) != round(value) for value in milliseconds)
    assert "locust:" in said
    found = read_manifest(tmp_path / "run")["validity"]
    assert 0 < found["figures"]["client_cores"] < 8
    assert found["figures"]["client_cpu_share"] > 0
    assert found["verdict"] in {"VALID", "SUSPECT", "INVALID"}


@pytest.mark.slow
async def test_what_the_server_refuses_is_learned_once_for_each_worker_and_stands_in_the_result(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        unknown = {"error": {"message": "Unknown parameter: 'ignore_eos'.", "param": "ignore_eos"}}
        return refusing(400, unknown) if "ignore_eos" in body else Reply(pieces=FINE)

    options = BenchOptions(users=2, requests=12, max_tokens=4, force_length=True, timeout_s=10.0, folder=tmp_path)
    async with scripted(answer, gets=MODELS) as server:
        target = await open_target(server.url, options, model="m")
        async with begin("locust", {"": target}, options, opening=Opening(calibrate_s=0.0)) as run:
            conclusion = finish(run, await locust(run, plan_of(target.url, target.model, options, workers=2)))
        await target.engine.aclose()
    records = next(iter(read_run(run.folder.path).drivens)).records
    assert all(record.failure is None for record in records)
    assert [notice.name for notice in run.noticing.notices] == ["ignore_eos"]
    assert sum(record.tries == 2 for record in records) == 2
    assert any("does not know ignore_eos" in finding.text for finding in conclusion.findings)


@pytest.mark.slow
async def test_under_a_rate_two_workers_send_one_schedule_and_stop_early_when_told(tmp_path: Path) -> None:
    model = ServerModel(QUICK)
    options = BenchOptions(rate=20.0, duration_s=60.0, max_tokens=4, prompt_tokens=64, timeout_s=5.0)
    await measured(tmp_path / "run", model, options, stop_after_s=6.0)
    (driven,) = read_run(tmp_path / "run").drivens
    assert driven.interrupted
    assert {record.index % 2 for record in driven.records} == {0, 1}
    assert max(Counter(record.index for record in driven.records).values()) == 1
    assert {record.user for record in driven.records} == {None}


async def test_locust_counts_milliseconds_as_they_are() -> None:
    script = (
        "import qwenops.bench.locust.user, locust.stats as stats; from locust import events\n"
        "before = stats.bucket_response_time(10490.25)\n"
        "events.init.fire(environment=None, runner=None, web_ui=None)\n"
        "print(before, stats.bucket_response_time(10490.25))\n"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(child.communicate(), 60)
    assert said.decode().split() == ["10000", "10490.25"]
