"""The parts of one server, put together: what `run` starts and what the routes get."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwenops.engines.seam import EngineHealth, EngineState
from qwenops.observe.logs import LineWriter
from qwenops.observe.metrics import Metrics
from qwenops.observe.record import RequestRecord
from qwenops.observe.system import SystemSample, SystemWatch
from qwenops.serve.admin import admin_router
from qwenops.serve.admission import Admission, Speed
from qwenops.serve.app import create_app
from qwenops.serve.auth import KeyRing
from qwenops.serve.champion import Desk
from qwenops.serve.lifecycle import Lifecycle, State
from qwenops.serve.options import ServeOptions
from qwenops.serve.probes import metrics_router, probe_router
from qwenops.serve.reload import ReadOptions, Reloader
from qwenops.serve.serving import ServedModel, Serving

_log = logging.getLogger(__name__)

Translate = Callable[[str, str], str]


@dataclass(kw_only=True, eq=False)
class Site:
    """One server's parts."""

    lifecycle: Lifecycle
    metrics: Metrics
    writer: LineWriter
    admission: Admission
    keys: KeyRing
    reloader: Reloader
    watch: SystemWatch
    app: ASGIApp = field(init=False)
    opened: ServedModel | None = None
    """The engine as soon as it exists; it must be closed at the end."""
    model: ServedModel | None = None
    """The same, once it can work."""
    sample: SystemSample | None = None
    """The last one taken."""
    desk: Desk | None = None
    """What the routes about calls need, where there is a classifier."""
    num_connections: Callable[[], int] = lambda: 0

    def served(self) -> ServedModel:
        """Return the model that serves, or raise while there is none."""
        if self.model is None:
            self.lifecycle.check_open()
            raise AssertionError("a lifecycle without an engine lets nobody in")
        return self.model

    def health(self) -> EngineHealth | None:
        """Return how the engine is doing; None while there is none."""
        return self.model.engine.info.health if self.model is not None else None

    def speed(self) -> Speed:
        """Return what the engine measured of itself."""
        health = self.health()
        if health is None:
            return Speed()
        return Speed(prefill_tokens_per_s=health.prefill_tokens_per_s, decode_tokens_per_s=health.decode_tokens_per_s)

    def finished(self, record: RequestRecord) -> None:
        """Count a request and write its line."""
        self.metrics.request_finished(record)
        self.writer.write("requests", record.line())

    def serve_with(self, model: ServedModel) -> None:
        """Take an opened engine into service."""
        self.model = model
        for name, why in model.engine.info.notes.items():
            _log.info("decided from this machine: %s: %s", name, why)
        self.follow_engine()
        self.lifecycle.opened(lambda: model.engine.info.health, load_s=lambda: model.engine.info.load_s)

    def follow_engine(self) -> None:
        """Let as many requests in together as the engine computes; a restart may have changed that."""
        if self.model is None:
            return
        info = self.model.engine.info
        if info.health.state is EngineState.READY and info.max_running != self.admission.line.slots:
            self.admission.resize(info.max_running)

    def refresh_metrics(self, metrics: Metrics) -> None:
        """Bring the metrics that others keep up to date; called before each scrape."""
        admission, lifecycle = self.admission, self.lifecycle
        metrics.active_connections.set(self.num_connections())
        metrics.queue_requests.set(admission.num_waiting)
        metrics.queue_tokens.set(admission.queued_work.prompt_tokens)
        metrics.running_requests.set(admission.num_running)
        metrics.saturation.set(admission.saturation_ratio)
        metrics.estimated_wait.set(admission.estimated_wait_s)
        metrics.ready.set(lifecycle.is_ready)
        metrics.config_generation.set(self.reloader.generation)
        self._refresh_engine(metrics)
        if self.sample is not None:
            _refresh_system(metrics, self.sample)

    def _refresh_engine(self, metrics: Metrics) -> None:
        if self.model is None:
            metrics.engine_up.set(0)
            return
        info = self.model.engine.info
        health = info.health
        metrics.engine_up.set(health.state is EngineState.READY)
        metrics.served_model.clear()
        revision = self.model.revision
        metrics.served_model.labels(info.model, info.engine, info.quantization, revision, info.fallback_for).set(1)
        metrics.model_load.set(info.load_s)
        metrics.raise_to(metrics.engine_restarts, health.restarts)
        metrics.raise_to(metrics.preemptions, health.preemptions)
        metrics.kv_used.set(health.kv_used_ratio)
        metrics.prefill_speed.set(health.prefill_tokens_per_s)
        metrics.decode_speed.set(health.decode_tokens_per_s)
        metrics.model_memory.labels(info.model).set(health.memory_bytes)


