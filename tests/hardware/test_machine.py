from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenops.hardware import Machine, detect_machine, free_disk_bytes, plan_environment, plan_threads
from qwenops.hardware.files import parse_cpu_list, parse_size
from tests.hardware.trees import mounted_v1, mounted_v2, processor, write_tree

GIB = 1024**3


def machine_with(
    root: Path,
    *,
    num_cpus: int = 8,
    threads_per_core: int = 1,
    quota: str | None = None,
    affinity: set[int] | None = None,
    flags: str = "fpu avx2 fma",
    files: Mapping[str, str] | None = None,
) -> Machine:
    tree = processor(num_cpus, threads_per_core=threads_per_core, flags=flags)
    tree |= {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounted_v2()}
    if quota is not None:
        tree["sys/fs/cgroup/cpu.max"] = quota
    write_tree(root, tree | dict(files or {}))
    return detect_machine(root, affinity=lambda: affinity or set(range(num_cpus)), environ={})


def test_without_limits_every_core_computes(tmp_path: Path) -> None:
    plan = plan_threads(machine_with(tmp_path))
    assert (plan.value, plan.reason) == (8, "All 8 CPUs may be used; there is no CPU quota below that.")


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("max 100000", 8), ("400000 100000", 4), ("399999 100000", 3), ("150000 100000", 1), ("900000 100000", 8)],
)
def test_a_quota_is_rounded_down_to_whole_cores(tmp_path: Path, quota: str, threads: int) -> None:
    assert plan_threads(machine_with(tmp_path, quota=quota)).value == threads


def test_the_reason_names_the_quota_and_where_it_stands(tmp_path: Path) -> None:
    plan = plan_threads(machine_with(tmp_path, quota="250000 100000"))
    assert plan.reason == (
        "A CPU quota of 2.5 cores at /sys/fs/cgroup allows this many whole cores of the 8 in the affinity mask."
    )


def test_a_quota_below_one_core_still_gives_one_thread_and_says_so(tmp_path: Path) -> None:
    plan = plan_threads(machine_with(tmp_path, quota="50000 100000"))
    assert plan.value == 1
    assert plan.reason.startswith("A CPU quota of 0.5 cores at /sys/fs/cgroup is less than one core")


def test_the_affinity_mask_counts(tmp_path: Path) -> None:
    plan = plan_threads(machine_with(tmp_path, affinity={1, 5, 6}))
    assert (plan.value, plan.reason) == (3, "The affinity mask allows 3 of 8 CPUs.")


def test_a_cpuset_narrower_than_the_affinity_counts(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, files={"sys/fs/cgroup/cpuset.cpus.effective": "0-1"})
    assert machine.affinity == (0, 1)
    assert plan_threads(machine).value == 2


def test_a_cpuset_that_contradicts_the_affinity_is_not_believed(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, affinity={2, 3}, files={"sys/fs/cgroup/cpuset.cpus.effective": "0-1"})
    assert machine.affinity == (2, 3)


def test_smt_siblings_do_not_compute(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, num_cpus=8, threads_per_core=2)
    plan = plan_threads(machine)
    assert machine.processor.has_smt
    assert plan.value == 4
    assert plan.reason.startswith("8 CPUs are SMT siblings on 4 physical cores")


def test_a_quota_below_the_physical_cores_wins_over_smt(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, num_cpus=8, threads_per_core=2, quota="300000 100000")
    assert plan_threads(machine).value == 3


def test_an_affinity_of_two_siblings_is_one_core(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, num_cpus=8, threads_per_core=2, affinity={0, 4})
    assert plan_threads(machine).value == 1


