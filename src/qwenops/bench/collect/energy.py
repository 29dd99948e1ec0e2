"""Energy of the processor, from the counters that it keeps itself (RAPL, through the kernel's powercap folders).

A counter wraps around at `max_energy_range_uj`, on a busy server within minutes, so it is read at every sample. Zones
are counted once: packages, and memory where it is a zone of its own; cores and graphics are part of their package. A
platform's zone (psys) would hold the packages a second time and is left out.

Many machines have none: virtual machines hide it, containers mask it, and since 2020 only root may read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwenops.hardware.files import read_int, read_text
from qwenops.text import Text, say

_UJ_PER_J = 1e6
_PARTS = {"package": "package", "dram": "dram"}


@dataclass(slots=True)
class _Counter:
    """One zone's counter, and what it has come to since the beginning."""

    file: Path
    part: str
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def read(self) -> None:
        """Add what came since the last reading; a smaller number means that it has begun anew."""
        now_uj = read_int(self.file)
        if now_uj is None:
            return
        self.total_uj += now_uj - self.last_uj if now_uj >= self.last_uj else now_uj + self.range_uj - self.last_uj
        self.last_uj = now_uj


@dataclass(slots=True)
class EnergyMeter:
    """Counts joules from the moment it was opened."""

    reason: Text | None
    """Why there are none; None when there are."""
    _counters: list[_Counter] = field(default_factory=list)

    def read_j(self) -> dict[str, float]:
        """Return joules by part (`package`, `dram`) since the opening; empty where there are none."""
        totals: dict[str, float] = {}
        for counter in self._counters:
            counter.read()
            totals[counter.part] = totals.get(counter.part, 0.0) + counter.total_uj / _UJ_PER_J
        return totals


def open_meter(root: Path = Path("/")) -> EnergyMeter:
    """Open the counters below `root`, the folder that holds `sys`."""
    folder = root / "sys/class/powercap"
    if not folder.is_dir():
        return EnergyMeter(say("Energy is unavailable: there is no /sys/class/powercap (usual in a virtual machine)."))
    zones = [each for each in sorted(folder.glob("*:*")) if each.name.count(":") <= 2]  # noqa: PLR2004 -- zone, subzone
    named = [(each, _part(read_text(each / "name"))) for each in zones if "-mmio" not in each.name]
    known = [(each, part) for each, part in named if part is not None]
    if not known:
        return EnergyMeter(say("Energy is unavailable: /sys/class/powercap has no zone of a package."))
    counters = [counter for zone, part in known if (counter := _counter(zone, part)) is not None]
    if not counters:
        return EnergyMeter(say("Energy is unavailable: this user may not read the counters below /sys/class/powercap."))
    return EnergyMeter(None, counters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What a measurement took."""

    joules: float
    """All parts together."""
    idle_joules: float | None
    """What the machine would have taken anyway; None where its idle power was not measured."""

    @property
    def active_joules(self) -> float | None:
        """What the work added."""
        return None if self.idle_joules is None else max(0.0, self.joules - self.idle_joules)


def spent(
    before_j: Mapping[str, float], after_j: Mapping[str, float], seconds: float, idle_watts: float | None
) -> Energy:
    """Return the energy between two readings, and the part of it that idling for as long would have taken."""
    joules = sum(after_j[part] - before_j.get(part, 0.0) for part in after_j)
    return Energy(joules=joules, idle_joules=None if idle_watts is None else idle_watts * seconds)


def _counter(zone: Path, part: str) -> _Counter | None:
    first_uj, range_uj = read_int(zone / "energy_uj"), read_int(zone / "max_energy_range_uj")
    if first_uj is None or range_uj is None:
        return None
    return _Counter(file=zone / "energy_uj", part=part, range_uj=range_uj, last_uj=first_uj)


def _part(name: str | None) -> str | None:
    """Return which part a zone's name (`package-0`, `dram`, `core`, `psys`) counts for."""
    return _PARTS.get((name or "").partition("-")[0])
