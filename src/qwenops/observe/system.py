"""How the process, its control group and the machine are doing, as one sample."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwenops.hardware.cgroups import Cgroups, memory_limit, memory_used, read_cgroups, throttling

_GB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSample:
    """One look. Percentages of CPU are of the whole machine for the system and of one core for the processes."""

    at_s: float
    """Seconds since 1970."""
    cpu_percent: float
    memory_percent: float
    memory_used_bytes: int
    disk_usage_percent: float
    """Of the file system that holds the logs."""
    process_cpu_percent: float
    process_cpu_s: float
    process_memory_bytes: int
    process_open_files: int
    engine_memory_bytes: int
    """Resident memory of all children, which compute."""
    engine_cpu_percent: float
    cgroup_memory_bytes: int = 0
    cgroup_memory_limit_bytes: int = 0
    cfs_periods: int = 0
    cfs_throttled_periods: int = 0
    cfs_throttled_s: float = 0.0

    def line(self) -> dict[str, Any]:
        """Return the fields of the log line: first those of the user's design, in their units, then ours."""
        return {
            "timestamp": datetime.fromtimestamp(self.at_s, tz=UTC).astimezone().isoformat(timespec="milliseconds"),
            "cpu_percent": self.cpu_percent,
            "memory_percent": self.memory_percent,
            "memory_used_gb": round(self.memory_used_bytes / _GB, 3),
            "disk_usage_percent": self.disk_usage_percent,
            "process_cpu_percent": round(self.process_cpu_percent, 1),
            "process_memory_bytes": self.process_memory_bytes,
            "process_open_files": self.process_open_files,
            "engine_cpu_percent": round(self.engine_cpu_percent, 1),
            "engine_memory_bytes": self.engine_memory_bytes,
            "cgroup_memory_bytes": self.cgroup_memory_bytes,
            "cgroup_memory_limit_bytes": self.cgroup_memory_limit_bytes,
            "cfs_periods": self.cfs_periods,
            "cfs_throttled_periods": self.cfs_throttled_periods,
            "cfs_throttled_s": round(self.cfs_throttled_s, 3),
        }


class SystemWatch:
    """Takes samples; each one's CPU percentages are about the time since the sample before."""

    def __init__(self, *, disk: Path = Path("/"), root: Path = Path("/"), now: Callable[[], float] = time.time) -> None:
        """Look at the file system of `disk` and at the control groups below `root`."""
        import psutil

        self._psutil = psutil
        self._now = now
        self._disk = disk
        self._process = psutil.Process()
        self._cgroups: Cgroups = read_cgroups(root)
        self._cpu_before: dict[int, float] = {}
        self._at_before_s = now()
        psutil.cpu_percent(interval=None)
        self._usage()

    def sample(self) -> SystemSample:
        """Take one sample; reads /proc and may wait for it, so call it in a thread."""
        now_s = self._now()
        passed_s = max(1e-3, now_s - self._at_before_s)
        self._at_before_s = now_s
        cpu_s, child_cpu_s, child_memory_bytes = self._usage()
        memory = self._psutil.virtual_memory()
        times = self._process.cpu_times()
        limit = memory_limit(self._cgroups)
        throttled = throttling(self._cgroups)
        return SystemSample(
            at_s=now_s,
            cpu_percent=self._psutil.cpu_percent(interval=None),
            memory_percent=memory.percent,
            memory_used_bytes=memory.used,
            disk_usage_percent=self._disk_percent(),
            process_cpu_percent=100 * cpu_s / passed_s,
            process_cpu_s=times.user + times.system,
            process_memory_bytes=self._process.memory_info().rss,
            process_open_files=self._process.num_fds(),
            engine_memory_bytes=child_memory_bytes,
            engine_cpu_percent=100 * child_cpu_s / passed_s,
            cgroup_memory_bytes=memory_used(self._cgroups) or 0,
            cgroup_memory_limit_bytes=limit.value if limit is not None else 0,
            cfs_periods=throttled.periods if throttled else 0,
            cfs_throttled_periods=throttled.throttled_periods if throttled else 0,
            cfs_throttled_s=throttled.throttled_s if throttled else 0.0,
        )

    def _usage(self) -> tuple[float, float, int]:
        """Return CPU time since the last look of this process and of its children, and the children's memory."""
        own_s, children_s, memory_bytes = 0.0, 0.0, 0
        seen: dict[int, float] = {}
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                times = process.cpu_times()
                rss = process.memory_info().rss
            except self._psutil.Error:
                continue
            total_s = times.user + times.system
            seen[process.pid] = total_s
            spent_s = max(0.0, total_s - self._cpu_before.get(process.pid, total_s))
            if process.pid == self._process.pid:
                own_s = spent_s
            else:
                children_s += spent_s
                memory_bytes += rss
        self._cpu_before = seen
        return own_s, children_s, memory_bytes

    def _disk_percent(self) -> float:
        folder = self._disk
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return float(self._psutil.disk_usage(str(folder)).percent)
