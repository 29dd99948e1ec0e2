"""What Linux counts, read as cheaply as it can be: whole small files, no library, nothing twice.

Counters are since boot, or since a process began; who wants a rate reads twice. A file that is not there, or may not
be read, gives None and never an error.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwenops.hardware.files import parse_int, read_int, read_table, read_text

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PRESSURES = ("cpu", "memory", "io")

_KIB = 1024
_STAT_FIELDS = 20
"""How many fields of /proc/PID/stat after the name are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Seconds of all CPUs together since boot."""

    user_s: float
    system_s: float
    idle_s: float
    iowait_s: float
    steal_s: float

    @property
    def busy_s(self) -> float:
        """What was spent on any work of this machine."""
        return self.user_s + self.system_s

    @property
    def total_s(self) -> float:
        """What passed, on all CPUs."""
        return self.busy_s + self.idle_s + self.iowait_s + self.steal_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """One process as /proc/PID/stat has it."""

    pid: int
    parent: int
    name: str
    began_ticks: int
    """With the pid, which process it is: pids are used again."""
    cpu_s: float
    minor_faults: int
    major_faults: int
    threads: int
    rss_bytes: int


def read_cpu_times(proc: Path) -> tuple[CpuTimes, tuple[CpuTimes, ...]] | None:
    """Return the times of the machine and of each CPU."""
    found: list[CpuTimes] = []
    for line in (read_text(proc / "stat") or "").splitlines():
        name, *fields = line.split()
        if not name.startswith("cpu"):
            break
        # user, nice, system, idle, iowait, irq, softirq, steal; guest times are part of user already
        ticks = [int(each) for each in (*fields[:8], *["0"] * (8 - len(fields[:8])))]
        user, nice, system, idle, iowait, irq, softirq, steal = ticks
        found.append(
            CpuTimes(
                user_s=(user + nice) * TICK_S,
                system_s=(system + irq + softirq) * TICK_S,
                idle_s=idle * TICK_S,
                iowait_s=iowait * TICK_S,
                steal_s=steal * TICK_S,
            )
        )
    return (found[0], tuple(found[1:])) if found else None


def read_process(proc: Path, pid: int | str) -> ProcessTimes | None:
    """Return one process; None when it is gone."""
    text = read_text(proc / str(pid) / "stat")
    if text is None:
        return None
    head, _, tail = text.rpartition(")")
    number, _, name = head.partition(" (")
    fields = tail.split()
    if len(fields) < _STAT_FIELDS + 2 or not number.isdigit():
        return None
    return ProcessTimes(
        pid=int(number),
        parent=int(fields[1]),
        name=name,
        began_ticks=int(fields[19]),
        cpu_s=(int(fields[11]) + int(fields[12])) * TICK_S,
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        threads=int(fields[17]),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
    )


def read_processes(proc: Path) -> dict[int, ProcessTimes]:
    """Return every process that can be seen; this is the dearest reading and is not done at each sample."""
    found: dict[int, ProcessTimes] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(proc):  # noqa: PTH208 -- names alone, at the price of names
            if name.isdigit() and (process := read_process(proc, name)) is not None:
                found[process.pid] = process
    return found


def tree_of(roots: Iterable[int], processes: Mapping[int, ProcessTimes]) -> frozenset[int]:
    """Return some processes with all that descend from them."""
    children: dict[int, list[int]] = {}
    for each in processes.values():
        children.setdefault(each.parent, []).append(each.pid)
    found: set[int] = set()
    waiting = [each for each in roots if each in processes]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return frozenset(found)


def read_memory(proc: Path) -> dict[str, int]:
    """Return `MemTotal`, `MemAvailable`, `SwapTotal`, `SwapFree` and their like in bytes."""
    table = read_table(proc / "meminfo", ":")
    found: dict[str, int] = {}
    for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"):
        amount = parse_int(table.get(name, "").removesuffix("kB").strip())
        if amount is not None:
            found[name] = amount * _KIB
    return found


def read_paging(proc: Path) -> dict[str, int]:
    """Return how much came from disk (`pgpgin`) and went there, and what was swapped in and out, in bytes."""
    table = read_table(proc / "vmstat")
    units = {"pgpgin": _KIB, "pgpgout": _KIB, "pswpin": PAGE_BYTES, "pswpout": PAGE_BYTES}
    counts = {name: parse_int(table.get(name)) for name in units}
    return {name: count * units[name] for name, count in counts.items() if count is not None}


def read_pressure(path: Path) -> dict[str, float] | None:
    """Return for how many seconds some, and all, tasks have waited, from a file such as /proc/pressure/cpu."""
    text = read_text(path)
    if text is None:
        return None
    found: dict[str, float] = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        total = next((each.removeprefix("total=") for each in fields if each.startswith("total=")), "")
        if (microseconds := parse_int(total)) is not None:
            found[kind] = microseconds / 1e6
    return found or None


def read_disk_bytes(proc: Path, pid: int) -> int | None:
    """Return what a process has read from disk, page faults of mapped files included."""
    return parse_int(read_table(proc / str(pid) / "io", ":").get("read_bytes"))


def count_descriptors(proc: Path, pid: int) -> int | None:
    """Return how many files, sockets and pipes a process has open."""
    try:
        return len(os.listdir(proc / str(pid) / "fd"))  # noqa: PTH208 -- names alone, at the price of names
    except OSError:
        return None


def count_switches(proc: Path, pid: int) -> int | None:
    """Return how often the threads of a process were taken off a CPU, by their own wish or not."""
    total: int | None = None
    with contextlib.suppress(OSError):
        for thread in os.listdir(proc / str(pid) / "task"):  # noqa: PTH208 -- names alone, at the price of names
            table = read_table(proc / str(pid) / "task" / thread / "status", ":")
            for name in ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"):
                if (count := parse_int(table.get(name))) is not None:
                    total = (total or 0) + count
    return total


def read_own_bytes(proc: Path, pid: int) -> int | None:
    """Return a process's memory that no file holds: what it has allocated, in memory and in swap.

    Resident memory also counts the pages of mapped files that were looked at, such as the rows of an embedding: they
    grow with use, up to the file's size, and the kernel takes them back when it needs room. A leak is none of them.
    """
    table = read_table(proc / str(pid) / "status", ":")
    parts = [parse_int(table.get(name, "").removesuffix("kB").strip()) for name in ("RssAnon", "RssShmem", "VmSwap")]
    return None if parts[0] is None else sum(each or 0 for each in parts) * _KIB


def read_pss_bytes(proc: Path, pid: int) -> int | None:
    """Return a process's memory with shared pages divided among those that share them.

    The kernel walks every page table for it and holds the process's memory map meanwhile: a thread that maps or unmaps
    memory at that moment waits. Measured here, for 2 GB in small pages: 24 to 66 ms, and a thread that mapped memory
    all the time waited up to 120 ms.
    """
    amount = read_table(proc / str(pid) / "smaps_rollup", ":").get("Pss", "")
    kibibytes = parse_int(amount.removesuffix("kB").strip())
    return None if kibibytes is None else kibibytes * _KIB


def read_peak_bytes(proc: Path, pid: int) -> int | None:
    """Return the most memory that a process has had resident."""
    kibibytes = parse_int(read_table(proc / str(pid) / "status", ":").get("VmHWM", "").removesuffix("kB").strip())
    return None if kibibytes is None else kibibytes * _KIB


def read_mapped(proc: Path, pid: int) -> frozenset[Path]:
    """Return the files that a process has mapped into its memory and that are still there."""
    places = (line.split(maxsplit=5)[5:] for line in (read_text(proc / str(pid) / "maps") or "").splitlines())
    return frozenset(
        Path(each[0]) for each in places if each and each[0].startswith("/") and "(deleted)" not in each[0]
    )


def read_frequency_hz(cpus: Path) -> float | None:
    """Return the mean frequency of the CPUs below /sys/devices/system/cpu; None where nobody says."""
    found = [value for folder in _cpu_folders(cpus) if (value := read_int(folder / "cpufreq/scaling_cur_freq"))]
    return 1000 * sum(found) / len(found) if found else None


def count_thermal_throttles(cpus: Path) -> int | None:
    """Return how often heat has slowed down a core or a package since boot."""
    names = ("core_throttle_count", "package_throttle_count")
    counts = [read_int(folder / "thermal_throttle" / name) for folder in _cpu_folders(cpus) for name in names]
    known = [each for each in counts if each is not None]
    return sum(known) if known else None


def read_temperature_c(zones: Path) -> float | None:
    """Return the hottest CPU sensor below /sys/class/thermal in degrees Celsius."""
    found: list[float] = []
    with contextlib.suppress(OSError):
        for zone in sorted(zones.glob("thermal_zone*")):
            kind = (read_text(zone / "type") or "").lower()
            value = read_int(zone / "temp")
            if value is not None and any(each in kind for each in ("cpu", "pkg", "package", "soc", "k10temp")):
                found.append(value / 1000)
    return max(found, default=None)


def _cpu_folders(cpus: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from cpus.glob("cpu[0-9]*")
