"""What happened when: latency, load and the host under one another on the run's own time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenops.bench.conclusion import Finding
from qwenops.bench.definitions import METRICS, e2e_s, ttft_s
from qwenops.bench.folder import RecordedRun
from qwenops.bench.record import NS_PER_S, Phase, RequestRecord
from qwenops.bench.report.figures import moments_ns, seconds
from qwenops.bench.segment import OpenLoop
from qwenops.bench.words import part_word
from qwenops.page.document import Block, Figure, Paragraph
from qwenops.page.plot import Axis, Chart, Dots, Line, Panel, Rule, Series, Span
from qwenops.page.ticks import time_step
from qwenops.text import Text, say

NUM_WINDOWS = 60
MOST_NAMED = 10
_NEARLY_ALL = 0.8
_TTFT, _E2E, _FAILED = 0, 3, 1
"""Hues, the same in every plot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A figure of the host's samples."""

    key: str
    title: Text | str
    hue: int
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one panel shows of the host."""

    title: Text
    unit: str
    curves: tuple[Curve, ...]
    always: bool = True
    """Whether it is drawn also when nothing but zeros is to be seen, because that says something."""


_MIB, _GIB = 1 / 2**20, 1 / 2**30
HOST = (
    Look(
        title=say("CPU, in cores"),
        unit="",
        curves=(
            Curve(key="cpu_busy_cores", title=say("Whole machine"), hue=6),
            Curve(key="server_cpu_cores", title=say("Server"), hue=2),
            Curve(key="client_cpu_cores", title=say("This client"), hue=0),
            Curve(key="other_cpu_cores", title=say("Everybody else"), hue=4),
        ),
    ),
    Look(
        title=say("Held back"),
        unit="%",
        curves=(
            Curve(key="throttled_ratio", title=say("Throttled by its CPU limit"), hue=1, factor=100),
            Curve(key="cpu_steal_ratio", title=say("Taken by other guests (steal)"), hue=3, factor=100),
            Curve(key="pressure_cpu_some_ratio", title=say("Waiting for a core (PSI)"), hue=5, factor=100),
            Curve(key="pressure_memory_some_ratio", title=say("Waiting for memory (PSI)"), hue=4, factor=100),
        ),
    ),
    Look(
        title=say("Memory"),
        unit="GiB",
        curves=(
            Curve(key="server_rss_bytes", title=say("Server (RSS)"), hue=2, factor=_GIB),
            Curve(key="server_own_bytes", title=say("Of it, allocated itself"), hue=4, factor=_GIB),
            Curve(key="cgroup_memory_bytes", title=say("Its control group"), hue=0, factor=_GIB),
            Curve(key="memory_available_bytes", title=say("Available on the machine"), hue=6, factor=_GIB),
        ),
    ),
    Look(
        title=say("Disk and swap"),
        unit="MiB/s",
        curves=(
            Curve(key="server_read_bytes_per_s", title=say("Read by the server"), hue=2, factor=_MIB),
            Curve(key="disk_read_bytes_per_s", title=say("Read by everybody"), hue=6, factor=_MIB),
            Curve(key="swap_in_bytes_per_s", title=say("Swapped in"), hue=1, factor=_MIB),
        ),
        always=False,
    ),
)


ENGINE = (
    Look(
        title=say("Requests in the engine, as it says"),
        unit="",
        curves=(
            Curve(key="running_requests", title=say("Worked on"), hue=2),
            Curve(key="waiting_requests", title=say("Waiting"), hue=1),
        ),
    ),
    Look(
        title=say("KV cache in use"),
        unit="%",
        curves=(Curve(key="kv_used_ratio", title="", hue=3, factor=100),),
        always=False,
    ),
)


def latency_figure(run: RecordedRun, findings: Sequence[Finding], rules: Mapping[str, Sequence[Rule]]) -> Figure | None:
    """Return latency over time with the host under it; None when nothing was answered."""
    records = [record for driven in run.drivens for record in driven.records if record.sent_ns is not None]
    series = [*_latencies(records), *_failures(records)]
    if not series:
        return None
    limits = [*rules.get("ttft", ()), *rules.get("e2e", ())]
    panels = [Panel(y=Axis(title=say("Latency"), unit="s"), series=series, rules=limits, height=230)]
    panels += _sampled(run.host, HOST)
    spans = [*_phases(run), *_gaps(run), *_found(run, findings)]
    return Figure(
        title=say("Latency over time, and what the machine did meanwhile"),
        plot=Chart(x=_time(), panels=panels, rules=_parts(run), spans=spans),
        caption=say("Each request stands where it was sent. Time counts from the beginning of the run, in min:s."),
    )


def load_figure(run: RecordedRun) -> Figure | None:
    """Return the rates and the requests in flight over time; None when nothing was sent."""
    records = [record for driven in run.drivens for record in driven.records if record.sent_ns is not None]
    if not records:
        return None
    edges = _edges(run, records)
    panels = [
        Panel(y=Axis(title=say("Requests"), unit="1/s"), series=_rates(run, records, edges), height=140),
    ]
    if run.every == 1:
        panels.append(Panel(y=Axis(title=say("In flight")), series=[_in_flight(records)], height=100))
    if tokens := _tokens(records, edges, run.every):
        panels.insert(1, Panel(y=Axis(title=say("Tokens written"), unit="tok/s"), series=[tokens], height=110))
    panels += _sampled(run.engine, ENGINE)
    return Figure(
        title=say("Load and throughput over time"),
        plot=Chart(x=_time(), panels=panels, spans=_gaps(run)),
        caption=say("Rates are counted in stretches of {width}.", width=seconds(float(edges[1] - edges[0]))),
    )


def host_missing(run: RecordedRun) -> list[Block]:
    """Say that nobody watched the machine, where that is so."""
    if run.host:
        return []
    return [Paragraph(text=say("The host was not watched in this run, so nothing is known about its CPU and memory."))]


def _time() -> Axis:
    return Axis(title=say("Time since the beginning"), scale="time", low=0.0)


def _latencies(records: Sequence[RequestRecord]) -> list[Series]:
    series: list[Series] = []
    for name, metric, hue in (("e2e", e2e_s, _E2E), ("ttft", ttft_s, _TTFT)):
        points = [
            (record.sent_ns / NS_PER_S, value)
            for record in records
            if record.failure is None and record.sent_ns is not None and (value := metric(record)) is not None
        ]
        if points:
            points.sort()
            x, y = zip(*points, strict=True)
            series.append(Dots(title=METRICS[name].title, x=x, y=y, hue=hue))
    return series


def _failures(records: Sequence[RequestRecord]) -> list[Series]:
    points = sorted(
        (record.sent_ns / NS_PER_S, (record.ended_ns - record.sent_ns) / NS_PER_S)
        for record in records
        if record.failure is not None and record.sent_ns is not None and record.ended_ns is not None
    )
    if not points:
        return []
    x, y = zip(*points, strict=True)
    return [Dots(title=say("Failed, and after how long"), x=x, y=y, hue=_FAILED, shape="square")]


def _phases(run: RecordedRun) -> list[Span]:
    names = {Phase.WARMUP: say("Warm-up, not counted"), Phase.RECOVERY: say("Recovery after the overload")}
    return [
        Span(
            begin=driven.began_ns / NS_PER_S,
            end=driven.ended_ns / NS_PER_S,
            title=names[driven.segment.phase],
            kind="phase",
        )
        for driven in run.drivens
        if driven.segment.phase in names and driven.records
    ]


def _parts(run: RecordedRun) -> list[Rule]:
    """Say where each part of a run begins; one part, or very many, need no names."""
    measured = [driven for driven in run.drivens if driven.segment.phase is Phase.MEASURE and driven.records]
    if not 1 < len(measured) <= MOST_NAMED:
        return []
    return [Rule(value=each.began_ns / NS_PER_S, title=part_word(each.segment.name), bad=False) for each in measured]


def _gaps(run: RecordedRun) -> list[Span]:
    return [
        Span(
            begin=gap.at_ns / NS_PER_S,
            end=gap.at_ns / NS_PER_S,
            title=say("The run was interrupted here for {lost} and went on.", lost=seconds(gap.lost_s))
            if gap.lost_s
            else say("The run was interrupted here and went on."),
            kind="gap",
        )
        for gap in run.gaps
    ]


def _found(run: RecordedRun, findings: Sequence[Finding]) -> list[Span]:
    """Return the findings that are about a part of the time; what is always so stands at the top of the page."""
    end_ns = max((driven.ended_ns for driven in run.drivens), default=0)
    timed = [
        (found.from_ns, found.to_ns if found.to_ns is not None else found.from_ns, found.text)
        for found in findings
        if found.from_ns is not None
    ]
    return [
        Span(begin=begin / NS_PER_S, end=end / NS_PER_S, title=text)
        for begin, end, text in timed
        if end - begin < _NEARLY_ALL * end_ns
    ]


def _sampled(samples: Sequence[Mapping[str, Any]], looks: Sequence[Look]) -> list[Panel]:
    panels = []
    for look in looks:
        series: list[Series] = []
        for curve in look.curves:
            points = [
                (sample["at_ns"] / NS_PER_S, float(value))
                for sample in samples
                if isinstance(value := sample.get(curve.key), int | float)
            ]
            if points:
                x, y = zip(*points, strict=True)
                series.append(Line(title=curve.title, x=x, y=[each * curve.factor for each in y], hue=curve.hue))
        seen = any(each for line in series if isinstance(line, Line) for each in line.y)
        if series and (look.always or seen):
            panels.append(Panel(y=Axis(title=look.title, unit=look.unit, low=0.0), series=series, height=90))
    return panels


def _edges(run: RecordedRun, records: Sequence[RequestRecord]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return the edges of stretches of equal, round length from the beginning to the end."""
    end = max(max((driven.ended_ns for driven in run.drivens), default=0), *(record.sent_ns or 0 for record in records))
    width = time_step(0.0, end / NS_PER_S, NUM_WINDOWS)
    return np.arange(0.0, end / NS_PER_S + width, width)


