"""The words of an examination: what is looked at, what is found, what it comes to."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwenops.hardware import Machine
from qwenops.hardware.measure import Measured
from qwenops.hardware.ports import PortHolder
from qwenops.hardware.probe import Probe

SCHEMA = "qwenops.doctor/1"
GIB = 1024**3


class Status(StrEnum):
    """How good a finding is."""

    OK = "ok"
    WARN = "warn"
    """It works, but slowly, or not in every case."""
    FAIL = "fail"
    """Serving a model cannot work until this is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    """Stable; scripts may rely on it."""
    title: str
    status: Status
    what: str
    """What was seen, with its reason."""
    todo: str = ""
    """What to do; empty when there is nothing to do."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind `what`, in bytes and seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One engine of the table and what it needs."""

    engine: str
    needs: tuple[str, ...]
    """Names of packages."""
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything that an examination looks at. `deploy.doctor.look_around` gives the real ones."""

    machine: Machine
    store: Path
    """Where models will lie."""
    host: str
    port: int
    python: tuple[int, int, int]
    engines: tuple[Installed, ...]
    measure: Callable[[Machine], Measured] | None
    """None leaves measuring out."""
    probe: Callable[[Machine], Probe]
    free_disk_bytes: Callable[[Path], int]
    is_port_free: Callable[[str, int], bool]
    port_holder: Callable[[int], PortHolder]
    version_of: Callable[[str], str | None]
    """Installed version of a package."""
    wanted_version_of: Callable[[str], str | None]
    """The version that this project pins."""
    is_telemetry_off: Callable[[], bool]
    now_s: float
    """By the wall clock."""
    installed_at_s: float
    """When this project's files were written; the wall clock cannot be earlier."""
    clock_source: str
    max_open_files: int


Examine = Callable[[Surroundings], Iterable[Check]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that was found."""

    checks: tuple[Check, ...]
    machine: Machine
    measured: Measured | None

    @property
    def is_usable(self) -> bool:
        """Whether a model can be served here."""
        return self.worst is not Status.FAIL

    @property
    def worst(self) -> Status:
        """The worst of all findings."""
        order = list(Status)
        return max((check.status for check in self.checks), key=order.index, default=Status.OK)

    @property
    def exit_code(self) -> int:
        """0 when usable, 1 when not."""
        return 0 if self.is_usable else 1

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data; `schema` names the form."""
        return {
            "schema": SCHEMA,
            "usable": self.is_usable,
            "worst": self.worst.value,
            "checks": [_plain(check) for check in self.checks],
            "machine": _plain(self.machine),
            "measured": None if self.measured is None else _plain(self.measured),
        }


def gib(size_bytes: float) -> str:
    """Write a size for people."""
    return f"{size_bytes / GIB:.1f} GiB"


def _plain(value: Any) -> Any:
    """Turn dataclasses, enums and texts into what JSON knows."""
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, str | Path):
        return str(value)
    return value
