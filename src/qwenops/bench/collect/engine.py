"""What the engine says about itself during a run: how many requests it works on, what fills its memory, its speed.

A server is asked for its metrics in Prometheus' text; ours, vLLM's and llama.cpp's names are mapped to one name per
quantity. An engine in this process is asked for its health. Samples (schema `qwenops.engine/1`) hold what was said;
counters are rates since the sample before. Where nothing is said, one sample tells why, and no more are taken.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qwenops.bench.clock import Clock
from qwenops.bench.collect.collector import Listen
from qwenops.bench.conclusion import crossed
from qwenops.bench.record import NS_PER_S
from qwenops.bench.target import Target
from qwenops.text import Text, say

if TYPE_CHECKING:
    import aiohttp

SCHEMA = "qwenops.engine/1"

MOST_BYTES = 4 * 1024**2
"""Of metrics that are read."""
_TIMEOUT_S = 3.0
_OK, _GONE = 200, frozenset({401, 403, 404, 405, 501})

GAUGES: Mapping[str, str] = {
    "qwen3_running_requests": "running_requests",
    "qwen3_queue_requests": "waiting_requests",
    "qwen3_kv_used_ratio": "kv_used_ratio",
    "qwen3_prefill_tokens_per_second": "prefill_tokens_per_s",
    "qwen3_decode_tokens_per_second": "decode_tokens_per_s",
    "qwen3_model_memory_usage_bytes": "memory_bytes",
    "vllm:num_requests_running": "running_requests",
    "vllm:num_requests_waiting": "waiting_requests",
    "vllm:kv_cache_usage_perc": "kv_used_ratio",
    "vllm:gpu_cache_usage_perc": "kv_used_ratio",
    "llamacpp:requests_processing": "running_requests",
    "llamacpp:requests_deferred": "waiting_requests",
    "llamacpp:kv_cache_usage_ratio": "kv_used_ratio",
    "llamacpp:prompt_tokens_seconds": "prefill_tokens_per_s",
    "llamacpp:predicted_tokens_seconds": "decode_tokens_per_s",
}
"""What is true at the moment, by the server's name for it. vLLM's `perc` is a ratio in spite of its name."""

COUNTERS: Mapping[str, str] = {
    "qwen3_prompt_tokens_total": "prompt_tokens_per_s",
    "qwen3_generated_tokens_total": "generated_tokens_per_s",
    "qwen3_cached_tokens_total": "cached_tokens_per_s",
    "qwen3_engine_preemptions_total": "preemptions_per_s",
    "qwen3_engine_restarts_total": "restarts_per_s",
    "qwen3_shed_requests_total": "shed_requests_per_s",
    "vllm:prompt_tokens_total": "prompt_tokens_per_s",
    "vllm:generation_tokens_total": "generated_tokens_per_s",
    "vllm:prefix_cache_hits_total": "cached_tokens_per_s",
    "vllm:num_preemptions_total": "preemptions_per_s",
    "llamacpp:prompt_tokens_total": "prompt_tokens_per_s",
    "llamacpp:tokens_predicted_total": "generated_tokens_per_s",
}
"""What only grows; samples hold it per second."""

_RATIOS = frozenset({"kv_used_ratio"})
_LINE = re.compile(
    r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^\n]*\})?[ \t]+(NaN|[+-]?(?:Inf|[0-9.]+(?:[eE][+-]?[0-9]+)?))", re.MULTILINE
)


class EngineWatch:
    """Asks the engines of some targets at equal times; a `Collector`.

    Args:
        targets: By their names in the run.
        clock: The run's clock; with a virtual one nothing is asked.
        every_s: Time between two questions to one engine.
    """

    def __init__(self, targets: Mapping[str, Target], clock: Clock, *, every_s: float = 2.0) -> None:
        """Remember whom to ask."""
        self._targets = targets
        self._clock = clock
        self._every_s = every_s

    @property
    def journal(self) -> str:
        """Name of the journal its samples belong to."""
        return "engine"

    @asynccontextmanager
    async def watching(self, origin_ns: int, listen: Listen) -> AsyncIterator[None]:
        """Ask until the block is left."""
        if self._clock.virtual or not self._targets:
            yield
            return

        def now_ns() -> int:
            return self._clock.now_ns() - origin_ns

        async with contextlib.AsyncExitStack() as stack:
            tasks = [
                asyncio.create_task(
                    self._ask_on(name, target, await stack.enter_async_context(_session(target)), now_ns, listen)
                )
                for name, target in self._targets.items()
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_on(
        self,
        name: str,
        target: Target,
        session: "aiohttp.ClientSession",
        now_ns: Callable[[], int],
        listen: Listen,
    ) -> None:
        heading = {"schema": SCHEMA, "target": name}
        said: dict[str, Any] = {}
        if target.url and (model := await _model(session, target.url)):
            said["model"] = model
        before: tuple[int, Mapping[str, float]] | None = None
        while True:
            at_ns = now_ns()
            found = await _scraped(session, target.url) if target.url else _health(target)
            if isinstance(found, Text):
                listen({**heading, "at_ns": at_ns, "absent": crossed({"metrics": found}), **said})
                return
            if found is not None:
                gauges, counters = found
                rates = {} if before is None else _rates(before[1], counters, (at_ns - before[0]) / NS_PER_S)
                before = at_ns, counters
                listen({**heading, "at_ns": at_ns, **gauges, **rates, **said})
                said = {}
            await asyncio.sleep(self._every_s)


def _session(target: Target) -> "aiohttp.ClientSession":
    """Return what asks one server; its key, if it has one, is sent to no other."""
    import aiohttp

    key = target.api_key
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
        headers={} if key is None else {"Authorization": f"Bearer {key.reveal()}"},
        trust_env=False,
    )


Figures = tuple[dict[str, float], dict[str, float]]
"""Gauges and counters, by our names."""


def parse_metrics(text: str) -> Figures:
    """Return what Prometheus' text says under known names; series of one add up, of a ratio the largest counts."""
    gauges: dict[str, float] = {}
    counters: dict[str, float] = {}
    for name, written in _LINE.findall(text):
        known, found = (GAUGES[name], gauges) if name in GAUGES else (COUNTERS.get(name), counters)
        if known is not None and (value := float(written)) == value and abs(value) != float("inf"):
            found[known] = max(found.get(known, 0.0), value) if known in _RATIOS else found.get(known, 0.0) + value
    return gauges, counters


