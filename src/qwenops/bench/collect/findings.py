"""What happened around the requests, in words: causes and slow answers that come at the same time.

    Slow answers from 14:02:10 on (TTFT 3.20 s, usually 0.90 s) coincide with 38 % CPU throttling by the quota of the
    server's control group.

A cause is something that a host's sample shows and that holds a server up: throttling, steal, swapping, another
program, reading from disk, pressure, heat. Samples in which it shows make spells. Answers that were under way in a
spell are compared with the others, so a finding says what was seen together; it never proves what caused what. Pure:
it reads what a run's folder holds and no clock.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from qwenops.bench.collect.collector import Sample
from qwenops.bench.collect.energy import UNAVAILABLE, consumption
from qwenops.bench.conclusion import Finding, Severity, uncrossed
from qwenops.bench.definitions import e2e_s, ttft_s
from qwenops.bench.drift import cache_bytes
from qwenops.bench.folder import RecordedRun
from qwenops.bench.record import NS_PER_S, RequestRecord
from qwenops.bench.tables import show_s
from qwenops.options import show_bytes
from qwenops.statistics import quantile, theil_sen
from qwenops.text import Text, say

_BRIDGE = 1.6
"""Spells of one cause this many sampling intervals apart are one."""
_SLOWER = 1.5
"""How much slower the median of answers in a spell is, to be called slower."""
_SPIKE = 2.0
"""How much slower than the 95th percentile of the others the slowest one is, to be called a spike."""
_LEAST_OTHERS = 5
_LEAST_FOR_SPIKE = 20
_MOST_OF_RUN = 0.8
_MOST_SPELLS = 20
"""Of one cause, the strongest, that are compared with the answers."""
_SLOW = 3.0
"""How many medians an answer takes that is slow by any measure."""
_COLD, _COLD_S = 3.0, 0.2
_GROWTH_SAMPLES, _GROWTH_S, _GROWTH_RATIO = 30, 60.0, 0.05
_NEAR_LIMIT = 0.95
_LEAST_DISK_BYTES = 2 * 1024**3
_PER_CENT = 100.0
_BUSY, _BUSY_SHARE, _LEAST_BUSY = 0.25, 0.1, 2
"""Other programs that take more than this of the machine, for more than this share of the time and so many samples."""
_LEAST_WHOLE, _MOST_WHOLE = 3, 0.5
"""So many answers, and this share of all, that came in one piece, are said."""
_LEAST_SLOW_S = 0.05
"""A wait that exceeds the usual one by less is of no interest to anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Something that may hold a server up."""

    name: str
    read: Callable[[Sample], float | None]
    """Its strength in a sample; None where the sample does not say."""
    least: float
    """From here on it counts."""
    told: Callable[[float, Sequence[Sample]], Text]
    """Says how strong it was on average in some samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A time in which a cause showed."""

    from_ns: int
    to_ns: int
    samples: Sequence[Sample]


def findings(run: RecordedRun, *, zone: tzinfo | None = None) -> list[Finding]:
    """Return what a run's host samples and requests show together, the gravest first.

    Args:
        run: What is in its folder.
        zone: In which times of day are told; None is that of this machine.
    """
    clock = _WallClock(run, zone)
    records = [each for driven in run.drivens for each in driven.records]
    found = [
        *_causes_found(run.host, records, clock),
        *_first_requests(records),
        *_unstreamed(records, int(run.manifest.get("options", {}).get("max_tokens") or 0)),
        *_limits(run.host),
    ]
    if run.manifest.get("verb") != "soak":  # which judges growth itself
        found += _growth(run.host, cache_bytes(run.manifest.get("targets", {})))
    energy = [*_energy(run.host, run.all_records())]
    if run.every == 1 and not any(each.severity != "info" for each in found):
        found += _unexplained(records, run.host, clock)
    order: Mapping[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    return sorted([*found, *energy], key=lambda each: order[each.severity])


class _WallClock:
    """Turns moments of a run into times of day."""

    def __init__(self, run: RecordedRun, zone: tzinfo | None) -> None:
        self._began_ns = int(run.manifest.get("began_wall_ns", 0))
        self._gaps = run.gaps
        self._zone = zone

    def at(self, moment_ns: int) -> str:
        lost_s = sum(each.lost_s for each in self._gaps if each.at_ns <= moment_ns)
        wall_s = (self._began_ns + moment_ns) / NS_PER_S + lost_s
        return f"{datetime.fromtimestamp(wall_s, tz=UTC).astimezone(self._zone):%H:%M:%S}"


def _value(name: str) -> Callable[[Sample], float | None]:
    def read(sample: Sample) -> float | None:
        value = sample.get(name)
        return None if value is None else float(value)

    return read


def _swapping(sample: Sample) -> float | None:
    if "swap_in_bytes_per_s" not in sample:
        return None
    return float(sample["swap_in_bytes_per_s"]) + float(sample.get("swap_out_bytes_per_s", 0))


def _others(sample: Sample) -> float | None:
    cores, cpus = sample.get("other_cpu_cores"), sample.get("cpus")
    return None if cores is None or not cpus else float(cores) / float(cpus)


def _busiest(samples: Sequence[Sample]) -> str:
    """Return the names of the other programs that worked most."""
    totals: dict[str, float] = {}
    for sample in samples:
        for each in sample.get("other_processes", ()):
            totals[each["name"]] = totals.get(each["name"], 0.0) + each["cpu_cores"]
    return ", ".join(sorted(totals, key=lambda name: -totals[name])[:2])


def _told_others(ratio: float, samples: Sequence[Sample]) -> Text:
    names = _busiest(samples)
    if names:
        return say(
            "other programs ({names}) that used {percent:.0f} % of the CPU", names=names, percent=ratio * _PER_CENT
        )
    return say("other programs that used {percent:.0f} % of the CPU", percent=ratio * _PER_CENT)


CAUSES: tuple[Cause, ...] = (
    Cause(
        name="throttled",
        read=_value("throttled_ratio"),
        least=0.05,
        told=lambda ratio, _: say(
            "{percent:.0f} % CPU throttling by the quota of the server's control group",
            percent=ratio * _PER_CENT,
        ),
    ),
    Cause(
        name="steal",
        read=_value("cpu_steal_ratio"),
        least=0.03,
        told=lambda ratio, _: say(
            "{percent:.0f} % CPU steal: the machine underneath gave that part of this one's CPUs to others",
            percent=ratio * _PER_CENT,
        ),
    ),
    Cause(
        name="swap",
        read=_swapping,
        least=1024**2,
        told=lambda rate, _: say("swapping of {amount} a second: memory was short", amount=show_bytes(rate)),
    ),
    Cause(name="others", read=_others, least=0.2, told=_told_others),
    Cause(
        name="disk",
        read=_value("server_read_bytes_per_s"),
        least=4 * 1024**2,
        told=lambda rate, _: say(
            "the server reading {amount} a second from disk: not all of the model was in memory",
            amount=show_bytes(rate),
        ),
    ),
    Cause(
        name="memory",
        read=_value("pressure_memory_some_ratio"),
        least=0.1,
        told=lambda ratio, _: say(
            "memory pressure (tasks waited for memory {percent:.0f} % of the time)", percent=ratio * _PER_CENT
        ),
    ),
)
"""In the order in which a slow spell is put down to them: a stronger word first."""


def _causes_found(host: Sequence[Sample], records: Sequence[RequestRecord], clock: _WallClock) -> Iterator[Finding]:
    for cause in (*CAUSES, *_heat(host)):
        spells = sorted(_spells(cause, host), key=lambda spell: -_strength(cause, spell.samples))[:_MOST_SPELLS]
        told = [_spell_finding(cause, spell, host, records, clock) for spell in spells]
        slow = [(spell, each) for spell, each in zip(spells, told, strict=True) if each.severity == "warning"]
        if slow:
            yield from _strongest(slow)
        elif cause.name == "others" and (busy := _busy_machine(host)) is not None:
            yield busy
        elif spells:
            longest = max(range(len(spells)), key=lambda place: spells[place].to_ns - spells[place].from_ns)
            yield told[longest]


def _busy_machine(host: Sequence[Sample]) -> Finding | None:
    """Say when others worked for so much of the time that a run is doubtful, whether or not answers show it."""
    known = [(each, ratio) for each in host if "interval_s" in each and (ratio := _others(each)) is not None]
    busy = [(each, ratio) for each, ratio in known if ratio > _BUSY]
    all_s, busy_s = (sum(each["interval_s"] for each, _ in pairs) for pairs in (known, busy))
    if len(busy) < _LEAST_BUSY or not _BUSY_SHARE * all_s < busy_s <= _MOST_OF_RUN * all_s:
        return None
    samples = [each for each, _ in busy]
    text = say(
        "For {share:.0f} % of the time there were {what}: answers may have been slower for it. Measure again when the "
        "machine is quiet.",
        share=busy_s / all_s * _PER_CENT,
        what=_told_others(statistics.fmean(ratio for _, ratio in busy), samples),
    )
    return Finding(text=text, severity="warning", from_ns=max(0, _began_ns(samples[0])), to_ns=samples[-1]["at_ns"])


def _strongest(slow: Sequence[tuple[Spell, Finding]]) -> Iterator[Finding]:
    """Yield the spell in which the cause was strongest, and how many more there were."""
    (_, first), *more = slow
    yield first
    if more:
        yield Finding(
            text=say("The same happened {number} more times, weaker.", number=len(more)),
            from_ns=min(spell.from_ns for spell, _ in more),
            to_ns=max(spell.to_ns for spell, _ in more),
        )


def _spells(cause: Cause, host: Sequence[Sample]) -> Iterator[Spell]:
    """Yield the times in which a cause showed; a sample is about the time since the one before."""
    inside: list[Sample] = []
    for sample in host:
        strength = cause.read(sample)
        if strength is None or strength < cause.least or "interval_s" not in sample:
            continue
        if inside and _began_ns(sample) - inside[-1]["at_ns"] > _BRIDGE * sample["interval_s"] * NS_PER_S:
            yield _spell(inside)
            inside = []
        inside.append(sample)
    if inside:
        yield _spell(inside)


def _spell(samples: Sequence[Sample]) -> Spell:
    return Spell(from_ns=_began_ns(samples[0]), to_ns=int(samples[-1]["at_ns"]), samples=tuple(samples))


def _began_ns(sample: Sample) -> int:
    return int(sample["at_ns"] - sample["interval_s"] * NS_PER_S)


def _strength(cause: Cause, samples: Sequence[Sample]) -> float:
    values = [value for each in samples if (value := cause.read(each)) is not None]
    return statistics.fmean(values) if values else 0.0


def _spell_finding(
    cause: Cause, spell: Spell, host: Sequence[Sample], records: Sequence[RequestRecord], clock: _WallClock
) -> Finding:
    what = cause.told(_strength(cause, spell.samples), spell.samples)
    span = max(1, host[-1]["at_ns"] - _began_ns(next(each for each in host if "interval_s" in each)))
    if spell.to_ns - spell.from_ns > _MOST_OF_RUN * span:
        return _told(say("Nearly all the time: {what}.", what=what), spell, "warning")
    inside = [each for each in records if _overlaps(each, spell)]
    outside = [each for each in records if not _overlaps(each, spell)]
    for metric, title in ((ttft_s, "TTFT"), (e2e_s, "E2E")):
        within, others = _known(metric, inside), _known(metric, outside)
        if not within or len(others) < _LEAST_OTHERS:
            continue
        usual_s, here_s, slowest_s = statistics.median(others), statistics.median(within), max(within)
        if here_s > _SLOWER * usual_s:
            text = say(
                "Slow answers from {at} on ({metric} {here}, usually {usual}) coincide with {what}.",
                at=clock.at(spell.from_ns),
                metric=title,
                here=_beside(here_s, here_s),
                usual=_beside(usual_s, here_s),
                what=what,
            )
            return _told(text, spell, "warning")
        if len(others) >= _LEAST_FOR_SPIKE and slowest_s > _SPIKE * quantile(others, 0.95):
            text = say(
                "The slowest answer at {at} ({metric} {here}, usually {usual}) coincides with {what}.",
                at=clock.at(spell.from_ns),
                metric=title,
                here=_beside(slowest_s, slowest_s),
                usual=_beside(usual_s, slowest_s),
                what=what,
            )
            return _told(text, spell, "warning")
    return _told(
        say(
            "At {at}, for {seconds:.0f} s: {what}; answers were not slower for it.",
            at=clock.at(spell.from_ns),
            seconds=(spell.to_ns - spell.from_ns) / NS_PER_S,
            what=what,
        ),
        spell,
        "info",
    )


def _beside(seconds: float, largest: float) -> str | None:
    """Write one of several durations of a sentence: all of them in seconds where one of them is best read so."""
    return f"{seconds:.2f} s" if largest >= 1 else show_s(seconds)


def _told(text: Text, spell: Spell, severity: Severity) -> Finding:
    return Finding(text=text, severity=severity, from_ns=max(0, spell.from_ns), to_ns=spell.to_ns)


def _overlaps(record: RequestRecord, spell: Spell) -> bool:
    """Whether a request was under way in a spell."""
    end_ns = record.ended_ns if record.ended_ns is not None else record.scheduled_ns
    return record.scheduled_ns <= spell.to_ns and end_ns >= spell.from_ns


def _known(metric: Callable[[RequestRecord], float | None], records: Sequence[RequestRecord]) -> list[float]:
    return [value for each in records if each.failure is None and (value := metric(each)) is not None]


def _heat(host: Sequence[Sample]) -> tuple[Cause, ...]:
    """Return what slows a CPU down itself, measured by this run's own usual frequency."""
    known = [each["frequency_hz"] for each in host if "frequency_hz" in each]
    if len(known) < _LEAST_OTHERS:
        return ()
    usual_hz = statistics.median(known)

    def lost(sample: Sample) -> float | None:
        return 1 - sample["frequency_hz"] / usual_hz if "frequency_hz" in sample else None

    def told(ratio: float, _: Sequence[Sample]) -> Text:
        return say(
            "a CPU frequency {percent:.0f} % below the usual {usual:.1f} GHz: heat, power or the governor",
            percent=ratio * _PER_CENT,
            usual=usual_hz / 1e9,
        )

    return (Cause(name="frequency", read=lost, least=0.1, told=told),)


