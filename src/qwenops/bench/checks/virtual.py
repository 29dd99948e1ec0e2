"""Checks in virtual time: the whole suite, from schedule to printed figure, against a server that is a formula.

Nothing here depends on how busy this machine is: the same figures come out everywhere, to the nanosecond.
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

from qwenops.bench.checks.truth import (
    Check,
    TrueTimes,
    at_most,
    close_to,
    each_figure,
    each_request,
    equal,
    order_statistic,
    times_of,
)
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S, RequestRecord
from qwenops.bench.resume import Opening
from qwenops.bench.run import Run, begin
from qwenops.bench.schedule import arrivals, share
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.simulated import oracles
from qwenops.bench.simulated.engine import SimulatedEngine, open_simulated
from qwenops.bench.simulated.loop import VirtualClock, VirtualLoop, run
from qwenops.bench.simulated.model import Truth
from qwenops.bench.stats import summarise
from qwenops.bench.window import SteadyWindow
from qwenops.statistics.arrivals import dispersion, ks_exponential
from qwenops.text import say

EXACT_S = 1e-6
_LAW = "simulated:?virtual=1&slots=4&contention=0.1&coherence=0.01&decode_tokens_per_s=40&prefill_tokens_per_s=800"
_QUICK = "simulated:?virtual=1&slots=64&contention=0&coherence=0&prefill_tokens_per_s=0&service=fixed&service_s=50ms"
_STILL_FROM_S = 30.2
"""Nothing is in flight then."""


def check_virtual(folder: Path) -> list[Check]:
    """Run every check in virtual time; run folders are made in `folder`."""
    found = run(_check_figures(folder))
    found += check_arrivals()
    found += run(_check_omission(folder))
    found += run(_check_still_client(folder))
    found += run(_check_queue(folder))
    return found + _check_hour(folder)


def check_arrivals() -> list[Check]:
    """Check that Poisson arrivals are Poisson, with one sender and with four that share a schedule."""
    rate, seed = 2.0, 7
    schedule = arrivals("poisson", rate, duration_s=2000.0, seed=seed)
    together = sorted(each for worker in range(4) for each in share(schedule, worker, 4))
    times_s = [each / NS_PER_S for each in together]
    _, p_value = ks_exponential(_gaps([0.0, *times_s]), 1 / rate)
    spread = dispersion(times_s, 20.0, 2000.0)
    constant = _gaps([each / NS_PER_S for each in arrivals("constant", rate, count=500, seed=seed)])
    off_s = max(abs(each - 1 / rate) for each in constant)
    return [
        Check(
            title=say("Poisson arrivals of four workers: Kolmogorov-Smirnov"),
            expected="p >= 0.001",
            measured=f"p = {p_value:.3f}",
            ok=p_value >= 0.001,  # noqa: PLR2004 -- a thousandth of all good schedules would fail
        ),
        Check(
            title=say("Poisson arrivals of four workers: dispersion"),
            expected="0.8 .. 1.2",
            measured=f"{spread:.2f}",
            ok=0.8 <= spread <= 1.2,  # noqa: PLR2004 -- the design's bounds
        ),
        at_most(say("Constant arrivals: largest deviation of a gap"), off_s * 1000, 1.0, unit=" ms"),
    ]


@asynccontextmanager
async def virtual_run(text: str, folder: Path, **options: object) -> AsyncIterator[tuple[Run, SimulatedEngine]]:
    """Open a run against the server that `text` describes."""
    target = open_simulated(text)
    made = replace(BenchOptions(folder=folder, prompt_tokens=64, max_tokens=32), **options)  # type: ignore[arg-type]  # names of its fields
    async with begin("selftest", {"": target}, made, clock=VirtualClock(), opening=Opening(calibrate_s=0.0)) as opened:
        yield opened, cast("SimulatedEngine", target.engine)


async def _check_figures(folder: Path) -> list[Check]:
    """Ask for 20 minutes at one request in two seconds, near the limit of the server, and compare everything."""
    schedule = arrivals("poisson", 0.5, duration_s=1200.0, seed=3)
    async with virtual_run(_LAW + "&answer_tokens=24&answer_spread=0.5", folder) as (opened, engine):
        driven = await opened.drive(Segment(name="load", load=OpenLoop(offsets_ns=schedule), duration_s=1200.0))
    truths = sorted(engine.model.truths, key=lambda truth: truth.arrived_ns)
    true = [true_times(truth) for truth in truths]
    summary = summarise(driven)
    tokens = _tokens_in_window(summary.steady, truths)
    return [
        equal(say("Virtual time: requests sent and answered"), summary.counts.ok, len(schedule)),
        *each_request(
            lambda name: say("Virtual time, each request: {name}", name=name),
            [times_of(record) for record in driven.records],
            true,
            absolute_s=EXACT_S,
        ),
        *each_figure(lambda name: say("Virtual time, printed: {name}", name=name), summary, true, absolute_s=EXACT_S),
        close_to(
            say("Virtual time: output tokens per second in the window"),
            summary.rates["output_tokens_per_s"],
            tokens,
            relative=0.01,
        ),
        close_to(say("Little's law: requests in flight"), *_little(driven, truths), relative=0.01),
    ]


async def _check_omission(folder: Path) -> list[Check]:
    """Freeze a server for 5 s at 2 requests a second: an open loop must show it; a closed one cannot."""
    frozen = _QUICK.replace("slots=64", "slots=1") + "&freeze=5s@30s"
    schedule = arrivals("constant", 2.0, duration_s=60.0, seed=1)
    async with virtual_run(frozen, folder, max_tokens=1) as (opened, _engine):
        open_loop = summarise(await opened.drive(Segment(name="open", load=OpenLoop(offsets_ns=schedule))))
    async with virtual_run(frozen, folder, max_tokens=1) as (opened, _engine):
        caller = ClosedLoop(users=1, think_s=0.45)
        closed = summarise(await opened.drive(Segment(name="closed", load=caller, duration_s=60.0)))
    expected_s = order_statistic(frozen_times_s([each / NS_PER_S for each in schedule], 0.05, 30.0, 35.0), 95)
    return [
        close_to(
            say("Server frozen for 5 s, open loop: p95 of e2e_response"),
            open_loop.distributions["e2e_response"].p95.value,
            expected_s,
            relative=0.01,
            unit=" s",
        ),
        close_to(
            say("The same, one caller after the other: p95 of e2e cannot show it"),
            closed.distributions["e2e"].p95.value,
            0.05,
            relative=0.01,
            unit=" s",
        ),
    ]


async def _check_still_client(folder: Path) -> list[Check]:
    """Let the client itself stand still for 5 s: the server was quick, and the callers waited."""
    schedule = arrivals("constant", 2.0, duration_s=60.0, seed=1)
    loop = asyncio.get_running_loop()
    async with virtual_run(_QUICK, folder, max_tokens=1) as (opened, _engine):
        if isinstance(loop, VirtualLoop):
            loop.call_at(_STILL_FROM_S, loop.jump, 5.0)
        driven = await opened.drive(Segment(name="open", load=OpenLoop(offsets_ns=schedule)))
    due_s = [each / NS_PER_S for each in schedule]
    late_s = [max(0.0, _STILL_FROM_S + 5.0 - each) if each > _STILL_FROM_S else 0.0 for each in due_s]
    summary = summarise(driven)
    return [
        close_to(
            say("Client still for 5 s: p95 of e2e_response"),
            summary.distributions["e2e_response"].p95.value,
            order_statistic([0.05 + each for each in late_s], 95),
            relative=0.01,
            unit=" s",
        ),
        close_to(
            say("Client still for 5 s: p95 of e2e, which is the server's"),
            summary.distributions["e2e"].p95.value,
            0.05,
            relative=0.01,
            unit=" s",
        ),
    ]


async def _check_queue(folder: Path) -> list[Check]:
    """Compare the mean wait at four slots with exponential costs with Erlang's formula."""
    text = _QUICK.replace("slots=64", "slots=4").replace("service=fixed", "service=exponential")
    text = text.replace("service_s=50ms", "service_s=4s")
    rate = 0.7 * 4 / 4.0
    schedule = arrivals("poisson", rate, count=4000, seed=11)
    async with virtual_run(text, folder, max_tokens=1, prompt_tokens=16) as (opened, _engine):
        driven = await opened.drive(Segment(name="queue", load=OpenLoop(offsets_ns=schedule)))
    expected_s = oracles.mmc_wait_s(rate, 4.0, 4) + 4.0
    mean_s = summarise(driven).distributions["e2e"].mean
    return [close_to(say("Four slots, random costs: mean e2e by Erlang"), mean_s, expected_s, relative=0.1, unit=" s")]


