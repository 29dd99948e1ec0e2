"""The real kernel limits a real program, counts what it does to it, and nothing is left behind."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from qwenops.bench.under import PREFIX, Limits, limited
from qwenops.command import PIPE, run, spawn
from qwenops.hardware.cgroups import read_cgroups

pytestmark = pytest.mark.infra

MIB = 1024**2
SPIN = """
import time
end = time.perf_counter() + 1.5
began = time.process_time()
while time.perf_counter() < end:
    pass
print((time.process_time() - began) / 1.5)
"""
EAT = """
import sys
held = []
for _ in range(400):
    held.append(bytearray(b"x" * 2**20))
print("ate it all")
"""
SEE = """
import json, os
from pathlib import Path
from qwenops.hardware.cgroups import cpu_quota, memory_limit, read_cgroups
groups = read_cgroups(Path("/"))
quota, limit = cpu_quota(groups), memory_limit(groups)
print(json.dumps([quota and quota.value, limit and limit.value, os.getpid()]))
"""


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("control groups can only be made by root")


def homes() -> set[Path]:
    groups = read_cgroups(Path("/"))
    return {each.folder for each in (*groups.cpu, *groups.memory)}


def left_over() -> list[Path]:
    return [each for home in homes() for each in home.glob(f"{PREFIX}-{os.getpid()}-*")]


def test_the_program_sees_both_limits_and_keeps_its_process_id() -> None:
    with limited(Limits(cpu_cores=0.5, memory_bytes=512 * MIB)) as group:
        with spawn(group.joined([sys.executable, "-c", SEE]), stdout=PIPE) as child:
            assert child.stdout is not None
            seen = json.loads(child.stdout.read())
            assert child.wait(timeout_s=30) == 0
        assert seen == [0.5, 512 * MIB, child.pid]
        assert left_over()
    assert left_over() == []


def test_half_a_core_is_half_a_core_and_the_throttling_is_counted() -> None:
    with limited(Limits(cpu_cores=0.5)) as group:
        share = float(run(group.joined([sys.executable, "-c", SPIN]), timeout_s=60).stdout)
        counted = group.usage()
    assert share < 0.65
    assert counted.throttled_s is not None
    assert counted.throttled_s > 0.2
    assert counted.oom_kills is None


def test_a_program_that_wants_more_memory_is_killed_and_the_kill_is_counted() -> None:
    with limited(Limits(memory_bytes=64 * MIB)) as group:
        ended = run(group.joined([sys.executable, "-c", EAT]), timeout_s=60, ok_codes=None)
        counted = group.usage()
    assert ended.returncode == -9
    assert "ate" not in ended.stdout
    assert counted.oom_kills == 1
    assert counted.peak_memory_bytes is None or 32 * MIB < counted.peak_memory_bytes <= 64 * MIB


def test_what_still_runs_at_the_end_is_killed_with_its_children() -> None:
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '300'], start_new_session=True); time.sleep(300)"
    with limited(Limits(cpu_cores=1)) as group:
        child = spawn(group.joined([sys.executable, "-c", script]))
        deadline_s = time.monotonic() + 20
        while len(members()) < 2 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        pids = members()
        assert len(pids) == 2
    assert child.wait(timeout_s=10) == -9
    deadline_s = time.monotonic() + 10
    while any(running(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not any(running(pid) for pid in pids)
    assert left_over() == []


def test_the_group_goes_also_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), limited(Limits(cpu_cores=1, memory_bytes=64 * MIB)):
        _ = 1 / 0
    assert left_over() == []


def test_empty_groups_of_a_measurement_that_was_killed_are_swept() -> None:
    gone = run(["sh", "-c", "echo $$"], timeout_s=10).stdout.strip()
    with limited(Limits(cpu_cores=1)):
        parents = {each.parent for each in left_over()}
    stale = [parent / f"{PREFIX}-{gone}-0" for parent in parents]
    for each in stale:
        each.mkdir()
    with limited(Limits(cpu_cores=1)):
        assert not any(each.exists() for each in stale)


def members() -> list[int]:
    return [int(pid) for each in left_over() for pid in (each / "cgroup.procs").read_text().split()]


def running(pid: int) -> bool:
    """Whether a process computes; one that has ended and was not reaped by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in {"Z", "X"}
    except FileNotFoundError:
        return False
