"""What the processor is: model, instruction sets, cores and their siblings, NUMA nodes, caches."""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qwenops.hardware.files import parse_cpu_list, parse_size, read_int, read_text

ISA_NAMES = {
    # x86: name here -> flags of /proc/cpuinfo that must all be there
    "avx2": ("avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "avx_vnni": ("avx_vnni",),
    "avx512_vnni": ("avx512_vnni",),
    "avx512_bf16": ("avx512_bf16",),
    "avx512_fp16": ("avx512_fp16",),
    "amx_tile": ("amx_tile",),
    "amx_bf16": ("amx_tile", "amx_bf16"),
    "amx_int8": ("amx_tile", "amx_int8"),
    # ARM
    "neon": ("asimd",),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "sve": ("sve",),
}
"""Instruction sets that matter for this work, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """CPUs that share a memory controller."""

    number: int
    cpus: tuple[int, ...]
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The processor as the kernel describes it."""

    model: str
    architecture: str
    isa: tuple[str, ...]
    """Names of `ISA_NAMES`."""
    cpus: tuple[int, ...]
    """Logical CPUs that are online."""
    siblings: tuple[tuple[int, ...], ...]
    """One tuple for each physical core: the logical CPUs that share it."""
    numa_nodes: tuple[NumaNode, ...]
    last_cache_bytes: int
    """All last-level caches together; 0 when unknown."""

    def cores_of(self, cpus: Iterable[int]) -> int:
        """Count the physical cores that the logical CPUs `cpus` are on; a CPU that no core lists is one of its own."""
        wanted = set(cpus)
        listed = {cpu for core in self.siblings for cpu in core}
        return sum(1 for core in self.siblings if wanted & set(core)) + len(wanted - listed)

    @property
    def has_smt(self) -> bool:
        """Whether some core is shared by several logical CPUs."""
        return any(len(core) > 1 for core in self.siblings)


def read_processor(root: Path) -> Processor:
    """Read the processor's facts below `root`, the folder that holds `proc` and `sys`."""
    info = _first_of_cpuinfo(root)
    system = root / "sys/devices/system"
    online = parse_cpu_list(read_text(system / "cpu/online"))
    cpus = tuple(sorted(online)) if online else tuple(range(_count_of_cpuinfo(root) or 1))
    flags = frozenset((info.get("flags") or info.get("Features") or "").split())
    return Processor(
        model=_model(info),
        architecture=_architecture(info),
        isa=tuple(name for name, needed in ISA_NAMES.items() if flags.issuperset(needed)),
        cpus=cpus,
        siblings=_siblings(system, cpus),
        numa_nodes=_numa_nodes(system),
        last_cache_bytes=_last_cache_bytes(system, cpus),
    )


def _first_of_cpuinfo(root: Path) -> dict[str, str]:
    """Return the first processor's lines, and after them what stands once for all (on ARM)."""
    info: dict[str, str] = {}
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        info.setdefault(name.strip(), value.strip())
    return info


def _count_of_cpuinfo(root: Path) -> int:
    lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
    return sum(1 for line in lines if line.partition(":")[0].strip() == "processor")


def _model(info: dict[str, str]) -> str:
    if info.get("model name"):
        return info["model name"]
    if info.get("CPU part"):
        return f"ARM implementer {info.get('CPU implementer', '?')} part {info['CPU part']}"
    return info.get("Hardware") or platform.processor() or platform.machine()


def _architecture(info: dict[str, str]) -> str:
    if "flags" in info:
        return "x86_64"
    return "aarch64" if "Features" in info else platform.machine()


def _siblings(system: Path, cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    cores: set[tuple[int, ...]] = set()
    for cpu in cpus:
        topology = system / f"cpu/cpu{cpu}/topology"
        together = parse_cpu_list(
            read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
        )
        # A list that does not name its own CPU is broken, and then the CPU counts as a core of its own.
        shared = sorted(together & set(cpus)) if together and cpu in together else [cpu]
        cores.add(tuple(shared))
    return tuple(sorted(cores))


def _numa_nodes(system: Path) -> tuple[NumaNode, ...]:
    nodes: list[NumaNode] = []
    for folder in sorted((system / "node").glob("node[0-9]*"), key=lambda path: int(path.name.removeprefix("node"))):
        cpus = parse_cpu_list(read_text(folder / "cpulist"))
        memory = next((line for line in (read_text(folder / "meminfo") or "").splitlines() if "MemTotal:" in line), "")
        nodes.append(
            NumaNode(
                number=int(folder.name.removeprefix("node")),
                cpus=tuple(sorted(cpus or ())),
                memory_bytes=parse_size(memory.partition("MemTotal:")[2].strip()) or 0,
            )
        )
    return tuple(nodes)


def _last_cache_bytes(system: Path, cpus: tuple[int, ...]) -> int:
    """Add up the caches of the highest level; CPUs that share one name the same list."""
    caches: dict[tuple[int, str], int] = {}
    for cpu in cpus:
        for folder in (system / f"cpu/cpu{cpu}/cache").glob("index[0-9]*"):
            level = read_int(folder / "level")
            size = parse_size(read_text(folder / "size"))
            if level is not None and size is not None:
                caches[level, read_text(folder / "shared_cpu_list") or str(cpu)] = size
    highest = max((level for level, _ in caches), default=0)
    return sum(size for (level, _), size in caches.items() if level == highest)
