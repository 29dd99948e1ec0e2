"""Checks over HTTP in real time, against the simulated server in a process of its own.

The truth is what that process notes right before it hands bytes to the operating system, on the clock that all
processes of a machine share. What lies between that and the suite's own stamp is the network stack, the client's
event loop and its parser: the client's bias.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenops.bench.checks.barest import read_streams
from qwenops.bench.checks.truth import (
    Check,
    TrueTimes,
    at_most,
    each_figure,
    each_request,
    equal,
    failed,
    milliseconds,
    times_of,
)
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import NS_PER_S, Failure, Phase, RequestRecord
from qwenops.bench.resume import Opening
from qwenops.bench.run import begin
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import Faults, SimulatedOptions
from qwenops.bench.simulated.process import simulated_process
from qwenops.bench.stats import summarise
from qwenops.bench.targets import open_target
from qwenops.bench.workload import Ask, Workload, open_workload
from qwenops.text import clause, say

STREAMS, TOKENS_PER_S = 20, 40
_CLIENT_CORE_SHARE = 0.05
_MOST_CORE_SHARE = 0.1
"""On whatever machine."""
_STREAM_TOKENS = 240
_COST_TOKENS = 200
_OF_BAREST = 1.25
_COST_TRIES = 3
"""Whatever else the machine does only adds to what the client costs, so the cheapest try is nearest to the truth."""
_WARMUP_TOKENS = 8
_MOST_AT_ONCE = 12
_STAGGER_NS = 17_000_000
_LAW = "slots=64&contention=0&coherence=0&prefill_tokens_per_s=2000&decode_tokens_per_s=40"
_ON_TIME = 0.9
"""Share of requests that must be right each on its own: on a busy machine a process is sometimes not let run."""

_WIRES: tuple[tuple[str, Faults], ...] = (
    ("CRLF", Faults(line_end="crlf")),
    ("CR", Faults(line_end="cr")),
    ("comments", Faults(comments=True)),
    ("several data lines", Faults(multiline=True, line_end="crlf")),
    ("1 byte at a time", Faults(split_bytes=1)),
    ("7 bytes, CR, comments", Faults(split_bytes=7, line_end="cr", comments=True)),
    ("no final blank line", Faults(blank_end=False)),
    ("no [DONE]", Faults(done=False)),
    ("no role chunk", Faults(role_chunk=False)),
    ("<think> in band", Faults(reasoning="in_band")),
    ("field reasoning", Faults(reasoning="reasoning")),
)
"""Ways to write the same answer."""

_FAULTS: tuple[tuple[str, Faults, Failure, float | None], ...] = (
    ("429, Retry-After: 7", Faults(status=429, retry_after="7"), Failure.SHED, 7.0),
    ("503, Retry-After: 2", Faults(status=503, retry_after="2"), Failure.SHED, 2.0),
    ("500", Faults(status=500), Failure.FAILED, None),
    ("400", Faults(status=400), Failure.REJECTED, None),
    ("cut stream", Faults(cut_after=3), Failure.CUT, None),
    ("half a JSON object", Faults(malformed_after=3), Failure.MALFORMED, None),
    ("no content", Faults(empty=True), Failure.EMPTY, None),
    ("hangs", Faults(hang_after=3), Failure.TIMEOUT, None),
)
"""Ways to fail, as what each must be counted, and when it says to come back."""


async def check_times(folder: Path, tell: Callable[[str], None], *, tries: int) -> list[Check]:
    """Check every time that is measured over HTTP, and what measuring costs; run folders are made in `folder`.

    What comes out wrong is tried again: on a machine that does other things too, both the server and the suite are
    sometimes not let run.
    """
    found: list[Check] = []
    async with simulated_process(f"simulated:?{_LAW}") as url:
        for check in (_check_latency, _check_load, _check_streams, _check_cost, _check_ollama):
            made = await check(url, folder)
            for _ in range(tries - 1):
                if failed(made):
                    tell(say("Not as expected: {what}. Trying again.", what=clause(failed(made)[0].title)))
                    made = await check(url, folder)
            found += made
    return found


async def check_answers(folder: Path) -> list[Check]:
    """Check that answers and failures arrive as what they are; run folders are made in `folder`."""
    return await _check_wires(folder) + await _check_failures(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a server process says about one answer, on the machine's clock."""

    came_ns: int
    first_ns: int
    last_ns: int
    num_tokens: int
    plan_first_s: float
    plan_last_s: float

    @property
    def times(self) -> TrueTimes:
        """What the suite should say about it."""
        tpot_s = (self.last_ns - self.first_ns) / NS_PER_S / (self.num_tokens - 1) if self.num_tokens > 1 else None
        return {
            "ttft": (self.first_ns - self.came_ns) / NS_PER_S,
            "tpot": tpot_s,
            "e2e": (self.last_ns - self.came_ns) / NS_PER_S,
        }

    @property
    def late_s(self) -> float:
        """How much later than planned its last chunk left: this machine's doing."""
        return (self.last_ns - self.came_ns) / NS_PER_S - self.plan_last_s