def _rates(
    run: RecordedRun, records: Sequence[RequestRecord], edges: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> list[Series]:
    sent = moments_ns(records, "sent_ns") / NS_PER_S
    done = moments_ns([each for each in records if each.failure is None], "last_content_ns") / NS_PER_S
    x = edges.tolist()
    series: list[Series] = []
    if any(isinstance(driven.segment.load, OpenLoop) for driven in run.drivens):
        series.append(
            Line(title=say("Target"), x=x, y=_stepped(_targets(run, edges)), hue=6, stepped=True, dashed=True)
        )
    for title, values, hue in ((say("Sent"), sent, 0), (say("Answered"), done, 2)):
        counted = run.every * np.histogram(values[np.isfinite(values)], edges)[0] / np.diff(edges)
        series.append(Line(title=title, x=x, y=_stepped(counted), hue=hue, stepped=True))
    return series


def _stepped(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    return [*values.tolist(), float(values[-1])]


def _targets(
    run: RecordedRun, edges: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return the mean rate of the open loops' schedules in each stretch."""
    targets = np.zeros(edges.size - 1)
    for driven in run.drivens:
        if not isinstance(driven.segment.load, OpenLoop) or driven.window_ns <= 0:
            continue
        begin, end = driven.began_ns / NS_PER_S, (driven.began_ns + driven.window_ns) / NS_PER_S
        covered = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0.0, None)
        targets += len(driven.segment.load.offsets_ns) / (end - begin) * covered / np.diff(edges)
    return targets


def _tokens(
    records: Sequence[RequestRecord], edges: "np.ndarray[tuple[int], np.dtype[np.float64]]", every: int
) -> Line | None:
    times, weights = [], []
    for record in records:
        if record.first_content_ns is None or not record.completion_tokens:
            continue
        gaps = np.asarray(record.chunk_gaps_us, dtype=np.float64) / 1e6
        at = record.first_content_ns / NS_PER_S + np.concatenate((np.zeros(1), np.cumsum(gaps)))
        times.append(at)
        weights.append(np.full(at.size, record.completion_tokens / at.size))
    if not times:
        return None
    counted = every * np.histogram(np.concatenate(times), edges, weights=np.concatenate(weights))[0] / np.diff(edges)
    return Line(title="", x=edges.tolist(), y=_stepped(counted), hue=4, stepped=True)


def _in_flight(records: Sequence[RequestRecord]) -> Line:
    steps: dict[float, int] = {}
    for record in records:
        for at, change in ((record.sent_ns, 1), (record.ended_ns, -1)):
            if at is not None:
                steps[at / NS_PER_S] = steps.get(at / NS_PER_S, 0) + change
    x = sorted(steps)
    return Line(title="", x=x, y=np.cumsum([steps[at] for at in x]).tolist(), hue=5, stepped=True)
