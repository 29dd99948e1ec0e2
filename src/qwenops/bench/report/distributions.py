"""How the latencies are distributed: percentiles with their intervals, histograms and cumulative curves."""

from collections.abc import Mapping, Sequence

import numpy as np

from qwenops.bench.definitions import METRICS, Metric
from qwenops.bench.report.figures import NONE, quantity, seconds
from qwenops.bench.report.grouped import MOST_GROUPS, Group
from qwenops.bench.stats import PERCENTILES, Distribution, Estimate, Summary
from qwenops.bench.words import part_word
from qwenops.page.document import Block, Cell, Column, Details, Figure, Paragraph, Table, Tone
from qwenops.page.plot import Axis, Bars, Chart, Line, Panel, Rule
from qwenops.text import say

SHOWN = ("ttft", "tpot", "e2e")
NUM_BINS = 40
NUM_STEPS = 200
"""Points of a cumulative curve: every half percent."""


def percentile_table(summary: Summary, title: str) -> Table:
    """Return the percentiles of every metric that the run has."""
    columns = [Column(title=say("Metric")), Column(title="n", numeric=True), Column(title=say("Mean"), numeric=True)]
    columns += [Column(title=f"p{each}", numeric=True) for each in PERCENTILES]
    columns.append(Column(title=say("Longest"), numeric=True))
    rows = [_row(METRICS[name], found) for name, found in summary.distributions.items()]
    return Table(
        title=title,
        columns=columns,
        rows=rows,
        note=say(
            "Small figures are 95 % intervals. A percentile that so few requests cannot bound is not given: "
            "n/a (40 < 299) says how many there were and how many it takes."
        ),
    )


def _row(metric: Metric, found: Distribution) -> list[Cell | str]:
    name = Cell(text=metric.title, detail=f"`{metric.name}`")
    ends = [Cell(text=seconds(value), order=value) for value in (found.mean, found.max)]
    return [
        name,
        Cell(text=f"{found.n:,}", order=found.n),
        ends[0],
        *(estimate_cell(found.percentiles[each], metric.unit) for each in PERCENTILES),
        ends[1],
    ]


def estimate_cell(found: Estimate, unit: str) -> Cell:
    """Return a percentile with its interval, or why there is none."""
    if found.value is None:
        return Cell(text=found.note or NONE, tone=Tone.NOTE)
    detail = ""
    if found.low is not None and found.high is not None:
        detail = say("{low} to {high}", low=quantity(found.low, unit), high=quantity(found.high, unit))
    elif found.high is not None:
        detail = say("at most {high}", high=quantity(found.high, unit))
    return Cell(text=quantity(found.value, unit), order=found.value, detail=detail)


def part_table(groups: Sequence[Group], summaries: Sequence[Summary]) -> Table:
    """Return one row for each part of a run."""
    columns = [Column(title=say("Part")), Column(title=say("Answered"), numeric=True)]
    columns += [Column(title=title, numeric=True) for title in (say("Failed"), say("Answers/s"), say("Tokens/s"))]
    columns += [
        Column(title=f"{name.upper()} {which}", numeric=True) for name in ("ttft", "e2e") for which in ("p50", "p95")
    ]
    rows: list[list[Cell | str]] = []
    for group, summary in zip(groups, summaries, strict=True):
        rate, tokens = summary.rates.get("completed_rate"), summary.rates.get("output_tokens_per_s")
        failed = summary.counts.failed
        rows.append(
            [
                part_word(group.name),
                Cell(text=f"{summary.counts.ok:,}", order=summary.counts.ok),
                Cell(text=f"{failed:,}", order=failed, tone=Tone.BAD if failed else Tone.PLAIN),
                Cell(text=quantity(rate, ""), order=rate),
                Cell(text=quantity(tokens, ""), order=tokens, detail=say("chunks") if summary.counts_chunks else ""),
                *(
                    estimate_cell(found.percentiles[each], "s") if (found := summary.distributions.get(name)) else NONE
                    for name in ("ttft", "e2e")
                    for each in (50, 95)
                ),
            ]
        )
    return Table(title=say("The parts of the run"), columns=columns, rows=rows)


