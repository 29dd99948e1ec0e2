import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import pytest

from qwenops.bench.simulated.engine import SimulatedEngine, count_tokens, open_simulated
from qwenops.bench.simulated.loop import VirtualClock, run
from qwenops.engines.seam import EngineState
from qwenops.errors import (
    ConfigError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    InvalidRequestError,
    LimitExceededError,
    MalformedAnswerError,
    OverloadedError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.generation import (
    Chunk,
    FinishReason,
    GenerationRequest,
    Message,
    Messages,
    SamplingParams,
    Tokens,
)

S = 1_000_000_000
PLAIN = "simulated:?virtual=1&prefill_tokens_per_s=10&decode_tokens_per_s=4&contention=0&coherence=0"


def engine(text: str = PLAIN) -> SimulatedEngine:
    return cast("SimulatedEngine", open_simulated(text).engine)


def request(
    name: str = "a", said: str = "one two", *, max_tokens: int = 4, thinking: bool = False
) -> GenerationRequest:
    prompt = Messages(messages=(Message(role="user", content=said),), enable_thinking=thinking)
    return GenerationRequest(id=name, prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens))


async def answer(asked: SimulatedEngine, wanted: GenerationRequest) -> list[tuple[float, Chunk]]:
    clock = VirtualClock()
    return [(clock.now_ns() / S, chunk) async for chunk in asked.generate(wanted)]