def _first_requests(records: Sequence[RequestRecord]) -> Iterator[Finding]:
    """Say where the very first request of a target was much slower: something was cold."""
    for target in dict.fromkeys(each.target for each in records):
        mine = sorted((each for each in records if each.target == target), key=lambda each: each.scheduled_ns)
        first_s = ttft_s(mine[0])
        others = _known(ttft_s, mine[1:])
        if first_s is None or len(others) < _LEAST_OTHERS:
            continue
        usual_s = statistics.median(others)
        if first_s > _COLD * usual_s and first_s - usual_s > _COLD_S:
            yield Finding(
                text=say(
                    "The first request was cold: its first token took {first}, usually {usual}.",
                    first=_beside(first_s, first_s),
                    usual=_beside(usual_s, first_s),
                ),
                from_ns=mine[0].scheduled_ns,
                to_ns=mine[0].ended_ns,
            )


def _unstreamed(records: Sequence[RequestRecord], max_tokens: int) -> Iterator[Finding]:
    """Say where a server sent its answers in one piece: their first token is then no sooner than the whole answer."""
    if max_tokens == 1:
        return
    for target in dict.fromkeys(each.target for each in records):
        mine = [each for each in records if each.target == target and each.failure is None]
        # Where nobody counted, chunks were: one chunk is one "token", whatever was in it.
        long = [each for each in mine if (each.completion_tokens or 0) > 1 or each.token_source == "estimate"]  # noqa: S105 -- no password
        whole = [each for each in long if each.first_content_ns is not None and not each.chunk_gaps_us]
        if len(whole) < _LEAST_WHOLE or len(whole) < _MOST_WHOLE * len(long):
            continue
        where = {"target": target, "number": len(whole), "all": len(long)}
        text = say(
            "{number} of {all} answers came in one piece, not as a stream: their TTFT is the time of the whole answer, "
            "and nothing is known about the time of each token.",
            **where,
        )
        if target:
            text = say(
                "{target}: {number} of {all} answers came in one piece, not as a stream: their TTFT is the time of the "
                "whole answer, and nothing is known about the time of each token.",
                **where,
            )
        yield Finding(text=text, severity="warning")


