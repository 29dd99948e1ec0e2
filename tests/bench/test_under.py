"""What limits mean, what is written for them, and what is said where they cannot be had."""

import os
from pathlib import Path

import pytest

from qwenops.bench.under import Limits, _homes, _limit, limited, parse_limits, scope_argv
from qwenops.errors import ConfigError, MissingPartError

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("cpu=1,memory=3GiB", Limits(cpu_cores=1.0, memory_bytes=3 * GIB)),
        ("memory=512MiB", Limits(memory_bytes=GIB // 2)),
        (" cpu = 0.5 ", Limits(cpu_cores=0.5)),
    ],
)
def test_limits_are_read_and_written_alike(text: str, limits: Limits) -> None:
    assert parse_limits(text) == limits
    assert parse_limits(limits.text) == limits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' in '' is no limit: cpu=CORES and memory=SIZE are"),
        ("cpu=1,disk=3GiB", "'disk=3GiB' in 'cpu=1,disk=3GiB' is no limit"),
        ("cpu", "'cpu' in 'cpu' is no limit"),
        ("cpu=1,cpu=2", "'cpu=1,cpu=2' says cpu twice"),
        ("cpu=two", "cpu=two is no number of cores; 0.01 is the least"),
        ("cpu=0", "cpu=0 is no number"),
        ("cpu=nan", "cpu=nan is no number"),
        ("cpu=inf", "cpu=inf is no number"),
        ("memory=3G", "'3G' is no size"),
        ("memory=1MiB", "memory=1MiB is too little"),
    ],
)
def test_what_is_no_limit_is_refused_with_what_is_one(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        parse_limits(text)
    assert said in caught.value.message
    assert caught.value.hint


def fake_v2(root: Path, *, inner_hands_down: str, outer_hands_down: str) -> Path:
    """Write a machine that knows version 2 alone; this process is in `outer/inner`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/outer/inner\n")
    (root / "proc/self/mountinfo").write_text("30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    top = root / "sys/fs/cgroup"
    (top / "outer/inner").mkdir(parents=True)
    for folder, handed in (
        (top, "cpu memory"),
        (top / "outer", outer_hands_down),
        (top / "outer/inner", inner_hands_down),
    ):
        (folder / "cgroup.controllers").write_text("cpuset cpu memory\n")
        (folder / "cgroup.subtree_control").write_text(handed)
    return top


def test_in_version_2_the_nearest_group_that_hands_both_controllers_down_is_taken(tmp_path: Path) -> None:
    top = fake_v2(tmp_path, inner_hands_down="", outer_hands_down="cpu memory pids")
    (top / "outer/inner/cgroup.subtree_control").chmod(0o444)
    if os.geteuid() == 0:  # root writes everywhere; the kernel refuses by another rule, which a file cannot play
        (top / "outer/inner/cgroup.subtree_control").unlink()
        (top / "outer/inner/cgroup.subtree_control").mkdir()
    homes = _homes(["cpu", "memory"], tmp_path)
    assert {name: home.folder for name, home in homes.items()} == dict.fromkeys(["cpu", "memory"], top / "outer")
    assert {home.version for home in homes.values()} == {"v2"}


def test_where_no_group_hands_the_controllers_down_that_is_said_with_what_to_do(tmp_path: Path) -> None:
    top = fake_v2(tmp_path, inner_hands_down="", outer_hands_down="")
    for folder in (top, top / "outer", top / "outer/inner"):
        (folder / "cgroup.controllers").write_text("hugetlb\n")
    with pytest.raises(MissingPartError, match="hands the controllers cpu, memory down") as caught:
        _homes(["cpu", "memory"], tmp_path)
    assert "docker run --cpus" in caught.value.hint


def test_where_no_control_groups_are_mounted_that_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingPartError, match=r"none is mounted"),
        limited(Limits(cpu_cores=1), root=tmp_path, as_root=True),
    ):
        pass


def test_version_2_is_told_in_its_own_words(tmp_path: Path) -> None:
    limits = Limits(cpu_cores=1.5, memory_bytes=3 * GIB)
    _limit(tmp_path, "v2", "cpu", limits)
    _limit(tmp_path, "v2", "memory", limits)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "cpu.max": "150000 100000",
        "memory.max": str(3 * GIB),
        "memory.swap.max": "0",
    }


def test_version_1_is_told_in_its_own_words(tmp_path: Path) -> None:
    limits = Limits(cpu_cores=0.25, memory_bytes=GIB)
    _limit(tmp_path, "v1", "cpu", limits)
    _limit(tmp_path, "v1", "memory", limits)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "25000",
        "memory.limit_in_bytes": str(GIB),
        "memory.swappiness": "0",
        "memory.memsw.limit_in_bytes": str(GIB),
    }


def test_systemd_is_asked_for_a_scope_without_swap() -> None:
    argv = scope_argv("qwenops-bench-1-0.scope", Limits(cpu_cores=0.5, memory_bytes=GIB))
    assert argv == (
        "systemd-run",
        "--user",
        "--scope",
        "--quiet",
        "--unit=qwenops-bench-1-0.scope",
        "--property=CPUQuota=50%",
        f"--property=MemoryMax={GIB}",
        "--property=MemorySwapMax=0",
        "--",
    )


def test_without_root_and_systemd_run_it_is_said_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(MissingPartError, match="there is no systemd-run") as caught,
        limited(Limits(cpu_cores=1), as_root=False),
    ):
        pass
    assert "root" in caught.value.hint


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_systemd_that_starts_no_scope_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path / "systemd-run", "echo 'Failed to connect to user scope bus' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(MissingPartError, match="Failed to connect to user scope bus"),
        limited(Limits(cpu_cores=1), as_root=False),
    ):
        pass


def test_a_systemd_that_was_not_delegated_a_controller_is_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path / "systemd-run", f"echo cpu max 100000; echo memory {GIB}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(MissingPartError, match="may not limit cpu: it was not delegated") as caught,
        limited(Limits(cpu_cores=1, memory_bytes=GIB), as_root=False),
    ):
        pass
    assert "Delegate=cpu memory" in caught.value.hint


def test_a_scope_counts_what_systemd_says_of_its_end_and_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path / "systemd-run", f"echo cpu 100000 100000; echo memory {GIB}")
    program(tmp_path / "systemctl", f'echo "$*" >> {tmp_path}/asked; echo ControlGroup=; echo Result=oom-kill')
    monkeypatch.setenv("PATH", str(tmp_path))
    with limited(Limits(cpu_cores=1, memory_bytes=GIB), as_root=False) as scope:
        assert scope.joined(["true"])[-2:] == ("--", "true")
        with scope.confine(["true"]) as argv:
            assert argv == scope.joined(["true"])
        assert scope.usage().oom_kills == 1
    asked = (tmp_path / "asked").read_text()
    assert "--user show" in asked
    assert "--user reset-failed" in asked
