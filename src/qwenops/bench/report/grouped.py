"""The parts of a run as a report shows them: what was measured under one name, with its summary."""

from collections.abc import Sequence
from dataclasses import dataclass

from qwenops.bench.folder import RecordedRun
from qwenops.bench.record import Phase, RequestRecord
from qwenops.bench.segment import Driven
from qwenops.bench.stats import Bounds, Summary, summarise

MOST_GROUPS = 7
"""So many are drawn in one picture: as many as there are colours that can be told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One or more segments under one name: a step of a ladder, or all blocks of one target."""

    name: str
    drivens: Sequence[Driven]
    summaries: Sequence[Summary]

    @property
    def records(self) -> list[RequestRecord]:
        """The measured requests."""
        return [record for driven in self.drivens for record in driven.records if record.phase is driven.segment.phase]

    @property
    def good(self) -> list[RequestRecord]:
        """The measured requests with a good answer."""
        return [record for record in self.records if record.failure is None]


def groups_of(run: RecordedRun, bounds: Bounds | None) -> list[Group]:
    """Return the measured parts: by target where there are several, else by segment."""
    measured = [driven for driven in run.drivens if driven.segment.phase is not Phase.WARMUP and driven.records]
    by_target = len({record.target for driven in measured for record in driven.records}) > 1
    named: dict[str, list[Driven]] = {}
    for driven in measured:
        name = driven.records[0].target if by_target else driven.segment.name
        named.setdefault(name, []).append(driven)
    return [
        Group(name=name, drivens=parts, summaries=[summarise(part, bounds=bounds) for part in parts])
        for name, parts in named.items()
    ]


def merged(group: Group, bounds: Bounds | None) -> Summary:
    """Return one summary over all segments of a group; rates count the sum of their windows."""
    if len(group.summaries) == 1:
        return group.summaries[0]
    first = group.drivens[0]
    began = first.began_ns
    whole = Driven(
        segment=first.segment,
        began_ns=began,
        window_ns=max(each.began_ns + each.window_ns for each in group.drivens) - began,
        ended_ns=max(each.ended_ns for each in group.drivens),
        records=group.records,
        dropped=sum(each.dropped for each in group.drivens),
        interrupted=any(each.interrupted for each in group.drivens),
    )
    return summarise(whole, bounds=bounds)
