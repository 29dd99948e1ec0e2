"""Which limits the kernel's control groups put on a process: this one, unless another is asked about.

A process belongs to one group of each hierarchy (`/proc/self/cgroup`). A limit of any group on the way up to the root
counts, so the smallest one is the limit. Both versions can be mounted at once ("hybrid"); then each controller lives
in one of them, and both are read.

    version 1   cpu.cfs_quota_us / cpu.cfs_period_us    memory.limit_in_bytes         cpuset.effective_cpus
    version 2   cpu.max                                 memory.max and memory.high    cpuset.cpus.effective

In a container the path in `/proc/self/cgroup` may be the host's, while only a part of the tree is mounted; the mount
table says which part (`/proc/self/mountinfo`). Groups above that part are out of sight. Version 1 tells their memory
limit all the same, as `hierarchical_memory_limit`. Shares and weights are no limits and are not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from qwenops.hardware.files import parse_cpu_list, parse_int, read_int, read_table, read_text
from qwenops.hardware.reasoned import Reasoned
from qwenops.text import say

Version = Literal["v1", "v2"]

_CONTROLLERS = frozenset({"cpu", "memory", "cpuset"})

_NO_LIMIT_BYTES = 2**62
"""Version 1 writes "no limit" as the largest number of whole pages, near 2**63."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One control group that this process is in."""

    folder: Path
    """Where its files are read."""
    shown: str
    """Where they are for the user; differs from `folder` when the root is injected."""
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """The groups of this process by controller, each tuple from its own group upwards."""

    layout: str
    """`v1`, `v2`, `hybrid` or `none`."""
    cpu: tuple[Group, ...] = ()
    memory: tuple[Group, ...] = ()
    cpuset: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttling:
    """How often a CPU quota has stopped the processes of a group."""

    where: str
    periods: int
    throttled_periods: int
    throttled_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    version: Version
    controllers: frozenset[str]
    root: str
    """The group of the hierarchy that is visible at `point`."""
    point: str


def read_cgroups(root: Path, process: int | None = None) -> Cgroups:
    """Find the groups of a process below `root`, the folder that holds `proc` and `sys`; None is this process."""
    mounts = _mounts(root)
    own = "self" if process is None else str(process)
    memberships = _memberships(root, own)
    versions = {mount.version for mount in mounts if mount.version == "v2" or mount.controllers & _CONTROLLERS}
    return Cgroups(
        layout="hybrid" if len(versions) > 1 else next(iter(versions), "none"),
        **{name: tuple(_groups(root, own, name, memberships, mounts)) for name in sorted(_CONTROLLERS)},
    )


def cpu_quota(cgroups: Cgroups) -> Reasoned[float] | None:
    """Return the smallest CPU quota in cores, or None when there is none."""
    found = [(quota, group) for group in cgroups.cpu if (quota := _quota(group)) is not None]
    if not found:
        return None
    quota, group = min(found, key=lambda each: each[0])
    return Reasoned(value=quota, reason=say("CPU quota of {quota:g} cores at {where}", quota=quota, where=group.shown))


def memory_limit(cgroups: Cgroups) -> Reasoned[int] | None:
    """Return the smallest memory limit in bytes, or None when there is none."""
    found = [each for group in cgroups.memory for each in _memory_limits(group)]
    if not found:
        return None
    limit_bytes, where = min(found)
    return Reasoned(value=limit_bytes, reason=say("memory limit of the control group at {where}", where=where))


def cpuset(cgroups: Cgroups) -> frozenset[int] | None:
    """Return the CPUs that the own group may use, or None when nothing says."""
    found: frozenset[int] | None = None
    for group in cgroups.cpuset:
        names = ("cpuset.effective_cpus", "cpuset.cpus") if group.version == "v1" else ("cpuset.cpus.effective",)
        for name in names:
            cpus = parse_cpu_list(read_text(group.folder / name))
            if cpus is not None:
                found = cpus if found is None else found & cpus
                break
    return found


def throttling(cgroups: Cgroups) -> Throttling | None:
    """Return the count of the group that was stopped most, or None when no group has a quota."""
    found: list[Throttling] = []
    for group in cgroups.cpu:
        table = read_table(group.folder / "cpu.stat")
        periods = parse_int(table.get("nr_periods"))
        if not periods or _quota(group) is None:
            continue
        nanoseconds = parse_int(table.get("throttled_time")) or 1000 * (parse_int(table.get("throttled_usec")) or 0)
        found.append(
            Throttling(
                where=group.shown,
                periods=periods,
                throttled_periods=parse_int(table.get("nr_throttled")) or 0,
                throttled_s=nanoseconds / 1e9,
            )
        )
    return max(found, key=lambda each: each.throttled_s, default=None)


def memory_used(cgroups: Cgroups) -> int | None:
    """Return the bytes charged to the own group, or None where nobody counts."""
    for group in cgroups.memory[:1]:
        return read_int(group.folder / ("memory.usage_in_bytes" if group.version == "v1" else "memory.current"))
    return None


