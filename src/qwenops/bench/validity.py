"""Whether a measurement may be believed: the client watches itself while it measures.

A client on the server's own machine takes cores from it; one that is late with its requests or slow to see a chunk
measures itself. What is watched, and the bounds (`ClientBounds`), are printed with every result.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from qwenops.bench.clock import Clock
from qwenops.bench.conclusion import crossed, uncrossed
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.segment import Driven, OpenLoop
from qwenops.text import Text, say

TICK_NS = 50_000_000
"""How often the event loop is asked whether it is late."""
_STEP = math.log(1.02)
_MOST_MISSED = 20_000
"""Ticks that one stall may count for: a machine that slept is no endless work."""
US_PER_S = 1e6


class Verdict(StrEnum):
    """How far a run may be believed."""

    VALID = "VALID"
    SUSPECT = "SUSPECT"
    """Something disturbed it; the figures are shown with the reasons."""
    INVALID = "INVALID"
    """It proves nothing, and never becomes a baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """The verdict on a run, with its reasons in words and what was measured about the client."""

    verdict: Verdict = Verdict.VALID
    reasons: tuple[Text, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    """schedule_lag_p50_s, schedule_lag_p99_s, loop_lag_p99_s, loop_lag_max_s, client_cpu_share (of the machine),
    client_cores, client_faults, dropped, achieved_ratio, bias_ttft_s, bias_gap_s, cost_per_chunk_s,
    bias_over_http (1 or 0). One that is unknown is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientBounds:
    """What a client may do to its own measurement; five times as much (for CPU: three times) makes it invalid."""

    lag_s: float = 0.005
    lag_of_ttft: float = 0.02
    """Share of the median time to first token that a lag may have instead, if that is more."""
    lag_of_gap: float = 0.20
    """Share of the median gap between chunks that the event loop may be late by, if that is less than the former."""
    cpu_share: float = 0.10
    """Of the machine."""
    achieved_ratio: float = 0.98
    """Requests sent in time, as a share of those due."""
    invalid_ratio: float = 0.90


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the client adds by itself, measured on streams whose times are known exactly."""

    bias_ttft_s: float
    """Median delay between a first chunk's arrival and its stamp."""
    bias_gap_s: float
    """99th percentile of how far a gap between chunks was off."""
    cost_per_chunk_s: float
    """CPU time."""
    chunks: int
    over_http: bool = False
    """Whether the streams came over HTTP from another process, as from a server; else from within this one."""


class Tally:
    """Counts durations in steps of 2 %, so that millions of them take no room."""

    def __init__(self) -> None:
        """Begin empty."""
        self._counts: Counter[int] = Counter()
        self.number = 0

    def add(self, duration_s: float) -> None:
        """Count one; what is below a microsecond counts as nothing."""
        self.number += 1
        self._counts[0 if duration_s < 1e-6 else 1 + int(math.log(duration_s * 1e6) / _STEP)] += 1  # noqa: PLR2004 -- a microsecond

    def quantile(self, p: float) -> float | None:
        """Return the smallest duration that a share of `p` does not exceed, at most 2 % too large."""
        left = math.ceil(p * self.number)
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return 0.0 if step == 0 else math.exp(step * _STEP) / 1e6
        return None


class ClientWatch:
    """Watches the client of one run.

    Args:
        cores: CPUs that this machine offers.
        separate: Whether the model is computed in another process; if not, this process's CPU time says nothing.
        calibration: What the client adds by itself, where that was measured.
        cpu_ns: Reads the CPU time of this process.
    """

    def __init__(
        self,
        *,
        cores: int,
        separate: bool = True,
        calibration: Calibration | None = None,
        cpu_ns: Callable[[], int] = time.process_time_ns,
        bounds: ClientBounds | None = None,
    ) -> None:
        """Begin with nothing seen."""
        self._cores = cores
        self._separate = separate
        self._calibration = calibration
        self._read_cpu_ns = cpu_ns
        self._bounds = bounds or ClientBounds()
        self._schedule_lag = Tally()
        self._loop_lag = Tally()
        self._loop_lag_max_s = 0.0
        self._ttft = Tally()
        self._gap = Tally()
        self._client_faults = 0
        self._doubts: list[Text] = []
        self._past: Validity | None = None
        self._wall_ns = 0
        self._cpu_ns = 0
        self._due = self._in_time = self._dropped = 0

    @asynccontextmanager
    async def watching(self, clock: Clock) -> AsyncIterator[None]:
        """Watch CPU time and event loop until the block is left; virtual time has neither."""
        if clock.virtual:
            yield
            return
        ticking = asyncio.get_running_loop().create_task(self._tick(clock))
        began_ns, cpu_ns = clock.now_ns(), self._read_cpu_ns()
        try:
            yield
        finally:
            self._cpu_ns += self._read_cpu_ns() - cpu_ns
            self._wall_ns += clock.now_ns() - began_ns
            ticking.cancel()
            await asyncio.wait([ticking])

    async def _tick(self, clock: Clock) -> None:
        while True:
            due_ns = clock.now_ns() + TICK_NS
            await clock.sleep_until_ns(due_ns)
            self.add_loop_lag((clock.now_ns() - due_ns) / NS_PER_S)

    def add_loop_lag(self, lag_s: float) -> None:
        """Count how late a tick was, and each that was due while the loop stood still: a stall is not one sample."""
        self._loop_lag_max_s = max(self._loop_lag_max_s, lag_s)
        tick_s = TICK_NS / NS_PER_S
        for missed in range(max(1, min(math.ceil(lag_s / tick_s), _MOST_MISSED))):
            self._loop_lag.add(lag_s - missed * tick_s)

    def add_cpu(self, cpu_ns: int, wall_ns: int) -> None:
        """Count the CPU time of other processes that belong to the client."""
        self._cpu_ns += cpu_ns
        self._wall_ns += wall_ns

    def recall(self, past: Validity) -> None:
        """Take over how earlier sittings of the run were judged: the whole run is no better than any of them."""
        self._past = past

    def doubt(self, reason: Text) -> None:
        """Take note of a reason to suspect the run."""
        self._doubts.append(reason)

    def add(self, record: RequestRecord) -> None:
        """Look at a request that is over."""
        if record.phase is Phase.WARMUP or record.sent_ns is None:
            return
        self._client_faults += record.failure is Failure.CLIENT
        if record.chunk_gaps_us:
            self._gap.add(sorted(record.chunk_gaps_us)[len(record.chunk_gaps_us) // 2] / US_PER_S)
        self._schedule_lag.add((record.sent_ns - record.scheduled_ns) / NS_PER_S)
        if record.first_content_ns is not None:
            self._ttft.add((record.first_content_ns - record.sent_ns) / NS_PER_S)

    def close_segment(self, driven: Driven, sent: int, *, overload: bool) -> None:
        """Look at a segment that is over, of whose requests `sent` were sent.

        Args:
            driven: What came of it.
            sent: Requests that have a record.
            overload: Whether it was meant to be more than can be done; then what was not sent is no fault.
        """
        if not isinstance(driven.segment.load, OpenLoop) or driven.segment.phase is Phase.WARMUP or overload:
            return
        due = sum(1 for each in driven.segment.load.offsets_ns if each <= driven.window_ns)
        self._due += due
        self._in_time += min(sent, due)
        self._dropped += driven.dropped

    def judge(self, doubts: Sequence[Text] = ()) -> Validity:
        """Return the verdict so far; `doubts` are reasons to suspect it that others have."""
        bounds, figures = self._bounds, self._figures()
        found: list[tuple[Verdict, Text]] = [(Verdict.SUSPECT, each) for each in (*doubts, *self._doubts)]
        for name, (template, bound_s) in self._lag_bounds().items():
            lag_s = figures.get(name)
            if lag_s is not None and lag_s > bound_s:
                verdict = Verdict.INVALID if lag_s > 5 * bound_s else Verdict.SUSPECT
                found.append((verdict, template(lag_s, bound_s)))
        if self._client_faults:
            found.append((Verdict.INVALID, _faulty(self._client_faults)))
        share = figures.get("client_cpu_share") if self._separate else None
        if share is not None and share > bounds.cpu_share:
            verdict = Verdict.INVALID if share > 3 * bounds.cpu_share else Verdict.SUSPECT
            found.append((verdict, _busy(share, bounds.cpu_share)))
        ratio = figures.get("achieved_ratio")
        if ratio is not None and ratio < bounds.achieved_ratio:
            verdict = Verdict.INVALID if ratio < bounds.invalid_ratio else Verdict.SUSPECT
            found.append((verdict, _unsent(ratio, bounds.achieved_ratio, self._dropped)))
        worst = max((verdict for verdict, _ in found), key=list(Verdict).index, default=Verdict.VALID)
        now = Validity(verdict=worst, reasons=tuple(reason for _, reason in found), figures=figures)
        return now if self._past is None else worse_of(self._past, now)

    def _lag_bounds(self) -> dict[str, tuple[Callable[[float, float], Text], float]]:
        """Return by figure how late the client may be, and how to say that it was later."""
        bounds, gap_s = self._bounds, self._gap.quantile(0.5)
        sending_s = max(bounds.lag_s, bounds.lag_of_ttft * (self._ttft.quantile(0.5) or 0.0))
        seeing_s = sending_s if gap_s is None else max(bounds.lag_s, min(sending_s, bounds.lag_of_gap * gap_s))
        return {"schedule_lag_p99_s": (_late_sending, sending_s), "loop_lag_p99_s": (_late_loop, seeing_s)}

    def _figures(self) -> dict[str, float]:
        known: dict[str, float | None] = {
            "schedule_lag_p50_s": self._schedule_lag.quantile(0.5),
            "schedule_lag_p99_s": self._schedule_lag.quantile(0.99),
            "loop_lag_p99_s": self._loop_lag.quantile(0.99),
            "loop_lag_max_s": self._loop_lag_max_s if self._loop_lag.number else None,
            "client_faults": self._client_faults or None,
            "dropped": self._dropped,
            "achieved_ratio": self._in_time / self._due if self._due else None,
        }
        if self._wall_ns:
            known["client_cores"] = self._cpu_ns / self._wall_ns
            known["client_cpu_share"] = self._cpu_ns / self._wall_ns / self._cores
        if self._calibration is not None:
            known["bias_ttft_s"] = self._calibration.bias_ttft_s
            known["bias_gap_s"] = self._calibration.bias_gap_s
            known["cost_per_chunk_s"] = self._calibration.cost_per_chunk_s
            known["bias_over_http"] = float(self._calibration.over_http)
        return {name: value for name, value in known.items() if value is not None}


_OF_ONE_SITTING = ("loop_lag_p99_s", "loop_lag_max_s", "client_cores", "client_cpu_share", "client_faults")
"""Figures of which only the sitting that measured them knows; the others come from the records, which all have."""


def worse_of(past: Validity, now: Validity) -> Validity:
    """Return the judgement on a run of several sittings."""
    figures = dict(past.figures) | dict(now.figures)
    for name in _OF_ONE_SITTING:
        known = [each.figures[name] for each in (past, now) if name in each.figures]
        if known:
            figures[name] = max(known)
    said = {reason.template for reason in now.reasons}
    return Validity(
        verdict=max(past.verdict, now.verdict, key=list(Verdict).index),
        reasons=(*(reason for reason in past.reasons if reason.template not in said), *now.reasons),
        figures=figures,
    )


def validity_data(validity: Validity) -> dict[str, Any]:
    """Return a verdict on the client as JSON holds it."""
    return {
        "verdict": validity.verdict.value,
        "reasons": crossed(validity.reasons),
        "figures": dict(validity.figures),
    }


def validity_of(data: Mapping[str, Any]) -> Validity:
    """Read what `validity_data` made."""
    return Validity(
        verdict=Verdict(data["verdict"]),
        reasons=tuple(
            each if isinstance(each, Text) else say("{reason}", reason=each) for each in uncrossed(data["reasons"])
        ),
        figures=dict(data["figures"]),
    )


def _late_sending(lag_s: float, bound_s: float) -> Text:
    return say(
        "The client sent its requests late: {lag:.1f} ms at the 99th percentile, where {bound:.1f} ms are allowed.",
        lag=lag_s * 1000,
        bound=bound_s * 1000,
    )


def _late_loop(lag_s: float, bound_s: float) -> Text:
    return say(
        "The client was slow to see what arrived: {lag:.1f} ms at the 99th percentile, where {bound:.1f} ms are "
        "allowed.",
        lag=lag_s * 1000,
        bound=bound_s * 1000,
    )


def _faulty(number: int) -> Text:
    return say(
        "This machine had no file, port or buffer left for {number} of the requests: they say nothing about the "
        "server.",
        number=number,
    )


def _busy(share: float, bound: float) -> Text:
    return say(
        "The client used {share:.0f} % of this machine's CPU time, where {bound:.0f} % are allowed.",
        share=share * 100,
        bound=bound * 100,
    )


def _unsent(ratio: float, bound: float, dropped: int) -> Text:
    return say(
        "Of the requests that were due {ratio:.1f} % were sent, where {bound:.0f} % are needed; {dropped} were dropped "
        "because too many were in flight.",
        ratio=ratio * 100,
        bound=bound * 100,
        dropped=dropped,
    )


def bias_sentence(validity: Validity) -> Text | None:
    """Say what the client adds by itself; None where that was not measured."""
    figures = validity.figures
    if "bias_ttft_s" not in figures:
        return None
    numbers = {
        "ttft": figures["bias_ttft_s"] * 1000,
        "gap": figures["bias_gap_s"] * 1000,
        "cost": figures["cost_per_chunk_s"] * 1e6,
    }
    if figures.get("bias_over_http"):
        return say(
            "Against a server of its own on this machine, the client added about {ttft:.2f} ms to a time to first "
            "token and at most {gap:.2f} ms to 99 % of the gaps, at {cost:.0f} microseconds of CPU time for each "
            "chunk.",
            **numbers,
        )
    return say(
        "The client itself adds about {ttft:.2f} ms to a time to first token and at most {gap:.2f} ms to 99 % of the "
        "gaps, at {cost:.0f} microseconds of CPU time for each chunk; what a network and its protocol add is not in "
        "it.",
        **numbers,
    )
