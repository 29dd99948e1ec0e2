"""Runs as a small server would have left them: two slots, a queue, a throttled minute, a few failures. Repeatable."""

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenops.bench.compare import Design, compare
from qwenops.bench.comparing import comparison_data, ratio_table, remarks, verdict
from qwenops.bench.conclusion import Conclusion, Finding, Outcome, Table, conclusion_data
from qwenops.bench.folder import SCHEMA, Gap, RecordedRun
from qwenops.bench.objective import judge, parse_slo, verdict_data
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.text import say

S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What answers: seconds for a prompt's token and an answer's token, and when it is held back."""

    prefill_s: float = 0.0011
    decode_s: float = 0.045
    slots: int = 2
    slow_from_s: float = 1e9
    slow_to_s: float = 1e9
    slowdown: float = 2.6
    failing: float = 0.0
    chunks: bool = True


def answered(
    arrivals_s: Sequence[float], server: Server, *, seed: int, segment: str, first: int = 0
) -> list[RequestRecord]:
    """Return the records of requests that came at these times."""
    draw = random.Random(seed)
    free = [0.0] * server.slots
    records = []
    for number, at in enumerate(arrivals_s):
        prompt, answer = max(40, int(draw.lognormvariate(6.2, 0.45))), draw.randint(12, 64)
        begin = max(at + 0.002, heapq.heappop(free))
        factor = server.slowdown if server.slow_from_s <= begin < server.slow_to_s else 1.0
        ttft = (begin - at) + prompt * server.prefill_s * factor * draw.uniform(0.92, 1.1)
        gaps = [server.decode_s * factor * draw.uniform(0.85, 1.25) for _ in range(answer - 1)]
        heapq.heappush(free, at + ttft + sum(gaps))
        records.append(_record(first + number, segment, at, ttft, gaps, (prompt, answer), draw, server))
    return records


def _record(
    index: int,
    segment: str,
    at: float,
    ttft: float,
    gaps: Sequence[float],
    tokens: tuple[int, int],
    draw: random.Random,
    server: Server,
) -> RequestRecord:
    scheduled, lag = int(at * S), int(abs(draw.gauss(0.0006, 0.0004)) * S)
    told: dict[str, Any] = {
        "index": index,
        "segment": segment,
        "phase": Phase.MEASURE,
        "item": f"call-{index % 97}",
        "prompt_hash": f"{index:08x}",
        "scheduled_ns": scheduled,
        "sent_ns": scheduled + lag,
        "connected_ns": scheduled + lag + 300_000,
    }
    if draw.random() < server.failing:
        failure = draw.choice([Failure.TIMEOUT, Failure.SHED, Failure.SHED, Failure.CUT])
        ended = scheduled + int((30 if failure is Failure.TIMEOUT else draw.uniform(0.01, 0.4)) * S)
        message = {
            "timeout": "no answer within 30 s",
            "shed": "503 Service Unavailable",
            "cut": "the stream ended early",
        }
        return RequestRecord(**told, ended_ns=ended, failure=failure, message=message[failure.value])
    content = scheduled + lag + int(ttft * S)
    last = content + int(sum(gaps) * S)
    return RequestRecord(
        **told,
        first_byte_ns=content - 1_000_000,
        first_content_ns=content,
        first_answer_ns=content,
        last_content_ns=last,
        ended_ns=last + 1_500_000,
        chunk_gaps_us=tuple(int(gap * 1e6) for gap in gaps) if server.chunks else (int(sum(gaps) * 1e6),),
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        cached_tokens=min(180, tokens[0] // 2),
        token_source="server",
        finish_reason="stop",
    )


def poisson(rate: float, duration_s: float, seed: int) -> list[float]:
    """Return the arrival times of a Poisson process."""
    draw, at, found = random.Random(seed), 0.0, []
    while (at := at + draw.expovariate(rate)) < duration_s:
        found.append(at)
    return found


def driven(records: Sequence[RequestRecord], *, began_s: float, window_s: float, users: int | None = None) -> Driven:
    """Return the segment that these records make."""
    offsets = tuple(each.scheduled_ns - int(began_s * S) for each in records)
    load = OpenLoop(offsets_ns=offsets) if users is None else ClosedLoop(users=users)
    name = records[0].segment
    ended = max(each.ended_ns or 0 for each in records)
    segment = Segment(name=name, load=load, duration_s=window_s)
    return Driven(
        segment=segment, began_ns=int(began_s * S), window_ns=int(window_s * S), ended_ns=ended, records=tuple(records)
    )


def manifest(verb: str, **more: Any) -> dict[str, Any]:
    """Return what a run says about itself."""
    return {
        "schema": SCHEMA,
        "state": "done",
        "verb": verb,
        "command": [
            "qwenops",
            "bench",
            verb,
            "http://127.0.0.1:8000/v1",
            "--rate",
            "0.8",
            "--slo",
            "ttft p95 < 2s, errors < 1%",
        ],
        "targets": {"": {"text": "http://127.0.0.1:8000/v1", "kind": "openai", "model": "qwen3:0.6b"}},
        "options": {"rate": 0.8, "duration_s": 600, "cache": "warm", "slo": "ttft p95 < 2s, errors < 1%", "seed": 1},
        "workload": {"kind": "calls-zh", "cache": "warm", "seed": 1, "hash": "9f31c2e07a55d1be"},
        "hashes": {"schedule": "4be19c20f7a8", "prompts": "77aa0e31b2c4"},
        "machine": {
            "processor": "Intel(R) Xeon(R) Platinum 8481C",
            "usable_cores": 2,
            "memory_total_bytes": 8_232_083_456,
            "isa": ["avx512f", "avx512_vnni", "amx_int8"],
            "kernel": "6.8.0",
        },
        "versions": {"qwenops": "0.1.0", "python": "3.11.7", "aiohttp": "3.14.1"},
        "began_wall_ns": 1_795_435_200_000_000_000,
        "validity": {
            "verdict": "VALID",
            "reasons": [],
            "figures": {"schedule_lag_p99_s": 0.0017, "loop_lag_p99_s": 0.0021, "client_cpu_share": 0.012},
        },
        **more,
    }


def host(duration_s: float, server: Server, *, seed: int = 7, every_s: float = 1.0) -> list[dict[str, Any]]:
    """Return what the host looked like meanwhile."""
    draw, samples, at = random.Random(seed), [], 0.0
    while at < duration_s:
        slow = server.slow_from_s <= at < server.slow_to_s
        busy = min(1.0, draw.gauss(0.72, 0.09) * (0.7 if slow else 1))
        samples.append(
            host_sample(int(at * S), busy=busy, throttled=draw.uniform(0.3, 0.44) if slow else 0.0, draw=draw)
        )
        at += every_s
    return samples


def host_sample(at_ns: int, *, busy: float, throttled: float, draw: random.Random) -> dict[str, Any]:
    """Return one sample of the host."""
    return {
        "schema": "qwenops.host/1",
        "at_ns": at_ns,
        "interval_s": 1.0,
        "cpu_busy_cores": busy * 2,
        "server_cpu_cores": busy * 1.86,
        "client_cpu_cores": 0.021,
        "other_cpu_cores": busy * 0.12,
        "cpu_steal_ratio": abs(draw.gauss(0.0, 0.004)),
        "throttled_ratio": throttled,
        "pressure_cpu_some_ratio": busy * 0.4,
        "server_rss_bytes": 1_310_000_000 + at_ns // 100_000,
        "memory_available_bytes": 4_900_000_000 - at_ns // 50_000,
        "server_read_bytes_per_s": 0,
    }


def load_run(
    *, duration_s: float = 600.0, rate: float = 0.8, troubled: bool = True, seed: int = 3, chunks: bool = True
) -> RecordedRun:
    """Return an open-loop run; a troubled one was throttled for a while and lost some requests."""
    server = Server(chunks=chunks)
    if troubled:
        begin = duration_s * 0.55
        server = Server(slow_from_s=begin, slow_to_s=begin + duration_s * 0.12, failing=0.02, chunks=chunks)
    records = answered(poisson(rate, duration_s, seed), server, seed=seed, segment="load")
    found = driven(records, began_s=0.0, window_s=duration_s)
    findings: tuple[Finding, ...] = ()
    gaps: tuple[Gap, ...] = ()
    if troubled:
        text = say("The slowest answers coincide with {share:.0f} % CPU throttling.", share=38.0)
        begin_ns, end_ns = int(server.slow_from_s * S), int(server.slow_to_s * S)
        findings = (Finding(text=text, severity="warning", from_ns=begin_ns, to_ns=end_ns),)
        gaps = (Gap(at_ns=int(duration_s * 0.25 * S), lost_s=95.0),)
    sentence = say("{num} requests were sent in {s:.0f} s.", num=len(records), s=duration_s)
    slo = parse_slo("ttft p95 < 2s, errors < 1%")
    verdicts = [{"segment": "load", **verdict_data(judge(records, slo, timeout_s=30.0))}]
    conclusion = Conclusion(outcome=Outcome.DONE, sentences=(sentence,), findings=findings, data={"verdicts": verdicts})
    return recorded("load", [found], conclusion, host=host(duration_s, server), gaps=gaps)


def recorded(
    verb: str,
    drivens: Sequence[Driven],
    conclusion: Conclusion,
    *,
    host: Sequence[Mapping[str, Any]] = (),
    gaps: Sequence[Gap] = (),
    **more: Any,
) -> RecordedRun:
    """Return a run with its conclusion as its folder would give it back."""
    return RecordedRun(
        path=Path("runs/example"),
        manifest=manifest(verb, **more),
        drivens=tuple(drivens),
        host=tuple(host),
        summary=conclusion_data(conclusion),
        gaps=tuple(gaps),
    )


def table() -> Table:
    """Return a table as a command makes one."""
    return Table(title=say("Steps"), headings=(say("Users"), say("Answers per second")), rows=((1, 0.6), (2, None)))


def ladder_run() -> RecordedRun:
    """Return steps with more and more callers."""
    drivens, levels, began, first = [], [], 0.0, 0
    for users in (1, 2, 4, 8):
        rate = users / (1 + 0.18 * (users - 1) + 0.02 * users * (users - 1)) * 0.4
        found = answered(
            [began + number / rate for number in range(int(60 * rate))],
            Server(slots=users),
            seed=users,
            segment=f"users={users}",
            first=first,
        )
        drivens.append(driven(found, began_s=began, window_s=60.0, users=users))
        levels.append({"users": users, "per_s": rate * 0.98, "error": 0.02, "residence_s": users / rate})
        began, first = began + 90.0, first + len(found)
    law = {"one_per_s": 0.4, "contention": 0.18, "coherence": 0.02, "knee_users": 2.37}
    sentence = say("The knee is at {users:.1f} callers.", users=2.37)
    climb = {"limits": "", "levels": levels, "usl": law}
    data = {"climbs": [climb], "usl": law, "knee_users": 2.37}
    conclusion = Conclusion(outcome=Outcome.DONE, sentences=(sentence,), tables=(table(),), data=data)
    return recorded("stress", drivens, conclusion, host=host(360.0, Server()))


def compare_run(*, effect: float = 0.92, pairs: int = 8) -> RecordedRun:
    """Return pairs of blocks of which B's take `effect` times as long."""
    drivens, began, first, draw = [], 0.0, 0, random.Random(11)
    for number in range(1, pairs + 1):
        for side, factor in (("A", 1.0), ("B", effect)):
            noisy = factor * draw.uniform(0.96, 1.04)
            server = Server(prefill_s=0.0011 * noisy, decode_s=0.045 * noisy, slots=8)
            arrivals = [began + each * 4.0 for each in range(8)]
            found = answered(arrivals, server, seed=number, segment=f"block {number} {side}", first=first)
            found = [replace(each, target=side, item=f"item-{place}") for place, each in enumerate(found)]
            drivens.append(driven(found, began_s=began, window_s=32.0, users=1))
            began, first = began + 40.0, first + len(found)
    sides = list(zip(drivens[::2], drivens[1::2], strict=True))
    comparison = compare(sides, Design(looks=(pairs,)))
    conclusion = Conclusion(
        outcome=comparison.outcome,
        sentences=(verdict(comparison), *remarks(comparison)),
        tables=(ratio_table(comparison),),
        data=comparison_data(comparison),
    )
    targets = {
        side: {"text": f"openvino:qwen3:0.6b?scheme={scheme}", "model": scheme} for side, scheme in SCHEMES.items()
    }
    return recorded("compare", drivens, conclusion, targets=targets)


