import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from qwenops.bench.clock import RealClock
from qwenops.bench.collect.host import HostWatch, _Look
from qwenops.bench.conclusion import uncrossed
from qwenops.bench.outages import restarts_ns
from qwenops.text import Text

# Uses half of a core, keeps 40 MB, opens files, and faults pages in.
WORK = """
import os, sys, time
held = bytearray(40_000_000)
files = [open(os.devnull) for _ in range(20)]
print("working", flush=True)
while True:
    begun = time.process_time()
    while time.process_time() - begun < 0.02: pass
    fresh = bytearray(1_000_000)
    time.sleep(0.02)
"""


@contextmanager
def working(code: str = WORK) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            yield child.pid
        finally:
            child.kill()


async def watched(pid: int, seconds: float, every_s: float = 0.5) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    clock = RealClock()
    watch = HostWatch(lambda: (pid,), clock, every_s=every_s)
    async with watch.watching(clock.now_ns(), found.append):
        await asyncio.sleep(seconds)
    return found


def mean(samples: list[Mapping[str, Any]], name: str) -> float:
    values = [float(each[name]) for each in samples if name in each]
    return sum(values) / len(values)


@pytest.mark.proves("C3")
@pytest.mark.slow
async def test_samples_say_what_a_known_process_does() -> None:
    with working() as pid:
        times = psutil.Process(pid).cpu_times
        before_s = sum(times()[:2])
        found = await watched(pid, 3.4)
        used_s = sum(times()[:2]) - before_s
    assert sum(each["server_cpu_cores"] * each["interval_s"] for each in found) == pytest.approx(
        used_s, rel=0.1, abs=0.1
    )
    last = found[-1]
    assert last["server_rss_bytes"] > 40_000_000
    assert last["server_pss_bytes"] == pytest.approx(last["server_rss_bytes"], rel=0.4)
    assert last["server_descriptors"] >= 20
    assert last["server_threads"] == 1
    assert last["server_processes"] == 1
    assert mean(found, "server_minor_faults_per_s") > 50
    assert 0 < mean(found, "client_cpu_cores") < 0.3
    assert last["memory_available_bytes"] < last["memory_total_bytes"]
    for each in found:
        assert each["cpu_busy_cores"] + 0.3 >= each["server_cpu_cores"] or each["interval_s"] < 0.3
        assert 0 <= each["cpu_busy_ratio"] <= 1
        assert len(each["cpu_busy_ratios"]) == each["cpus"] == os.cpu_count()


@pytest.mark.slow
async def test_somebody_else_at_work_is_seen_and_named() -> None:
    idle, busy = "import time; print(1, flush=True); time.sleep(60)", "print(1, flush=True)\nwhile True: pass"
    with working(idle) as server, working(busy) as other:
        found = await watched(server, 1.6)
    assert mean(found, "other_cpu_cores") > 0.25
    assert mean(found, "server_cpu_cores") < 0.2
    assert other in [each["pid"] for each in found[-1]["other_processes"]]


@pytest.mark.slow
async def test_while_no_server_is_named_what_was_started_here_is_taken_for_it() -> None:
    clock, found = RealClock(), list[Mapping[str, Any]]()
    with working():
        async with HostWatch(tuple, clock, every_s=0.5).watching(clock.now_ns(), found.append):
            await asyncio.sleep(1.1)
    assert mean(found, "server_cpu_cores") > 0.2


async def test_samples_come_at_equal_times_on_the_runs_clock() -> None:
    found = await watched(os.getpid(), 1.05, every_s=0.2)
    times_s = [each["at_ns"] / 1e9 for each in found]
    assert [round(each, 1) for each in times_s[:5]] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert times_s[-1] == pytest.approx(1.05, abs=0.15)
    assert all(each["schema"] == "qwenops.host/1" for each in found)