def _refresh_system(metrics: Metrics, sample: SystemSample) -> None:
    metrics.process_memory.set(sample.process_memory_bytes)
    metrics.raise_to(metrics.process_cpu, sample.process_cpu_s)
    metrics.open_files.set(sample.process_open_files)
    metrics.cgroup_memory.set(sample.cgroup_memory_bytes)
    metrics.cgroup_memory_limit.set(sample.cgroup_memory_limit_bytes)
    metrics.raise_to(metrics.cfs_periods, sample.cfs_periods)
    metrics.raise_to(metrics.cfs_throttled, sample.cfs_throttled_periods)
    metrics.raise_to(metrics.cfs_throttled_time, sample.cfs_throttled_s)


def build_site(
    options: ServeOptions,
    keys: KeyRing,
    *,
    read_options: ReadOptions | None = None,
    translate: Translate = lambda _, template: template,
    desk: Desk | None = None,
) -> Site:
    """Put the parts together; call it within the event loop. Nothing listens yet, and there is no engine."""
    metrics = Metrics(compat=options.metrics_compat)
    metrics.build.labels(version("qwenops")).set(1)
    lifecycle = Lifecycle()
    writer = LineWriter(options.log, on_failure=lambda log, num: metrics.log_failures.labels(log).inc(num))
    site: Site
    admission = Admission(
        options.limits,
        speed=lambda: site.speed(),  # noqa: PLW0108 -- `site` does not exist yet
        check_open=lifecycle.check_open,
        on_shed=lambda refusal: metrics.shed.labels(refusal.value).inc(),
    )
    reloader = Reloader(
        options,
        read_options,
        apply=(
            lambda new: admission.reconfigure(new.limits),
            lambda new: writer.reconfigure(new.log),
            lambda new: logging.getLogger().setLevel(new.log.level.upper()),
        ),
        on_result=lambda result: metrics.config_reloads.labels(result).inc(),
    )
    site = Site(
        lifecycle=lifecycle,
        metrics=metrics,
        writer=writer,
        admission=admission,
        keys=keys,
        reloader=reloader,
        watch=SystemWatch(disk=options.log.dir.absolute()),
        desk=desk,
    )
    metrics.refresh.append(site.refresh_metrics)
    serving = Serving(
        model=site.served,
        options=lambda: reloader.options,
        keys=keys,
        admission=admission,
        finished=site.finished,
        generation=lambda: reloader.generation,
        translate=translate,
    )
    routers = [probe_router(lifecycle), metrics_router(metrics), admin_router(lifecycle, reloader)]
    if desk is not None:
        from qwenops.serve.classify import classify_router  # with it comes the database

        routers.append(classify_router(serving, desk, lambda name, kind: metrics.classified.labels(name, kind).inc()))
    site.app = Farewell(create_app(serving, routers=routers), lifecycle)
    return site


class Farewell:
    """ASGI middleware: while the server drains, each answer asks its client to connect anew, elsewhere."""

    def __init__(self, app: FastAPI, lifecycle: Lifecycle) -> None:
        """Stand in front of `app`."""
        self.app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        lifecycle = self._lifecycle

        async def send_farewell(message: Message) -> None:
            if message["type"] == "http.response.start" and lifecycle.state in {State.DRAINING, State.STOPPING}:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive, send_farewell)
