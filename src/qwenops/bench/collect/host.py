"""The machine during a run: who used its CPU, memory and disk, and what held them back.

One sample is a flat dict (schema `qwenops.host/1`). Rates and ratios are about the time since the sample before
(`interval_s`), amounts about the moment `at_ns`, on the run's own clock. CPU is in cores: 1.5 is one and a half CPUs
kept busy. What cannot be read here is absent, and the first sample says why, once (`absent`).

    every sample   CPU of the machine, of each CPU, of the server, this client and everybody else; steal; pressure (PSI)
                   of the machine and of the server's control group; throttling; memory, swap, page faults, disk
    every 5 s      the list of processes (new children, who else works), threads' switches, descriptors, frequency, heat
    rarely         PSS: reading it makes the server wait, so it is read before the first request, after the last, and in
                   between so seldom that the server is held up for less than a thousandth of the time
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenops.bench.clock import Clock
from qwenops.bench.collect import kernel
from qwenops.bench.collect.collector import Listen
from qwenops.bench.collect.energy import EnergyMeter, open_meter
from qwenops.bench.collect.kernel import CpuTimes, ProcessTimes
from qwenops.bench.conclusion import crossed
from qwenops.hardware.cgroups import Cgroups, Throttling, memory_limit, memory_used, read_cgroups, throttling
from qwenops.text import Text, say

SCHEMA = "qwenops.host/1"

SLOW_EVERY_S = 5.0
"""Between two readings of what is dear."""
PSS_EVERY_S = 60.0
_PSS_SHARE = 1000
"""How much longer than a reading of PSS the time to the next one is."""
_NUM_OTHERS = 3
_LEAST_OTHER_CORES = 0.05

Said = dict[str, Any]


class HostWatch:
    """Takes a sample of the host at equal times; a `Collector`.

    Args:
        process_ids: The server's processes; their children are found without it. While there are none, what this
            program itself has started counts as the server.
        clock: The run's clock. With a virtual one nothing is sampled: no machine is as old as it says.
        every_s: Time between samples.
        root: The folder that holds `proc` and `sys`.
        disk: Whose free space is told.
    """

    def __init__(
        self,
        process_ids: Callable[[], tuple[int, ...]],
        clock: Clock,
        *,
        every_s: float = 1.0,
        root: Path = Path("/"),
        disk: Path = Path(),
    ) -> None:
        """Remember what to look at; nothing is read yet."""
        self._process_ids = process_ids
        self._clock = clock
        self._every_s = every_s
        self._root = root
        self._disk = disk

    @property
    def journal(self) -> str:
        """Name of the journal its samples belong to."""
        return "host"

    @asynccontextmanager
    async def watching(self, origin_ns: int, listen: Listen) -> AsyncIterator[None]:
        """Sample until the block is left; one sample more is taken then."""
        if self._clock.virtual:
            yield
            return
        look = await asyncio.to_thread(_Look, self._process_ids, self._root, self._disk, self._every_s / 2)
        over = asyncio.Event()
        task = asyncio.create_task(self._sample_on(look, origin_ns, listen, over))
        try:
            yield
        finally:
            # Not cancelled: a thread that reads a sample would go on beside the one that reads the last.
            over.set()
            await task
            listen(await asyncio.to_thread(look.sample, self._clock.now_ns() - origin_ns, last=True))

    async def _sample_on(self, look: "_Look", origin_ns: int, listen: Listen, over: asyncio.Event) -> None:
        due_s = time.monotonic()
        while not over.is_set():
            due_s = max(due_s + self._every_s, time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), max(0.0, due_s - time.monotonic()))
            if not over.is_set():
                listen(await asyncio.to_thread(look.sample, self._clock.now_ns() - origin_ns))


@dataclass(slots=True)
class _Slow:
    """What was found when the dear things were read last."""

    at_s: float
    processes: dict[int, ProcessTimes]
    server: frozenset[int] = frozenset()
    cgroups: Cgroups | None = None
    switches: int | None = None
    said: Said = field(default_factory=dict)


class _Look:
    """Reads the machine; each sample compares with the one before. It waits for files: call it in one thread at a time.

    The kernel counts CPU time in hundredths of a second, so of less time than `least_s` no rates are told.
    """

    def __init__(
        self, process_ids: Callable[[], tuple[int, ...]], root: Path, disk: Path, least_s: float = 0.05
    ) -> None:
        self._least_s = least_s
        self._process_ids = process_ids
        self._root = root
        self._proc = root / "proc"
        self._disk = disk
        self._absent: dict[str, Text] = {}
        self._told_absent = False
        self._meter: EnergyMeter = open_meter(root)
        if self._meter.reason is not None:
            self._absent["energy_j"] = self._meter.reason
        self._pss_due_s = 0.0
        self._before: _Counters | None = None
        self._slow = self._look_slowly(time.monotonic(), None)
        self._before = self._count(time.monotonic())
        self._first = self._pss(time.monotonic(), last=False)

    def sample(self, at_ns: int, *, last: bool = False) -> Said:
        """Return what is different now; `last` reads the dear things too."""
        began_s = time.monotonic()
        if last or began_s - self._slow.at_s >= SLOW_EVERY_S - 0.1:  # a timer that wakes early shall not skip one
            self._slow = self._look_slowly(began_s, self._slow)
            slow = self._slow.said
        else:
            slow = {}
        before, now = self._before, self._count(began_s)
        said: Said = {"schema": SCHEMA, "at_ns": at_ns}
        if before is None or now.at_s - before.at_s >= self._least_s:
            self._before = now
        if before is not None and self._before is now:
            said["interval_s"] = round(now.at_s - before.at_s, 3)
            said |= _rates(before, now)
        said |= self._amounts(now) | slow | self._first | self._pss(began_s, last=last)
        self._first = {}
        said["took_s"] = round(time.monotonic() - began_s, 5)
        if not self._told_absent:
            said["absent"] = crossed(dict(sorted(self._absent.items())))
            self._told_absent = True
        return said

    def _count(self, at_s: float) -> "_Counters":
        """Read all cheap counters."""
        proc = self._proc
        server = {each: found for each in self._slow.server if (found := kernel.read_process(proc, each)) is not None}
        disk = [amount for each in server if (amount := kernel.read_disk_bytes(proc, each)) is not None]
        if server and not disk:
            self._missing("server_read_bytes_per_s", say("this user may not read the server's /proc/PID/io"))
        pressure = {name: kernel.read_pressure(proc / "pressure" / name) for name in kernel.PRESSURES}
        if pressure["cpu"] is None:
            self._missing("pressure", say("this kernel counts no pressure (no /proc/pressure)"))
        return _Counters(
            at_s=at_s,
            cpu=kernel.read_cpu_times(proc),
            server=server,
            client_s=time.process_time(),
            disk_bytes=sum(disk) if disk else None,
            paging=kernel.read_paging(proc),
            pressure={name: each for name, each in pressure.items() if each},
            group_pressure=self._group_pressure(),
            throttled=None if self._slow.cgroups is None else throttling(self._slow.cgroups),
        )

    def _group_pressure(self) -> dict[str, dict[str, float]]:
        """Return the pressure of the server's own group, which version 2 counts apart."""
        found: dict[str, dict[str, float]] = {}
        cgroups = self._slow.cgroups
        for name, groups in (("cpu", cgroups.cpu), ("memory", cgroups.memory)) if cgroups else ():
            if groups and groups[0].version == "v2" and len(groups) > 1:
                pressure = kernel.read_pressure(groups[0].folder / f"{name}.pressure")
                if pressure is not None:
                    found[name] = pressure
        return found

    def _amounts(self, now: "_Counters") -> Said:
        """Return what is counted at this moment."""
        memory = kernel.read_memory(self._proc)
        said: Said = {
            "memory_total_bytes": memory.get("MemTotal"),
            "memory_available_bytes": memory.get("MemAvailable"),
            "swap_used_bytes": memory["SwapTotal"] - memory["SwapFree"] if "SwapTotal" in memory else None,
        }
        with contextlib.suppress(OSError, ValueError):
            said["load_1m"] = float((self._proc / "loadavg").read_text().split()[0])
        if now.server:
            said["server_processes"] = len(now.server)
            said["server_rss_bytes"] = sum(each.rss_bytes for each in now.server.values())
            own = [kernel.read_own_bytes(self._proc, pid) for pid in now.server]
            said["server_own_bytes"] = None if None in own else sum(each or 0 for each in own)
            said["server_threads"] = sum(each.threads for each in now.server.values())
        if self._slow.cgroups is not None:
            limit = memory_limit(self._slow.cgroups)
            said["cgroup_memory_bytes"] = memory_used(self._slow.cgroups)
            said["cgroup_memory_limit_bytes"] = None if limit is None else limit.value
        joules = self._meter.read_j()
        if joules:
            said["energy_j"] = {name: round(value, 3) for name, value in joules.items()}
        return {name: value for name, value in said.items() if value is not None}

    def _pss(self, now_s: float, *, last: bool) -> Said:
        if not self._slow.server or (now_s < self._pss_due_s and not last):
            return {}
        began_s = time.monotonic()
        found = [kernel.read_pss_bytes(self._proc, each) for each in self._slow.server]
        took_s = time.monotonic() - began_s
        self._pss_due_s = now_s + max(PSS_EVERY_S, _PSS_SHARE * took_s)
        known = [each for each in found if each is not None]
        if not known:
            self._missing("server_pss_bytes", say("this user may not read the server's /proc/PID/smaps_rollup"))
            return {}
        return {"server_pss_bytes": sum(known), "server_pss_took_s": round(took_s, 4)}

    def _look_slowly(self, now_s: float, before: _Slow | None) -> _Slow:
        """Read what is dear: all processes, the server's threads and descriptors, frequency and heat."""
        processes = kernel.read_processes(self._proc)
        # A server that nobody named but that this program has started is among its own children.
        mine = os.getpid()
        server = kernel.tree_of(self._process_ids(), processes) or kernel.tree_of([mine], processes) - {mine}
        cgroups = read_cgroups(self._root, min(server)) if server else None
        switches = _summed(kernel.count_switches(self._proc, each) for each in server)
        descriptors = _summed(kernel.count_descriptors(self._proc, each) for each in server)
        cpus = self._root / "sys/devices/system/cpu"
        said: Said = {
            "server_descriptors": descriptors,
            "server_process_ids": sorted(server) or None,
            "server_largest_process": _largest(processes, server),
            "frequency_hz": kernel.read_frequency_hz(cpus),
            "thermal_throttles": kernel.count_thermal_throttles(cpus),
            "temperature_c": kernel.read_temperature_c(self._root / "sys/class/thermal"),
        }
        if not server:
            self._missing("server", say("the server's processes are not on this machine, or not known"))
        elif descriptors is None:
            self._missing("server_descriptors", say("this user may not read the server's /proc/PID/fd"))
        for name, reason in _RARE.items():
            if said[name] is None:
                self._missing(name, reason)
        with contextlib.suppress(OSError):
            space = os.statvfs(self._disk)
            said["disk_free_bytes"] = space.f_bavail * space.f_frsize
        if before is not None and now_s - before.at_s >= self._least_s:
            passed_s = now_s - before.at_s
            said["other_processes"] = _others(before.processes, processes, server, passed_s)
            if switches is not None and before.switches is not None and before.server == server:
                said["server_switches_per_s"] = round(max(0, switches - before.switches) / passed_s, 1)
        return _Slow(
            at_s=now_s,
            processes=processes,
            server=server,
            cgroups=cgroups,
            switches=switches,
            said={name: value for name, value in said.items() if value is not None},
        )

    def _missing(self, name: str, reason: Text) -> None:
        self._absent.setdefault(name, reason)