async def test_what_cannot_be_read_is_absent_and_said_once(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    clock, found = RealClock(), list[Mapping[str, Any]]()
    watch = HostWatch(lambda: (os.getpid(),), clock, every_s=0.1, root=tmp_path)
    async with watch.watching(clock.now_ns(), found.append):
        await asyncio.sleep(0.25)
    assert set(found[0]["absent"]) >= {"server", "energy_j", "frequency_hz", "pressure", "temperature_c"}
    assert all(isinstance(uncrossed(each), Text) for each in found[0]["absent"].values())
    assert all("absent" not in each for each in found[1:])
    assert all("frequency_hz" not in each and "cpu_busy_ratio" not in each for each in found)


async def test_in_virtual_time_no_machine_is_looked_at() -> None:
    class Virtual(RealClock):
        virtual = True

    found: list[Mapping[str, Any]] = []
    async with HostWatch(tuple, Virtual(), every_s=0.01).watching(0, found.append):
        await asyncio.sleep(0.05)
    assert found == []


async def test_an_error_in_the_run_passes_and_the_last_sample_is_taken() -> None:
    found: list[Mapping[str, Any]] = []
    with pytest.raises(ZeroDivisionError):
        async with HostWatch(tuple, RealClock(), every_s=60).watching(0, found.append):
            raise ZeroDivisionError
    assert len(found) == 1


def test_a_process_that_ends_or_begins_meanwhile_is_no_jump() -> None:
    with working() as pid:
        look = _Look(lambda: (pid,), Path("/"), Path())
        time.sleep(0.3)
        before = look.sample(0)
    after = look.sample(1, last=True)
    assert 0 <= before["server_cpu_cores"] < 2
    assert after.get("server_cpu_cores", 0.0) == 0.0


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def counted(second: int, *, group: str) -> dict[str, str]:
    """Return what a machine with two CPUs and a limited server, process 50, has counted after some seconds.

    Each second the server is stopped in 4 of 10 periods for 0.3 s, waits 0.5 s for the CPU and 0.2 s for memory, takes
    0.8 s of CPU, faults 5 pages in from disk and reads 8 MiB; 10 % of the CPUs' time is stolen.
    """
    stat = ["S", "1", *["0"] * 20]
    stat[9], stat[11], stat[17], stat[19], stat[21] = str(5 * second), str(80 * second), "4", "77", "1000"
    throttled = (
        f"nr_periods {10 * second}\nnr_throttled {4 * second}\nthrottled_time {300_000_000 * second}\n"
        if "cpuacct" in group
        else f"nr_periods {10 * second}\nnr_throttled {4 * second}\nthrottled_usec {300_000 * second}\n"
    )
    waited = "some avg10=0 avg60=0 avg300=0 total={}\nfull avg10=0 avg60=0 avg300=0 total=0\n"
    return {
        "proc/stat": f"cpu  {80 * second} 0 0 {100 * second} 0 0 0 {20 * second} 0 0\ncpu0 1 0 0 1\ncpu1 1 0 0 1\n",
        "proc/50/stat": f"50 (server) {' '.join(stat)}",
        "proc/50/io": f"read_bytes: {8 * 1024**2 * second}\n",
        "proc/vmstat": f"pswpin {256 * second}\npswpout 0\n",
        f"{group}/cpu.stat": throttled,
        f"{group}/cpu.pressure": waited.format(500_000 * second),
        f"{group}/memory.pressure": waited.format(200_000 * second),
    }


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_servers_own_control_group_is_read_in_either_version(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    v1 = version == "v1"
    group = "sys/fs/cgroup/cpu,cpuacct/srv" if v1 else "sys/fs/cgroup/srv"
    limits = (
        {f"{group}/cpu.cfs_quota_us": "80000", f"{group}/cpu.cfs_period_us": "100000"}
        if v1
        else {f"{group}/cpu.max": "80000 100000", f"{group}/memory.max": "3000000", f"{group}/memory.current": "123456"}
    )
    mount = (
        "30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        if v1
        else "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    )
    member = "3:cpu,cpuacct:/srv\n" if v1 else "0::/srv\n"
    write(tmp_path, {"proc/self/mountinfo": mount, "proc/50/cgroup": member, **limits, **counted(1, group=group)})
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    look = _Look(lambda: (50,), tmp_path, tmp_path)
    now_s += 1.0
    write(tmp_path, counted(2, group=group))
    found = look.sample(0)
    assert (found["throttled_ratio"], found["throttled_s"]) == (0.4, 0.3)
    assert (found["server_cpu_cores"], found["server_major_faults_per_s"], found["server_threads"]) == (0.8, 5.0, 4)
    assert (found["server_read_bytes_per_s"], found["swap_in_bytes_per_s"]) == (8 * 1024**2, 1024**2)
    assert (found["cpu_steal_ratio"], found["cpu_busy_ratio"], found["cpus"]) == (0.1, 0.4, 2)
    if not v1:
        assert (found["cgroup_pressure_cpu_some_ratio"], found["cgroup_pressure_memory_some_ratio"]) == (0.5, 0.2)
        assert (found["cgroup_memory_bytes"], found["cgroup_memory_limit_bytes"]) == (123456, 3000000)


@pytest.mark.slow
def test_looking_once_a_second_takes_at_most_half_a_hundredth_of_a_core() -> None:
    with working() as pid:
        look = _Look(lambda: (pid,), Path("/"), Path())
        costs: list[float] = []
        for _ in range(3):  # the best of three: what else this machine does is not the look's cost
            begun_s = time.process_time()
            for number in range(20):
                look.sample(number, last=number % 5 == 4)  # as at one a second, with the dear things every five
            costs.append((time.process_time() - begun_s) / 20)
    assert min(costs) < 0.005


@pytest.mark.slow
def test_reading_pss_holds_a_server_up_for_milliseconds_only() -> None:
    # A server that maps and unmaps memory all the time, which is what the reading of PSS makes wait.
    code = """
import mmap, sys, time
held = [bytearray(64_000_000) for _ in range(4)]
print("ready", flush=True)
worst, end = 0.0, time.perf_counter() + 1.5
while time.perf_counter() < end:
    begun = time.perf_counter()
    mmap.mmap(-1, 65536).close()
    worst = max(worst, time.perf_counter() - begun)
print(worst, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        look = _Look(lambda: (child.pid,), Path("/"), Path())
        took_s = [look.sample(each, last=True)["server_pss_took_s"] for each in range(5)]
        worst_s = float(child.stdout.readline())
    assert max(took_s) < 0.1
    assert worst_s < 0.25


async def test_the_process_with_most_memory_is_named_so_that_a_restart_is_seen() -> None:
    samples: list[Mapping[str, Any]] = []
    processes = []
    for _ in range(2):
        with working() as pid:
            samples += await watched(pid, 0.3, every_s=0.1)
            processes.append(pid)
    told = [each for each in samples if "server_largest_process" in each]
    assert [each["server_largest_process"] for each in told] == processes
    assert all(each["server_largest_process"] in each["server_process_ids"] for each in told)
    assert len(restarts_ns(told, [])) == 1


class Counting(_Look):
    """A look that knows how many threads read at the same time, and takes its time."""

    most = 0
    reading = 0

    def _count(self, at_s: float) -> Any:
        cls = type(self)
        cls.reading += 1
        cls.most = max(cls.most, cls.reading)
        time.sleep(0.05)
        cls.reading -= 1
        return super()._count(at_s)


async def test_the_last_sample_waits_for_the_one_that_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenops.bench.collect.host._Look", Counting)
    for ended_s in (0.1, 0.12, 0.14):  # a sample is due after 0.1 s, and reading it takes 0.05 s
        found = await watched(os.getpid(), ended_s, every_s=0.1)
        assert [each["at_ns"] for each in found] == sorted(each["at_ns"] for each in found)
    assert Counting.most == 1


def test_of_a_moment_too_short_for_the_kernels_clock_no_rates_are_told() -> None:
    """A tick of 10 ms within 1 ms would be ten cores."""
    with working() as pid:
        look = _Look(lambda: (pid,), Path("/"), Path(), 0.25)
        time.sleep(0.3)
        whole = look.sample(1)
        short = look.sample(2, last=True)
        time.sleep(0.3)
        later = look.sample(3, last=True)
    assert whole["interval_s"] >= 0.3
    assert not {"interval_s", "server_cpu_cores", "cpu_busy_ratio"} & set(short)
    assert short["server_rss_bytes"] > 0
    assert later["interval_s"] >= 0.3
    assert later["server_cpu_cores"] <= 1.1
