"""What HTTP costs: the served engine against the same engine called through the seam, in one run, in turn.

    python -m benchmarks.served [--model random:0.6b] [--repetitions 5]

Both sides are asked the same: greedy answers of fixed length to random prompts, 1 and 8 at a time. The client of the
served side runs in this process, on the same cores, so its cost counts against us. Then: added time to first token,
what the API process takes while idle, and whether 200 idle connections and 500 waiting requests slow the streams that
run.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from benchmarks.recording import RESULTS, converted, ratios, spread, write_result
from qwenops.command import spawn
from qwenops.deploy.demo_speed import server_environ
from qwenops.engines.openvino import open_engine
from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import Engine
from qwenops.generation import GenerationRequest, SamplingParams, Tokens

PROMPT_TOKENS = 128
ANSWER_TOKENS = 128
CONTEXT_TOKENS = 2048
START_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 600.0
VOCABULARY = (1000, 100_000)

GOALS: dict[str, tuple[str, float]] = {
    "served_to_engine_1": ("at least", 0.97),
    "served_to_engine_8": ("at least", 0.95),
    "added_ttft_ms": ("at most", 10.0),
    "api_rss_mib": ("at most", 150e6 / 2**20),
    "api_cpu_percent_of_a_core": ("at most", 1.0),
    "crowded_to_alone": ("at least", 0.95),
}
GOAL_NOT_MET = 3


def prompts(seed: int, count: int, length: int = PROMPT_TOKENS) -> list[list[int]]:
    """Return `count` prompts of `length` random tokens; another seed shares no prefix with them."""
    draw = random.Random(seed)
    return [[draw.randrange(*VOCABULARY) for _ in range(length)] for _ in range(count)]


async def ask_engine(engine: Engine, prompt: Sequence[int], max_tokens: int, name: str) -> float:
    """Answer one prompt through the seam; return seconds to the first token."""
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    request = GenerationRequest(id=name, prompt=Tokens(ids=tuple(prompt)), sampling=sampling)
    start, first, count = time.perf_counter(), 0.0, 0
    async for chunk in engine.generate(request):
        first = first or time.perf_counter() - start
        count += len(chunk.token_ids)
    if count != max_tokens:
        raise RuntimeError(f"{count} tokens instead of {max_tokens}")
    return first


def body(prompt: Sequence[int], max_tokens: int) -> dict[str, Any]:
    """Return the request of /v1/completions that asks for the same."""
    return {
        "model": "",
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }


async def ask_server(session: ClientSession, url: str, prompt: Sequence[int], max_tokens: int, model: str) -> float:
    """Answer one prompt over HTTP, streamed; return seconds to the first content."""
    start, first, usage = time.perf_counter(), 0.0, None
    async with session.post(f"{url}/v1/completions", json=body(prompt, max_tokens) | {"model": model}) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - start
                if b'"usage":{' in line.replace(b" ", b""):
                    usage = json.loads(line[6:])["usage"]
    if usage is None or usage["completion_tokens"] != max_tokens:
        raise RuntimeError(f"the stream ended with {usage}")
    return first


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def served(model: str, session: ClientSession, home: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Start `qwenops serve` on loopback, wait until it is ready, stop it at the end."""
    port = free_port()
    argv = [sys.executable, "-m", "qwenops", "serve", model, "--port", str(port)]
    environ = server_environ(os.environ, home) | {
        "QWENOPS_ENGINE_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
        "QWENOPS_ENGINE_MAX_RUNNING": "8",
        "QWENOPS_SERVE_LIMITS_QUEUE_REQUESTS": "1000",
        "QWENOPS_SERVE_LIMITS_QUEUE_TOKENS": "1000000",
        "QWENOPS_SERVE_LOG_DIR": str(home / "logs"),
        "QWENOPS_SERVE_DRAIN_TIMEOUT_S": "5s",
    }
    with (home / "server.log").open("wb") as log:
        process = spawn(argv, env=environ, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            await wait_ready(session, url, process)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30.0)