def _quota(group: Group) -> float | None:
    if group.version == "v1":
        quota_us = read_int(group.folder / "cpu.cfs_quota_us")
        period_us = read_int(group.folder / "cpu.cfs_period_us")
    else:
        quota_word, _, period_word = (read_text(group.folder / "cpu.max") or "max").partition(" ")
        quota_us = parse_int(quota_word)  # "max" is no number, and no limit
        period_us = parse_int(period_word or "100000")
    if quota_us is None or period_us is None or quota_us <= 0 or period_us <= 0:
        return None
    return quota_us / period_us


def _memory_limits(group: Group) -> Iterator[tuple[int, str]]:
    if group.version == "v1":
        told = read_table(group.folder / "memory.stat").get("hierarchical_memory_limit")
        candidates = {
            "memory.limit_in_bytes": read_int(group.folder / "memory.limit_in_bytes"),
            "memory.stat (hierarchical_memory_limit)": parse_int(told),
        }
    else:
        candidates = {name: read_int(group.folder / name) for name in ("memory.max", "memory.high")}
    for name, limit_bytes in candidates.items():
        if limit_bytes is not None and 0 <= limit_bytes < _NO_LIMIT_BYTES:
            yield limit_bytes, f"{group.shown.rstrip('/')}/{name}"


def _memberships(root: Path, own: str) -> list[tuple[frozenset[str] | None, str]]:
    """Return (controllers, path) of each hierarchy; None for the controllers of version 2."""
    found: list[tuple[frozenset[str] | None, str]] = []
    for line in (read_text(root / "proc" / own / "cgroup") or "").splitlines():
        number, first, rest = line.partition(":")
        controllers, second, path = rest.partition(":")
        if not first or not second or not path.startswith("/"):
            continue
        if number == "0" and not controllers:
            found.append((None, path))
        else:
            found.append((frozenset(controllers.split(",")), path))
    return found


def _mounts(root: Path) -> list[_Mount]:
    """Return the mounted hierarchies, the widest view of each first."""
    found: dict[str, _Mount] = {}  # by place, because a later mount hides an earlier one
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if len(left) < 5 or len(right) < 3 or right[0] not in {"cgroup", "cgroup2"}:  # noqa: PLR2004 -- the fields used
            continue
        found[left[4]] = _Mount(
            version="v1" if right[0] == "cgroup" else "v2",
            controllers=frozenset(right[2].split(",")),
            root=_unescaped(left[3]),
            point=_unescaped(left[4]),
        )
    return sorted(found.values(), key=lambda mount: len(mount.root))


def _unescaped(text: str) -> str:
    r"""Undo the kernel's `\040` for a blank and its like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _groups(
    root: Path, own: str, controller: str, memberships: list[tuple[frozenset[str] | None, str]], mounts: list[_Mount]
) -> Iterator[Group]:
    for controllers, path in memberships:
        if controllers is not None and controller not in controllers:
            continue
        fitting = [
            mount
            for mount in mounts
            if (
                mount.version == "v2"
                if controllers is None
                else mount.version == "v1" and controller in mount.controllers
            )
        ]
        # A mount that shows the group itself is best; one that does not may still show a part of the way up.
        fitting.sort(key=lambda mount: _below(path, mount.root) is None)
        if not fitting:
            continue
        mount = fitting[0]
        for inner in _way_up(root, own, mount, path):
            yield Group(
                folder=_at(root, mount.point, inner),
                shown=str(PurePosixPath(mount.point, inner)),
                version=mount.version,
            )


def _way_up(root: Path, own: str, mount: _Mount, path: str) -> Iterator[str]:
    """Yield the visible groups from the process's own up to the mount's, as paths inside the mount."""
    inner = _visible(root, own, mount, path)
    parts = PurePosixPath(inner).parts
    for length in range(len(parts), -1, -1):
        yield "/".join(parts[:length])


def _visible(root: Path, own: str, mount: _Mount, path: str) -> str:
    """Return where in the mount the group is; its mount point (an empty path) where it cannot be found."""
    below = _below(path, mount.root)
    if below is not None and _at(root, mount.point, below).is_dir():
        return below
    above = PurePosixPath(mount.root).parts.count("..")
    if above:
        return _searched(root, own, mount, "/".join(["*"] * above + [part for part in path.split("/") if part])) or ""
    # The path is that of another namespace. Its end may exist here: a group made inside the container.
    parts = [part for part in PurePosixPath(path).parts if part not in {"/", "..", "."}]
    for first in range(len(parts)):
        inner = "/".join(parts[first:])
        if _at(root, mount.point, inner).is_dir():
            return inner
    return ""


def _searched(root: Path, own: str, mount: _Mount, pattern: str) -> str | None:
    """Find the group by its members.

    A mount that was made before this process got its namespace of groups begins so many levels above that namespace,
    and nothing tells the names between. Only one group has this process in it.
    """
    pid = (read_text(root / "proc" / own / "stat") or "").partition(" ")[0]
    top = _at(root, mount.point, "")
    for folder in sorted(top.glob(pattern)):
        if pid and pid in (read_text(folder / "cgroup.procs") or "").split():
            return str(folder.relative_to(top))
    return None


def _below(path: str, root: str) -> str | None:
    """Return `path` relative to `root`, or None when it is not below it."""
    parts = PurePosixPath(path).parts
    if ".." in parts:
        return None
    try:
        return "/".join(PurePosixPath(path).relative_to(root).parts)
    except ValueError:
        return None


def _at(root: Path, point: str, inner: str) -> Path:
    return root / point.lstrip("/") / inner
