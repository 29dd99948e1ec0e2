"""What measuring costs the client: the engine's and the recorder's share of one core, in a process of its own.

The simulated server runs in another process. Every stream is one request through `bench.send.Line`, as in any run;
CPU time is counted from the moment at which all streams have begun until the first of them ends. Beside it: the least
that any client on aiohttp does (read each event, parse its JSON, note the time; `least`), and what reading one event's
JSON costs with each parser that is a dependency already.

    python -m benchmarks.client_cost                       # 20 streams of 40 tokens/s, and 1,000 of 5 tokens/s
    python -m benchmarks.client_cost --seconds 5 --write-nothing
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.recording import spread, write_result
from qwenops.bench.checks.barest import SETTLE_S, read_streams
from qwenops.command import PIPE, run, spawn

GOAL_CPU_SHARE = 0.05
"""Of one core, at 20 streams of 40 tokens/s."""
MOST_CPU_SHARE = 0.9
"""Of one core, at 1,000 streams: beyond it the client would measure itself."""
GOAL_NOT_MET = 3
WORDS = 64
EVENTS = 20_000


def main() -> int:
    """Measure, print, write the result, and say by the exit status whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each stream lasts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write-nothing", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        told = json.loads(options.child)
        return _serve(told) if told["serve"] else _ask(told)
    figures: dict[str, Any] = {"parsers_us_per_event": parsers()}
    for api in ("openai", "ollama", "least"):
        for loop in ("uvloop", "asyncio"):
            found = [_measured(api, loop, 20, 40.0, options.seconds) for _ in range(options.repeats)]
            figures[f"{api}_{loop}_20x40"] = summed_up(found)
    figures["openai_uvloop_1000x5"] = summed_up([_measured("openai", "uvloop", 1000, 5.0, options.seconds)])
    print(json.dumps(figures, indent=2))
    missed = goals_missed(figures)
    median = figures["openai_uvloop_20x40"]["cpu_share"]["median"]
    print(f"client: {median:.1%} of one core at 20 streams of 40 tokens/s (goal: at most {GOAL_CPU_SHARE:.0%})")
    print("\n".join(missed) or "every goal is met")
    if not options.write_nothing:
        print(
            write_result(
                "client-cost", options={"seconds": options.seconds, "repeats": options.repeats}, results=figures
            )
        )
    return GOAL_NOT_MET if missed else 0


def goals_missed(figures: Mapping[str, Any]) -> list[str]:
    """Say which goals the figures miss: each stream is answered whole, and the client costs what it may."""
    missed = [
        f"{name}: only {each['answered_ratio']['min']:.1%} of the streams were answered whole"
        for name, each in figures.items()
        if "answered_ratio" in each and each["answered_ratio"]["min"] < 1
    ]
    for name, most in (("openai_uvloop_20x40", GOAL_CPU_SHARE), ("openai_uvloop_1000x5", MOST_CPU_SHARE)):
        median = figures[name]["cpu_share"]["median"]
        if median > most:
            missed.append(f"{name}: {median:.1%} of one core, where {most:.0%} are allowed")
    return missed