SCHEMES = {"A": "int8", "B": "int4"}


TWO_LIMITS = (("cpu=1", 0.4, 0.045), ("cpu=2", 0.8, 0.02))


def limited_run(
    limits: Sequence[tuple[str, float, float]] = TWO_LIMITS, steps: Sequence[int] = (1, 2, 4)
) -> RecordedRun:
    """Return the same steps against a server under some limits, cut off before it was concluded."""
    drivens, began, first = [], 0.0, 0
    for target, pace, decode_s in limits:
        for users in steps:
            rate = pace * users / (1 + 0.18 * (users - 1))
            arrivals = [began + number / rate for number in range(int(60 * rate))]
            server = Server(slots=users, decode_s=decode_s)
            found = answered(arrivals, server, seed=users, segment=f"users={users}", first=first)
            found = [replace(each, target=target) for each in found]
            drivens.append(driven(found, began_s=began, window_s=60.0, users=users))
            began, first = began + 90.0, first + len(found)
    run = recorded("stress", drivens, Conclusion(outcome=Outcome.DONE, sentences=()))
    return replace(run, summary={})


def soak_run() -> RecordedRun:
    """Return an hour in which the server's memory grows."""
    found = driven(answered(poisson(0.3, 3600.0, 5), Server(), seed=5, segment="soak"), began_s=0.0, window_s=3600.0)
    conclusion = Conclusion(outcome=Outcome.LEAK, sentences=(say("LEAK: the server's memory grows."),))
    samples = [
        {**sample, "server_rss_bytes": 1_300_000_000 + sample["at_ns"] // 20_000, "server_descriptors": 41}
        for sample in host(3600.0, Server(), every_s=5.0)
    ]
    return recorded("soak", [found], conclusion, host=samples)


def startup_run() -> RecordedRun:
    """Return three cold and three warm starts."""
    rounds = [
        {"state": state, "running_s": 0.02, "listening_s": 1.1, "ready_s": ready, "first_token_s": ready + 0.4}
        for state, ready in (("cold", 9.1), ("cold", 9.4), ("cold", 8.9), ("warm", 4.0), ("warm", 4.2), ("warm", 3.9))
    ]
    sentence = say("{state} start: ready after {ready:.2f} s.", state=say("Cold"), ready=9.1)
    return recorded("startup", [], Conclusion(outcome=Outcome.DONE, sentences=(sentence,), data={"rounds": rounds}))


RUNS = {
    "load": load_run,
    "stress": ladder_run,
    "compare": compare_run,
    "soak": soak_run,
    "startup": startup_run,
}
