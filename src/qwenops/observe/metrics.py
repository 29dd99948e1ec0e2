"""Every Prometheus metric of the server, each declared once with its help, unit, labels and buckets.

The names begin with `qwen3_`; four of them are those of the user's design. Labels are bounded: a model label is the
name that is served, never what a client wrote, and no label holds a key, a client or a request. Values that somebody
else keeps (queue, engine, memory) are read by `refresh` callables right before a rendering.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from qwenops.observe.record import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_TOKEN_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)

VLLM_NAMES = {
    "qwen3_running_requests": "vllm:num_requests_running",
    "qwen3_queue_requests": "vllm:num_requests_waiting",
    "qwen3_kv_used_ratio": "vllm:kv_cache_usage_perc",
    "qwen3_prompt_tokens": "vllm:prompt_tokens",
    "qwen3_generated_tokens": "vllm:generation_tokens",
    "qwen3_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "qwen3_time_per_output_token_seconds": "vllm:time_per_output_token_seconds",
    "qwen3_inference_duration_seconds": "vllm:e2e_request_latency_seconds",
    "qwen3_queue_time_seconds": "vllm:request_queue_time_seconds",
    "qwen3_engine_preemptions": "vllm:num_preemptions",
}
"""Our families by the names that dashboards and autoscalers made for vLLM know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the reference says about one metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    unit: str
    labels: tuple[str, ...]


