"""What is expected, what was measured, and whether that will do. Pure."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qwenops.bench.definitions import METRICS
from qwenops.bench.record import RequestRecord
from qwenops.bench.stats import Summary
from qwenops.options import show_number

ABSOLUTE_S, RELATIVE = 0.002, 0.01
"""A time may be wrong by so much, whichever is more."""

TIMES = ("ttft", "tpot", "e2e")
PRINTED = (50, 90, 95, 99)

TrueTimes = Mapping[str, float | None]
"""Of one request: what `ttft`, `tpot` and `e2e` truly were, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the table."""

    title: str
    expected: str
    measured: str
    ok: bool


def times_of(record: RequestRecord) -> TrueTimes:
    """Return what the suite says about one request."""
    return {name: measured(record) for name in TIMES if (measured := METRICS[name].of_request) is not None}


def will_do(measured_s: float, true_s: float, *, absolute_s: float = ABSOLUTE_S) -> bool:
    """Whether a time is right within 2 ms or 1 %."""
    return abs(measured_s - true_s) <= max(absolute_s, RELATIVE * true_s)


def order_statistic(values: Sequence[float], percent: int) -> float:
    """Return a percentile by the definition itself: the smallest value that so many per cent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


def each_request(
    title: Callable[[str], str],
    said: Sequence[TrueTimes],
    true: Sequence[TrueTimes],
    *,
    share: float = 1.0,
    absolute_s: float = ABSOLUTE_S,
) -> list[Check]:
    """Check every request on its own: at least a share of them must be right in each of the three times."""
    found = []
    for name in TIMES:
        pairs = [(one[name], other[name]) for one, other in zip(said, true, strict=True)]
        known = [(one, other) for one, other in pairs if one is not None and other is not None]
        right = sum(will_do(one, other, absolute_s=absolute_s) for one, other in known)
        same = all((one is None) == (other is None) for one, other in pairs)
        errors_s = [abs(one - other) for one, other in known]
        limit = "0.001 ms" if absolute_s < ABSOLUTE_S else "2 ms | 1 %"
        found.append(
            Check(
                title=title(name),
                expected=f"{len(true)} x <= {limit}" if share == 1 else f">= {share:.0%} x <= {limit}",
                measured=f"{right}/{len(pairs)}, p50 {milliseconds(order_statistic(errors_s, 50))}, "
                f"max {milliseconds(max(errors_s))}"
                if errors_s
                else "-",
                ok=bool(known) and same and right >= share * len(pairs),
            )
        )
    return found


def each_figure(
    title: Callable[[str], str], summary: Summary, true: Sequence[TrueTimes], *, absolute_s: float = ABSOLUTE_S
) -> list[Check]:
    """Check the figures that are printed: mean and percentiles of each time, against the same of the truth."""
    found = []
    for name in TIMES:
        values = [value for each in true if (value := each[name]) is not None]
        printed = summary.distributions[name]
        pairs: list[tuple[str, float | None, float]] = [("mean", printed.mean, math.fsum(values) / len(values))]
        pairs += [
            (f"p{percent}", printed.percentiles[percent].value, order_statistic(values, percent))
            for percent in PRINTED
            if printed.percentiles[percent].value is not None
        ]
        wrong = [label for label, one, other in pairs if one is None or not will_do(one, other, absolute_s=absolute_s)]
        found.append(
            Check(
                title=title(name),
                expected=", ".join(f"{label} {milliseconds(other)}" for label, _one, other in pairs),
                measured=", ".join(f"{label} {milliseconds(one)}" for label, one, _other in pairs),
                ok=printed.n == len(values) and not wrong,
            )
        )
    return found


def close_to(title: str, measured: float | None, expected: float, *, relative: float, unit: str = "") -> Check:
    """Check one number against another, within a share of it."""
    ok = measured is not None and abs(measured - expected) <= relative * abs(expected)
    said = "-" if measured is None else f"{show_number(measured, 4)}{unit}"
    return Check(title=title, expected=f"{show_number(expected, 4)}{unit} +- {relative:.0%}", measured=said, ok=ok)


def at_most(title: str, measured: float | None, limit: float, *, unit: str = "") -> Check:
    """Check that a number is not above a limit."""
    said = "-" if measured is None else f"{show_number(measured, 4)}{unit}"
    return Check(
        title=title,
        expected=f"<= {show_number(limit, 4)}{unit}",
        measured=said,
        ok=measured is not None and measured <= limit,
    )


def equal(title: str, measured: object, expected: object) -> Check:
    """Check that two things are the same."""
    return Check(title=title, expected=str(expected), measured=str(measured), ok=measured == expected)


def milliseconds(time_s: float | None) -> str:
    """Write a time for the table."""
    return "-" if time_s is None else f"{time_s * 1000:.3f} ms" if time_s < 0.1 else f"{time_s * 1000:.1f} ms"  # noqa: PLR2004 -- digits


def failed(checks: Iterable[Check]) -> list[Check]:
    """Return the checks that did not come out as expected."""
    return [check for check in checks if not check.ok]
