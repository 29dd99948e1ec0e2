import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from qwenops.engines.fake import FakeEngine, FakeTiming, ManualClock, Script
from qwenops.engines.options import EngineOptions
from qwenops.engines.resilient import Candidate, RecoveryPolicy, ResilientEngine, halved, is_out_of_memory
from qwenops.engines.seam import Engine, EngineInfo, EngineState
from qwenops.errors import (
    DownloadError,
    EngineCrashedError,
    EngineUnavailableError,
    InsufficientMemoryError,
    MissingPartError,
    ModelLoadError,
    QwenOpsError,
    UnsupportedModelError,
)
from qwenops.generation import GenerationRequest, SamplingParams, Tokens

POLICY = RecoveryPolicy(retry_primary_every_s=100, drain_timeout_s=50)
NO_MEMORY = InsufficientMemoryError("Too big.", needed_bytes=2, available_bytes=1)


class WithCache(FakeEngine):
    """A fake that says how large a cache it chose."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, kv_cache_bytes=4096)


class Model:
    """A model that opens fakes, after the failures that are listed."""

    def __init__(self, clock: ManualClock, name: str, *failures: QwenOpsError | None, load_s: float = 0.0) -> None:
        self.clock = clock
        self.failures = list(failures)
        self.load_s = load_s
        self.name = name
        self.opened: list[tuple[float, EngineOptions]] = []
        self.engines: list[FakeEngine] = []
        self.kind: type[FakeEngine] = FakeEngine
        self.script: Callable[[GenerationRequest], Script] = lambda _: Script()

    async def open(self, options: EngineOptions) -> Engine:
        self.opened.append((self.clock(), options))
        await self.clock.sleep(self.load_s)
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        engine = self.kind(
            model=options.model_name,
            timing=FakeTiming(decode_tokens_per_s=1.0),
            script=self.script,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        self.engines.append(engine)
        return engine

    def candidate(self) -> Candidate:
        options = EngineOptions(model_name=self.name, max_running=16, kv_cache_bytes=1000)
        return Candidate(name="fake", open=self.open, options=options)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


Started = Callable[..., ResilientEngine]


@pytest.fixture
async def started(clock: ManualClock) -> Started:
    def start(primary: Model, fallback: Model | None = None, *, policy: RecoveryPolicy = POLICY) -> ResilientEngine:
        engine = ResilientEngine(
            primary.candidate(),
            fallback.candidate() if fallback else None,
            policy=policy,
            clock=clock,
            sleep=clock.sleep,
            jitter=lambda: 0.0,
        )
        engine.start()
        return engine

    return start


def request(name: str = "a", *, max_tokens: int = 3) -> GenerationRequest:
    return GenerationRequest(id=name, prompt=Tokens(ids=(1, 2, 3)), sampling=SamplingParams(max_tokens=max_tokens))


def state(engine: Engine) -> EngineState:
    return engine.info.health.state


async def read(engine: Engine, wanted: GenerationRequest) -> int:
    return sum([len(chunk.token_ids) async for chunk in engine.generate(wanted)])


async def closed(clock: ManualClock, engine: ResilientEngine, *models: Model) -> None:
    """Close, and check that nothing stays open."""
    await clock.run(engine.aclose())
    await engine.aclose()
    assert engine.info.health.state is EngineState.CLOSED
    for model in models:
        assert all(each.health.state is EngineState.CLOSED for each in model.engines)
    with pytest.raises(EngineUnavailableError, match="closed"):
        await read(engine, request())


async def test_a_model_that_loads_serves_as_itself(clock: ManualClock, started: Started) -> None:
    primary = Model(clock, "big")
    engine = started(primary)
    await clock.run(engine.ready())
    assert (engine.info.model, engine.info.fallback_for, engine.info.health.reason) == ("big", "", "")
    assert await clock.run(read(engine, request())) == 3
    assert await clock.run(engine.score([Tokens(ids=(1,))], [1, 2]))
    await closed(clock, engine, primary)


@pytest.mark.proves("E1")
async def test_a_failing_load_is_tried_three_times_with_growing_waits_and_then_the_fallback_serves(
    clock: ManualClock, started: Started
) -> None:
    damaged = ModelLoadError("The file x is damaged.")
    primary, fallback = Model(clock, "big", damaged, damaged, damaged), Model(clock, "small")
    engine = started(primary, fallback)
    await clock.advance(0.5)
    assert engine.info.health.state is EngineState.STARTING
    assert "Attempt 1 of 3 failed: The file x is damaged." in engine.info.health.reason
    with pytest.raises(EngineUnavailableError, match="Attempt 1 of 3"):
        await read(engine, request())
    await clock.run(engine.ready())
    assert [time_s for time_s, _ in primary.opened] == [0.0, 1.0, 3.0]
    info = engine.info
    assert (info.model, info.fallback_for, info.health.state) == ("small", "big", EngineState.READY)
    assert "small serves in the place of big" in info.health.reason
    assert "The file x is damaged." in info.health.reason
    assert await clock.run(read(engine, request())) == 3
    await closed(clock, engine, primary, fallback)


async def test_the_configured_model_takes_over_when_it_loads_again_and_the_fallback_finishes_its_answers(
    clock: ManualClock, started: Started
) -> None:
    damaged = ModelLoadError("no")
    primary = Model(clock, "big", damaged, damaged, damaged, damaged, load_s=5.0)
    fallback = Model(clock, "small")
    engine = started(primary, fallback)
    await clock.run(engine.ready())
    await clock.advance(106.5)  # the first way back fails
    assert len(primary.opened) == 4
    assert engine.info.model == "small"
    long = asyncio.ensure_future(read(engine, request("long", max_tokens=130)))
    await clock.advance(106.5)  # the second one does not
    assert (engine.info.model, engine.info.fallback_for, engine.info.health.reason) == ("big", "", "")
    assert state(fallback.engines[0]) is EngineState.READY
    assert await clock.run(long) == 130
    await clock.advance(2)
    assert state(fallback.engines[0]) is EngineState.CLOSED
    assert await clock.run(read(engine, request())) == 3
    assert [each.id for each in primary.engines[0].requests] == ["a"]
    await closed(clock, engine, primary, fallback)


async def test_a_drain_ends_after_its_time(clock: ManualClock, started: Started) -> None:
    primary, fallback = Model(clock, "big", *[ModelLoadError("no")] * 3), Model(clock, "small")
    engine = started(primary, fallback)
    await clock.run(engine.ready())
    endless = asyncio.ensure_future(read(engine, request(max_tokens=5000)))
    await clock.advance(101)
    assert engine.info.model == "big"
    await clock.advance(52)
    with pytest.raises(EngineUnavailableError):
        await endless
    await closed(clock, engine, primary, fallback)


async def test_without_a_fallback_the_failure_is_final_and_typed(clock: ManualClock, started: Started) -> None:
    damaged = ModelLoadError("The file x is damaged.")
    primary = Model(clock, "big", damaged, damaged, damaged)
    engine = started(primary)
    with pytest.raises(ModelLoadError, match="x is damaged"):
        await clock.run(engine.ready())
    assert engine.info.health.state is EngineState.FAILED
    with pytest.raises(EngineUnavailableError, match="x is damaged"):
        await read(engine, request())
    await closed(clock, engine)


async def test_when_the_fallback_fails_too_the_configured_models_error_is_raised(
    clock: ManualClock, started: Started
) -> None:
    primary = Model(clock, "big", *[ModelLoadError("first")] * 3)
    fallback = Model(clock, "small", *[ModelLoadError("second")] * 3)
    engine = started(primary, fallback)
    with pytest.raises(ModelLoadError, match="first"):
        await clock.run(engine.ready())
    await closed(clock, engine)


async def test_lack_of_memory_at_load_opens_the_same_model_smaller(clock: ManualClock, started: Started) -> None:
    primary = Model(clock, "big", NO_MEMORY, NO_MEMORY)
    engine = started(primary)
    await clock.run(engine.ready())
    tried = [(options.max_running, options.kv_cache_bytes) for _, options in primary.opened]
    assert tried == [(16, 1000), (8, 500), (4, 250)]
    assert engine.info.health.state is EngineState.READY
    assert "max_running 4 and kv_cache_bytes 250" in engine.info.health.reason
    await closed(clock, engine, primary)


async def test_lack_of_memory_in_flight_opens_the_same_model_smaller(clock: ManualClock, started: Started) -> None:
    crash = EngineCrashedError("The kernel killed it.")
    crash.__cause__ = NO_MEMORY
    primary = Model(clock, "big")
    primary.script = lambda wanted: Script(error=crash if wanted.id == "heavy" else None, fail_after=1)
    engine = started(primary)
    await clock.run(engine.ready())
    with pytest.raises(EngineCrashedError):
        await clock.run(read(engine, request("heavy")))
    await clock.advance(0.1)
    await clock.run(engine.ready())
    assert [options.max_running for _, options in primary.opened] == [16, 8]
    assert primary.engines[0].health.state is EngineState.CLOSED
    info = engine.info
    assert (info.health.restarts, info.fallback_for) == (1, "")
    assert "max_running 8" in info.health.reason
    assert await clock.run(read(engine, request())) == 3
    await closed(clock, engine, primary)


async def test_a_cache_that_the_engine_chose_is_halved_from_what_it_chose(
    clock: ManualClock, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = Model(clock, "big")
    primary.script = lambda wanted: Script(error=NO_MEMORY if wanted.id == "heavy" else None, fail_after=1)
    candidate = primary.candidate()
    chosen = replace(candidate, options=replace(candidate.options, kv_cache_bytes=0))
    monkeypatch.setattr(primary, "candidate", lambda: chosen)
    primary.kind = WithCache
    engine = started(primary)
    await clock.run(engine.ready())
    with pytest.raises(InsufficientMemoryError):
        await clock.run(read(engine, request("heavy")))
    await clock.advance(0.1)
    await clock.run(engine.ready())
    assert [options.kv_cache_bytes for _, options in primary.opened] == [0, 2048]
    await closed(clock, engine, primary)


async def test_it_shrinks_only_so_often(clock: ManualClock, started: Started) -> None:
    primary, fallback = Model(clock, "big", *[NO_MEMORY] * 10), Model(clock, "small")
    engine = started(primary, fallback, policy=replace(POLICY, shrinks=2))
    await clock.run(engine.ready())
    assert len(primary.opened) == 2 + 3
    assert engine.info.fallback_for == "big"
    await closed(clock, engine, primary, fallback)


async def test_an_engine_that_failed_for_good_is_opened_anew(clock: ManualClock, started: Started) -> None:
    primary = Model(clock, "big")
    engine = started(primary)
    await clock.run(engine.ready())
    primary.engines[0].crash(state=EngineState.FAILED)
    await clock.advance(1.5)
    assert engine.info.health.state is EngineState.READY
    assert len(primary.engines) == 2
    assert engine.info.health.restarts == 2  # its own and ours
    assert await clock.run(read(engine, request())) == 3
    await closed(clock, engine, primary)


async def test_an_engine_that_restarts_by_itself_is_left_alone(clock: ManualClock, started: Started) -> None:
    primary = Model(clock, "big")
    engine = started(primary)
    await clock.run(engine.ready())
    primary.engines[0].crash()
    await clock.advance(5)
    assert state(engine) is EngineState.RESTARTING
    assert "told to crash" in engine.info.health.reason
    primary.engines[0].recover()
    assert state(engine) is EngineState.READY
    assert len(primary.engines) == 1
    await closed(clock, engine, primary)


async def test_closing_while_it_loads_opens_nothing_more(clock: ManualClock, started: Started) -> None:
    primary = Model(clock, "big", ModelLoadError("no"), load_s=1.0)
    engine = started(primary)
    await clock.advance(1.5)  # in the wait before the second attempt
    await closed(clock, engine, primary)
    await clock.advance(100)
    assert len(primary.opened) == 1


async def test_leaving_an_answer_reaches_the_engine_that_gives_it(clock: ManualClock, started: Started) -> None:
    primary = Model(clock, "big")
    engine = started(primary)
    await clock.run(engine.ready())
    answer = engine.generate(request(max_tokens=50))
    first: Awaitable[object] = anext(answer)
    await clock.run(first)
    await answer.aclose()  # type: ignore[attr-defined] # it is an asynchronous generator
    assert primary.engines[0].cancelled == ["a"]
    await closed(clock, engine, primary)


def test_halving_keeps_one_request_and_leaves_a_chosen_cache_to_be_chosen() -> None:
    options = halved(EngineOptions(max_running=1, kv_cache_bytes=0))
    assert (options.max_running, options.kv_cache_bytes) == (1, 0)


def test_lack_of_memory_is_seen_behind_another_error() -> None:
    crash = EngineCrashedError("gone")
    assert not is_out_of_memory(crash)
    crash.__cause__ = NO_MEMORY
    assert is_out_of_memory(crash)
    assert not is_out_of_memory(None)


async def test_a_model_that_loads_and_fails_for_good_gives_way_to_the_fallback_and_is_tried_again_later(
    clock: ManualClock, started: Started
) -> None:
    primary, fallback = Model(clock, "big"), Model(clock, "small")
    engine = started(primary, fallback)
    await clock.advance(1)
    primary.engines[0].crash(state=EngineState.FAILED)
    await clock.advance(3)
    assert (engine.info.model, engine.info.fallback_for, len(primary.opened)) == ("small", "big", 1)
    await clock.advance(POLICY.retry_primary_every_s + 3)
    assert (engine.info.model, engine.info.fallback_for, len(primary.opened)) == ("big", "", 2)
    await closed(clock, engine, primary, fallback)


@pytest.mark.parametrize(
    ("failure", "opened"),
    [
        (NO_MEMORY, POLICY.shrinks + POLICY.attempts),
        (MissingPartError("Not here."), 1),
        (UnsupportedModelError("Another architecture."), 1),
    ],
    ids=["lack of memory", "what no try mends", "no model of ours"],
)
async def test_what_another_try_beside_the_fallback_would_not_mend_is_not_tried(
    clock: ManualClock, started: Started, failure: QwenOpsError, opened: int
) -> None:
    primary, fallback = Model(clock, "big", *[failure] * 20), Model(clock, "small")
    engine = started(primary, fallback)
    await clock.run(engine.ready())
    assert (engine.info.model, len(primary.opened)) == ("small", opened)
    await clock.advance(10 * POLICY.retry_primary_every_s)
    assert (engine.info.model, len(primary.opened)) == ("small", opened)
    await closed(clock, engine, primary, fallback)


async def test_a_try_beside_the_fallback_that_lacks_memory_is_the_last_one(
    clock: ManualClock, started: Started
) -> None:
    damaged = ModelLoadError("The file x is damaged.")
    primary, fallback = Model(clock, "big", *[damaged] * 4, NO_MEMORY), Model(clock, "small")
    engine = started(primary, fallback)
    await clock.run(engine.ready())
    await clock.advance(10 * POLICY.retry_primary_every_s)
    assert (engine.info.model, len(primary.opened)) == ("small", 5)
    await closed(clock, engine, primary, fallback)


async def test_a_download_that_failed_is_left_at_once_and_tried_again_later(
    clock: ManualClock, started: Started
) -> None:
    primary, fallback = Model(clock, "big", DownloadError("No hub.")), Model(clock, "small")
    engine = started(primary, fallback)
    await clock.run(engine.ready())
    assert (engine.info.model, len(primary.opened)) == ("small", 1)
    await clock.advance(POLICY.retry_primary_every_s + 3)
    assert (engine.info.model, len(primary.opened)) == ("big", 2)
    await closed(clock, engine, primary, fallback)


class Exhausted(FakeEngine):
    """Keeps why it failed for good, as an engine in a process of its own does: the kernel killed it."""

    async def ready(self) -> None:
        if self.health.state is EngineState.FAILED:
            crash = EngineCrashedError("Gone.")
            crash.__cause__ = NO_MEMORY
            raise crash


async def test_a_model_that_the_kernel_killed_again_and_again_is_not_loaded_beside_the_fallback(
    clock: ManualClock, started: Started
) -> None:
    primary, fallback = Model(clock, "big"), Model(clock, "small")
    primary.kind = Exhausted
    engine = started(primary, fallback)
    await clock.run(engine.ready())
    primary.engines[0].crash(state=EngineState.FAILED)
    await clock.advance(10 * POLICY.retry_primary_every_s)
    assert (engine.info.model, len(primary.opened)) == ("small", 1)
    assert "Gone." in engine.info.health.reason
    await closed(clock, engine, primary, fallback)
