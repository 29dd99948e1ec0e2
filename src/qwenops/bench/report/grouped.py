"""The parts of a run as a report shows them: what was measured under one name, with its summary."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qwenops.bench.folder import RecordedRun
from qwenops.bench.record import NS_PER_S, Phase, RequestRecord
from qwenops.bench.segment import Driven, OpenLoop
from qwenops.bench.soak import summarise_journal
from qwenops.bench.stats import Bounds, Little, Summary, summarise
from qwenops.bench.window import SteadyWindow

MOST_GROUPS = 7
"""So many are drawn in one picture: as many as there are colours that can be told apart."""
_BLOCK = re.compile(r"block \d+ ([AB])")
"""Of a comparison; all blocks of a side are the same load."""
_OF_WHOLE = ("errors", "attainment")
"""Rates that are shares of requests, and no number per second."""


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
    """Return the measured parts: by segment, and by target where there are several; a comparison's by its sides."""
    measured = [driven for driven in run.drivens if driven.segment.phase is not Phase.WARMUP and driven.records]
    by_target = len({record.target for driven in measured for record in driven.records}) > 1
    named: dict[str, list[Driven]] = {}
    for driven in measured:
        name, target = driven.segment.name, driven.records[0].target
        block = _BLOCK.fullmatch(name)
        if block is not None:
            name = target if by_target else block[1]
        elif by_target:
            name = f"{target} {name}"
        named.setdefault(name, []).append(driven)
    return [
        Group(name=name, drivens=parts, summaries=[_summary(run, part, bounds) for part in parts])
        for name, parts in named.items()
    ]


def _summary(run: RecordedRun, driven: Driven, bounds: Bounds | None) -> Summary:
    """Return the figures of all requests of a segment, also where a part of them is in memory only."""
    if run.every == 1:
        return summarise(driven, bounds=bounds)
    return summarise_journal(replace(driven, records=()), run.all_records(), bounds)[0]


def merged(group: Group, bounds: Bounds | None) -> Summary:
    """Return one summary over all segments of a group.

    Percentiles and shares come from all requests together. What is counted per second is counted in each segment's own
    window, and divided by the sum of those: what lies between, such as the blocks of the other side, is not theirs.
    """
    parts = group.summaries or [summarise(each, bounds=bounds) for each in group.drivens]
    if len(parts) == 1:
        return parts[0]
    first = group.drivens[0]
    whole = Driven(
        segment=first.segment,
        began_ns=first.began_ns,
        window_ns=sum(each.window_ns for each in group.drivens),
        ended_ns=max(each.ended_ns for each in group.drivens),
        records=group.records,
        dropped=sum(each.dropped for each in group.drivens),
        interrupted=any(each.interrupted for each in group.drivens),
    )
    steady_from_ns = first.began_ns + sum(each.steady.ramp_ns for each in parts)
    steady = SteadyWindow(  # as long as all of them together
        began_ns=first.began_ns,
        from_ns=steady_from_ns,
        until_ns=steady_from_ns + sum(each.steady.length_ns for each in parts),
        is_over=all(each.steady.is_over for each in parts),
    )
    found = summarise(whole, bounds=bounds, steady=steady)
    steady_s = [each.steady.length_ns / NS_PER_S for each in parts]
    whole_s = [each.window_s for each in parts]
    on_schedule = isinstance(first.segment.load, OpenLoop)
    rates = {
        name: value
        if name in _OF_WHOLE
        else _mean(
            [each.rates[name] for each in parts], whole_s if on_schedule and name == "achieved_rate" else steady_s
        )
        for name, value in found.rates.items()
    }
    target_rate = _mean([each.arrivals.target_rate for each in parts], whole_s)
    arrivals = replace(found.arrivals, target_rate=target_rate, gap_cv=None)  # the pauses between segments are no gaps
    return replace(found, rates=rates, arrivals=arrivals, little=_little(parts, steady_s))


def _mean(values: Sequence[float | None], lengths_s: Sequence[float]) -> float | None:
    """Return a rate over several windows: what they counted over how long they are; None where one does not know it."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not sum(lengths_s):
        return None
    return sum(value * length_s for value, length_s in zip(known, lengths_s, strict=True)) / sum(lengths_s)


def _little(parts: Sequence[Summary], lengths_s: Sequence[float]) -> Little | None:
    found = [each.little for each in parts]
    in_flight = _mean([None if each is None else each.in_flight for each in found], lengths_s)
    expected = _mean([None if each is None else each.expected for each in found], lengths_s)
    if in_flight is None or expected is None:
        return None
    larger = max(in_flight, expected)
    error = abs(in_flight - expected) / larger if larger > 0 else None
    return Little(in_flight=in_flight, expected=expected, error=error)
