import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import generate_latest

from qwenops.bench.clock import RealClock
from qwenops.bench.collect.engine import COUNTERS, GAUGES, EngineWatch, parse_metrics
from qwenops.bench.conclusion import uncrossed
from qwenops.bench.target import Target
from qwenops.command import Secret
from qwenops.engines.fake import FakeEngine
from qwenops.engines.seam import EngineHealth
from qwenops.observe.metrics import Metrics
from qwenops.text import Text

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-0.6B"} 3.0
vllm:num_requests_running{engine="1",model_name="Qwen/Qwen3-0.6B"} 2.0
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen3-0.6B"} 4.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:prompt_tokens_total{engine="0"} 1.2345e+06
vllm:generation_tokens_total{engine="0"} 100.0
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 7.0
"""
LLAMA = """
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 900
llamacpp:tokens_predicted_total 30
llamacpp:prompt_tokens_seconds 412.5
llamacpp:predicted_tokens_seconds NaN
llamacpp:requests_processing 1
llamacpp:requests_deferred 0
"""


def test_the_names_of_vllm_are_known_series_add_up_and_ratios_do_not() -> None:
    gauges, counters = parse_metrics(VLLM)
    assert gauges == {"running_requests": 5.0, "waiting_requests": 4.0, "kv_used_ratio": 0.5}
    assert counters == {"prompt_tokens_per_s": 1_234_500.0, "generated_tokens_per_s": 100.0}


def test_the_names_of_llama_cpp_are_known_and_what_is_no_number_is_left_out() -> None:
    gauges, counters = parse_metrics(LLAMA)
    assert gauges == {"prefill_tokens_per_s": 412.5, "running_requests": 1.0, "waiting_requests": 0.0}
    assert counters == {"prompt_tokens_per_s": 900.0, "generated_tokens_per_s": 30.0}


def test_our_own_names_are_those_that_our_server_shows() -> None:
    metrics = Metrics()
    metrics.running_requests.set(2)
    metrics.queue_requests.set(5)
    shown = {each.name for each in metrics.declared}
    ours = {name.removesuffix("_total") for name in {**GAUGES, **COUNTERS} if name.startswith("qwen3_")}
    assert ours <= {name.removesuffix("_total") for name in shown}
    gauges, _ = parse_metrics(generate_latest(metrics.registry).decode())
    assert (gauges["running_requests"], gauges["waiting_requests"]) == (2.0, 5.0)


@asynccontextmanager
async def serving(metrics: Callable[[web.Request], web.Response], model: Any = None) -> AsyncIterator[str]:
    async def show(request: web.Request) -> web.Response:
        return metrics(request)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(model) if model is not None else web.Response(status=404)

    app = web.Application()
    app.add_routes([web.get("/metrics", show), web.get("/api/v1/model", tell)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def target(url: str, kind: Any = "openai") -> Target:
    return Target(text=url, kind=kind, engine=FakeEngine(), model="m", url=url)


async def watched(watch: EngineWatch, seconds: float) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    async with watch.watching(RealClock().now_ns(), found.append):
        await asyncio.sleep(seconds)
    return found


async def test_a_server_is_asked_at_equal_times_and_counters_become_rates() -> None:
    tokens = iter(range(100, 10_000, 50))

    def metrics(_: web.Request) -> web.Response:
        text = f'qwen3_running_requests 2\nqwen3_generated_tokens_total{{model="m"}} {next(tokens)}\n'
        return web.Response(text=text)

    async with serving(metrics, model={"name": "m", "threads": 2}) as url:
        found = await watched(EngineWatch({"a": target(url + "/v1")}, RealClock(), every_s=0.2), 0.9)
    assert 3 <= len(found) <= 6
    assert found[0]["model"] == {"name": "m", "threads": 2}
    assert all("model" not in each for each in found[1:])
    assert "generated_tokens_per_s" not in found[0]
    for first, each in itertools.pairwise(found):
        passed_s = (each["at_ns"] - first["at_ns"]) / 1e9
        assert each["generated_tokens_per_s"] == pytest.approx(50 / passed_s, rel=0.01)
        assert (each["schema"], each["target"], each["running_requests"]) == ("qwenops.engine/1", "a", 2.0)


@pytest.mark.parametrize(
    ("status", "text", "why"), [(404, "", "status 404"), (401, "", "status 401"), (200, "python_gc 1\n", "no name")]
)
async def test_a_server_without_metrics_is_said_to_have_none_and_left_alone(status: int, text: str, why: str) -> None:
    asked = 0

    def metrics(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=status, text=text)

    async with serving(metrics) as url:
        (found,) = await watched(EngineWatch({"": target(url)}, RealClock(), every_s=0.05), 0.4)
    reason = uncrossed(found["absent"]["metrics"])
    assert isinstance(reason, Text)  # so that the report says it in its reader's language
    assert why in reason
    assert asked == 1


async def test_a_server_that_is_away_for_a_while_is_asked_again() -> None:
    answers = iter([503, 503, 200, 200, 200, 200, 200, 200, 200, 200])

    def metrics(_: web.Request) -> web.Response:
        return web.Response(status=next(answers, 200), text=LLAMA)

    async with serving(metrics) as url:
        found = await watched(EngineWatch({"": target(url)}, RealClock(), every_s=0.1), 0.6)
    assert len(found) >= 2
    assert found[0]["prefill_tokens_per_s"] == 412.5


async def test_a_server_that_nobody_runs_disturbs_nothing() -> None:
    assert await watched(EngineWatch({"": target("http://127.0.0.1:9")}, RealClock(), every_s=0.05), 0.2) == []


async def test_the_key_is_sent_and_nothing_else_is_told_it() -> None:
    seen: list[str] = []

    def metrics(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.Response(text=LLAMA)

    async with serving(metrics) as url:
        own = replace(target(url), api_key=Secret("k-123"))
        found = await watched(EngineWatch({"": own}, RealClock(), every_s=1), 0.1)
    assert seen == ["Bearer k-123"]
    assert "k-123" not in repr(found)


async def test_each_server_is_sent_its_own_key_and_no_other() -> None:
    seen: dict[str, list[str]] = {"mine": [], "theirs": []}

    def noting(name: str) -> Callable[[web.Request], web.Response]:
        def metrics(request: web.Request) -> web.Response:
            seen[name].append(request.headers.get("Authorization", ""))
            return web.Response(text=LLAMA)

        return metrics

    async with serving(noting("mine")) as mine, serving(noting("theirs")) as theirs:
        targets = {"A": replace(target(mine), api_key=Secret("k-123")), "B": target(theirs)}
        await watched(EngineWatch(targets, RealClock(), every_s=1), 0.1)
    assert seen == {"mine": ["Bearer k-123"], "theirs": [""]}


async def test_an_engine_in_this_process_is_asked_for_its_health() -> None:
    engine = FakeEngine()
    engine.health = EngineHealth(kv_used_ratio=0.5, preemptions=3, memory_bytes=1000)
    inside = Target(text="fake:m", kind="in-process", engine=engine, model="m")
    found = await watched(EngineWatch({"": inside}, RealClock(), every_s=0.05), 0.12)
    assert (found[0]["kv_used_ratio"], found[0]["memory_bytes"]) == (0.5, 1000.0)
    assert found[1]["preemptions_per_s"] == 0.0


async def test_in_virtual_time_nobody_is_asked() -> None:
    class Virtual(RealClock):
        virtual = True

    inside = Target(text="fake:m", kind="in-process", engine=FakeEngine(), model="m")
    assert await watched(EngineWatch({"": inside}, Virtual(), every_s=0.01), 0.05) == []
