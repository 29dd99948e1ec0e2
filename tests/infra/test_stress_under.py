"""A real server in real control groups: half a core does half the work, and one short of memory is killed and told."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.clock import RealClock
from qwenops.bench.conclusion import Conclusion
from qwenops.bench.options import BenchOptions
from qwenops.bench.run import Opening, begin, finish
from qwenops.bench.startup import Launch
from qwenops.bench.stress import stress
from qwenops.bench.targets import open_target
from qwenops.bench.under import Limits

pytestmark = pytest.mark.infra

MIB = 1024**2
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("control groups can only be made by root")


async def climb(folder: Path, under: list[Limits], *flags: str) -> Conclusion:
    options = BenchOptions(folder=folder, duration_s=2.0, max_tokens=4, prompt_tokens=32, timeout_s=20.0)
    launch = Launch(
        argv=[sys.executable, "-m", "tests.infra.burning_server", "{port}", *flags],
        url="http://127.0.0.1:{port}",
        ready="/health",
        timeout_s=60.0,
        env={"PYTHONPATH": str(ROOT)},
        open_target=lambda url: open_target(url, options, model="m"),
    )
    opening = Opening(out=folder / "run", calibrate_s=0)
    async with begin("stress", {}, options, clock=RealClock(), opening=opening) as run:
        return finish(run, await stress(run, users=(1, 2, 4), launch=launch, under=under))


async def test_half_the_cores_do_half_the_work_side_by_side(tmp_path: Path) -> None:
    found = await climb(tmp_path, [Limits(cpu_cores=0.25), Limits(cpu_cores=0.5)])
    slow, fast = found.data["climbs"]
    assert (slow["limits"], fast["limits"]) == ("cpu=0.25", "cpu=0.5")
    best = [max(level["per_s"] for level in each["levels"]) for each in (slow, fast)]
    assert best[0] < 0.25 / 0.05 * 1.2  # 50 ms of CPU time an answer
    assert 1.4 < best[1] / best[0] < 2.8
    assert slow["throttled_s"] > 0.5
    side_by_side = found.tables[0]
    assert [row[0] for row in side_by_side.rows] == ["cpu=0.25", "cpu=0.5"]


async def test_a_server_that_is_killed_for_lack_of_memory_is_told_and_the_other_limit_goes_on(tmp_path: Path) -> None:
    limits = [Limits(memory_bytes=160 * MIB), Limits(memory_bytes=4096 * MIB)]
    found = await climb(tmp_path, limits, "--hold-mib", "10", "--burn-s", "0.02")
    small, large = found.data["climbs"]
    assert small["oom_kills"] >= 1
    said = " ".join(str(each.text) for each in found.findings)
    assert "memory=160MiB" in said
    assert "killed for lack of memory" in said
    assert large["oom_kills"] == 0
    assert len(large["levels"]) == 3
    assert large["peak_memory_bytes"] is None or large["peak_memory_bytes"] > 160 * MIB


async def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    found = await climb(tmp_path, [Limits(cpu_cores=1.0)], "--no-such-flag")
    failure: Any = found.data["climbs"][0]["failure"]
    assert "did not start" in str(failure)
    assert "--no-such-flag" in str(failure)