def _check_hour(folder: Path) -> list[Check]:
    """Play an hour twice: it takes seconds, and comes out the same in every field."""
    began_s = time.perf_counter()
    first = run(_hour(folder))
    took_s = time.perf_counter() - began_s
    return [
        equal(say("A virtual hour: requests answered"), sum(each.failure is None for each in first), len(first)),
        equal(say("The same hour again: records that differ"), _differences(first, run(_hour(folder))), 0),
        at_most(say("A virtual hour takes"), took_s, 20.0, unit=" s"),
    ]


async def _hour(folder: Path) -> Sequence[RequestRecord]:
    schedule = arrivals("poisson", 0.25, duration_s=3600.0, seed=5)
    async with virtual_run(_LAW + "&spread=0.3&stall_ratio=0.05", folder, max_tokens=16) as (opened, _engine):
        driven = await opened.drive(Segment(name="hour", load=OpenLoop(offsets_ns=schedule), duration_s=3600.0))
    return driven.records


def _differences(one: Sequence[RequestRecord], other: Sequence[RequestRecord]) -> int:
    return abs(len(one) - len(other)) + sum(a != b for a, b in zip(one, other, strict=False))


def true_times(truth: Truth) -> TrueTimes:
    """Return what the model says about one request."""
    return {"ttft": truth.ttft_s, "tpot": truth.tpot_s, "e2e": truth.e2e_s}


