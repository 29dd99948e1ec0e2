"""The real kernel limits a real child process, and the child must find the limit out."""

import json
import os
import shutil
import sys
from typing import Any

import pytest

from qwenops.command import run
from qwenops.hardware import detect_machine, plan_threads
from tests.infra.conftest import Limited

pytestmark = pytest.mark.infra

MIB = 1024**2
FACTS = """
import json
from qwenops.hardware import detect_machine, plan_threads
machine = detect_machine()
plan = plan_threads(machine)
quota = machine.cpu_quota
print(json.dumps({
    "threads": plan.value, "reason": plan.reason, "quota": quota and quota.value, "affinity": machine.affinity,
    "memory": machine.memory_limit.value, "memory_reason": machine.memory_limit.reason,
    "throttled": machine.throttling and machine.throttling.throttled_periods,
    "membership": open("/proc/self/cgroup").read(),
}))
"""
ASK = [sys.executable, "-c", FACTS]
NUM_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def facts(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture(autouse=True)
def _unlimited_so_far() -> None:
    if detect_machine().cpu_quota is not None:
        pytest.skip("this process has a CPU quota itself, so the expected numbers would be others")


class TestAffinity:
    def test_one_cpu_by_taskset_is_one_thread(self) -> None:
        if shutil.which("taskset") is None:
            pytest.skip("taskset is not installed")
        found = facts(run(["taskset", "-c", "0", *ASK], timeout_s=60).stdout)
        assert (found["threads"], found["affinity"]) == (1, [0])

    def test_without_it_every_physical_core_is_used(self) -> None:
        found = facts(run(ASK, timeout_s=60).stdout)
        assert found["threads"] == plan_threads(detect_machine()).value
        assert len(found["affinity"]) == NUM_CPUS


class TestCpuQuota:
    @pytest.mark.parametrize(("cores", "threads"), [(0.5, 1), (1.0, 1), (1.9, 1), (2.0, 2)])
    def test_a_quota_is_rounded_down(self, cpu_group: Limited, cores: float, threads: int) -> None:
        cpu_group.limit_cpu(cores)
        found = facts(cpu_group.run(ASK).stdout)
        assert found["quota"] == pytest.approx(cores)
        assert found["threads"] == min(threads, plan_threads(detect_machine()).value)

    def test_the_reason_names_the_group(self, cpu_group: Limited) -> None:
        cpu_group.limit_cpu(1)
        found = facts(cpu_group.run(ASK).stdout)
        if NUM_CPUS > 1:
            assert f"CPU quota of 1 cores at {cpu_group.folder} allows" in found["reason"]

    def test_the_quota_of_an_outer_group_counts(self, cpu_group: Limited) -> None:
        inner = cpu_group.inner("cpu")
        cpu_group.limit_cpu(1)
        found = facts(inner.run(ASK).stdout)
        assert "inner" in found["membership"]
        assert (found["quota"], found["threads"]) == (1.0, 1)

    def test_the_smaller_quota_of_the_inner_group_counts(self, cpu_group: Limited) -> None:
        inner = cpu_group.inner("cpu")
        cpu_group.limit_cpu(2)
        inner.limit_cpu(0.25)
        assert facts(inner.run(ASK).stdout)["quota"] == 0.25

    @pytest.mark.parametrize("mounted_anew", [True, False], ids=["mounted anew", "the host's mount"])
    def test_a_container_with_its_own_namespace_of_groups_finds_its_quota(
        self,
        cpu_group: Limited,
        mounted_anew: bool,  # noqa: FBT001 -- a parameter of the test
    ) -> None:
        if shutil.which("unshare") is None:
            pytest.skip("unshare is not installed")
        cpu_group.limit_cpu(1)
        kind = "-t cgroup -o cpu" if cpu_group.version == "v1" else "-t cgroup2"
        remount = f"umount {cpu_group.folder.parent} && mount {kind} none {cpu_group.folder.parent} && "
        script = f'{remount if mounted_anew else ""}exec "$0" "$@"'
        found = facts(cpu_group.run(["unshare", "--cgroup", "--mount", "sh", "-c", script, *ASK]).stdout)
        assert ":cpu:/\n" in found["membership"] or "0::/\n" in found["membership"]
        assert (found["quota"], found["threads"]) == (1.0, 1)

    def test_throttling_is_seen(self, cpu_group: Limited) -> None:
        cpu_group.limit_cpu(0.2)
        burn = "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass\n"
        found = facts(cpu_group.run([sys.executable, "-c", burn + FACTS]).stdout)
        assert found["throttled"] >= 2


class TestMemory:
    def test_a_limit_is_found_with_its_place(self, memory_group: Limited) -> None:
        memory_group.limit_memory(300 * MIB)
        found = facts(memory_group.run(ASK).stdout)
        assert found["memory"] == 300 * MIB
        assert str(memory_group.folder) in found["memory_reason"]

    def test_the_limit_of_an_outer_group_counts(self, memory_group: Limited) -> None:
        inner = memory_group.inner("memory")
        memory_group.limit_memory(200 * MIB)
        assert facts(inner.run(ASK).stdout)["memory"] == 200 * MIB
        inner.limit_memory(100 * MIB)
        assert facts(inner.run(ASK).stdout)["memory"] == 100 * MIB


EXAMINE = """
import json, pathlib
from qwenops.deploy.doctor import examine, look_around
print(json.dumps(examine(look_around(store=pathlib.Path("/"), measuring=False)).to_json()))
"""


class TestDoctor:
    def test_it_warns_of_half_a_core_and_names_the_group(self, cpu_group: Limited) -> None:
        cpu_group.limit_cpu(0.5)
        checks = {
            check["name"]: check for check in facts(cpu_group.run([sys.executable, "-c", EXAMINE]).stdout)["checks"]
        }
        assert checks["cores"]["status"] == "warn"
        assert f"CPU quota of 0.5 cores at {cpu_group.folder} is less than one core" in checks["cores"]["what"]
        # The engine is probed with that one thread, in this group.
        assert (checks["arithmetic"]["status"], checks["arithmetic"]["facts"]["threads"]) == ("ok", 1)

    def test_it_fails_where_no_model_fits(self, memory_group: Limited) -> None:
        memory_group.limit_memory(900 * MIB)
        report = facts(memory_group.run([sys.executable, "-c", EXAMINE]).stdout)
        checks = {check["name"]: check["status"] for check in report["checks"]}
        assert (report["usable"], checks["fit qwen3:0.6b"], checks["arithmetic"]) == (False, "fail", "ok")