async def wait_ready(session: ClientSession, url: str, process: Any) -> None:
    """Wait until /readyz answers 200."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("the server ended while it started; see server.log")
        try:
            async with session.get(f"{url}/readyz") as response:
                if response.status == 200:  # noqa: PLR2004 -- HTTP's own number
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.2)
    raise TimeoutError(f"{url} was not ready within {START_TIMEOUT_S} s")


async def throughput(ask: Any, many: list[list[int]]) -> float:
    """Ask all prompts at once; return tokens per second of all answers together."""
    start = time.perf_counter()
    await asyncio.gather(*(ask(prompt, index) for index, prompt in enumerate(many)))
    return len(many) * ANSWER_TOKENS / (time.perf_counter() - start)


async def compare(engine: Engine, session: ClientSession, url: str, model: str, repetitions: int) -> dict[str, Any]:
    """Take throughput at 1 and 8 streams and TTFT of both sides, in turn."""
    figures: dict[str, list[float]] = {}

    def ask_inside(seed: int) -> Any:
        return lambda prompt, index: ask_engine(engine, prompt, ANSWER_TOKENS, f"{seed}-{index}")

    def ask_outside(prompt: list[int], _: int) -> Any:
        return ask_server(session, url, prompt, ANSWER_TOKENS, model)

    for repetition in range(repetitions + 1):
        for streams in (1, 8):
            seed = repetition * 100 + streams
            inside = await throughput(ask_inside(seed), prompts(seed, streams))
            outside = await throughput(ask_outside, prompts(seed, streams))
            if repetition:  # the first round warms both up
                figures.setdefault(f"engine_{streams}", []).append(inside)
                figures.setdefault(f"served_{streams}", []).append(outside)
    for repetition in range(20):
        for prompt in prompts(5000 + repetition, 1, 32):
            figures.setdefault("engine_ttft", []).append(await ask_engine(engine, prompt, 1, f"t{repetition}"))
            figures.setdefault("served_ttft", []).append(await ask_server(session, url, prompt, 1, model))
    added = [
        (outside - inside) * 1e3 for inside, outside in zip(figures["engine_ttft"], figures["served_ttft"], strict=True)
    ]
    return {
        "tokens_per_s": {name: spread(values) for name, values in figures.items() if "ttft" not in name},
        "served_to_engine_1": ratios(figures["served_1"], figures["engine_1"]),
        "served_to_engine_8": ratios(figures["served_8"], figures["engine_8"]),
        "added_ttft_ms": spread(added),
    }


async def idle(process: psutil.Process, seconds: float = 20.0) -> dict[str, float]:
    """Return resident memory and CPU share of the API process while nobody asks."""
    await asyncio.sleep(3)
    before = process.cpu_times()
    await asyncio.sleep(seconds)
    after = process.cpu_times()
    busy = (after.user + after.system) - (before.user + before.system)
    return {
        "api_rss_mib": round(process.memory_info().rss / 2**20, 1),
        "api_cpu_percent_of_a_core": round(100 * busy / seconds, 3),
    }


async def count_pieces(session: ClientSession, url: str, prompt: list[int], model: str, counted: list[int]) -> None:
    """Stream a long answer and count its pieces into `counted`; ends by being cancelled."""
    async with session.post(f"{url}/v1/completions", json=body(prompt, 1500) | {"model": model}) as response:
        response.raise_for_status()
        async for line in response.content:
            counted[0] += line.startswith(b"data: {")


async def streaming_rate(session: ClientSession, url: str, model: str, seed: int, crowded: bool) -> float:  # noqa: FBT001 -- the one difference
    """Return pieces per second of 8 streams, alone or while 500 requests wait and 200 connections idle.

    The window opens when the crowd has arrived: what is measured is what waiting costs, not what arriving costs.
    """
    counted = [0]
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    tasks: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(count_pieces(session, url, prompt, model, counted)) for prompt in prompts(seed, 8, 32)
    ]
    await asyncio.sleep(1.5)
    if crowded:
        port = int(url.rsplit(":", 1)[1])
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        tasks += [
            asyncio.ensure_future(ask_server(session, url, prompt, 16, model)) for prompt in prompts(9000, 500, 16)
        ]
    await asyncio.sleep(2.5)  # in both cases, as a step takes longer with more behind it
    begun, before = time.perf_counter(), counted[0]
    await asyncio.sleep(5)
    rate = (counted[0] - before) / (time.perf_counter() - begun)
    if any(task.done() for task in tasks):
        raise RuntimeError("a request ended while it should have run or waited")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _, writer in connections:
        writer.close()
    await asyncio.sleep(1.5)
    return rate


async def crowd(session: ClientSession, url: str, model: str, repetitions: int) -> dict[str, Any]:
    """Compare 8 running streams alone with the same beside 200 idle connections and 500 waiting requests."""
    alone, crowded = [], []
    for repetition in range(repetitions):
        alone.append(await streaming_rate(session, url, model, 7000 + repetition, crowded=False))
        crowded.append(await streaming_rate(session, url, model, 7000 + repetition, crowded=True))
    return {
        "alone_tokens_per_s": spread(alone),
        "crowded_tokens_per_s": spread(crowded),
        "crowded_to_alone": ratios(crowded, alone),
    }


def judged(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Compare the figures with the goals."""
    figures = {
        **{name: results[name]["median"] for name in ("served_to_engine_1", "served_to_engine_8", "added_ttft_ms")},
        **results["idle"],
        "crowded_to_alone": results["crowd"]["crowded_to_alone"]["median"],
    }
    return {
        name: {
            "goal": f"{word} {bound:.4g}",
            "measured": figures[name],
            "met": figures[name] >= bound if word == "at least" else figures[name] <= bound,
        }
        for name, (word, bound) in GOALS.items()
    }


