import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from qwenops.observe.system import SystemWatch


def test_a_sample_has_the_fields_of_the_users_design_first_and_true_values(tmp_path: Path) -> None:
    watch = SystemWatch(disk=tmp_path / "not" / "there" / "yet")
    sum(range(3_000_000))
    sample = watch.sample()
    assert list(sample.line())[:5] == [
        "timestamp",
        "cpu_percent",
        "memory_percent",
        "memory_used_gb",
        "disk_usage_percent",
    ]
    assert 0 < sample.memory_percent < 100
    assert 0 <= sample.disk_usage_percent <= 100
    assert sample.process_cpu_percent > 5
    assert sample.process_memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert sample.process_open_files >= 3


def test_memory_and_time_of_children_count_as_the_engines() -> None:
    watch = SystemWatch()
    code = "import sys; x = bytearray(50_000_000); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        sample = watch.sample()
    assert sample.engine_memory_bytes > 50_000_000


def test_control_groups_are_read_from_the_given_root(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/pod\n")
    (tmp_path / "proc" / "self" / "mountinfo").write_text("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    group = tmp_path / "sys" / "fs" / "cgroup" / "pod"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("4000\n")
    (group / "cpu.max").write_text("200000 100000\n")
    (group / "cpu.stat").write_text("usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 1500000\n")
    sample = SystemWatch(root=tmp_path).sample()
    assert (sample.cgroup_memory_bytes, sample.cgroup_memory_limit_bytes) == (1000, 4000)
    assert (sample.cfs_periods, sample.cfs_throttled_periods, sample.cfs_throttled_s) == (10, 3, 1.5)


def test_a_process_that_ended_between_two_samples_is_no_trouble() -> None:
    watch = SystemWatch()
    with subprocess.Popen([sys.executable, "-c", "pass"]):
        watch.sample()
    assert watch.sample().process_cpu_s > 0
    assert os.getpid() in watch._cpu_before
