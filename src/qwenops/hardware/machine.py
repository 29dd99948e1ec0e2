"""This machine as this process may use it, and the plan for threads that follows.

`detect_machine` is cheap: it reads a few dozen small files and measures nothing. Wrong thread counts in containers make
inference 4 to 45 times slower: a library that starts one thread for each of the host's CPUs is stopped by the CPU
quota in the middle of its parallel loops, and all threads wait for the stopped ones. So whole cores are counted, down.
"""

import math
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from qwenops.hardware.cgroups import Cgroups, Throttling, cpu_quota, cpuset, memory_limit, read_cgroups, throttling
from qwenops.hardware.files import parse_size, read_int, read_table, read_text
from qwenops.hardware.processor import Processor, read_processor
from qwenops.hardware.reasoned import Reasoned
from qwenops.text import Text, say


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The host's memory in bytes."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts about this machine; every derived number carries its reason."""

    processor: Processor
    affinity: tuple[int, ...]
    """Logical CPUs that this process may run on."""
    cpu_quota: Reasoned[float] | None
    """Cores of CPU time that a control group allows; None when there is no quota."""
    usable_cores: Reasoned[int]
    """Whole logical CPUs by affinity, cpuset and quota; at least 1."""
    physical_cores: Reasoned[int]
    """Cores that the affinity's CPUs are on; SMT siblings share one."""
    memory: Memory
    memory_limit: Reasoned[int]
    """Bytes that this process may use: the smallest limit, or what the host has available."""
    cgroup_layout: str
    """`v1`, `v2`, `hybrid` or `none`."""
    throttling: Throttling | None
    container: Reasoned[str]
    """`docker`, `podman`, `kubernetes`, another name, or empty when this is no container."""
    huge_pages: str
    """State of transparent huge pages: `always`, `madvise`, `never`, or empty when unknown."""
    free_huge_pages: int
    """Explicit huge pages (`nr_hugepages`) that are free."""


def current_affinity() -> Collection[int]:
    """Return the CPUs that this process may run on; all of them where the system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def detect_machine(
    root: Path = Path("/"),
    *,
    affinity: Callable[[], Collection[int]] = current_affinity,
    environ: Mapping[str, str] = os.environ,
) -> Machine:
    """Read the facts; `root` is the folder that holds `proc` and `sys`."""
    processor = read_processor(root)
    cgroups = read_cgroups(root)
    allowed = frozenset(affinity()) or frozenset(processor.cpus)
    in_set = cpuset(cgroups)
    cpus = tuple(sorted(allowed & in_set if in_set and allowed & in_set else allowed))
    quota = cpu_quota(cgroups)
    memory = _memory(root)
    return Machine(
        processor=processor,
        affinity=cpus,
        cpu_quota=quota,
        usable_cores=_usable_cores(len(cpus), len(processor.cpus), quota),
        physical_cores=_physical_cores(processor, cpus),
        memory=memory,
        memory_limit=_memory_limit(memory, cgroups),
        cgroup_layout=cgroups.layout,
        throttling=throttling(cgroups),
        container=_container(root, environ),
        huge_pages=_huge_pages(root),
        free_huge_pages=read_int(root / "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") or 0,
    )


def plan_threads(machine: Machine) -> Reasoned[int]:
    """Decide how many threads compute: whole usable cores, and no SMT siblings, which share one core's units."""
    usable, physical = machine.usable_cores, machine.physical_cores
    if physical.value < usable.value:
        return Reasoned(value=physical.value, reason=physical.reason)
    return usable


