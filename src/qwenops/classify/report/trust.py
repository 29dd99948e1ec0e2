"""What probabilities are worth: whether they mean what they say, and what is gained by leaving the unsure to people."""

from collections.abc import Sequence

from qwenops.classify.calibrate import Calibration, Temperature
from qwenops.classify.evaluate.evaluation import Bin, CoverageAt, Estimate, Reliability, Selective
from qwenops.classify.report.figures import UNKNOWN, count_cell, score, share, share_cell
from qwenops.classify.report.record import OperatingPoint, Record
from qwenops.page.document import Block, Cell, Column, Figure, Table, Tone
from qwenops.page.plot import Axis, Chart, Dots, Line, Panel, Rule, Series
from qwenops.page.ticks import number
from qwenops.text import Text, say

_BEFORE, _AFTER, _IDEAL = 1, 0, 6
"""Hues."""


def calibration_blocks(record: Record) -> list[Block]:
    """Return whether probabilities mean what they say, before and after calibration."""
    return [reliability_figure(record), quality_table(record)]


def reliability_figure(record: Record) -> Figure:
    """Return how many calls of each confidence were right; on the diagonal probabilities mean what they say."""
    after = record.evaluation.reliability
    ideal = Line(title=say("If every probability were true"), x=[0, 100], y=[0, 100], hue=_IDEAL, dashed=True)
    series: list[Series] = [ideal]
    if record.before:
        series.append(_dots(record.before.bins, say("Before calibration"), _BEFORE, square=True))
    series.append(_dots(after.bins, say("After calibration") if record.before else say("Measured"), _AFTER))
    panel = Panel(y=Axis(title=say("Of these were right"), unit="%", low=0.0, high=100.0), series=series, height=260)
    return Figure(
        title=say("How sure it was, and how often it was right"),
        plot=Chart(x=Axis(title=say("How sure it was"), unit="%", low=0.0, high=100.0), panels=[panel]),
        caption=say(
            "Each dot is one of {num} parts of equally many calls; whiskers are 95 % intervals. Below the line it is "
            "surer than it should be.",
            num=len(after.bins),
        ),
        table=_bin_table(record.before, after),
    )


def _dots(bins: Sequence[Bin], title: Text, hue: int, *, square: bool = False) -> Dots:
    return Dots(
        title=title,
        x=[100 * each.confidence for each in bins],
        y=[100 * each.accuracy.value for each in bins],
        low=[100 * _low(each.accuracy) for each in bins],
        high=[100 * _high(each.accuracy) for each in bins],
        hue=hue,
        shape="square" if square else "dot",
    )


def _low(found: Estimate) -> float:
    return found.value if found.low is None else found.low


def _high(found: Estimate) -> float:
    return found.value if found.high is None else found.high


def _bin_table(before: Reliability | None, after: Reliability) -> Table:
    parts = [(say("After calibration") if before else say("Measured"), after)]
    if before:
        parts.insert(0, (say("Before calibration"), before))
    rows: list[list[Cell | str]] = [
        [
            Cell(text=share(each.confidence), order=100 * each.confidence),
            title,
            share_cell(each.accuracy),
            count_cell(each.num_calls),
        ]
        for title, told in parts
        for each in told.bins
    ]
    columns = [Column(title=say("How sure it was")), Column(title=say("When"))]
    columns += [Column(title=say("Of these were right"), numeric=True), Column(title=say("Calls"), numeric=True)]
    return Table(title=say("How sure it was, and how often it was right"), columns=columns, rows=rows, sortable=False)


def quality_table(record: Record) -> Table:
    """Return the figures of calibration: on the test calls, and on the validation calls that it was fitted to."""
    told, before = record.evaluation.reliability, record.before
    chance = say("{mean} by chance alone; {high} at most", mean=score(told.ece_if_calibrated), high=_most(told))
    after = Cell(text=score(told.ece), order=told.ece, detail=chance, tone=Tone.WARNING if told.is_off else Tone.GOOD)
    kept = record.calibration
    fitted = kept.after if kept else None
    names = (say("ECE"), say("Class-wise ECE"), say("Brier"), say("NLL"))
    keys = ("ece", "class_wise_ece", "brier", "nll")
    rows: list[list[Cell | str]] = []
    for name, key in zip(names, keys, strict=True):
        mine = after if key == "ece" else _cell(getattr(told, key))
        rows.append(
            [
                name,
                _cell(getattr(before, key) if before else None),
                mine,
                _cell(getattr(kept.before, key) if kept else None),
                _cell(getattr(fitted, key) if fitted else None),
            ]
        )
    titles = (say("Test, before"), say("Test, after"), say("Validation, before"), say("Validation, after"))
    return Table(
        title=say("Figures of calibration"),
        columns=[Column(title=say("Figure")), *(Column(title=each, numeric=True) for each in titles)],
        rows=rows,
        note=_scaling_said(kept) if kept else "",
        sortable=False,
    )


def _cell(value: float | None) -> Cell:
    return Cell(text=score(value), order=value)


def _most(told: Reliability) -> str:
    return score(told.ece_if_calibrated_high)


def _scaling_said(kept: Calibration) -> Text:
    """Say what calibration does to probabilities."""
    if isinstance(kept.scaling, Temperature):
        return say(
            "Calibrated by one temperature, {value}, fitted to {calls} validation calls; figures after it are of calls "
            "that it was not fitted to.",
            value=number(kept.scaling.value),
            calls=f"{kept.num_calls:,}",
        )
    return say(
        "Calibrated by a scale and a shift for each class, fitted to {calls} validation calls; figures after it are of "
        "calls that they were not fitted to.",
        calls=f"{kept.num_calls:,}",
    )