async def _sent(url: str, since_ns: int) -> list[Sent]:
    """Return what the server at `url` has sent to requests that came since then, in the order in which they came."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{url}/simulated/truth") as response:
        told = json.loads(await response.read())
    found = [_sent_of(each) for each in told["requests"] if each["came_ns"] >= since_ns]
    return sorted(found, key=lambda each: each.came_ns)


def _sent_of(told: dict[str, Any]) -> Sent:
    return Sent(
        came_ns=told["came_ns"],
        first_ns=told["sent_first_ns"],
        last_ns=told["sent_last_ns"],
        num_tokens=told["num_tokens"],
        plan_first_s=(told["first_ns"] - told["arrived_ns"]) / NS_PER_S,
        plan_last_s=(told["last_ns"] - told["arrived_ns"]) / NS_PER_S,
    )


class _BriefAtFirst:
    """A workload whose warm-up answers are short: they only open connections."""

    def __init__(self, workload: Workload) -> None:
        self.name = workload.name
        self.facts = workload.facts
        self.arrivals_ns = workload.arrivals_ns
        self.ask = workload.ask
        self._workload = workload

    def warmup(self, index: int) -> Ask:
        ask = self._workload.warmup(index)
        return replace(ask, sampling=replace(ask.sampling, max_tokens=_WARMUP_TOKENS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One segment that was driven as every command drives it.

    Warm-up requests open the connections first: how long that takes is no part of what a server knows.
    """

    driven: Driven
    figures: Mapping[str, float]
    """What the client says about itself."""
    since_ns: int
    """When it began, on the machine's clock; before that were the warm-up requests."""


async def _measured(
    target_text: str, folder: Path, segment: Segment, *, warmup: int = 2, calibrate_s: float = 0.0, **options: Any
) -> Measured:
    made = replace(BenchOptions(folder=folder, prompt_tokens=64, timeout_s=60.0), **options)
    workload = _BriefAtFirst(open_workload(made, salt="selftest"))
    async with AsyncExitStack() as stack:
        target = await open_target(target_text, made)
        stack.push_async_callback(target.engine.aclose)
        opening = Opening(calibrate_s=calibrate_s)
        run = await stack.enter_async_context(begin("selftest", {"": target}, made, workload=workload, opening=opening))
        if warmup:
            load = ClosedLoop(users=warmup, requests=warmup)
            await run.drive(Segment(name="warmup", load=load, phase=Phase.WARMUP))
        since_ns = time.perf_counter_ns()
        driven = await run.drive(segment)
        return Measured(driven=driven, figures=dict(run.validity().figures), since_ns=since_ns)


