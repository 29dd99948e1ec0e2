"""Fake `/proc` and `/sys` trees: a dict of path to text, written below a temporary folder."""

from collections.abc import Mapping
from pathlib import Path

NO_LIMIT_V1 = "9223372036854771712"


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def mounted_v1(controllers: str, *, root: str = "/", point: str | None = None) -> str:
    point = point or f"/sys/fs/cgroup/{controllers}"
    return f"32 31 0:29 {root} {point} rw,relatime shared:9 - cgroup cgroup rw,{controllers}\n"


def mounted_v2(*, root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return f"41 31 0:38 {root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def processor(num_cpus: int, *, threads_per_core: int = 1, flags: str = "fpu avx2 fma") -> dict[str, str]:
    """Describe an x86 processor whose siblings are numbered as on most servers: 0 and n/2 share a core."""
    cores = num_cpus // threads_per_core
    files = {
        "proc/cpuinfo": "".join(
            f"processor\t: {cpu}\nmodel name\t: Test CPU @ 2.00GHz\nflags\t\t: {flags}\n\n" for cpu in range(num_cpus)
        ),
        "sys/devices/system/cpu/online": f"0-{num_cpus - 1}\n",
        "sys/devices/system/node/node0/cpulist": f"0-{num_cpus - 1}\n",
        "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:       16384 kB\nNode 0 MemFree: 1 kB\n",
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"
        "SwapTotal:       1024 kB\nSwapFree:         512 kB\n",
    }
    for cpu in range(num_cpus):
        together = ",".join(str(cpu % cores + cores * thread) for thread in range(threads_per_core))
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"] = f"{together}\n"
        files[f"sys/devices/system/cpu/cpu{cpu}/cache/index3/level"] = "3\n"
        files[f"sys/devices/system/cpu/cpu{cpu}/cache/index3/size"] = "32768K\n"
        files[f"sys/devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list"] = f"0-{num_cpus - 1}\n"
    return files