def selective_blocks(record: Record) -> list[Block]:
    """Return what is gained by leaving calls of low confidence to people, and what the chosen thresholds do."""
    told = record.evaluation.selective
    points = sorted(record.points, key=lambda each: each.thresholds.target_precision)
    blocks: list[Block] = [coverage_figure(told, points)]
    if points:
        blocks.append(operating_table(points))
    blocks.append(afterwards_table(told.coverage_at, told.aurc))
    return blocks


def coverage_figure(told: Selective, points: Sequence[OperatingPoint]) -> Figure:
    """Return the share of errors by the share of calls that are filed without a person, the surest first."""
    curve = Line(
        title=say("The surest first"),
        x=[100 * each.coverage for each in told.curve],
        y=[100 * each.risk for each in told.curve],
        hue=0,
    )
    series: list[Series] = [curve]
    filed = [(each.filed.auto, each.filed.auto_precision) for each in points]
    known = [(auto, precision) for auto, precision in filed if precision is not None]
    if known:
        series.append(
            Dots(
                title=say("Chosen thresholds, filed under a class"),
                x=[100 * auto for auto, _ in known],
                y=[100 * (1 - precision.value) for _, precision in known],
                low=[100 * (1 - _high(precision)) for _, precision in known],
                high=[100 * (1 - _low(precision)) for _, precision in known],
                hue=1,
                shape="square",
            )
        )
    series.append(
        Dots(
            title=say("Most that could be filed, seen afterwards"),
            x=[100 * each.coverage for each in told.coverage_at if each.threshold is not None],
            y=[100 * (1 - each.precision) for each in told.coverage_at if each.threshold is not None],
            hue=2,
        )
    )
    rules = [
        Rule(
            value=100 * (1 - each.precision), title=say("{precision} right", precision=share(each.precision)), bad=False
        )
        for each in told.coverage_at
    ]
    panel = Panel(y=Axis(title=say("Errors among them"), unit="%", low=0.0), series=series, rules=rules, height=220)
    across = Axis(title=say("Calls that are filed without a person"), unit="%", low=0.0, high=100.0)
    return Figure(
        title=say("What is gained by leaving the unsure calls to people"),
        plot=Chart(x=across, panels=[panel]),
        caption=say(
            "Whiskers are 95 % intervals. A class whose calls always go to people is not filed by a threshold."
        ),
    )


def operating_table(points: Sequence[OperatingPoint]) -> Table:
    """Return what thresholds that were chosen on validation calls do with the test calls."""
    titles = (
        say("Threshold"),
        say("Filed under a class"),
        say("Of these right"),
        say("Filed under a group"),
        say("Of these right"),
        say("Left to people"),
    )
    return Table(
        title=say("Thresholds chosen on validation calls, tried on the test calls"),
        columns=[Column(title=say("Aim")), *(Column(title=each, numeric=True) for each in titles)],
        rows=[_operating_row(each) for each in points],
        note=say(
            "The aim is missed (✕) where even the upper end of the interval lies below it; ! is below it within chance."
        ),
        sortable=False,
    )


def _operating_row(each: OperatingPoint) -> list[Cell | str]:
    chosen, filed = each.thresholds, each.filed
    leaf, parent = chosen.leaf, chosen.parent
    none = Cell(text=say("none keeps it"), tone=Tone.NOTE)
    threshold = none if leaf is None else Cell(text=score(leaf.threshold), order=leaf.threshold)
    if parent is not None:
        group = say("groups: {threshold}", threshold=score(parent.threshold))
        threshold = Cell(text=threshold.text, order=threshold.order, detail=group, tone=threshold.tone)
    return [
        Cell(text=share(chosen.target_precision), order=chosen.target_precision),
        threshold,
        Cell(text=share(filed.auto), order=filed.auto),
        _kept(filed.auto_precision, chosen.target_precision),
        Cell(text=share(filed.parent), order=filed.parent),
        _kept(filed.parent_precision, chosen.target_precision),
        Cell(text=share(filed.review), order=filed.review),
    ]


def _kept(found: Estimate | None, target: float) -> Cell:
    """Return a precision, and whether the promise was kept."""
    if found is None:
        return Cell(text=UNKNOWN, tone=Tone.NOTE)
    if found.value >= target:
        return share_cell(found, Tone.GOOD)
    return share_cell(found, Tone.WARNING if _high(found) >= target else Tone.BAD)


def afterwards_table(found: Sequence[CoverageAt], aurc: float) -> Table:
    """Return how much could have been filed at some precisions, seen afterwards."""
    rows: list[list[Cell | str]] = [
        [
            share(each.precision),
            Cell(text=share(each.coverage), order=each.coverage),
            Cell(text=score(each.threshold), order=each.threshold),
        ]
        for each in found
    ]
    columns = [Column(title=say("Precision")), Column(title=say("Calls that could be filed"), numeric=True)]
    columns.append(Column(title=say("From this probability on"), numeric=True))
    return Table(
        title=say("What the test calls would have allowed, seen afterwards"),
        columns=columns,
        rows=rows,
        note=say(
            "Not for use: a threshold that was chosen on the test calls flatters itself. Mean share of errors over all "
            "coverages (AURC): {aurc}.",
            aurc=score(aurc),
        ),
        sortable=False,
    )