async def _check_latency(url: str, folder: Path) -> list[Check]:
    """One caller, one request after the other: every time of every request, and what is printed."""
    segment = Segment(name="latency", load=ClosedLoop(users=1, requests=16))
    measured = await _measured(url, folder, segment, calibrate_s=1.0, max_tokens=16)
    driven, figures = measured.driven, measured.figures
    sent = await _sent(url, measured.since_ns)
    true = [each.times for each in sent]
    said = [times_of(record) for record in driven.records]
    late_s = sorted(each.late_s for each in sent)
    bias_s = figures.get("bias_ttft_s")
    return [
        equal(say("HTTP, one caller: answers"), len(driven.records), len(sent)),
        *each_request(
            lambda name: say("HTTP, one caller, each request: {name}", name=name), said, true, share=_ON_TIME
        ),
        *each_figure(lambda name: say("HTTP, one caller, printed: {name}", name=name), summarise(driven), true),
        at_most(say("The server's own lateness, median"), late_s[len(late_s) // 2] * 1000, 2.0, unit=" ms"),
        at_most(say("The client's own bias by its calibration"), _ms(bias_s), 2.0, unit=" ms"),
    ]


async def _check_load(url: str, folder: Path) -> list[Check]:
    """Poisson arrivals at eight a second: nothing is late, and what is printed is true."""
    schedule = arrivals("poisson", 8.0, count=72, seed=9)
    segment = Segment(name="load", load=OpenLoop(offsets_ns=schedule))
    measured = await _measured(url, folder, segment, warmup=_MOST_AT_ONCE, max_tokens=16)
    driven, figures = measured.driven, measured.figures
    true = [each.times for each in await _sent(url, measured.since_ns)]
    summary = summarise(driven)
    lag_s, achieved = figures.get("schedule_lag_p99_s"), figures.get("achieved_ratio")
    return [
        equal(say("HTTP, open loop: answers"), summary.counts.ok, len(schedule)),
        *each_figure(lambda name: say("HTTP, open loop, printed: {name}", name=name), summary, true),
        at_most(say("HTTP, open loop: schedule lag, p99"), _ms(lag_s), 5.0, unit=" ms"),
        Check(
            title=say("HTTP, open loop: sent in time"),
            expected=">= 0.99",
            measured="-" if achieved is None else f"{achieved:.3f}",
            ok=achieved is not None and achieved >= 0.99,  # noqa: PLR2004 -- of all that was due
        ),
    ]


async def _twenty_streams(url: str, folder: Path, tokens: int, *, stagger_ns: int) -> Measured:
    starts = tuple(number * stagger_ns for number in range(STREAMS))
    segment = Segment(name="streams", load=OpenLoop(offsets_ns=starts))
    return await _measured(url, folder, segment, warmup=STREAMS, max_tokens=tokens, force_length=True)


async def _check_streams(url: str, folder: Path) -> list[Check]:
    """Twenty streams of forty tokens a second: nothing is lost, and what is printed is true."""
    # Not all in the same instant: how long one waits for the others to be sent is another question.
    measured = await _twenty_streams(url, folder, _STREAM_TOKENS, stagger_ns=_STAGGER_NS)
    driven, lag_s = measured.driven, measured.figures.get("loop_lag_p99_s")
    true = [each.times for each in await _sent(url, measured.since_ns)]
    chunks = sum(record.num_chunks for record in driven.records)
    return [
        equal(say("20 streams: chunks with content"), chunks, STREAMS * _STREAM_TOKENS),
        *each_figure(lambda name: say("20 streams, printed: {name}", name=name), summarise(driven), true),
        at_most(say("20 streams: event-loop lag, p99"), _ms(lag_s), 5.0, unit=" ms"),
    ]


async def _check_cost(url: str, folder: Path) -> list[Check]:
    """What the client itself costs at twenty streams of forty tokens a second, which come in step as from a batch.

    On a machine where even the barest client takes more than that, it is held to the barest one.
    """
    found: list[float] = []
    barest: list[float] = []
    while len(found) < _COST_TRIES:
        measured = await _twenty_streams(url, folder, _COST_TOKENS, stagger_ns=0)
        is_whole = all(each.failure is None for each in measured.driven.records)
        found.append(measured.figures.get("client_cores", math.inf) if is_whole else math.inf)
        if min(found) <= _CLIENT_CORE_SHARE:
            break
        cost = await read_streams(url, streams=STREAMS, tokens=_COST_TOKENS)
        barest += [cost.core_share] if cost.whole == STREAMS else []
        if min(found) <= _cost_limit(barest):
            break
    limit = _cost_limit(barest)
    beside = f" ({_OF_BAREST:g} x {min(barest) * 100:.3g} %)" if limit > _CLIENT_CORE_SHARE else ""
    return [
        Check(
            title=say("20 streams x 40 tokens/s: the client's share of one core"),
            expected=f"<= {limit * 100:.4g} %{beside}",
            measured=f"{min(found) * 100:.4g} %",
            ok=min(found) <= limit,
        )
    ]


def _cost_limit(barest: Sequence[float]) -> float:
    """Return what the client may take of a core: the usual, or a little more than the barest one, within reason."""
    return max(_CLIENT_CORE_SHARE, min(_MOST_CORE_SHARE, _OF_BAREST * min(barest, default=0.0)))


async def _check_ollama(url: str, folder: Path) -> list[Check]:
    """Ollama's own timings against ours."""
    segment = Segment(name="ollama", load=ClosedLoop(users=1, requests=4))
    measured = await _measured(f"ollama:simulated@{url}", folder, segment, max_tokens=12)
    driven = measured.driven
    wrong = [
        record
        for record in driven.records
        if record.failure is not None or not _agrees(record, record.reported.get("eval_duration"))
    ]
    said = [record.reported.get("eval_duration") for record in driven.records[:1]]
    ours = [_between(record) for record in driven.records[:1]]
    return [
        Check(
            title=say("Ollama: its eval_duration and our first to last chunk"),
            expected=f"4 x <= 2 ms | 1 %, {milliseconds(said[0] if said else None)}",
            measured=f"{len(driven.records) - len(wrong)}/4, {milliseconds(ours[0] if ours else None)}",
            ok=bool(driven.records) and not wrong,
        )
    ]


async def _check_wires(folder: Path) -> list[Check]:
    """Ask for the same answer, written in every way that the protocol allows: the same must arrive."""
    quick = SimulatedOptions(prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0, thinking_tokens=5)
    plain = await _text(quick, Faults(), folder)
    found = []
    for name, faults in _WIRES:
        got = await _text(quick, faults, folder)
        found.append(
            Check(
                title=say("Event stream: {name}", name=name),
                expected=f"{len(plain)}",
                measured=f"{len(got)}",
                ok=bool(plain) and got == plain,
            )
        )
    return found


async def _text(options: SimulatedOptions, faults: Faults, folder: Path) -> str:
    """Return the text of one answer, as the suite records it, with its number of tokens."""
    record = await _one(options, faults, folder, thinking=True, record_text=True)
    return f"{record.answer} {record.completion_tokens} {record.finish_reason}" if record.failure is None else ""


async def _check_failures(folder: Path) -> list[Check]:
    """Let answers fail in every way, and check what each is counted as."""
    quick = SimulatedOptions(prefill_tokens_per_s=0.0, decode_tokens_per_s=0.0)
    found = []
    for name, faults, expected, retry_after_s in _FAULTS:
        record = await _one(quick, faults, folder, timeout_s=1.0)
        said = (record.failure, record.retry_after_s)
        found.append(
            Check(
                title=say("Failure: {name}", name=name),
                expected=_shown(expected, retry_after_s),
                measured=_shown(*said),
                ok=said == (expected, retry_after_s),
            )
        )
    return [*found, await _check_refused(folder)]


async def _check_refused(folder: Path) -> Check:
    """Ask a server that was there and is gone."""
    from qwenops.bench.simulated.server import serve_simulated

    options = BenchOptions(folder=folder, prompt_tokens=64, max_tokens=4, timeout_s=10.0)
    async with serve_simulated(ServerModel(SimulatedOptions())) as url:
        target = await open_target(url, options)
    try:
        async with begin("selftest", {"": target}, options, opening=Opening(calibrate_s=0.0)) as run:
            driven = await run.drive(Segment(name="one", load=ClosedLoop(users=1, requests=1)))
    finally:
        await target.engine.aclose()
    measured = _shown(driven.records[0].failure, None)
    expected = _shown(Failure.CONNECT, None)
    name = say("Failure: {name}", name=say("connection refused"))
    return Check(title=name, expected=expected, measured=measured, ok=measured == expected)


async def _one(options: SimulatedOptions, faults: Faults, folder: Path, **more: Any) -> RequestRecord:
    """Send one request to a server in this process and return its record."""
    from qwenops.bench.simulated.server import serve_simulated

    async with serve_simulated(ServerModel(options), faults=faults) as url:
        segment = Segment(name="one", load=ClosedLoop(users=1, requests=1))
        measured = await _measured(url, folder, segment, warmup=0, max_tokens=24, **more)
    return measured.driven.records[0]


def _agrees(record: RequestRecord, said_s: float | None) -> bool:
    from qwenops.bench.checks.truth import will_do

    ours_s = _between(record)
    return said_s is not None and ours_s is not None and will_do(ours_s, said_s)


def _between(record: RequestRecord) -> float | None:
    if record.first_content_ns is None or record.last_content_ns is None:
        return None
    return (record.last_content_ns - record.first_content_ns) / NS_PER_S


def _shown(failure: Failure | None, retry_after_s: float | None) -> str:
    said = "ok" if failure is None else failure.value
    return said if retry_after_s is None else f"{said}, {retry_after_s:g} s"


def _ms(time_s: float | None) -> float | None:
    return None if time_s is None else time_s * 1000