class Metrics:
    """All metrics on a registry of their own."""

    def __init__(self, registry: CollectorRegistry | None = None, *, compat: Literal["", "vllm"] = "") -> None:
        """Declare every metric; `compat` adds the names of another server."""
        self.registry = registry if registry is not None else CollectorRegistry()
        self.declared: list[Declared] = []
        self.refresh: list[Callable[[Metrics], None]] = []
        """Called, on the event loop and without waiting, before each rendering."""
        self._totals: dict[tuple[str, tuple[str, ...]], float] = {}
        self._aliases = _Renamed(self.registry, VLLM_NAMES) if compat == "vllm" else None
        self._declare_requests()
        self._declare_queue()
        self._declare_engine()
        self._declare_process()

    def _declare_requests(self) -> None:
        self.requests = self._counter(
            "inference_requests_total", "Inference requests by how they ended.", "", ("model", "endpoint", "status")
        )
        self.duration = self._histogram(
            "inference_duration_seconds",
            "Time from arrival to the end of the answer.",
            "seconds",
            ("model",),
            _LATENCY_S,
        )
        self.ttft = self._histogram(
            "time_to_first_token_seconds", "Time from arrival to the first token.", "seconds", ("model",), _LATENCY_S
        )
        self.tpot = self._histogram(
            "time_per_output_token_seconds", "Time per token after the first.", "seconds", ("model",), _TOKEN_S
        )
        self.prompt_tokens = self._counter("prompt_tokens_total", "Tokens of prompts.", "tokens", ("model",))
        self.generated_tokens = self._counter("generated_tokens_total", "Tokens of answers.", "tokens", ("model",))
        self.cached_tokens = self._counter(
            "cached_tokens_total", "Tokens of prompts that the prefix cache held.", "tokens", ("model",)
        )
        self.request_prompt_tokens = self._histogram(
            "request_prompt_tokens", "Length of prompts.", "tokens", ("model",), _TOKENS
        )
        self.request_generated_tokens = self._histogram(
            "request_generated_tokens", "Length of answers.", "tokens", ("model",), _TOKENS
        )
        self.errors = self._counter("errors_total", "Requests that failed, by the code of the error.", "", ("code",))
        self.classified = self._counter(
            "classified_calls_total",
            "Calls classified, by who decides: auto, parent or review.",
            "",
            ("model", "decision"),
        )
        self.active_connections = self._gauge("active_connections", "Open connections of clients.", "")

    def _declare_queue(self) -> None:
        self.queue_time = self._histogram(
            "queue_time_seconds",
            "Time that requests waited for their turn.",
            "seconds",
            ("model",),
            (0.001, *_LATENCY_S),
        )
        self.queue_requests = self._gauge("queue_requests", "Requests that wait for their turn.", "")
        self.queue_tokens = self._gauge("queue_tokens", "Prompt tokens that wait for their turn.", "tokens")
        self.running_requests = self._gauge("running_requests", "Requests that the engine works on.", "")
        self.saturation = self._gauge(
            "saturation_ratio", "Open requests by those computed together; above 1 requests wait.", "ratio"
        )
        self.estimated_wait = self._gauge(
            "estimated_wait_seconds", "How long a request that came now would wait.", "seconds"
        )
        self.shed = self._counter("shed_requests_total", "Requests turned away, by reason.", "", ("reason",))

    def _declare_engine(self) -> None:
        self.model_memory = self._gauge(
            "model_memory_usage_bytes", "Resident memory of the process that computes.", "bytes", ("model",)
        )
        self.kv_used = self._gauge("kv_used_ratio", "Used part of the KV cache.", "ratio")
        self.preemptions = self._counter(
            "engine_preemptions_total", "Sequences put back because the KV cache was full.", ""
        )
        self.engine_up = self._gauge("engine_up", "1 while the engine can work.", "")
        self.engine_restarts = self._counter("engine_restarts_total", "Times the engine was started again.", "")
        self.prefill_speed = self._gauge(
            "prefill_tokens_per_second", "Measured speed of reading prompts.", "tokens per second"
        )
        self.decode_speed = self._gauge(
            "decode_tokens_per_second", "Measured speed of writing answers, all together.", "tokens per second"
        )
        self.model_load = self._gauge("model_load_seconds", "Time the served model took to load.", "seconds")
        self.served_model = self._gauge(
            "served_model_info",
            "1 for the model that is served; `fallback_for` is not empty when it stands in for another.",
            "",
            ("model", "engine", "quantization", "revision", "fallback_for"),
        )

    def _declare_process(self) -> None:
        self.ready = self._gauge("ready", "1 while /readyz says so.", "")
        self.config_generation = self._gauge("config_generation", "Counts the configurations taken over, from 1.", "")
        self.config_reloads = self._counter("config_reloads_total", "Reloads by their result.", "", ("result",))
        self.build = self._gauge("build_info", "1, with the version.", "", ("version",))
        self.process_memory = self._gauge("process_memory_bytes", "Resident memory of this process.", "bytes")
        self.process_cpu = self._counter("process_cpu_seconds_total", "CPU time of this process.", "seconds")
        self.open_files = self._gauge("process_open_files", "Open file descriptors of this process.", "")
        self.cgroup_memory = self._gauge("cgroup_memory_bytes", "Memory charged to the control group.", "bytes")
        self.cgroup_memory_limit = self._gauge(
            "cgroup_memory_limit_bytes", "Memory limit of the control group; 0 is none.", "bytes"
        )
        self.cfs_periods = self._counter("cfs_periods_total", "Scheduling periods of the control group's quota.", "")
        self.cfs_throttled = self._counter(
            "cfs_throttled_periods_total", "Scheduling periods in which the quota stopped the group.", ""
        )
        self.cfs_throttled_time = self._counter(
            "cfs_throttled_seconds_total", "Time for which the quota stopped the group.", "seconds"
        )
        self.log_failures = self._counter(
            "log_write_failures_total", "Log lines that could not be written.", "", ("log",)
        )

    def request_finished(self, record: RequestRecord) -> None:
        """Count one inference request at its end."""
        model = record.served_model
        self.requests.labels(model, record.endpoint, record.status).inc()
        if record.error_code:
            self.errors.labels(record.error_code).inc()
        if record.prompt_tokens:
            self.prompt_tokens.labels(model).inc(record.prompt_tokens)
            self.generated_tokens.labels(model).inc(record.completion_tokens)
            self.cached_tokens.labels(model).inc(record.cached_tokens)
        if record.status != "success":
            return
        self.duration.labels(model).observe(record.duration_s)
        self.queue_time.labels(model).observe(record.queue_s)
        self.request_prompt_tokens.labels(model).observe(record.prompt_tokens)
        self.request_generated_tokens.labels(model).observe(record.completion_tokens)
        if record.ttft_s is not None:
            self.ttft.labels(model).observe(record.ttft_s)
        if record.tpot_s is not None:
            self.tpot.labels(model).observe(record.tpot_s)

    def raise_to(self, counter: Counter, total: float, *labels: str) -> None:
        """Bring a counter to a total that somebody else counts; a smaller total means that they began anew."""
        name = next(iter(counter.describe())).name
        seen = self._totals.get((name, labels), 0.0)
        self._totals[name, labels] = total
        child = counter.labels(*labels) if labels else counter
        child.inc(total - seen if total >= seen else total)

    async def render(self) -> bytes:
        """Return the text that Prometheus scrapes; the formatting happens in a thread, off the event loop."""
        for each in self.refresh:
            each(self)
        return await asyncio.to_thread(self._render)

    def _render(self) -> bytes:
        text = generate_latest(self.registry)
        return text + generate_latest(self._aliases) if self._aliases else text

    def _counter(self, name: str, text: str, unit: str, labels: Sequence[str] = ()) -> Counter:
        self._note(name, "counter", text, unit, labels)
        return Counter(f"qwen3_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, unit: str, labels: Sequence[str] = ()) -> Gauge:
        self._note(name, "gauge", text, unit, labels)
        return Gauge(f"qwen3_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, unit: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        self._note(name, "histogram", text, unit, labels)
        return Histogram(f"qwen3_{name}", text, labels, registry=self.registry, buckets=buckets)

    def _note(
        self,
        name: str,
        kind: Literal["counter", "gauge", "histogram"],
        text: str,
        unit: str,
        labels: Sequence[str],
    ) -> None:
        self.declared.append(Declared(name=f"qwen3_{name}", kind=kind, help=text, unit=unit, labels=tuple(labels)))


class _Renamed(Collector):
    """Some families of a registry under other names."""

    def __init__(self, source: CollectorRegistry, names: dict[str, str]) -> None:
        self._source = source
        self._names = names

    def collect(self) -> Iterable[Metric]:
        for family in self._source.collect():
            name = self._names.get(family.name)
            if name is None:
                continue
            renamed = Metric(name, family.documentation, family.type)
            for each in family.samples:
                labels = {("model_name" if key == "model" else key): value for key, value in each.labels.items()}
                renamed.add_sample(
                    name + each.name.removeprefix(family.name), labels, each.value, each.timestamp, each.exemplar
                )
            yield renamed
