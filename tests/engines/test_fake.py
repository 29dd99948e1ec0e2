import asyncio

import pytest

from qwenops.engines import open_engine
from qwenops.engines.fake import FakeEngine, FakeTiming, ManualClock, Script
from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import EngineState
from qwenops.errors import EngineCrashedError, EngineUnavailableError, OverloadedError
from qwenops.generation import (
    Choice,
    FinishReason,
    GenerationRequest,
    Message,
    Messages,
    SamplingParams,
    Tokens,
)


def request(name: str = "a", *, tokens: int = 10, max_tokens: int = 4, **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        id=name,
        prompt=Tokens(ids=tuple(range(tokens))),
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type] # any field
    )


async def timed(engine: FakeEngine, clock: ManualClock, wanted: GenerationRequest) -> list[float]:
    return [clock() async for _ in engine.generate(wanted)]


async def test_tokens_come_at_exactly_the_times_that_the_rates_give() -> None:
    clock = ManualClock()
    engine = FakeEngine(
        timing=FakeTiming(prefill_tokens_per_s=100, decode_tokens_per_s=20), clock=clock, sleep=clock.sleep
    )
    times = await clock.run(timed(engine, clock, request(tokens=50)))
    assert times == pytest.approx([0.5, 0.55, 0.6, 0.65])


async def test_a_request_without_a_slot_waits_its_turn() -> None:
    clock = ManualClock()
    engine = FakeEngine(
        timing=FakeTiming(prefill_tokens_per_s=10, decode_tokens_per_s=1, slots=1), clock=clock, sleep=clock.sleep
    )
    first, second = await clock.run(
        asyncio.gather(timed(engine, clock, request("a")), timed(engine, clock, request("b")))
    )
    assert first == pytest.approx([1, 2, 3, 4])
    assert second == pytest.approx([5, 6, 7, 8])


async def test_the_clock_wakes_sleepers_in_order_and_at_their_time() -> None:
    clock = ManualClock(100.0)
    woken: list[tuple[str, float]] = []

    async def nap(name: str, delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append((name, clock()))

    tasks = [asyncio.ensure_future(nap(name, delay)) for name, delay in (("late", 3.0), ("early", 1.0))]
    await clock.advance(2.0)
    assert woken == [("early", 101.0)]
    assert clock() == 102.0
    await clock.advance(1.0)
    await asyncio.gather(*tasks)
    assert woken[1] == ("late", 103.0)


async def test_the_same_prompt_gets_the_same_text_and_another_prompt_another() -> None:
    engine = FakeEngine()

    async def text(number: int) -> str:
        return "".join([chunk.text async for chunk in engine.generate(request(tokens=number, max_tokens=20))])

    assert await text(7) == await text(7) != await text(8)


async def test_a_script_says_text_tokens_and_usage() -> None:
    engine = FakeEngine(script=lambda _: Script(text="您好 world", cached_tokens=3))
    chunks = [chunk async for chunk in engine.generate(request(max_tokens=50))]
    assert "".join(chunk.text for chunk in chunks) == "您好 world"
    assert sum(len(chunk.token_ids) for chunk in chunks) == 3
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.completion_tokens, chunks[-1].usage.cached_tokens) == (3, 3)


async def test_a_script_can_fail_after_some_tokens() -> None:
    engine = FakeEngine(script=lambda _: Script(error=OverloadedError("full"), fail_after=2))
    answer = engine.generate(request())
    assert [(await anext(answer)).finish_reason for _ in range(2)] == [None, None]
    with pytest.raises(OverloadedError):
        await anext(answer)
    assert engine.cancelled == []
    assert engine.info.health.running == 0


async def test_a_crash_fails_all_in_flight_also_those_that_stall() -> None:
    clock = ManualClock()
    engine = FakeEngine(
        timing=FakeTiming(decode_tokens_per_s=1, slots=2),
        script=lambda wanted: Script(stall_after=1 if wanted.id == "b" else None),
        clock=clock,
        sleep=clock.sleep,
    )
    both = asyncio.gather(*(timed(engine, clock, request(name)) for name in "ab"), return_exceptions=True)
    await clock.advance(1.5)
    assert engine.info.health.running == 2
    engine.crash()
    results = await clock.run(both)
    assert [type(each) for each in results] == [EngineCrashedError, EngineCrashedError]
    assert engine.info.health.state is EngineState.RESTARTING
    with pytest.raises(EngineUnavailableError):
        await anext(engine.generate(request()))
    engine.recover()
    assert len(await clock.run(timed(engine, clock, request()))) == 4


async def test_a_choice_is_answered_with_one_of_its_strings() -> None:
    engine = await open_engine("fake", EngineOptions(model_name="m"))
    wanted = GenerationRequest(
        id="a",
        prompt=Messages(messages=(Message(role="user", content="是 or 否?"),)),
        sampling=SamplingParams(structure=Choice(choices=("是", "否"))),
    )
    assert "".join([chunk.text async for chunk in engine.generate(wanted)]) in {"是", "否"}
    assert engine.info.model == "m"
    await engine.aclose()
