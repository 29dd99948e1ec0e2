"""Energy of the processor, from the counters that it keeps itself (RAPL, through the kernel's powercap folders).

A counter wraps around at `max_energy_range_uj`, on a busy server within minutes, so it is read at every sample. Zones
are counted once: packages, and memory where it is a zone of its own; cores and graphics are part of their package. A
platform's zone (psys) would hold the packages a second time and is left out.

Many machines have none: virtual machines hide it, containers mask it, and since 2020 only root may read it.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from qwenops.bench.record import NS_PER_S, RequestRecord
from qwenops.hardware.files import read_int, read_text
from qwenops.text import Text, say

NO_COUNTERS = say("Energy is unavailable: there is no /sys/class/powercap (usual in a virtual machine).")
NO_PACKAGE = say("Energy is unavailable: /sys/class/powercap has no zone of a package.")
NOT_ALLOWED = say("Energy is unavailable: this user may not read the counters below /sys/class/powercap.")
UNAVAILABLE = (NO_COUNTERS, NO_PACKAGE, NOT_ALLOWED)
"""Why a run says nothing about energy: of interest in its report, and not in every terminal."""

_UJ_PER_J = 1e6
_LEAST_IDLE_S = 3.0
"""Of samples without a request, before they count as what idling takes."""
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
        return EnergyMeter(NO_COUNTERS)
    zones = [each for each in sorted(folder.glob("*:*")) if each.name.count(":") <= 2]  # noqa: PLR2004 -- zone, subzone
    named = [(each, _part(read_text(each / "name"))) for each in zones if "-mmio" not in each.name]
    known = [(each, part) for each, part in named if part is not None]
    if not known:
        return EnergyMeter(NO_PACKAGE)
    counters = [counter for zone, part in known if (counter := _counter(zone, part)) is not None]
    if not counters:
        return EnergyMeter(NOT_ALLOWED)
    return EnergyMeter(None, counters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumption:
    """What answering took, all parts of the processor together."""

    joules: float
    """From the first request to the last answer, as far as samples cover it."""
    idle_watts: float | None
    """Power while nothing was asked; None where the run had no such time."""
    active_joules: float | None
    """What the work added to idling."""
    joules_per_token: float | None
    joules_per_request: float | None


def consumption(host: Sequence[Mapping[str, Any]], records: Iterable[RequestRecord]) -> Consumption | None:
    """Return what a run's answers took; None where the samples hold no energy.

    The energy between two samples belongs to the answers when any request was under way meanwhile.
    """
    times: list[tuple[int, int]] = []
    good = tokens = 0
    for record in records:
        times.append((record.scheduled_ns, record.ended_ns or record.scheduled_ns))
        good += record.failure is None
        tokens += (record.completion_tokens or 0) if record.failure is None else 0
    spans = _merged(times)
    busy_j = busy_s = idle_j = idle_s = 0.0
    for before, now in pairwise(each for each in host if "energy_j" in each):
        joules = sum(now["energy_j"][part] - before["energy_j"].get(part, 0.0) for part in now["energy_j"])
        seconds = (now["at_ns"] - before["at_ns"]) / NS_PER_S
        if joules < 0:
            continue  # the run was continued, and the meter opened anew
        if _touches(spans, before["at_ns"], now["at_ns"]):
            busy_j, busy_s = busy_j + joules, busy_s + seconds
        else:
            idle_j, idle_s = idle_j + joules, idle_s + seconds
    if not busy_s:
        return None
    idle_watts = idle_j / idle_s if idle_s >= _LEAST_IDLE_S else None
    return Consumption(
        joules=busy_j,
        idle_watts=idle_watts,
        active_joules=None if idle_watts is None else max(0.0, busy_j - idle_watts * busy_s),
        joules_per_token=busy_j / tokens if tokens else None,
        joules_per_request=busy_j / good if good else None,
    )


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans of time as few that do not touch, in order."""
    found: list[tuple[int, int]] = []
    for begun, ended in sorted(spans):
        if found and begun <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], ended)
        else:
            found.append((begun, ended))
    return found


def _touches(spans: Sequence[tuple[int, int]], from_ns: int, to_ns: int) -> bool:
    place = bisect.bisect_right(spans, to_ns, key=lambda span: span[0])
    return place > 0 and spans[place - 1][1] > from_ns


def _counter(zone: Path, part: str) -> _Counter | None:
    first_uj, range_uj = read_int(zone / "energy_uj"), read_int(zone / "max_energy_range_uj")
    if first_uj is None or range_uj is None:
        return None
    return _Counter(file=zone / "energy_uj", part=part, range_uj=range_uj, last_uj=first_uj)


def _part(name: str | None) -> str | None:
    """Return which part a zone's name (`package-0`, `dram`, `core`, `psys`) counts for."""
    return _PARTS.get((name or "").partition("-")[0])