async def measure_crowd(model: str, repetitions: int) -> dict[str, Any]:
    """Run the last part alone."""
    with tempfile.TemporaryDirectory() as home:
        timeout = ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with (
            ClientSession(connector=TCPConnector(limit=0), timeout=timeout, read_bufsize=2**18) as session,
            served(model, session, Path(home)) as (url, _),
        ):
            return await crowd(session, url, model, repetitions)


async def measure(model: str, folder: Path, repetitions: int) -> dict[str, Any]:
    """Run all parts and return their figures."""
    options = EngineOptions(model_dir=folder, model_name=model, context_tokens=CONTEXT_TOKENS, max_running=8)
    timeout = ClientTimeout(total=REQUEST_TIMEOUT_S)
    with tempfile.TemporaryDirectory() as home:
        async with (
            ClientSession(connector=TCPConnector(limit=0), timeout=timeout, read_bufsize=2**18) as session,
            served(model, session, Path(home)) as (url, process),
        ):
            quiet = await idle(process)
            engine = await open_engine(options)
            try:
                await engine.ready()
                compared = await compare(engine, session, url, model, repetitions)
            finally:
                await engine.aclose()
            crowded = await crowd(session, url, model, max(3, repetitions // 2))
            after = await idle(process, 10.0)
    return compared | {"idle": quiet, "idle_after_load": after, "crowd": crowded}


def main() -> int:
    """Run the benchmark and print where its result lies; 3 when a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random:0.6b")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--crowd-only", action="store_true", help="take the last part anew; keep the others' figures")
    arguments = parser.parse_args()
    folder = converted(arguments.model, "int8")
    if arguments.crowd_only:
        results = json.loads((RESULTS / "served.json").read_text(encoding="utf-8"))["results"]
        results["crowd"] = asyncio.run(measure_crowd(arguments.model, arguments.repetitions))
    else:
        results = asyncio.run(measure(arguments.model, folder, arguments.repetitions))
    options = {
        "model": arguments.model,
        "scheme": "int8",
        "prompt_tokens": PROMPT_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "repetitions": arguments.repetitions,
    }
    goals = judged(results)
    path = write_result("served", options=options, results=results | {"goals": goals})
    print(json.dumps(results | {"goals": goals}, indent=2))
    print(path)
    return 0 if all(each["met"] for each in goals.values()) else GOAL_NOT_MET


if __name__ == "__main__":
    sys.exit(main())