@pytest.mark.parametrize("threads_per_core", [1, 2])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(affinity=st.sets(st.integers(0, 7), min_size=1), quota_us=st.one_of(st.none(), st.integers(1000, 1_200_000)))
def test_threads_never_exceed_any_limit_and_are_at_least_one(
    tmp_path: Path, affinity: set[int], quota_us: int | None, threads_per_core: int
) -> None:
    if not (tmp_path / "proc").exists():
        machine_with(tmp_path, threads_per_core=threads_per_core)
    write_tree(tmp_path, {"sys/fs/cgroup/cpu.max": f"{quota_us or 'max'} 100000"})
    threads = plan_threads(detect_machine(tmp_path, affinity=lambda: affinity, environ={})).value
    cores = len({cpu % (8 // threads_per_core) for cpu in affinity})
    allowed = cores if quota_us is None else min(cores, quota_us // 100_000)
    assert threads == max(1, allowed)


class TestEnvironment:
    AMX = "avx2 fma avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_tile amx_bf16 amx_int8"

    def test_one_thread_on_amx_leaves_amx_out(self, tmp_path: Path) -> None:
        machine = machine_with(tmp_path, flags=self.AMX, quota="100000 100000")
        plan = plan_environment(machine, plan_threads(machine).value)
        assert plan.value == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
        assert "AMX" in plan.reason

    def test_two_threads_use_amx(self, tmp_path: Path) -> None:
        machine = machine_with(tmp_path, flags=self.AMX)
        assert plan_environment(machine, 2).value == {}

    def test_one_thread_without_amx_needs_nothing(self, tmp_path: Path) -> None:
        assert plan_environment(machine_with(tmp_path), 1).value == {}


class TestMemory:
    def test_without_a_limit_it_is_what_the_host_has_available(self, tmp_path: Path) -> None:
        machine = machine_with(tmp_path)
        assert machine.memory_limit.value == 8 * GIB
        assert machine.memory.total_bytes == 16 * GIB
        assert (machine.memory.swap_total_bytes, machine.memory.swap_free_bytes) == (1024**2, 512 * 1024)

    def test_a_smaller_limit_wins_with_its_place(self, tmp_path: Path) -> None:
        machine = machine_with(tmp_path, files={"sys/fs/cgroup/memory.max": str(2 * GIB)})
        assert machine.memory_limit.value == 2 * GIB
        assert machine.memory_limit.reason.endswith("/sys/fs/cgroup/memory.max")

    def test_a_limit_above_the_available_memory_does_not_bind(self, tmp_path: Path) -> None:
        machine = machine_with(tmp_path, files={"sys/fs/cgroup/memory.max": str(12 * GIB)})
        assert machine.memory_limit.value == 8 * GIB


class TestProcessor:
    def test_the_instruction_sets_are_named(self, tmp_path: Path) -> None:
        machine = machine_with(tmp_path, flags="fpu avx2 fma avx512f avx512bw avx512dq avx512vl avx512_vnni amx_tile")
        assert machine.processor.isa == ("avx2", "avx512", "avx512_vnni", "amx_tile")
        assert machine.processor.model == "Test CPU @ 2.00GHz"
        assert machine.processor.architecture == "x86_64"

    def test_half_of_avx512_does_not_count(self, tmp_path: Path) -> None:
        assert machine_with(tmp_path, flags="avx2 fma avx512f").processor.isa == ("avx2",)

    def test_an_arm_processor_is_described(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm bf16 sve\n"
                "CPU implementer\t: 0x41\nCPU part\t: 0xd4f\n\nprocessor\t: 1\nFeatures\t: fp asimd\n"
            },
        )
        found = detect_machine(tmp_path, affinity=lambda: {0, 1}, environ={}).processor
        assert (found.architecture, found.isa) == ("aarch64", ("neon", "dotprod", "i8mm", "bf16", "sve"))
        assert found.model == "ARM implementer 0x41 part 0xd4f"
        assert found.cpus == (0, 1)
        assert found.siblings == ((0,), (1,))

    def test_the_last_cache_is_counted_once_for_those_who_share_it(self, tmp_path: Path) -> None:
        assert machine_with(tmp_path).processor.last_cache_bytes == 32 * 1024**2

    def test_numa_nodes_are_listed_with_their_cpus_and_memory(self, tmp_path: Path) -> None:
        machine = machine_with(
            tmp_path,
            files={
                "sys/devices/system/node/node0/cpulist": "0-3",
                "sys/devices/system/node/node10/cpulist": "4-7",
                "sys/devices/system/node/node10/meminfo": "Node 10 MemTotal:  2048 kB",
            },
        )
        assert [(node.number, node.cpus, node.memory_bytes) for node in machine.processor.numa_nodes] == [
            (0, (0, 1, 2, 3), 16 * 1024**2),
            (10, (4, 5, 6, 7), 2 * 1024**2),
        ]

    def test_broken_topology_counts_each_cpu_as_a_core(self, tmp_path: Path) -> None:
        topology = {f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": "junk" for cpu in range(8)}
        assert machine_with(tmp_path, files=topology).physical_cores.value == 8


class TestContainer:
    @pytest.mark.parametrize(
        ("files", "environ", "kind"),
        [
            ({}, {}, ""),
            ({".dockerenv": ""}, {}, "docker"),
            ({"run/.containerenv": ""}, {}, "podman"),
            ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
            ({}, {"container": "systemd-nspawn"}, "systemd-nspawn"),
            ({"proc/self/cgroup": "4:cpu:/kubepods/burstable/pod1/abc"}, {}, "kubernetes"),
            ({"proc/self/cgroup": "4:cpu:/docker/abc"}, {}, "docker"),
        ],
    )
    def test_it_is_known_by_its_signs(
        self, tmp_path: Path, files: dict[str, str], environ: dict[str, str], kind: str
    ) -> None:
        write_tree(tmp_path, processor(2) | files)
        found = detect_machine(tmp_path, affinity=lambda: {0}, environ=environ).container
        assert found.value == kind
        assert found.reason


def test_the_state_of_huge_pages_is_the_one_in_brackets(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, files={"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n"})
    assert machine.huge_pages == "madvise"


def test_an_empty_tree_gives_one_core_per_cpu_of_the_mask_and_no_error(tmp_path: Path) -> None:
    machine = detect_machine(tmp_path, affinity=lambda: {0, 1, 2}, environ={})
    assert plan_threads(machine).value == 3
    assert machine.cgroup_layout == "none"
    assert machine.huge_pages == ""


def test_the_real_machine_is_plausible() -> None:
    machine = detect_machine()
    assert 1 <= plan_threads(machine).value <= len(machine.processor.cpus)
    assert set(machine.affinity) <= set(machine.processor.cpus)
    assert 0 < machine.memory_limit.value <= machine.memory.total_bytes
    assert machine.processor.model


def test_a_version_1_and_a_docker_like_path_together(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        processor(16)
        | {
            "proc/self/cgroup": "6:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/system.slice/docker.service\n",
            "proc/self/mountinfo": mounted_v1("cpu,cpuacct", root="/docker/abc")
            + mounted_v1("memory", root="/docker/abc"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "600000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
        },
    )
    machine = detect_machine(tmp_path, affinity=lambda: set(range(16)), environ={})
    assert (plan_threads(machine).value, machine.memory_limit.value, machine.container.value) == (6, GIB, "docker")


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert free_disk_bytes(tmp_path / "not" / "yet") > 0


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("", None), (None, None), ("x-3", None), ("1,", None)],
)
def test_cpu_lists(text: str | None, cpus: set[int] | None) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "size"), [("32768K", 32 * 1024**2), ("16 kB", 16384), ("2M", 2 * 1024**2), ("7", 7), ("x", None)]
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size
