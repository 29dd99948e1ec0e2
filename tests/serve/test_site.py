import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

import qwenops
from qwenops.engines.fake import FakeEngine, FakeTiming
from qwenops.engines.seam import EngineInfo, EngineState
from qwenops.observe.options import LogOptions
from qwenops.serve.auth import AuthClass, KeyRing, auth_class_of
from qwenops.serve.lifecycle import Phase
from qwenops.serve.options import ServeOptions
from qwenops.serve.serving import ServedModel
from qwenops.serve.site import Farewell, Site, build_site
from tests.serve.conftest import MODEL, CharacterTokenizer


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    built = build_site(ServeOptions(log=LogOptions(dir=tmp_path)), KeyRing())
    yield built
    assert await asyncio.to_thread(built.writer.close)


def app_of(site: Site) -> FastAPI:
    assert isinstance(site.app, Farewell)
    return site.app.app


async def metrics_of(site: Site) -> dict[str, float]:
    lines = (await site.metrics.render()).decode().splitlines()
    return {name: float(value) for name, _, value in (each.rpartition(" ") for each in lines if each[0] != "#")}


def routes_of(app: FastAPI) -> list[BaseRoute]:
    found: list[BaseRoute] = []
    waiting = list(app.routes)
    while waiting:
        route = waiting.pop()
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner:
            waiting.extend(inner)
        else:
            found.append(route)
    return found


EXPECTED = {
    "/livez": AuthClass.PROBE,
    "/readyz": AuthClass.PROBE,
    "/startupz": AuthClass.PROBE,
    "/health": AuthClass.PROBE,
    "/metrics": AuthClass.METRICS,
    "/openapi.json": AuthClass.PUBLIC,
    "/": AuthClass.PUBLIC,
    "/admin/drain": AuthClass.ADMIN,
    "/admin/reload": AuthClass.ADMIN,
}


async def test_every_route_has_exactly_one_auth_class_and_all_but_a_known_few_need_a_key(site: Site) -> None:
    classes = {getattr(route, "path", repr(route)): auth_class_of(route) for route in routes_of(app_of(site))}
    assert not [path for path, auth_class in classes.items() if auth_class is None]
    assert {path: classes[path] for path in EXPECTED} == EXPECTED
    others = {path: auth_class for path, auth_class in classes.items() if path not in EXPECTED}
    assert "/v1/chat/completions" in others
    assert set(others.values()) == {AuthClass.INFERENCE}


def test_a_route_without_a_guard_is_found_out() -> None:
    router = APIRouter()

    @router.get("/naked")
    async def naked() -> None:
        """Answer nothing."""

    (route,) = (route for route in router.routes if isinstance(route, APIRoute))
    assert auth_class_of(route) is None


async def test_metrics_follow_the_engine_and_the_line(site: Site) -> None:
    before = await metrics_of(site)
    assert before["qwen3_engine_up"] == before["qwen3_ready"] == 0
    engine = FakeEngine(model=MODEL, timing=FakeTiming(slots=3))
    site.serve_with(ServedModel(engine=engine, tokenizer=CharacterTokenizer(), revisions={MODEL: "abc123"}))
    async with site.admission.admit(prompt_tokens=5, max_tokens=5):
        busy = await metrics_of(site)
    assert busy["qwen3_engine_up"] == busy["qwen3_ready"] == 1
    assert busy["qwen3_running_requests"] == 1
    assert busy["qwen3_saturation_ratio"] == pytest.approx(1 / 3)
    info = 'engine="fake",fallback_for="",model="qwen3:test",quantization="none",revision="abc123"'
    assert busy[f"qwen3_served_model_info{{{info}}}"] == 1
    engine.crash()
    down = await metrics_of(site)
    assert down["qwen3_engine_up"] == down["qwen3_ready"] == 0
    assert down["qwen3_engine_restarts_total"] == 1
    engine.crash(state=EngineState.FAILED)
    assert site.lifecycle.is_hopeless


async def test_a_fallback_and_a_smaller_engine_are_said_and_followed(site: Site) -> None:
    engine = FakeEngine(model=MODEL, timing=FakeTiming(slots=4))
    site.serve_with(ServedModel(engine=engine, tokenizer=CharacterTokenizer()))
    assert not site.lifecycle.warnings
    assert site.admission.line.slots == 4
    engine.timing = FakeTiming(slots=2)
    engine.health = replace(engine.health, reason="It runs with less for lack of memory.")
    site.follow_engine()
    assert site.admission.line.slots == 2
    assert list(site.lifecycle.warnings) == ["It runs with less for lack of memory."]
    assert site.lifecycle.is_ready


async def test_the_sample_of_the_system_is_in_the_metrics(site: Site) -> None:
    site.sample = await asyncio.to_thread(site.watch.sample)
    values = await metrics_of(site)
    assert values["qwen3_process_memory_bytes"] == site.sample.process_memory_bytes
    assert values["qwen3_process_cpu_seconds_total"] == site.sample.process_cpu_s
    assert values["qwen3_config_generation"] == 1


async def test_lines_that_cannot_be_written_are_counted_in_a_metric(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file is in the way")
    site = build_site(ServeOptions(log=LogOptions(dir=tmp_path / "logs")), KeyRing())
    for _ in range(3):
        site.writer.write("requests", {"n": 1})
    assert await asyncio.to_thread(site.writer.close)
    assert (await metrics_of(site))['qwen3_log_write_failures_total{log="requests"}'] == 3


async def test_progress_may_be_reported_from_another_thread(site: Site) -> None:
    await asyncio.to_thread(site.lifecycle.report, Phase.CONVERTING, 0.5, "half")
    assert site.lifecycle.reasons() == ["starting: converting 50 %, half"]


def test_every_phase_that_a_start_may_be_in_is_reported_by_somebody() -> None:
    sources = "".join(path.read_text("utf-8") for path in Path(qwenops.__file__).parent.rglob("*.py"))
    assert not [phase for phase in Phase if f"Phase.{phase.name}" not in sources]


async def test_what_the_engine_decided_is_logged_with_its_reasons(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    class Noted(FakeEngine):
        @property
        def info(self) -> EngineInfo:
            return replace(super().info, notes={"threads": "there are two cores"})

    with caplog.at_level("INFO", "qwenops.serve.site"):
        site.serve_with(ServedModel(engine=Noted(model=MODEL), tokenizer=CharacterTokenizer()))
    assert "threads: there are two cores" in caplog.text
