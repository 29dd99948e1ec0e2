from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenops.hardware.cgroups import cpu_quota, cpuset, memory_limit, read_cgroups, throttling
from tests.hardware.trees import NO_LIMIT_V1, mounted_v1, mounted_v2, write_tree

GIB = 1024**3


def quota_of(root: Path) -> tuple[float, str] | None:
    found = cpu_quota(read_cgroups(root))
    return None if found is None else (found.value, found.reason)


def memory_of(root: Path) -> int | None:
    found = memory_limit(read_cgroups(root))
    return None if found is None else found.value


class TestVersion1:
    def test_the_quota_of_the_own_group_is_read(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "5:memory:/app\n4:cpu,cpuacct:/app\n",
                "proc/self/mountinfo": mounted_v1("cpu,cpuacct") + mounted_v1("memory"),
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/app/memory.limit_in_bytes": f"{2 * GIB}\n",
            },
        )
        cgroups = read_cgroups(tmp_path)
        assert cgroups.layout == "v1"
        assert quota_of(tmp_path) == (2.5, "CPU quota of 2.5 cores at /sys/fs/cgroup/cpu,cpuacct/app")
        limit = memory_limit(cgroups)
        assert limit is not None
        assert limit.value == 2 * GIB
        assert limit.reason.endswith("at /sys/fs/cgroup/memory/app/memory.limit_in_bytes")

    def test_a_smaller_quota_of_an_outer_group_counts(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/pod/app\n",
                "proc/self/mountinfo": mounted_v1("cpu"),
                "sys/fs/cgroup/cpu/pod/app/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/pod/app/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
        )
        assert quota_of(tmp_path) == (3.0, "CPU quota of 3 cores at /sys/fs/cgroup/cpu/pod")

    def test_no_limit_is_no_limit(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/\n3:memory:/\n",
                "proc/self/mountinfo": mounted_v1("cpu") + mounted_v1("memory"),
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
                "sys/fs/cgroup/memory/memory.stat": f"cache 1\nhierarchical_memory_limit {NO_LIMIT_V1}\n",
            },
        )
        assert quota_of(tmp_path) is None
        assert memory_of(tmp_path) is None

    def test_the_memory_limit_of_a_group_out_of_sight_is_known(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "3:memory:/docker/abc\n",
                "proc/self/mountinfo": mounted_v1("memory", root="/docker/abc"),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
                "sys/fs/cgroup/memory/memory.stat": f"cache 1\nhierarchical_memory_limit {3 * GIB}\n",
            },
        )
        assert memory_of(tmp_path) == 3 * GIB

    def test_a_container_sees_its_own_part_of_the_tree(self, tmp_path: Path) -> None:
        # docker without a cgroup namespace: the path is the host's, and the mount begins at the container's group.
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc/worker\n",
                "proc/self/mountinfo": mounted_v1("cpu,cpuacct", root="/docker/abc"),
                "sys/fs/cgroup/cpu,cpuacct/worker/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/worker/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
        )
        assert quota_of(tmp_path) == (4.0, "CPU quota of 4 cores at /sys/fs/cgroup/cpu,cpuacct")

    def test_a_path_that_the_mount_does_not_show_falls_back_to_the_mount(self, tmp_path: Path) -> None:
        # A container runtime that mounts the container's group as if it were the root, with the host's path shown.
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/kubepods/burstable/pod1/abc\n",
                "proc/self/mountinfo": mounted_v1("cpu"),
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
        )
        assert quota_of(tmp_path) == (1.0, "CPU quota of 1 cores at /sys/fs/cgroup/cpu")

    def test_a_group_made_inside_such_a_container_is_found_by_the_end_of_its_path(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/kubepods/pod1/abc/inner\n",
                "proc/self/mountinfo": mounted_v1("cpu"),
                "sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/inner/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
        )
        assert quota_of(tmp_path) == (0.5, "CPU quota of 0.5 cores at /sys/fs/cgroup/cpu/inner")

    def test_of_two_mounts_the_one_that_shows_more_is_read(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/a/b\n",
                "proc/self/mountinfo": mounted_v1("cpu", root="/a/b", point="/narrow")
                + mounted_v1("cpu", point="/wide"),
                "narrow/cpu.cfs_quota_us": "300000",
                "narrow/cpu.cfs_period_us": "100000",
                "wide/a/b/cpu.cfs_quota_us": "300000",
                "wide/a/b/cpu.cfs_period_us": "100000",
                "wide/a/cpu.cfs_quota_us": "200000",
                "wide/a/cpu.cfs_period_us": "100000",
            },
        )
        assert quota_of(tmp_path) == (2.0, "CPU quota of 2 cores at /wide/a")

    def test_a_mount_point_with_a_blank_is_found(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "proc/self/mountinfo": mounted_v1("cpu", point=r"/my\040groups"),
                "my groups/cpu.cfs_quota_us": "200000",
                "my groups/cpu.cfs_period_us": "100000",
            },
        )
        assert quota_of(tmp_path) == (2.0, "CPU quota of 2 cores at /my groups")