async def _scraped(session: "aiohttp.ClientSession", url: str) -> Figures | Text | None:
    """Return a server's figures; a sentence when it has none to show; None when it does not answer now."""
    import aiohttp

    try:
        async with session.get(_root(url) + "/metrics") as answer:
            if answer.status in _GONE:
                return say("the server shows no metrics (status {status} at /metrics)", status=answer.status)
            if answer.status != _OK:
                return None
            found = parse_metrics(await _text(answer))
    except (aiohttp.ClientError, TimeoutError):
        return None
    if not any(found):
        return say("the server's metrics have no name that is known here")
    return found


async def _text(answer: "aiohttp.ClientResponse") -> str:
    raw = bytearray()
    async for piece in answer.content.iter_any():
        raw += piece
        if len(raw) > MOST_BYTES:
            break
    return raw.decode("utf-8", "replace")


def _health(target: Target) -> Figures | Text:
    """Return what an engine in this process says."""
    if target.kind != "in-process":
        return say("the server's own figures are not asked for")
    health = target.engine.info.health
    gauges = {
        "running_requests": float(health.running),
        "waiting_requests": float(health.waiting),
        "kv_used_ratio": health.kv_used_ratio,
        "prefill_tokens_per_s": health.prefill_tokens_per_s,
        "decode_tokens_per_s": health.decode_tokens_per_s,
        "memory_bytes": float(health.memory_bytes),
    }
    counters = {
        "preemptions_per_s": float(health.preemptions),
        "restarts_per_s": float(health.restarts),
        "cached_tokens_per_s": float(health.cached_prompt_tokens),
    }
    return gauges, counters


async def _model(session: "aiohttp.ClientSession", url: str) -> Mapping[str, Any] | None:
    """Return what one of our own servers says about its model."""
    import aiohttp

    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
        async with session.get(_root(url) + "/api/v1/model") as answer:
            if answer.status == _OK:
                data = await answer.json()
                return data if isinstance(data, dict) else None
    return None


def _rates(before: Mapping[str, float], now: Mapping[str, float], passed_s: float) -> dict[str, float]:
    """Return what counters grew by per second; one that fell began anew with its server."""
    grown = {
        name: value - before[name] if value >= before[name] else value for name, value in now.items() if name in before
    }
    return {name: round(value / max(passed_s, 1e-3), 4) for name, value in grown.items()}


def _root(url: str) -> str:
    """Return the address without its path: metrics do not live below /v1."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