def frozen_times_s(due_s: Sequence[float], service_s: float, from_s: float, to_s: float) -> list[float]:
    """Return how long each request takes at a server for one that stands still for a while, from when it was due."""
    found, free_s = [], 0.0
    for at_s in due_s:
        begin_s = max(at_s, free_s)
        end_s = begin_s + service_s
        if begin_s < to_s and end_s > from_s:
            end_s += to_s - max(from_s, begin_s)
        free_s = end_s
        found.append(end_s - at_s)
    return found


def _gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def _tokens_in_window(window: SteadyWindow, truths: Sequence[Truth]) -> float:
    """Return the true rate of tokens inside the window; those of one answer are taken as evenly spaced."""
    inside = 0.0
    for truth in truths:
        first_ns, last_ns = truth.first_ns or 0, truth.last_ns or 0
        within_ns = max(0, min(last_ns, window.until_ns) - max(first_ns, window.from_ns))
        inside += truth.num_tokens * within_ns / max(1, last_ns - first_ns)
    return inside / (window.length_ns / NS_PER_S)


def _little(driven: Driven, truths: Sequence[Truth]) -> tuple[float | None, float]:
    """Return how many requests were in flight on average, as the suite says and in truth."""
    summary = summarise(driven)
    from_ns, until_ns = summary.steady.from_ns, summary.steady.until_ns
    present_ns = math.fsum(
        max(0, min(truth.last_ns or until_ns, until_ns) - max(truth.arrived_ns, from_ns)) for truth in truths
    )
    return (None if summary.little is None else summary.little.in_flight), present_ns / (until_ns - from_ns)
