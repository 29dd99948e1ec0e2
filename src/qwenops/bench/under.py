"""Runs a program with less of the machine than there is: so many cores of CPU time, so many bytes of memory.

    with limited(parse_limits("cpu=1,memory=3GiB")) as group:
        with spawn(group.joined(argv)) as child: ...
        group.usage().oom_kills

The kernel's control groups do it. Root makes groups of its own below those that this process is in (version 1 or 2,
whichever has the controller) and removes them afterwards; anybody else asks their systemd for a scope. Memory is
limited without a way out to swap: a server that swaps is neither fast nor dead. What the kernel did to the program
meanwhile (kills for lack of memory, throttled time) is counted and given out.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwenops.command import Argument, run
from qwenops.errors import CommandError, ConfigError, DeadlineError, MissingPartError
from qwenops.hardware.cgroups import Group, read_cgroups
from qwenops.hardware.files import parse_int, read_int, read_table, read_text
from qwenops.options import format_bytes, parse_bytes
from qwenops.text import say

PREFIX = "qwenops-bench"
_PERIOD_US = 100_000
_LEAST_CORES = 0.01
"""The kernel takes no quota below 1 ms in its period of 100 ms."""
_LEAST_BYTES = 4 * 1024**2
_EMPTY_S = 10.0
"""How long the kernel may take to count out killed processes."""
_ASK_S = 20.0
_POLL_S = 0.02
_numbers = itertools.count()

# The shell moves itself into each group and then becomes the program, so the process id stays.
_JOIN = """
left=$1; shift
while [ "$left" -gt 0 ]; do echo $$ > "$1/cgroup.procs" || exit 125; shift; left=$((left - 1)); done
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of the machine a program gets; None is no limit."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None

    @property
    def text(self) -> str:
        """As `parse_limits` reads it."""
        cpu = [] if self.cpu_cores is None else [f"cpu={self.cpu_cores:g}"]
        memory = [] if self.memory_bytes is None else [f"memory={format_bytes(self.memory_bytes)}"]
        return ",".join(cpu + memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the kernel counted for a limited program; None where it does not say."""

    oom_kills: int | None = None
    throttled_s: float | None = None
    throttled_periods: int | None = None
    peak_memory_bytes: int | None = None


class LimitedGroup(Protocol):
    """A control group that exists as long as the `with` block of `limited` lasts."""

    def joined(self, argv: Sequence[Argument]) -> tuple[str, ...]:
        """Return the command that runs `argv` inside the group; the process keeps its id."""
        ...

    def confine(self, argv: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Return the same for `spawned_server(under=...)`."""
        ...

    def usage(self) -> Counted:
        """Return what the kernel has counted so far."""
        ...


def parse_limits(text: str) -> Limits:
    """Read `cpu=1,memory=3GiB`; each part is optional, one is needed.

    Raises:
        ConfigError: It is no limit.
    """
    hint = say("Write for example {example}; cpu is in cores, and each of the two may be left out.", example=_EXAMPLE)
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if name not in {"cpu", "memory"} or not equals or not value:
            raise ConfigError(
                say("{part!r} in {text!r} is no limit: cpu=CORES and memory=SIZE are.", part=part, text=text), hint=hint
            )
        if name in found:
            raise ConfigError(say("{text!r} says {name} twice.", text=text, name=name), hint=hint)
        found[name] = value
    return Limits(
        cpu_cores=_cores(found["cpu"]) if "cpu" in found else None,
        memory_bytes=_memory(found["memory"]) if "memory" in found else None,
    )


_EXAMPLE = "cpu=1,memory=3GiB"


def _cores(text: str) -> float:
    try:
        cores = float(text)
    except ValueError:
        cores = 0.0
    if not _LEAST_CORES <= cores < float("inf"):
        raise ConfigError(
            say("cpu={text} is no number of cores; {least} is the least.", text=text, least=_LEAST_CORES),
            hint=say("Write for example cpu=1 or cpu=0.5."),
        )
    return cores


def _memory(text: str) -> int:
    size_bytes = parse_bytes(text)
    if size_bytes < _LEAST_BYTES:
        raise ConfigError(
            say("memory={text} is too little for any program; {least} is the least.", text=text, least="4MiB"),
            hint=say("Write for example memory=3GiB."),
        )
    return size_bytes


@contextmanager
def limited(limits: Limits, *, root: Path = Path("/"), as_root: bool | None = None) -> Iterator[LimitedGroup]:
    """Make a control group with these limits; what still runs in it at the end is killed, and the group removed.

    Args:
        limits: What the program gets.
        root: Where `proc` and `sys` are.
        as_root: Whether groups may be made directly; None looks at this process's user.

    Raises:
        MissingPartError: Neither this user nor its systemd may make one.
    """
    if (os.geteuid() == 0) if as_root is None else as_root:
        group = _made(limits, root)
        try:
            yield group
        finally:
            group.remove()
    else:
        scope = _asked(limits)
        try:
            yield scope
        finally:
            scope.remove()


class _OwnGroup:
    """Folders in the kernel's hierarchies, one for each controller (one for all in version 2)."""

    def __init__(self) -> None:
        self.folders: dict[str, tuple[Path, str]] = {}
        """By controller: the folder and the version."""

    def joined(self, argv: Sequence[Argument]) -> tuple[str, ...]:
        places = sorted({str(folder) for folder, _ in self.folders.values()})
        return ("/bin/sh", "-c", _JOIN, PREFIX, str(len(places)), *places, *(os.fspath(each) for each in argv))

    def confine(self, argv: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        return nullcontext(self.joined(argv))

    def usage(self) -> Counted:
        cpu, _ = self.folders.get("cpu", (None, ""))
        memory, version = self.folders.get("memory", (None, ""))
        return _counted(cpu, memory, version)

    def remove(self) -> None:
        """Kill what is left and remove the folders.

        Raises:
            DeadlineError: The kernel did not let go of a group.
        """
        for folder in {folder for folder, _ in self.folders.values()}:
            _remove(folder)
        self.folders.clear()


def _counted(cpu: Path | None, memory: Path | None, version: str) -> Counted:
    """Read the counters of a group in its own version's words."""
    times = read_table(cpu / "cpu.stat") if cpu else {}
    throttled_us = parse_int(times.get("throttled_usec"))
    throttled_ns = parse_int(times.get("throttled_time"))
    if throttled_us is not None:
        throttled_ns = 1000 * throttled_us
    oom_kills = peak_bytes = None
    if memory is not None:
        names = {"v1": ("memory.oom_control", "memory.max_usage_in_bytes")}
        events, peak = names.get(version, ("memory.events", "memory.peak"))
        oom_kills = parse_int(read_table(memory / events).get("oom_kill"))
        peak_bytes = read_int(memory / peak)
    return Counted(
        oom_kills=oom_kills,
        throttled_s=None if throttled_ns is None else throttled_ns / 1e9,
        throttled_periods=parse_int(times.get("nr_throttled")),
        peak_memory_bytes=peak_bytes,
    )


def _made(limits: Limits, root: Path) -> _OwnGroup:
    """Make the folders and write the limits into them."""
    wanted = {"cpu": limits.cpu_cores, "memory": limits.memory_bytes}
    homes = _homes([name for name, value in wanted.items() if value is not None], root)
    group = _OwnGroup()
    name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
    try:
        for controller, home in homes.items():
            _sweep(home.folder)
            folder = home.folder / name
            folder.mkdir(exist_ok=True)
            group.folders[controller] = (folder, home.version)
            _limit(folder, home.version, controller, limits)
    except OSError as error:
        group.remove()
        raise MissingPartError(
            say(
                "A control group cannot be made at {where}: {reason}.", where=str(error.filename), reason=error.strerror
            ),
            hint=_HINT,
        ) from error
    return group


_HINT = say(
    "Run as root on the machine itself, or in a container with a writable /sys/fs/cgroup; "
    "or start the server with limits of your own (docker run --cpus --memory) and measure its URL."
)


def _limit(folder: Path, version: str, controller: str, limits: Limits) -> None:
    if controller == "cpu":
        quota_us = round((limits.cpu_cores or 0.0) * _PERIOD_US)
        if version == "v1":
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (folder / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        return
    size = str(limits.memory_bytes)
    if version == "v1":
        (folder / "memory.limit_in_bytes").write_text(size)
        no_swap = {"memory.swappiness": "0", "memory.memsw.limit_in_bytes": size}
    else:
        (folder / "memory.max").write_text(size)
        no_swap = {"memory.swap.max": "0"}
    for name, value in no_swap.items():
        with contextlib.suppress(OSError):  # not every kernel accounts for swap; then there is none, or it is rare
            (folder / name).write_text(value)


def _homes(controllers: Sequence[str], root: Path) -> dict[str, Group]:
    """Return the group below which one with each controller can be made.

    Version 1 lets any group have children. In version 2 a group with processes in it has no limited children (unless
    it is the root of the machine), so the nearest group on the way up that hands the controllers down is taken.
    """
    groups = read_cgroups(root)
    own = {"cpu": groups.cpu, "memory": groups.memory}
    homes: dict[str, Group] = {}
    for controller in controllers:
        first = next((each for each in own[controller] if each.version == "v1"), None)
        if first is not None:
            homes[controller] = first
    rest = [each for each in controllers if each not in homes]
    if rest:
        home = next((each for each in own[rest[0]] if each.version == "v2" and _hands_down(each.folder, rest)), None)
        if home is None:
            raise MissingPartError(
                say(
                    "No control group here hands the controllers {names} down to new groups ({layout} is mounted).",
                    names=", ".join(rest),
                    layout=groups.layout,
                ),
                hint=_HINT,
            )
        homes.update(dict.fromkeys(rest, home))
    return homes


def _hands_down(folder: Path, controllers: Sequence[str]) -> bool:
    """Whether children of a group have these controllers, after asking for it where they have not."""
    switch = folder / "cgroup.subtree_control"
    if not set(controllers) <= set((read_text(folder / "cgroup.controllers") or "").split()):
        return False
    if not set(controllers) <= set((read_text(switch) or "").split()):
        with contextlib.suppress(OSError):
            switch.write_text(" ".join(f"+{each}" for each in controllers))
    return set(controllers) <= set((read_text(switch) or "").split())


def _sweep(home: Path) -> None:
    """Remove the empty groups of measurements that were killed."""
    for folder in home.glob(f"{PREFIX}-*"):
        owner = re.fullmatch(rf"{PREFIX}-(\d+)-\d+", folder.name)
        if owner and not Path("/proc", owner[1]).exists() and not _members(folder):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _members(folder: Path) -> list[int]:
    return [int(each) for each in (read_text(folder / "cgroup.procs") or "").split()]


def _remove(folder: Path) -> None:
    deadline_s = time.monotonic() + _EMPTY_S
    while folder.exists():
        for pid in _members(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise DeadlineError(
                    say("The control group {where} cannot be removed: {reason}.", where=folder, reason=error.strerror),
                    hint=say("Look at the processes in its file cgroup.procs; end them and remove the folder."),
                ) from error
            time.sleep(_POLL_S)


class _Scope:
    """A scope of the user's systemd."""

    def __init__(self, unit: str, limits: Limits) -> None:
        self.unit = unit
        self._limits = limits
        self._last = Counted()

    def joined(self, argv: Sequence[Argument]) -> tuple[str, ...]:
        return (*scope_argv(self.unit, self._limits), *(os.fspath(each) for each in argv))

    def confine(self, argv: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        return nullcontext(self.joined(argv))

    def usage(self) -> Counted:
        """Return the counters while the scope exists, afterwards the last ones seen and how systemd says it ended."""
        told = self._told()
        folder = Path(f"/sys/fs/cgroup{told.get('ControlGroup', '')}")
        if told.get("ControlGroup") and folder.is_dir():
            self._last = _counted(folder, folder, "v2")
        elif told.get("Result") == "oom-kill" and not self._last.oom_kills:
            self._last = Counted(
                oom_kills=1,
                throttled_s=self._last.throttled_s,
                throttled_periods=self._last.throttled_periods,
                peak_memory_bytes=self._last.peak_memory_bytes,
            )
        return self._last

    def _told(self) -> dict[str, str]:
        asked = ["systemctl", "--user", "show", self.unit, "--property=ControlGroup,Result"]
        lines = run(asked, timeout_s=_ASK_S, ok_codes=None).stdout.splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def remove(self) -> None:
        """End the scope; one that failed is kept by systemd until it is told to forget it."""
        run(["systemctl", "--user", "kill", "--signal=KILL", self.unit], timeout_s=_ASK_S, ok_codes=None)
        run(["systemctl", "--user", "stop", self.unit], timeout_s=_ASK_S, ok_codes=None)
        run(["systemctl", "--user", "reset-failed", self.unit], timeout_s=_ASK_S, ok_codes=None)


def scope_argv(unit: str, limits: Limits) -> tuple[str, ...]:
    """Return the command that runs what follows it in a new scope of the user's systemd."""
    argv = ["systemd-run", "--user", "--scope", "--quiet", f"--unit={unit}"]
    if limits.cpu_cores is not None:
        argv.append(f"--property=CPUQuota={limits.cpu_cores * 100:g}%")
    if limits.memory_bytes is not None:
        argv += [f"--property=MemoryMax={limits.memory_bytes}", "--property=MemorySwapMax=0"]
    return (*argv, "--")


# What the scope's own files say: systemd leaves out in silence what it has not been delegated.
_LOOK = """
cd "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)" || exit
for each in cpu memory; do echo $each $(cat $each.max); done
"""


def _asked(limits: Limits) -> _Scope:
    """Try a scope of the user's systemd with a command that tells which limits hold in it."""
    unit = f"{PREFIX}-{os.getpid()}-{next(_numbers)}.scope"
    if shutil.which("systemd-run") is None:
        raise MissingPartError(
            say("Limits need root, or systemd-run; this user is not root, and there is no systemd-run."), hint=_HINT
        )
    try:
        probe = run([*scope_argv(f"try-{unit}", limits), "/bin/sh", "-c", _LOOK], timeout_s=_ASK_S)
    except (CommandError, DeadlineError) as error:
        raise MissingPartError(
            say("The user's systemd starts no scope: {reason}", reason=error.message), hint=_HINT
        ) from error
    found = {words[0]: words[1] for line in probe.stdout.splitlines() if len(words := line.split()) > 1}
    page_bytes = os.sysconf("SC_PAGESIZE")  # the kernel rounds down to whole pages
    expected: dict[str, str] = {}
    if limits.cpu_cores is not None:
        expected["cpu"] = str(round(limits.cpu_cores * _PERIOD_US))
    if limits.memory_bytes is not None:
        expected["memory"] = str(limits.memory_bytes // page_bytes * page_bytes)
    missing = [name for name, value in expected.items() if found.get(name) != value]
    if missing:
        raise MissingPartError(
            say("The user's systemd may not limit {names}: it was not delegated.", names=", ".join(missing)),
            hint=say("Add Delegate=cpu memory to user@.service, or run as root."),
        )
    return _Scope(unit, limits)
