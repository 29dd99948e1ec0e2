"""Real control groups. Everything here needs root and cleans up after itself."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwenops.command import Finished, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """A real control group of one controller, in whichever version of the kernel's interface it lives here."""

    folder: Path
    version: str

    def limit_cpu(self, cores: float) -> None:
        """Allow `cores` cores of CPU time."""
        quota_us = round(cores * 100_000)
        if self.version == "v1":
            (self.folder / "cpu.cfs_period_us").write_text("100000")
            (self.folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (self.folder / "cpu.max").write_text(f"{quota_us} 100000")

    def limit_memory(self, size_bytes: int) -> None:
        """Allow `size_bytes` bytes of memory."""
        name = "memory.limit_in_bytes" if self.version == "v1" else "memory.max"
        (self.folder / name).write_text(str(size_bytes))

    def inner(self, controller: str) -> "Limited":
        """Make a group inside this one."""
        if self.version == "v2":
            (self.folder / "cgroup.subtree_control").write_text(f"+{controller}")
        folder = self.folder / "inner"
        folder.mkdir()
        return Limited(folder=folder, version=self.version)

    def run(self, argv: list[str], *, timeout_s: float = 60.0) -> Finished:
        """Run a program as a member of this group."""
        join = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        return run(["sh", "-c", join, self.folder, *argv], timeout_s=timeout_s)


def _place(controller: str) -> tuple[str, Path]:
    """Return the version and the folder in which a group with this controller can be made, by the mount table."""
    places: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(maxsplit=2)
        point = Path(left.split()[4])
        if kind == "cgroup" and controller in options.split(","):
            places["v1"] = point
        elif kind == "cgroup2" and controller in (point / "cgroup.controllers").read_text().split():
            places["v2"] = point
    for version, point in sorted(places.items()):
        if os.access(point, os.W_OK):
            return version, point
    pytest.skip(f"no writable control group hierarchy with the controller {controller!r}")


@contextlib.contextmanager
def _made(controller: str) -> Iterator[Limited]:
    if os.geteuid() != 0:
        pytest.skip("control groups can only be made by root")
    version, point = _place(controller)
    if version == "v2":
        (point / "cgroup.subtree_control").write_text(f"+{controller}")
    folder = point / f"qwenops-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"{folder} cannot be made: {error.strerror}")
    try:
        yield Limited(folder=folder, version=version)
    finally:
        for each in (folder / "inner", folder):
            if each.exists():
                _remove(each)


def _remove(folder: Path) -> None:
    """Remove a group; the kernel may still be counting out the last process for a moment."""
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
    folder.rmdir()


@pytest.fixture
def cpu_group() -> Iterator[Limited]:
    """Give an empty control group for CPU time."""
    with _made("cpu") as group:
        yield group


@pytest.fixture
def memory_group() -> Iterator[Limited]:
    """Give an empty control group for memory."""
    with _made("memory") as group:
        yield group