def distribution_blocks(groups: Sequence[Group], rules: Mapping[str, Sequence[Rule]]) -> list[Block]:
    """Return for each latency its cumulative curve, and its histogram."""
    blocks: list[Block] = []
    shown = picked_groups(groups)
    for name in SHOWN:
        metric = METRICS[name]
        values = [(part_word(group.name), _values(group, metric)) for group in shown]
        values = [(title, found) for title, found in values if found.size > 1]
        if values:
            blocks.append(_cumulative(metric, values, rules.get(name, ())))
        if len(values) > 1:
            histograms: list[Block] = [_histogram(metric, title, found, rules.get(name, ())) for title, found in values]
            blocks.append(Details(summary=say("The same as histograms"), blocks=histograms))
    if len(groups) > len(shown):
        blocks.append(Paragraph(text=say("Of the {all} parts {num} are drawn.", all=len(groups), num=len(shown))))
    return blocks


def picked_groups(groups: Sequence[Group]) -> list[Group]:
    """Return all groups, or as many as can be told apart: the first, the last, and some evenly between them."""
    if len(groups) <= MOST_GROUPS:
        return list(groups)
    return [groups[round(place * (len(groups) - 1) / (MOST_GROUPS - 1))] for place in range(MOST_GROUPS)]


def _values(group: Group, metric: Metric) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    if metric.of_request is None:
        return np.zeros(0)
    values = [metric.of_request(record) for record in group.good]
    return np.sort(np.array([value for value in values if value is not None], dtype=np.float64))


def _cumulative(
    metric: Metric,
    values: Sequence[tuple[str, "np.ndarray[tuple[int], np.dtype[np.float64]]"]],
    rules: Sequence[Rule],
) -> Figure:
    lines: list[Line] = []
    rows: list[list[Cell | str]] = []
    shares = (10, 25, 50, 75, 90, 95, 99, 100)
    for title, found in values:
        picked = np.unique(np.linspace(0, found.size - 1, min(found.size, NUM_STEPS)).round().astype(int))
        name = title if len(values) > 1 else ""
        y = ((picked + 1) / found.size * 100).tolist()
        lines.append(Line(title=name, x=found[picked].tolist(), y=y, stepped=True))
        places = [found[max(int(np.ceil(share / 100 * found.size)) - 1, 0)] for share in shares]
        rows.append([title, *(Cell(text=seconds(float(each)), order=float(each)) for each in places)])
    columns = [Column(title=say("Part")), *(Column(title=f"{share} %", numeric=True) for share in shares)]
    title = say("{metric}: how many answers were at least this quick", metric=metric.title)
    panels = [Panel(y=Axis(title=say("Share of answers"), unit="%", low=0.0, high=100.0), series=lines, height=150)]
    if len(values) == 1:
        panels.append(Panel(y=Axis(title=say("Answers")), series=[_bars(values[0][1])], height=90))
    return Figure(
        title=title,
        plot=Chart(x=Axis(title=metric.title, unit="s", scale="log"), panels=panels, rules=rules),
        table=Table(
            title=title,
            columns=columns,
            rows=rows,
            note=say("So many of the measured answers were at most so slow; no statement beyond them."),
        ),
    )


def _histogram(
    metric: Metric,
    title: str,
    found: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    rules: Sequence[Rule],
) -> Figure:
    return Figure(
        title=say("{metric}, {part}", metric=metric.title, part=title),
        plot=Chart(
            x=Axis(title=metric.title, unit="s", scale="log"),
            panels=[Panel(y=Axis(title=say("Answers")), series=[_bars(found)], height=120)],
            rules=rules,
        ),
    )


def _bars(found: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Bars:
    """Return a histogram whose bins are equally wide on a logarithmic axis."""
    low, high = float(found[0]), float(found[-1])
    low = max(low, high / 1e4, 1e-6)
    num = int(min(NUM_BINS, max(8, 2 * found.size ** (1 / 2))))
    edges = np.geomspace(low * 0.999, max(high, low * 1.2) * 1.001, num + 1)
    counts = np.histogram(np.maximum(found, low), edges)[0]
    return Bars(title="", edges=edges.tolist(), y=counts.astype(float).tolist(), hue=0)
