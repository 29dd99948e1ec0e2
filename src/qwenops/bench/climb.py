"""What a ladder of callers has found, and how it is told. Pure.

Where the last step still brought more, no maximum and no knee was seen, and none is told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenops.bench.conclusion import EXIT_UNANSWERED, Conclusion, Finding, Outcome, Table
from qwenops.bench.knee import Knee, Level, still_grows
from qwenops.bench.tables import show_s
from qwenops.bench.under import Counted
from qwenops.options import show_bytes, show_number
from qwenops.text import Text, say

_NEAR = 2.0
"""Times the callers that were tried: farther away the law is a guess."""
_POOR_FIT = 0.15
"""A law that is farther from a step is only a rough description."""
_AS_GOOD = 0.98
OVERLOAD_SHARE = 1.5
RECOVERY_REQUESTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """How the server did in the open loop below its best."""

    rate_per_s: float
    """At which requests were due."""
    completed_per_s: float
    dropped: int
    ttft_s: float | None
    """Its median."""
    keeps_up: bool
    """Whether it answered as fast as it was asked: its backlog does not grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What came after the overload."""

    drained_s: float
    """From the end of the overload until the last answer to it."""
    recovered_s: float | None
    """Until a request took as long to its first token as alone; None when none did."""
    dropped: int
    """Requests of the overload that were not sent, because the backlog had its bound."""


@dataclass(slots=True, kw_only=True)
class Climb:
    """Everything about one server."""

    name: str
    """Of its limits; empty for the target as it is."""
    unloaded_s: float | None = None
    """The longest time to first token that is usual alone."""
    alone_s: float | None = None
    """Mean time of a whole answer, alone."""
    levels: list[Level] = field(default_factory=list)
    knee: Knee | None = None
    steady: Steady | None = None
    recovery: Recovery | None = None
    findings: list[Finding] = field(default_factory=list)
    counted: Counted | None = None
    failure: Text | None = None
    """Why there is nothing else."""

    @property
    def best(self) -> Level | None:
        """The step with the fewest callers of those that do the most, within 2 %."""
        most_per_s = max((level.per_s for level in self.levels), default=0.0)
        return next((level for level in self.levels if level.per_s >= _AS_GOOD * most_per_s), None)

    @property
    def grows(self) -> bool:
        """Whether the last step still brought more: its limit was not seen."""
        return still_grows([level.per_s for level in self.levels])


def conclude(climbs: Sequence[Climb], *, interrupted: bool) -> Conclusion:
    """Put what was found against one server, or under each limit, into words; a start that failed is no success."""
    sentences = [each for climb in climbs for each in _sentences(climb)]
    if interrupted:
        sentences.append(say("Interrupted: these are the figures so far."))
    tables = [_levels_table(climb) for climb in climbs if climb.levels]
    if len(climbs) > 1 or any(climb.name for climb in climbs):
        tables.insert(0, _limits_table(climbs))
    first = climbs[0] if len(climbs) == 1 else None
    data: dict[str, Any] = {"climbs": [_plain(climb) for climb in climbs], "interrupted": interrupted}
    if first is not None and first.knee is not None and not first.grows:
        data |= {"usl": _plain_knee(first.knee), "knee_users": first.knee.knee_users.value}
    is_empty = any(climb.failure is not None or climb.best is None for climb in climbs)
    return Conclusion(
        outcome=Outcome.DONE,
        exit_code=EXIT_UNANSWERED if is_empty and not interrupted else 0,
        sentences=tuple(sentences) or (say("Nothing was measured."),),
        tables=tuple(tables),
        findings=tuple(each for climb in climbs for each in climb.findings),
        data=data,
    )


def _sentences(climb: Climb) -> list[Text]:
    if climb.failure is not None:
        return [climb.failure]
    best, knee = climb.best, climb.knee
    if best is None:
        return (
            [say("{name}: no request was answered.", name=climb.name)]
            if climb.name
            else [say("No request was answered.")]
        )
    most = _most_sentence(climb, best)
    found = [say("{name}: {what}", name=climb.name, what=most) if climb.name else most]
    if knee is not None and not climb.grows:
        found.append(
            say(
                "The knee is at {users:.1f} callers ({low:.1f} to {high:.1f}): with more, they mostly wait.",
                users=knee.knee_users.value,
                low=knee.knee_users.interval.low,
                high=knee.knee_users.interval.high,
            )
        )
        found += _peak_sentences(climb, knee.peak_users.value)
    if not climb.grows:
        found += _fit_sentences(climb)
    if climb.steady is not None:
        found.append(_steady_sentence(climb.steady))
    if climb.recovery is not None:
        found.append(_recovery_sentence(climb))
    unsteady = [str(level.users) for level in climb.levels if not level.steady]
    if unsteady:
        found.append(
            say(
                "Little's law is missed by 5 % or more with {users} callers: those steps were too short, "
                "or the server changed meanwhile.",
                users=", ".join(unsteady),
            )
        )
    return found


def _most_sentence(climb: Climb, best: Level) -> Text:
    """Say what was the most, or that the limit was not seen."""
    if not climb.grows:
        return say("At most {rate} answers/s, with {users} callers.", rate=show_number(best.per_s), users=best.users)
    last = climb.levels[-1]
    before = max(climb.levels[:-1], key=lambda each: each.per_s, default=None)
    more = ",".join(str(last.users * factor) for factor in (1, 2, 4, 8))
    if before is None or not before.per_s:
        return say(
            "Not saturated: {rate} answers/s with {users} callers, and no other step to compare with. Try more: "
            "--users {more}.",
            rate=show_number(last.per_s),
            users=last.users,
            more=more,
        )
    return say(
        "Not saturated up to {users} callers: {rate} answers/s, {gain:.0%} more than with {fewer}. Try more: "
        "--users {more}.",
        users=last.users,
        rate=show_number(last.per_s),
        gain=last.per_s / before.per_s - 1.0,
        fewer=before.users,
        more=more,
    )


def _peak_sentences(climb: Climb, peak: float) -> list[Text]:
    """Say from how many callers on it becomes slower, and whether that was seen."""
    most = max(level.users for level in climb.levels)
    if peak < most:
        # The law may bend where the steps themselves do not: then nobody has seen it.
        slower = climb.levels[-1].per_s < _AS_GOOD * max(level.per_s for level in climb.levels)
        return [say("Beyond about {peak:.0f} callers it becomes slower.", peak=peak)] if slower else []
    if peak < _NEAR * most:
        return [
            say(
                "By the law it would become slower beyond about {peak:.0f} callers; at most {most} were tried.",
                peak=peak,
                most=most,
            )
        ]
    return []


def _fit_sentences(climb: Climb) -> list[Text]:
    """Say where the law is a poor description, and which steps it was not fitted to."""
    found: list[Text] = []
    if climb.knee is not None and climb.knee.misfit > _POOR_FIT:
        found.append(
            say(
                "The steps lie up to {misfit:.0%} from the law: take the knee for a rough figure, or measure again "
                "with longer steps on a machine that does nothing else.",
                misfit=climb.knee.misfit,
            )
        )
    unfit = [str(level.users) for level in climb.levels if not level.fit]
    if unfit:
        found.append(
            say("Not used for the knee, because they were not steady: {users} callers.", users=", ".join(unfit))
        )
    return found


def _steady_sentence(steady: Steady) -> Text:
    if steady.keeps_up:
        return say("Callers that do not wait: it keeps up with {rate} requests/s.", rate=show_number(steady.rate_per_s))
    return say(
        "Callers that do not wait: it does not keep up with {rate} requests/s ({done}/s done, {dropped} not sent).",
        rate=show_number(steady.rate_per_s),
        done=show_number(steady.completed_per_s),
        dropped=steady.dropped,
    )


def _recovery_sentence(climb: Climb) -> Text:
    assert climb.recovery is not None  # noqa: S101 -- the caller has seen it
    # Of a server whose limit was not seen nobody knows whether that was too much.
    load = say("{share:.0%} of the best step", share=OVERLOAD_SHARE) if climb.grows else say("an overload")
    if climb.recovery.recovered_s is None:
        return say(
            "After {load} it had not recovered when {number} more requests were answered.",
            load=load,
            number=RECOVERY_REQUESTS,
        )
    return say(
        "After {load} it was itself again in {seconds:.1f} s (TTFT below {bound}, as alone).",
        load=load,
        seconds=climb.recovery.recovered_s,
        bound=show_s(climb.unloaded_s or 0.0) or "",
    )


def _levels_table(climb: Climb) -> Table:
    return Table(
        title=say("Callers: {name}", name=climb.name) if climb.name else say("Callers"),
        headings=(
            say("callers"),
            say("answers/s"),
            say("+/-"),
            say("by the law"),
            say("time of an answer (s)"),
            say("Little's law off by"),
            say("failed"),
        ),
        rows=tuple(
            (
                level.users,
                float(f"{level.per_s:.4g}"),
                float(f"{1.96 * level.error:.2g}"),
                None if climb.knee is None else float(f"{climb.knee.at(level.users):.4g}"),
                None if level.residence_s is None else float(f"{level.residence_s:.4g}"),
                None if level.little_error is None else f"{level.little_error:.1%}",
                level.failed,
            )
            for level in climb.levels
        ),
    )


def _limits_table(climbs: Sequence[Climb]) -> Table:
    """Show what each limit makes of the server, side by side."""
    return Table(
        title=say("Limits side by side"),
        headings=(
            say("limits"),
            say("answers/s"),
            say("knee (callers)"),
            say("answer alone (s)"),
            say("itself again after (s)"),
            say("most memory"),
            say("throttled (s)"),
            say("killed for memory"),
        ),
        rows=tuple(_limits_row(climb) for climb in climbs),
    )


def _limits_row(climb: Climb) -> tuple[str | int | float | None, ...]:
    counted = climb.counted or Counted()
    best = climb.best
    recovered_s = climb.recovery.recovered_s if climb.recovery else None
    return (
        climb.name,
        None if best is None else float(f"{best.per_s:.4g}"),
        None if climb.knee is None or climb.grows else round(climb.knee.knee_users.value, 1),
        None if climb.alone_s is None else float(f"{climb.alone_s:.4g}"),
        None if recovered_s is None else round(recovered_s, 1),
        None if counted.peak_memory_bytes is None else show_bytes(counted.peak_memory_bytes),
        None if counted.throttled_s is None else round(counted.throttled_s, 1),
        counted.oom_kills,
    )


def _plain(climb: Climb) -> dict[str, Any]:
    """Return a climb for scripts."""
    counted, steady, recovery = climb.counted, climb.steady, climb.recovery
    return {
        "limits": str(climb.name),
        "failure": climb.failure,
        "alone_s": climb.alone_s,
        "unloaded_ttft_s": climb.unloaded_s,
        "levels": [
            {
                "users": level.users,
                "per_s": level.per_s,
                "error": level.error,
                "residence_s": level.residence_s,
                "little_error": level.little_error,
                "failed": level.failed,
            }
            for level in climb.levels
        ],
        "saturated": bool(climb.levels) and not climb.grows,
        "usl": None if climb.knee is None or climb.grows else _plain_knee(climb.knee),
        "steady": steady
        and {
            "rate_per_s": steady.rate_per_s,
            "completed_per_s": steady.completed_per_s,
            "dropped": steady.dropped,
            "keeps_up": steady.keeps_up,
        },
        "recovery": recovery
        and {"drained_s": recovery.drained_s, "recovered_s": recovery.recovered_s, "dropped": recovery.dropped},
        "oom_kills": counted and counted.oom_kills,
        "throttled_s": counted and counted.throttled_s,
        "peak_memory_bytes": counted and counted.peak_memory_bytes,
    }


def _plain_knee(knee: Knee) -> dict[str, Any]:
    """Return the law for scripts; what is infinite is None, because JSON knows no infinity."""
    named = {
        "one_per_s": knee.one_per_s,
        "contention": knee.contention,
        "coherence": knee.coherence,
        "most_per_s": knee.most_per_s,
        "peak_users": knee.peak_users,
        "knee_users": knee.knee_users,
    }
    found: dict[str, Any] = {"misfit": knee.misfit}
    for name, figure in named.items():
        for suffix, value in (("", figure.value), ("_low", figure.interval.low), ("_high", figure.interval.high)):
            found[name + suffix] = value if math.isfinite(value) else None
    return found
