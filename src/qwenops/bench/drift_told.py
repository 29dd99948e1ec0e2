"""What `drift.py` has found, in sentences, a table, findings and data. Pure."""

import math
from typing import Any

from qwenops.bench.conclusion import Cell, Finding, Outcome, Table
from qwenops.bench.drift import HOUR_S, MIB, SKIPPED, WEEK_S, Drift, Kind, Trend
from qwenops.bench.record import NS_PER_S
from qwenops.bench.words import listed, outcome_word, series_word
from qwenops.text import Text, say

_LEAST_LONGER = 1.25
"""How much longer than now the time that is advised is, at least."""


def drift_sentences(drift: Drift) -> tuple[Text, ...]:
    """Say what came out, the worst first."""
    said = [_sentence(trend) for trend in drift.trends if trend.outcome is Outcome.LEAK]
    said += [_sentence(trend) for trend in drift.trends if trend.outcome is Outcome.DRIFT]
    said += [_undecided(trend) for trend in drift.trends if trend.outcome is Outcome.INCONCLUSIVE]
    if drift.outcome is Outcome.STABLE:
        names = listed([series_word(trend.name) for trend in drift.trends])
        said.append(say("STABLE: nothing that matters changed in {names}.", names=names))
        said += [_excluded(trend) for trend in drift.trends]
    if drift.too_short:
        said.append(
            say(
                "INCONCLUSIVE: too few samples to judge {names}; measure longer.",
                names=listed([series_word(each) for each in drift.too_short]),
            )
        )
    return tuple(said) or (say("INCONCLUSIVE: there was nothing to judge."),)


def drift_findings(drift: Drift) -> tuple[Finding, ...]:
    """Return the steps, and growth that ended, each with its time."""
    found = [
        Finding(
            text=say(
                "The level of {name} changed by {change:+.1%} at {at_s:.0f} s.",
                name=series_word(trend.name),
                change=step.after / step.before - 1 if step.before else math.inf,
                at_s=step.at_s,
            ),
            severity="warning",
            from_ns=round(step.at_s * NS_PER_S),
            to_ns=round(step.at_s * NS_PER_S),
        )
        for trend in drift.trends
        for step in trend.steps
    ]
    found += [
        Finding(text=say("{name} grew at first and then levelled off.", name=series_word(trend.name)))
        for trend in drift.trends
        if trend.levels_off
    ]
    found += [
        Finding(
            text=say(
                "{name} lies within what the server's cache fills at first (up to {bytes:,.0f} MiB).",
                name=series_word(trend.name),
                bytes=(trend.explained or 0.0) / MIB,
            )
        )
        for trend in drift.trends
        if trend.is_filling and trend.slope.low > 0
    ]
    return tuple(found)


def drift_table(drift: Drift) -> Table:
    """Return all slopes with their intervals, in the units of people."""
    rows: list[tuple[Cell, ...]] = []
    for trend in drift.trends:
        factor, unit = _shown(trend.kind)
        slope = [_finite(each * factor * HOUR_S) for each in (trend.slope.value, trend.slope.low, trend.slope.high)]
        verdict = outcome_word(trend.outcome)
        rows.append((series_word(trend.name), trend.level * factor, unit, *slope, trend.tau, trend.p, verdict))
    return Table(
        title=say("Slopes per hour, with 95 % intervals"),
        headings=(
            say("Series"),
            say("Level"),
            say("Unit"),
            say("per hour"),
            say("low"),
            say("high"),
            say("Kendall's tau"),
            say("p (corrected)"),
            say("Result"),
        ),
        rows=tuple(rows),
    )


def drift_data(drift: Drift) -> dict[str, Any]:
    """Return it for scripts: bytes, descriptors and seconds, per hour."""
    return {
        "outcome": drift.outcome.value,
        "too_short": list(drift.too_short),
        "series": [
            {
                "name": trend.name,
                "kind": trend.kind.value,
                "blocks": trend.blocks,
                "level": trend.level,
                "slope_per_hour": trend.slope.value * HOUR_S,
                "low_per_hour": _finite(trend.slope.low * HOUR_S),
                "high_per_hour": _finite(trend.slope.high * HOUR_S),
                "tau": trend.tau,
                "p": trend.p,
                "correlation": trend.correlation,
                "harmless_per_hour": trend.harmless * HOUR_S,
                "explained": trend.explained,
                "hours_to_decide": _hours(trend) if trend.outcome is Outcome.INCONCLUSIVE else None,
                "levels_off": trend.levels_off,
                "steps": [{"at_s": step.at_s, "before": step.before, "after": step.after} for step in trend.steps],
                "outcome": trend.outcome.value,
            }
            for trend in drift.trends
        ],
    }