class TestVersion2:
    def test_the_smallest_of_nested_limits_counts(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "0::/system.slice/qwenops.service\n",
                "proc/self/mountinfo": mounted_v2(),
                "sys/fs/cgroup/system.slice/qwenops.service/cpu.max": "max 100000\n",
                "sys/fs/cgroup/system.slice/cpu.max": "350000 100000\n",
                "sys/fs/cgroup/system.slice/qwenops.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/qwenops.service/memory.high": f"{3 * GIB}\n",
                "sys/fs/cgroup/system.slice/memory.max": f"{4 * GIB}\n",
            },
        )
        assert read_cgroups(tmp_path).layout == "v2"
        assert quota_of(tmp_path) == (3.5, "CPU quota of 3.5 cores at /sys/fs/cgroup/system.slice")
        assert memory_of(tmp_path) == 3 * GIB

    def test_max_is_no_limit(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "0::/a\n",
                "proc/self/mountinfo": mounted_v2(),
                "sys/fs/cgroup/a/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.high": "max\n",
            },
        )
        assert quota_of(tmp_path) is None
        assert memory_of(tmp_path) is None

    def test_a_container_with_its_own_namespace_sees_its_limit_at_the_root(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "0::/\n",
                "proc/self/mountinfo": mounted_v2(),
                "sys/fs/cgroup/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/memory.max": f"{GIB}\n",
            },
        )
        assert quota_of(tmp_path) == (0.5, "CPU quota of 0.5 cores at /sys/fs/cgroup")
        assert memory_of(tmp_path) == GIB

    def test_a_mount_from_before_the_namespace_is_searched_for_this_process(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/stat": "41 (python) R 1",
                "proc/self/cgroup": "0::/inner\n",
                "proc/self/mountinfo": mounted_v2(root="/../.."),
                "sys/fs/cgroup/pods/one/inner/cgroup.procs": "4\n410\n",
                "sys/fs/cgroup/pods/one/inner/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/pods/two/inner/cgroup.procs": "40\n41\n",
                "sys/fs/cgroup/pods/two/inner/cpu.max": "max 100000\n",
                "sys/fs/cgroup/pods/two/cpu.max": "300000 100000\n",
            },
        )
        assert quota_of(tmp_path) == (3.0, "CPU quota of 3 cores at /sys/fs/cgroup/pods/two")

    def test_a_later_mount_hides_an_earlier_one_at_the_same_place(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "0::/\n",
                "proc/self/mountinfo": mounted_v1("cpu", point="/sys/fs/cgroup") + mounted_v2(),
                "sys/fs/cgroup/cpu.max": "300000 100000\n",
            },
        )
        assert read_cgroups(tmp_path).layout == "v2"
        assert quota_of(tmp_path) == (3.0, "CPU quota of 3 cores at /sys/fs/cgroup")

    def test_a_path_above_the_namespace_falls_back_to_the_mount(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "0::/../../outside\n",
                "proc/self/mountinfo": mounted_v2(root="/../.."),
                "sys/fs/cgroup/cpu.max": "200000 100000\n",
            },
        )
        assert quota_of(tmp_path) == (2.0, "CPU quota of 2 cores at /sys/fs/cgroup")

    def test_a_period_that_is_not_given_is_the_kernel_s_own(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "0::/\n",
                "proc/self/mountinfo": mounted_v2(),
                "sys/fs/cgroup/cpu.max": "200000",
            },
        )
        assert quota_of(tmp_path) == (2.0, "CPU quota of 2 cores at /sys/fs/cgroup")


class TestHybrid:
    def test_each_controller_is_read_where_it_lives(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "4:memory:/m\n1:cpu:/c\n0::/u\n",
                "proc/self/mountinfo": mounted_v1("cpu")
                + mounted_v1("memory")
                + mounted_v2(point="/sys/fs/cgroup/unified"),
                "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/m/memory.limit_in_bytes": str(GIB),
                "sys/fs/cgroup/unified/u/cgroup.procs": "1",
            },
        )
        assert read_cgroups(tmp_path).layout == "hybrid"
        assert quota_of(tmp_path) == (2.0, "CPU quota of 2 cores at /sys/fs/cgroup/cpu/c")
        assert memory_of(tmp_path) == GIB