def test_chunks_come_at_exactly_the_times_of_the_model() -> None:
    async def main() -> list[tuple[float, Chunk]]:
        return await answer(engine(), request())

    chunks = run(main())
    num_prompt = count_tokens("user\none two")
    assert [at_s for at_s, _chunk in chunks] == [num_prompt / 10 + number / 4 for number in range(4)]
    assert all(chunk.text for _at_s, chunk in chunks)
    last = chunks[-1][1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (num_prompt, 4)
    assert last.usage.reported["eval_duration"] == 0.75
    assert all(chunk.usage is None for _at_s, chunk in chunks[:-1])


def test_the_same_question_gets_the_same_answer_and_another_one_another() -> None:
    async def main() -> list[str]:
        asked = engine()
        wanted = [request("a", max_tokens=20), request("b", max_tokens=20), request("c", "three", max_tokens=20)]
        return ["".join(chunk.text for _at_s, chunk in await answer(asked, each)) for each in wanted]

    first, again, other = run(main())
    assert first == again != other


def test_reasoning_stands_in_band_as_qwen_writes_it() -> None:
    async def main() -> tuple[list[str], list[str]]:
        whole = await answer(engine(PLAIN + "&thinking_tokens=3"), request(max_tokens=5, thinking=True))
        bundled = await answer(engine(PLAIN + "&thinking_tokens=3&bundle=4"), request(max_tokens=5, thinking=True))
        return [chunk.text for _at_s, chunk in whole], [chunk.text for _at_s, chunk in bundled]

    whole, bundled = run(main())
    assert whole[0].startswith("<think>\n")
    assert whole[3].startswith("\n</think>\n\n")
    assert "".join(whole) == "".join(bundled)
    assert "".join(whole).count("think>") == 2


def test_four_slots_answer_together_and_the_fifth_waits() -> None:
    async def main() -> list[float | None]:
        asked = engine()
        await asyncio.gather(*(answer(asked, request(str(number))) for number in range(5)))
        return [truth.queue_s for truth in asked.model.truths]

    first = count_tokens("user\none two") / 10 + 0.75
    assert run(main()) == [0.0, 0.0, 0.0, 0.0, first]


def test_closing_the_iterator_frees_the_slot_at_once() -> None:
    async def main() -> tuple[int, float | None]:
        asked = engine(PLAIN + "&slots=1")
        async with aclosing(cast("AsyncGenerator[Chunk]", asked.generate(request("a", max_tokens=1000)))) as chunks:
            async for _chunk in chunks:
                break
        running = asked.info.health.running
        await answer(asked, request("b"))
        return running, asked.model.truths[-1].queue_s

    assert run(main()) == (0, 0.0)


def test_who_is_given_up_while_waiting_leaves_the_queue() -> None:
    async def main() -> tuple[int, int]:
        asked = engine(PLAIN + "&slots=1")
        first = asyncio.create_task(answer(asked, request("a")))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await answer(asked, request("b"))
        waiting = asked.info.health.waiting
        await first
        return waiting, sum(truth.cancelled for truth in asked.model.truths)

    assert run(main()) == (0, 1)


@pytest.mark.parametrize(
    ("fault", "error", "num_chunks"),
    [
        ("status=429&retry_after=7", LimitExceededError, 0),
        ("status=503", OverloadedError, 0),
        ("status=404", InvalidRequestError, 0),
        ("status=500", EngineError, 0),
        ("cut_after=2", EngineCrashedError, 2),
        ("malformed_after=1", MalformedAnswerError, 1),
        ("error_after=3", EngineError, 3),
    ],
)
def test_what_shall_go_wrong_goes_wrong_where_it_shall(fault: str, error: type[Exception], num_chunks: int) -> None:
    async def main() -> tuple[int, Exception | None]:
        seen, failure = 0, None
        try:
            async for _chunk in engine(f"{PLAIN}&{fault}").generate(request()):
                seen += 1
        except QwenOpsError as raised:
            failure = raised
        return seen, failure

    seen, failure = run(main())
    assert (seen, type(failure)) == (num_chunks, error)
    if isinstance(failure, LimitExceededError):
        assert failure.retry_after_s == 7.0


def test_a_share_of_the_requests_fails_and_the_same_ones_each_time() -> None:
    async def main() -> list[int]:
        asked, failed = engine(PLAIN + "&status=500&fault_ratio=0.3"), []
        for number in range(200):
            try:
                await answer(asked, request("a", str(number)))
            except EngineError:
                failed.append(number)
        return failed

    failed = run(main())
    assert 35 <= len(failed) <= 85
    assert run(main()) == failed


def test_a_full_queue_sheds_and_says_when_to_come_back() -> None:
    async def main() -> tuple[type[BaseException] | None, float | None]:
        asked = engine(PLAIN + "&slots=1&queue_limit=0&retry_after_s=9s")
        first = asyncio.create_task(answer(asked, request("a")))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as raised:
            await answer(asked, request("b"))
        await first
        return raised.type, raised.value.retry_after_s

    assert run(main()) == (OverloadedError, 9.0)


def test_an_answer_that_hangs_is_ended_by_who_waits_for_it() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await answer(engine(PLAIN + "&hang_after=1"), request())
        return VirtualClock().now_ns() / S

    assert run(main()) == 30.0


def test_what_does_not_fit_or_asks_nothing_is_refused() -> None:
    async def main() -> None:
        asked = engine(PLAIN + "&context_tokens=64")
        with pytest.raises(PromptTooLongError):
            await answer(asked, request(said="word " * 64))
        with pytest.raises(InvalidRequestError):
            await answer(asked, request(max_tokens=0))
        with pytest.raises(InvalidRequestError):
            await answer(asked, GenerationRequest(id="a", prompt=Tokens(ids=())))
        (first, *_rest) = await answer(asked, GenerationRequest(id="a", prompt=Tokens(ids=(1, 2, 3))))
        assert first[0] == pytest.approx(0.3)

    run(main())


def test_a_closed_engine_ends_what_is_in_flight_and_takes_nothing_more() -> None:
    async def main() -> EngineState:
        asked = engine()
        flying = asyncio.create_task(answer(asked, request("a")))
        await asyncio.sleep(0.01)
        await asked.aclose()
        await asked.aclose()
        for waited in (flying, asyncio.create_task(answer(asked, request("b")))):
            with pytest.raises(EngineUnavailableError):
                await waited
        return asked.info.health.state

    assert run(main()) is EngineState.CLOSED


def test_a_cached_beginning_makes_the_first_token_come_sooner() -> None:
    shared = "The categories are one two three four five six seven eight nine ten eleven twelve thirteen. " * 4

    async def main() -> list[tuple[float | None, int]]:
        asked = engine(PLAIN + "&cache_tokens=100000")
        for number in range(2):
            await answer(asked, request(str(number), f"{shared} call number {number}"))
        return [(truth.ttft_s, truth.cached_tokens) for truth in asked.model.truths]

    (cold_s, none), (warm_s, some) = run(main())
    assert none == 0
    assert some >= 48
    assert cold_s is not None
    assert warm_s == pytest.approx(cold_s - some / 10)


async def test_virtual_time_is_not_taken_for_real_time() -> None:
    with pytest.raises(ConfigError, match="wants virtual time"):
        open_simulated(PLAIN)


async def test_on_the_machines_clock_the_times_are_those_of_the_model_within_milliseconds() -> None:
    asked = SimulatedEngine()
    began_s, first_s = time.perf_counter(), 0.0
    async for _chunk in asked.generate(request(max_tokens=5)):
        first_s = first_s or time.perf_counter() - began_s
    e2e_s = time.perf_counter() - began_s
    (truth,) = asked.model.truths
    assert truth.ttft_s is not None
    assert truth.e2e_s is not None
    assert -0.001 < first_s - truth.ttft_s < 0.05  # later only where the machine is busy
    assert -0.001 < e2e_s - truth.e2e_s < 0.05


def test_an_hour_of_requests_takes_seconds() -> None:
    async def main() -> float:
        asked, clock = engine("simulated:?virtual=1&leak_bytes_per_h=1MiB"), VirtualClock()

        async def one(number: int) -> None:
            await clock.sleep_until_ns(number * 2 * S)
            async for _chunk in asked.generate(request(str(number), max_tokens=16)):
                pass

        await asyncio.gather(*(one(number) for number in range(1800)))
        assert len(asked.model.truths) == 1800
        assert asked.info.health.memory_bytes == pytest.approx((1 << 30) + (1 << 20), rel=1e-5)
        return clock.now_ns() / S

    began_s = time.process_time()
    assert 3598 < run(main()) < 3600
    assert time.process_time() - began_s < 6.0