def _hours(trend: Trend) -> float | None:
    """Return after how many hours such a series would be decided; None where no week would do.

    The interval of a slope shrinks as the time's power of 3/2. What matters in a latency is its change over the run,
    however long that is: there only the root of the time helps.
    """
    slope = trend.judged
    half = max(slope.high - slope.value, slope.value - slope.low)
    gap = abs(trend.harmless - (abs(slope.value) if trend.kind is Kind.LATENCY else slope.value))
    if not math.isfinite(half) or gap <= 0:
        return None
    longer = (half / gap) ** (2.0 if trend.kind is Kind.LATENCY else 2 / 3)
    needed_s = trend.span_s / (1 - SKIPPED) * max(longer, _LEAST_LONGER)
    return needed_s / HOUR_S if needed_s <= WEEK_S else None


def _undecided(trend: Trend) -> Text:
    """Say what cannot be excluded, and how long to measure."""
    factor, unit = _shown(trend.kind)
    if trend.is_filling and (trend.slope.low > 0 or trend.judged.high <= trend.harmless):
        return say(
            "INCONCLUSIVE: {name} grows, and is still within the {limit:,.0f} MiB up to which the server's cache "
            "fills; measure longer, or give the server a smaller cache (kv_cache_bytes).",
            name=series_word(trend.name),
            limit=(trend.explained or 0.0) * factor,
        )
    hours = _hours(trend)
    until = (
        say("no week of measuring would decide it")
        if hours is None
        else say("about {hours:.1f} hours of measuring would decide it", hours=hours)
    )
    if trend.kind is Kind.LATENCY:
        most = max(abs(trend.slope.low), abs(trend.slope.high)) * trend.span_s / (abs(trend.level) or 1.0)
        return say(
            "INCONCLUSIVE: a change of {name} by up to {most:.0%} over the run cannot be excluded; {until}.",
            name=series_word(trend.name),
            most=most,
            until=until,
        )
    if not math.isfinite(trend.judged.high):
        return say(
            "INCONCLUSIVE: {name} varies too much to tell growth from it; {until}.",
            name=series_word(trend.name),
            until=until,
        )
    return say(
        "INCONCLUSIVE: growth of {name} by up to {high:,.2f} {unit} per hour cannot be excluded, where {limit:,.2f} "
        "would do no harm within a week; {until}.",
        name=series_word(trend.name),
        high=trend.judged.high * factor * HOUR_S,
        unit=unit,
        limit=trend.harmless * factor * HOUR_S,
        until=until,
    )


def _excluded(trend: Trend) -> Text:
    """Say what a stable series rules out."""
    factor, unit = _shown(trend.kind)
    if trend.kind is Kind.LATENCY:
        most = max(abs(trend.slope.low), abs(trend.slope.high)) * trend.span_s / (abs(trend.level) or 1.0)
        return say("{name} changed by less than {most:.1%} over the run.", name=series_word(trend.name), most=most)
    return say(
        "{name} grows by less than {high:,.2f} {unit} per hour {part}; {limit:,.2f} would do no harm within a week.",
        name=series_word(trend.name),
        part=say("over the run") if trend.judged is trend.slope else say("in the second half of the run"),
        high=max(0.0, trend.judged.high) * factor * HOUR_S,
        unit=unit,
        limit=trend.harmless * factor * HOUR_S,
    )


def _sentence(trend: Trend) -> Text:
    factor, unit = _shown(trend.kind)
    low, high = trend.slope.low * factor * HOUR_S, trend.slope.high * factor * HOUR_S
    slope = trend.slope.value * factor * HOUR_S
    if trend.outcome is Outcome.LEAK and trend.slope.low <= 0:
        return say(
            "LEAK: {name} grows by {slope:,.2f} {unit} per hour in the second half of the run (95 % interval "
            "{low:.2f} to {high:.2f}).",
            name=series_word(trend.name),
            slope=trend.later.value * factor * HOUR_S,
            unit=unit,
            low=trend.later.low * factor * HOUR_S,
            high=trend.later.high * factor * HOUR_S,
        )
    if trend.outcome is Outcome.LEAK:
        return say(
            "LEAK: {name} grows by {slope:.2f} {unit} per hour (95 % interval {low:.2f} to {high:.2f}).",
            name=series_word(trend.name),
            slope=slope,
            unit=unit,
            low=low,
            high=high,
        )
    if abs(trend.change) < max((abs(step.after - step.before) for step in trend.steps), default=0.0):
        step = max(trend.steps, key=lambda each: abs(each.after - each.before))
        return say(
            "DRIFT: {name} went from {before:.3f} to {after:.3f} {unit} at {at_s:.0f} s.",
            name=series_word(trend.name),
            before=step.before * factor,
            after=step.after * factor,
            unit=unit,
            at_s=step.at_s,
        )
    return say(
        "DRIFT: {name} changes by {slope:+.4f} {unit} per hour (95 % interval {low:+.4f} to {high:+.4f}), "
        "{share:+.1%} over the run.",
        name=series_word(trend.name),
        slope=slope,
        unit=unit,
        low=low,
        high=high,
        share=trend.change / (abs(trend.level) or 1.0),
    )


def _shown(kind: Kind) -> tuple[float, str]:
    match kind:
        case Kind.MEMORY:
            return 1 / MIB, "MiB"
        case Kind.DESCRIPTORS:
            return 1.0, say("descriptors")
        case Kind.LATENCY:
            return 1.0, "s"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