class TestBroken:
    def test_without_any_file_there_is_no_limit(self, tmp_path: Path) -> None:
        assert read_cgroups(tmp_path).layout == "none"
        assert quota_of(tmp_path) is None
        assert memory_of(tmp_path) is None
        assert cpuset(read_cgroups(tmp_path)) is None
        assert throttling(read_cgroups(tmp_path)) is None

    @pytest.mark.parametrize("text", ["", "garbage", "0 100000", "-5 100000", "100000 0", "100000 x", "1e5 100000"])
    def test_a_broken_quota_is_no_quota(self, tmp_path: Path, text: str) -> None:
        write_tree(
            tmp_path,
            {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounted_v2(), "sys/fs/cgroup/cpu.max": text},
        )
        assert quota_of(tmp_path) is None

    def test_a_quota_file_that_is_a_folder_is_no_quota(self, tmp_path: Path) -> None:
        write_tree(tmp_path, {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounted_v2()})
        (tmp_path / "sys/fs/cgroup/cpu.max").mkdir(parents=True)
        assert quota_of(tmp_path) is None

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(membership=st.binary(max_size=60), mounts=st.binary(max_size=120), limit=st.binary(max_size=20))
    def test_no_content_whatever_breaks_the_reading(
        self, tmp_path: Path, membership: bytes, mounts: bytes, limit: bytes
    ) -> None:
        write_tree(tmp_path, {"proc/self/cgroup": "", "proc/self/mountinfo": "", "sys/fs/cgroup/cpu.max": ""})
        (tmp_path / "proc/self/cgroup").write_bytes(b"0::/\n" + membership.replace(b"\0", b""))
        (tmp_path / "proc/self/mountinfo").write_bytes(mounted_v2().encode() + mounts.replace(b"\0", b""))
        (tmp_path / "sys/fs/cgroup/cpu.max").write_bytes(limit)
        (tmp_path / "sys/fs/cgroup/memory.max").write_bytes(limit)
        cgroups = read_cgroups(tmp_path)
        quota, memory = cpu_quota(cgroups), memory_limit(cgroups)
        assert quota is None or quota.value > 0
        assert memory is None or memory.value >= 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    quotas=st.lists(st.one_of(st.none(), st.integers(1000, 10_000_000)), min_size=1, max_size=5),
    version=st.sampled_from(["v1", "v2"]),
)
def test_the_limit_is_the_smallest_on_the_way_up(tmp_path: Path, quotas: list[int | None], version: str) -> None:
    path = "".join(f"/g{level}" for level in range(len(quotas) - 1)) or "/"
    v1 = version == "v1"
    files = {
        "proc/self/cgroup": f"1:cpu:{path}\n" if v1 else f"0::{path}\n",
        "proc/self/mountinfo": mounted_v1("cpu", point="/sys/fs/cgroup") if v1 else mounted_v2(),
    }
    folder = "sys/fs/cgroup"
    for level, quota_us in enumerate(quotas):
        if level:
            folder = f"{folder}/g{level - 1}"
        if v1:
            files[f"{folder}/cpu.cfs_quota_us"] = str(-1 if quota_us is None else quota_us)
            files[f"{folder}/cpu.cfs_period_us"] = "100000"
        else:
            files[f"{folder}/cpu.max"] = f"{'max' if quota_us is None else quota_us} 100000"
    write_tree(tmp_path, files)
    given_us = [quota_us for quota_us in quotas if quota_us is not None]
    found = quota_of(tmp_path)
    assert (found[0] if found else None) == (min(given_us) / 100_000 if given_us else None)


class TestCpuset:
    def test_version_1_and_2_name_it_differently(self, tmp_path: Path) -> None:
        write_tree(
            tmp_path / "one",
            {
                "proc/self/cgroup": "3:cpuset:/a\n",
                "proc/self/mountinfo": mounted_v1("cpuset"),
                "sys/fs/cgroup/cpuset/cpuset.cpus": "0-7",
                "sys/fs/cgroup/cpuset/a/cpuset.cpus": "0-2,5",
            },
        )
        write_tree(
            tmp_path / "two",
            {
                "proc/self/cgroup": "0::/a\n",
                "proc/self/mountinfo": mounted_v2(),
                "sys/fs/cgroup/a/cpuset.cpus.effective": "4-5\n",
            },
        )
        assert cpuset(read_cgroups(tmp_path / "one")) == frozenset({0, 1, 2, 5})
        assert cpuset(read_cgroups(tmp_path / "two")) == frozenset({4, 5})


class TestThrottling:
    @pytest.mark.parametrize(
        ("version", "line"), [("v1", "throttled_time 2500000000"), ("v2", "throttled_usec 2500000")]
    )
    def test_both_versions_are_read_in_seconds(self, tmp_path: Path, version: str, line: str) -> None:
        v1 = version == "v1"
        write_tree(
            tmp_path,
            {
                "proc/self/cgroup": "1:cpu:/a\n" if v1 else "0::/a\n",
                "proc/self/mountinfo": mounted_v1("cpu", point="/sys/fs/cgroup") if v1 else mounted_v2(),
                "sys/fs/cgroup/a/cpu.stat": f"nr_periods 100\nnr_throttled 25\n{line}\n",
                "sys/fs/cgroup/a/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/a/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/a/cpu.max": "100000 100000",
            },
        )
        found = throttling(read_cgroups(tmp_path))
        assert found is not None
        assert (found.where, found.periods, found.throttled_periods, found.throttled_s) == (
            "/sys/fs/cgroup/a",
            100,
            25,
            2.5,
        )