def _growth(host: Sequence[Sample], cache: int) -> Iterator[Finding]:
    """Say when the server's memory grew all the time; `soak` says whether it is a leak.

    Growth by no more than what the server's cache may take is that cache, filling for the first time.
    """
    # Pages of mapped files come with use and go when the kernel needs room.
    name = "server_own_bytes" if any("server_own_bytes" in each for each in host) else "server_rss_bytes"
    known = [each for each in host if name in each]
    if len(known) < _GROWTH_SAMPLES:
        return
    is_cache = cache > 0 and known[-1][name] <= known[0][name] + cache
    known = known[len(known) // 5 :]  # caches fill at first
    seconds = [each["at_ns"] / NS_PER_S for each in known]
    sizes = [float(each[name]) for each in known]
    if seconds[-1] - seconds[0] < _GROWTH_S:
        return
    step = max(1, len(known) // 200)
    slope = theil_sen(seconds[::step], sizes[::step])
    grown = slope.value * (seconds[-1] - seconds[0])
    if slope.low > 0 and grown > _GROWTH_RATIO * sizes[0] and is_cache:
        yield Finding(
            text=say(
                "The server's memory grew by {amount} in {minutes:.0f} minutes; its cache fills at first, and may "
                "take {cache}.",
                amount=show_bytes(grown),
                minutes=(seconds[-1] - seconds[0]) / 60,
                cache=show_bytes(cache),
            ),
            from_ns=known[0]["at_ns"],
            to_ns=known[-1]["at_ns"],
        )
    elif slope.low > 0 and grown > _GROWTH_RATIO * sizes[0]:
        yield Finding(
            text=say(
                "The server's memory grew by {amount} in {minutes:.0f} minutes and did not stop; "
                "`qwenops bench soak` tells whether it is a leak.",
                amount=show_bytes(grown),
                minutes=(seconds[-1] - seconds[0]) / 60,
            ),
            severity="warning",
            from_ns=known[0]["at_ns"],
            to_ns=known[-1]["at_ns"],
        )


def _limits(host: Sequence[Sample]) -> Iterator[Finding]:
    """Say what came close to its end."""
    for sample in host:
        used, limit = sample.get("cgroup_memory_bytes"), sample.get("cgroup_memory_limit_bytes")
        if used is not None and limit and used > _NEAR_LIMIT * limit:
            yield Finding(
                text=say(
                    "The server's control group used {used} of its {limit} of memory; the kernel ends a process there.",
                    used=show_bytes(used),
                    limit=show_bytes(limit),
                ),
                severity="warning",
                from_ns=sample["at_ns"],
                to_ns=sample["at_ns"],
            )
            break
    free = min((each["disk_free_bytes"] for each in host if "disk_free_bytes" in each), default=None)
    if free is not None and free < _LEAST_DISK_BYTES:
        yield Finding(text=say("Only {free} of disk are free.", free=show_bytes(free)), severity="warning")


def _energy(host: Sequence[Sample], records: Iterable[RequestRecord]) -> Iterator[Finding]:
    """Say what the answers took, or why that is unknown."""
    used = consumption(host, records)
    if used is None:
        told = uncrossed(host[0].get("absent", {}).get("energy_j")) if host else None
        if told:
            # A run of an earlier version has the English sentence alone.
            yield from (Finding(text=each) for each in UNAVAILABLE if each == told)
        return
    text = say(
        "The processor took {joules:.0f} J: {token:.2f} J for each token, {request:.1f} J for each answer.",
        joules=used.joules,
        token=used.joules_per_token or 0.0,
        request=used.joules_per_request or 0.0,
    )
    if used.active_joules is not None:
        text = say(
            "{energy} Idling takes {watts:.1f} W; without it, the answers took {active:.0f} J.",
            energy=text,
            watts=used.idle_watts,
            active=used.active_joules,
        )
    yield Finding(text=text)


def _is_slow(ttft: float, usual_s: float) -> bool:
    return ttft > max(_SLOW * usual_s, usual_s + _LEAST_SLOW_S)


def _unexplained(records: Sequence[RequestRecord], host: Sequence[Sample], clock: _WallClock) -> Iterator[Finding]:
    """Say when answers were very slow while this machine shows no reason."""
    values = _known(ttft_s, records[1:])
    if len(values) < _LEAST_FOR_SPIKE or not host:
        return
    usual_s = statistics.median(values)
    slow = [each for each in records[1:] if each.failure is None and _is_slow(ttft_s(each) or 0.0, usual_s)]
    if slow and len(slow) <= len(values) // 10:
        worst = max(slow, key=lambda each: ttft_s(each) or 0.0)
        worst_s = ttft_s(worst) or 0.0
        told = {
            "usual": _beside(usual_s, worst_s),
            "at": clock.at(worst.scheduled_ns),
            "worst": _beside(worst_s, worst_s),
        }
        text = say(
            "One answer took more than three times the usual {usual} to begin: {worst}, at {at}; nothing that was "
            "watched on this machine explains it.",
            **told,
        )
        if len(slow) > 1:
            text = say(
                "{number} answers took more than three times the usual {usual} to begin, the slowest at {at} {worst}; "
                "nothing that was watched on this machine explains it.",
                number=len(slow),
                **told,
            )
        yield Finding(
            text=text,
            from_ns=worst.scheduled_ns,
            to_ns=worst.ended_ns,
        )