def summed_up(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the spread of each figure of repeated measurements."""
    return {name: spread([each[name] for each in found]) for name in found[0]}


def parsers() -> dict[str, float]:
    """Return microseconds for reading one event of a chat, by parser."""
    from pydantic_core import from_json

    event = json.dumps(
        {
            "id": "chatcmpl-5f0c5f0c5f0c5f0c",
            "object": "chat.completion.chunk",
            "created": 1767225600,
            "model": "qwen3:0.6b",
            "system_fingerprint": "fp_9f86d081884c-int8-2026.4.1",
            "choices": [{"index": 0, "delta": {"content": " works"}, "logprobs": None, "finish_reason": None}],
        }
    ).encode()
    ways: dict[str, Callable[[bytes], Any]] = {
        "json.loads": json.loads,
        "json.loads of text": lambda data: json.loads(data.decode()),
        "pydantic_core.from_json": from_json,
    }
    return {name: round(min(_seconds(way, event) for _ in range(5)) / EVENTS * 1e6, 2) for name, way in ways.items()}


def _seconds(way: Callable[[bytes], Any], event: bytes) -> float:
    began_s = time.process_time()
    for _ in range(EVENTS):
        way(event)
    return time.process_time() - began_s


def _measured(api: str, loop: str, streams: int, rate: float, seconds: float) -> dict[str, Any]:
    """Run one client against a server of its own."""
    with _server(rate) as url:
        told = {"serve": False, "url": url, "api": api, "loop": loop, "streams": streams, "rate": rate}
        told["tokens"] = int(rate * seconds)
        finished = run(_argv(told), timeout_s=seconds * 4 + 60)
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


@contextmanager
def _server(rate: float) -> Iterator[str]:
    with spawn(_argv({"serve": True, "rate": rate}), stdin=PIPE, stdout=PIPE) as child:
        if child.stdout is None:
            raise RuntimeError(child.argv)
        yield child.stdout.readline().decode().strip()


def _argv(told: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "benchmarks.client_cost", "--child", json.dumps(told)]


def _serve(told: dict[str, Any]) -> int:
    """Serve until standard input ends. Every stream has its full rate, however many there are."""
    import uvloop

    from qwenops.bench.simulated.model import ServerModel
    from qwenops.bench.simulated.options import SimulatedOptions
    from qwenops.bench.simulated.server import serve_simulated

    options = SimulatedOptions(
        slots=4096, prefill_tokens_per_s=0, decode_tokens_per_s=told["rate"], contention=0, coherence=0
    )

    async def serve() -> None:
        async with serve_simulated(ServerModel(options)) as url:
            print(url, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    uvloop.run(serve())
    return 0


def _ask(told: dict[str, Any]) -> int:
    """Run the streams and print what they took."""
    import uvloop

    start = uvloop.run if told["loop"] == "uvloop" else asyncio.run
    print(json.dumps(start(_streams(told))), flush=True)
    return 0


async def _streams(told: dict[str, Any]) -> dict[str, Any]:
    from qwenops.bench.clock import RealClock
    from qwenops.bench.options import BenchOptions
    from qwenops.bench.send import Line
    from qwenops.bench.targets import open_target
    from qwenops.engines.remote import Moment

    if told["api"] == "least":
        return await _least(told)
    clock = RealClock()
    text = f"ollama:@{told['url']}" if told["api"] == "ollama" else told["url"]
    target = await open_target(text, BenchOptions())
    line = Line(target, clock, clock.now_ns())
    begun: set[str] = set()
    all_begun = asyncio.Event()

    def note(request_id: str, moment: Moment) -> None:
        if moment == "first_byte":
            begun.add(request_id)
            if len(begun) == told["streams"]:
                all_begun.set()

    target.listen_moments(note)
    tasks = [
        asyncio.ensure_future(line.send(_errand(number, told["tokens"]), clock.now_ns()))
        for number in range(told["streams"])
    ]
    await all_begun.wait()
    await asyncio.sleep(SETTLE_S)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    cpu_s, wall_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
    records = await asyncio.gather(*tasks)
    await target.engine.aclose()
    answered = [each for each in records if each.failure is None and each.completion_tokens == told["tokens"]]
    chunks_per_s = sum(each.num_chunks for each in records) / told["tokens"] * told["rate"]
    return {
        "cpu_share": cpu_s / wall_s,
        "us_per_chunk": cpu_s / wall_s / chunks_per_s * 1e6,
        "answered_ratio": len(answered) / len(records),
    }


async def _least(told: dict[str, Any]) -> dict[str, Any]:
    """Read the same streams with nothing but aiohttp and the standard library's parser; keep the times alone."""
    cost = await read_streams(told["url"], streams=told["streams"], tokens=told["tokens"])
    return {
        "cpu_share": cost.core_share,
        "us_per_chunk": cost.core_share / (told["streams"] * told["rate"]) * 1e6,
        "answered_ratio": cost.whole / told["streams"],
    }


def _errand(number: int, tokens: int) -> Any:
    from qwenops.bench.record import Phase
    from qwenops.bench.send import Errand
    from qwenops.bench.workload import Ask
    from qwenops.generation import GenerationRequest, Message, Messages, SamplingParams

    messages = Messages(messages=(Message(role="user", content=f"{number} " + "word " * WORDS),))
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return Errand(
        index=number,
        segment="cost",
        phase=Phase.MEASURE,
        ask=Ask(item="cost", messages=messages, sampling=sampling, prompt_hash=""),
        request=GenerationRequest(id=str(number), prompt=messages, sampling=sampling),
    )


if __name__ == "__main__":
    sys.exit(main())