def plan_environment(machine: Machine, threads: int) -> Reasoned[Mapping[str, str]]:
    """Decide which environment variables a process that computes with `threads` threads needs from its start.

    One thread on a processor with AMX crashes with SIGFPE while OpenVINO compiles a language model; below AMX it works.
    """
    if threads == 1 and "amx_tile" in machine.processor.isa:
        return Reasoned(
            value={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
            reason=say("With one thread the AMX kernels crash, so AMX is left out. Give two cores to use it."),
        )
    return Reasoned(value={}, reason=say("Every instruction set of the processor may be used."))


def free_disk_bytes(folder: Path) -> int:
    """Return the free space where `folder` is or would be made."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _usable_cores(num_allowed: int, num_present: int, quota: Reasoned[float] | None) -> Reasoned[int]:
    if quota is not None and quota.value < 1:
        return Reasoned(
            value=1,
            reason=say("A {quota} is less than one core; one thread is the least possible.", quota=quota.reason),
        )
    if quota is not None and math.floor(quota.value) < num_allowed:
        return Reasoned(
            value=math.floor(quota.value),
            reason=say(
                "A {quota} allows this many whole cores of the {allowed} in the affinity mask.",
                quota=quota.reason,
                allowed=num_allowed,
            ),
        )
    if num_allowed < num_present:
        reason: Text = say(
            "The affinity mask allows {allowed} of {present} CPUs.", allowed=num_allowed, present=num_present
        )
    else:
        reason = say("All {present} CPUs may be used; there is no CPU quota below that.", present=num_present)
    return Reasoned(value=max(1, num_allowed), reason=reason)


def _physical_cores(processor: Processor, cpus: tuple[int, ...]) -> Reasoned[int]:
    cores = processor.cores_of(cpus)
    if cores < len(cpus):
        reason = say(
            "{cpus} CPUs are SMT siblings on {cores} physical cores; a core computes no faster with two threads.",
            cpus=len(cpus),
            cores=cores,
        )
    else:
        reason = say("Each of {cpus} CPUs is a core of its own.", cpus=len(cpus))
    return Reasoned(value=cores, reason=reason)


def _memory(root: Path) -> Memory:
    table = read_table(root / "proc/meminfo", ":")
    sizes = {name: parse_size(table.get(name)) for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")}
    total_bytes = sizes["MemTotal"] or 0
    available_bytes = sizes["MemAvailable"]
    return Memory(
        total_bytes=total_bytes,
        available_bytes=total_bytes if available_bytes is None else available_bytes,
        swap_total_bytes=sizes["SwapTotal"] or 0,
        swap_free_bytes=sizes["SwapFree"] or 0,
    )


def _memory_limit(memory: Memory, cgroups: Cgroups) -> Reasoned[int]:
    limit = memory_limit(cgroups)
    if limit is not None and (memory.available_bytes == 0 or limit.value < memory.available_bytes):
        return limit
    return Reasoned(value=memory.available_bytes, reason=say("memory that the host has available"))


def _container(root: Path, environ: Mapping[str, str]) -> Reasoned[str]:
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return _inside("kubernetes", "KUBERNETES_SERVICE_HOST")
    for kind, path in (("docker", ".dockerenv"), ("podman", "run/.containerenv")):
        if (root / path).exists():
            return _inside(kind, f"/{path}")
    named = environ.get("container") or read_text(root / "run/systemd/container")
    if named:
        return _inside(named, "$container")
    membership = read_text(root / "proc/self/cgroup") or ""
    for word, kind in (
        ("kubepods", "kubernetes"),
        ("libpod", "podman"),
        ("docker", "docker"),
        ("containerd", "containerd"),
        ("lxc", "lxc"),
    ):
        if word in membership:
            return _inside(kind, "/proc/self/cgroup")
    return Reasoned(value="", reason=say("Nothing here is a sign of a container."))


def _inside(kind: str, sign: str) -> Reasoned[str]:
    return Reasoned(value=kind, reason=say("{sign} is a sign of a container.", sign=sign))


def _huge_pages(root: Path) -> str:
    choices = (read_text(root / "sys/kernel/mm/transparent_hugepage/enabled") or "").split()
    return next((choice.strip("[]") for choice in choices if choice.startswith("[")), "")