_RARE: Mapping[str, Text] = {
    "frequency_hz": say("the kernel does not tell the CPUs' frequency (no cpufreq; usual in a virtual machine)"),
    "thermal_throttles": say("the kernel does not count throttling by heat (no thermal_throttle)"),
    "temperature_c": say("there is no sensor of the CPU's heat (no thermal zone)"),
}


def _largest(processes: Mapping[int, ProcessTimes], server: frozenset[int]) -> int | None:
    """Return the process with most of the server's memory: when that is gone, the server was started again."""
    known = [processes[each] for each in server if each in processes]
    return max(known, key=lambda each: each.rss_bytes).pid if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counters:
    """Everything cheap at one moment."""

    at_s: float
    cpu: tuple[CpuTimes, tuple[CpuTimes, ...]] | None
    server: Mapping[int, ProcessTimes]
    client_s: float
    disk_bytes: int | None
    paging: Mapping[str, int]
    pressure: Mapping[str, Mapping[str, float]]
    group_pressure: Mapping[str, Mapping[str, float]]
    throttled: Throttling | None


def _rates(before: _Counters, now: _Counters) -> Said:
    """Return what happened between two moments."""
    passed_s = max(1e-3, now.at_s - before.at_s)
    said: Said = {}
    server_cores = _grown(before.server, now.server, lambda each: each.cpu_s) / passed_s
    client_cores = max(0.0, now.client_s - before.client_s) / passed_s
    if before.cpu is not None and now.cpu is not None:
        said |= _cpu_shares(before.cpu, now.cpu)
        others = said["cpu_busy_cores"] - client_cores - server_cores
        said["other_cpu_cores"] = round(max(0.0, others), 3)
    said["client_cpu_cores"] = round(client_cores, 4)
    if now.server:
        said["server_cpu_cores"] = round(server_cores, 3)
        said["server_minor_faults_per_s"] = _per_s(before, now, lambda each: each.minor_faults)
        said["server_major_faults_per_s"] = _per_s(before, now, lambda each: each.major_faults)
    if before.disk_bytes is not None and now.disk_bytes is not None:
        said["server_read_bytes_per_s"] = round(max(0, now.disk_bytes - before.disk_bytes) / passed_s)
    for name, key in _PAGING.items():
        if name in before.paging and name in now.paging:
            said[key] = round(max(0, now.paging[name] - before.paging[name]) / passed_s)
    said |= _waits("pressure", before.pressure, now.pressure, passed_s)
    said |= _waits("cgroup_pressure", before.group_pressure, now.group_pressure, passed_s)
    if before.throttled is not None and now.throttled is not None:
        periods = now.throttled.periods - before.throttled.periods
        stopped = now.throttled.throttled_periods - before.throttled.throttled_periods
        said["throttled_ratio"] = round(stopped / periods, 4) if periods > 0 else 0.0
        said["throttled_s"] = round(max(0.0, now.throttled.throttled_s - before.throttled.throttled_s), 4)
    return said


_PAGING: Mapping[str, str] = {
    "pgpgin": "disk_read_bytes_per_s",
    "pgpgout": "disk_written_bytes_per_s",
    "pswpin": "swap_in_bytes_per_s",
    "pswpout": "swap_out_bytes_per_s",
}


def _cpu_shares(
    before: tuple[CpuTimes, tuple[CpuTimes, ...]], now: tuple[CpuTimes, tuple[CpuTimes, ...]]
) -> dict[str, Any]:
    """Return how the CPUs' time was spent; ratios are of all CPUs together."""
    total_s = max(1e-3, now[0].total_s - before[0].total_s)
    num_cpus = max(1, len(now[1]))
    busy_ratio = max(0.0, now[0].busy_s - before[0].busy_s) / total_s
    each = [
        round(max(0.0, after.busy_s - first.busy_s) / max(1e-3, after.total_s - first.total_s), 3)
        for first, after in zip(before[1], now[1], strict=False)
    ]
    return {
        "cpus": num_cpus,
        "cpu_busy_ratio": round(busy_ratio, 4),
        "cpu_busy_cores": round(busy_ratio * num_cpus, 3),
        "cpu_system_ratio": round(max(0.0, now[0].system_s - before[0].system_s) / total_s, 4),
        "cpu_iowait_ratio": round(max(0.0, now[0].iowait_s - before[0].iowait_s) / total_s, 4),
        "cpu_steal_ratio": round(max(0.0, now[0].steal_s - before[0].steal_s) / total_s, 4),
        "cpu_busy_ratios": each,
    }


def _waits(
    prefix: str,
    before: Mapping[str, Mapping[str, float]],
    now: Mapping[str, Mapping[str, float]],
    passed_s: float,
) -> dict[str, float]:
    """Return for which part of the time some, and all, tasks waited for something."""
    return {
        f"{prefix}_{name}_{kind}_ratio": round(max(0.0, waited_s - before[name][kind]) / passed_s, 4)
        for name, kinds in now.items()
        for kind, waited_s in kinds.items()
        if kind in before.get(name, {})
    }


def _grown(
    before: Mapping[int, ProcessTimes], now: Mapping[int, ProcessTimes], read: Callable[[ProcessTimes], float]
) -> float:
    """Return by how much a counter of some processes has grown; one that is new is counted from its beginning."""
    total = 0.0
    for pid, each in now.items():
        first = before.get(pid)
        known = first is not None and first.began_ticks == each.began_ticks
        total += max(0.0, read(each) - (read(first) if known and first is not None else 0.0))
    return total


def _per_s(before: _Counters, now: _Counters, read: Callable[[ProcessTimes], float]) -> float:
    return round(_grown(before.server, now.server, read) / max(1e-3, now.at_s - before.at_s), 1)


def _others(
    before: Mapping[int, ProcessTimes], now: Mapping[int, ProcessTimes], server: frozenset[int], passed_s: float
) -> list[dict[str, Any]]:
    """Return who else worked most, busiest first; by name, because a command line may hold secrets."""
    mine = os.getpid()
    found = [
        (_grown({pid: before[pid]} if pid in before else {}, {pid: each}, lambda one: one.cpu_s) / passed_s, each)
        for pid, each in now.items()
        if pid not in server and pid != mine
    ]
    found.sort(key=lambda pair: -pair[0])
    return [
        {"pid": each.pid, "name": each.name, "cpu_cores": round(cores, 3)}
        for cores, each in found[:_NUM_OTHERS]
        if cores >= _LEAST_OTHER_CORES
    ]


def _summed(counts: Any) -> int | None:
    known = [each for each in counts if each is not None]
    return sum(known) if known else None
