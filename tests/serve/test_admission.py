import asyncio
import math
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.errors import DeadlineError, InvalidRequestError, LimitExceededError, OverloadedError
from qwenops.serve.admission import Admission, FinishRate, Refusal, Speed, Ticket, Work, parse_deadline, seconds_of
from qwenops.serve.line import Priority
from qwenops.serve.options import LimitOptions
from qwenops.state.keys import KeyLimits

FAST = Speed(prefill_tokens_per_s=1000.0, decode_tokens_per_s=100.0)


def make(*, slots: int = 1, speed: Speed = FAST, shed: "Counter[Refusal] | None" = None, **limits: float) -> Admission:
    counted = shed if shed is not None else Counter[Refusal]()
    return Admission(
        LimitOptions(**limits),  # type: ignore[arg-type]  # numbers of either kind
        slots=slots,
        speed=lambda: speed,
        on_shed=lambda refusal: counted.update([refusal]),
    )


async def hold(admission: Admission, until: asyncio.Event, **request: object) -> float:
    """Hold a place until an event; return how long it waited."""
    asked = {"prompt_tokens": 10, "max_tokens": 10} | request
    async with admission.admit(**asked) as ticket:  # type: ignore[arg-type]  # the caller knows
        await until.wait()
        return ticket.queue_s


async def started(admission: Admission, **request: object) -> tuple[asyncio.Event, "asyncio.Task[float]"]:
    until = asyncio.Event()
    task = asyncio.create_task(hold(admission, until, **request))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return until, task


async def test_those_who_wait_are_let_in_one_by_one_as_places_become_free() -> None:
    admission = make(slots=2)
    held = [await started(admission) for _ in range(5)]
    assert (admission.num_running, admission.num_waiting) == (2, 3)
    assert admission.queued_work == Work(requests=3, prompt_tokens=30, output_tokens=30)
    assert admission.saturation_ratio == 2.5
    for until, task in held:
        until.set()
        await task
    assert admission.num_open == 0
    assert admission.estimated_wait_s == 0.0


async def test_several_answers_take_several_places_and_count_as_much_work() -> None:
    admission = make(slots=4, speed=Speed())
    first_until, first = await started(admission, places=3)
    until, second = await started(admission, places=2)
    assert (admission.num_running, admission.num_waiting) == (1, 1)
    assert admission.saturation_ratio == 1.25
    assert admission.queued_work.requests == 2
    assert seconds_of(admission.queued_work, Speed()) == 2.0
    assert admission.estimated_wait_s == 0.0
    first_until.set()
    await first
    await asyncio.sleep(0)
    assert (admission.num_running, admission.num_waiting) == (1, 0)
    until.set()
    await second


async def test_what_an_answer_took_is_expected_of_each_answer() -> None:
    admission = make(slots=8)
    async with admission.admit(prompt_tokens=1, max_tokens=4000, places=4) as ticket:
        ticket.completion_tokens = 400
    async with admission.admit(prompt_tokens=1, max_tokens=1000) as ticket:
        assert ticket.entry.output_tokens == 100
        ticket.completion_tokens = 100
    async with admission.admit(prompt_tokens=1, max_tokens=2000, places=2) as ticket:
        assert ticket.entry.output_tokens == 200


async def test_a_full_line_answers_503_with_queued_work_by_measured_speed() -> None:
    shed: Counter[Refusal] = Counter()
    admission = make(queue_requests=2, shed=shed)
    held = [await started(admission, prompt_tokens=2000, max_tokens=500) for _ in range(3)]
    with pytest.raises(OverloadedError) as caught:
        admission.refuse_if_full()
    # Two wait: 4,000 tokens to read at 1,000 a second and 1,000 to write at 100 a second.
    assert caught.value.retry_after_s == 14
    assert caught.value.http_status == 503
    assert shed == {Refusal.QUEUE_REQUESTS: 1}
    for until, task in held:
        until.set()
        await task


async def test_prompt_tokens_that_wait_are_bounded_too() -> None:
    shed: Counter[Refusal] = Counter()
    admission = make(queue_tokens=100, shed=shed)
    until, first = await started(admission)
    _, second = await started(admission, prompt_tokens=90)
    with pytest.raises(OverloadedError):
        async with admission.admit(prompt_tokens=11, max_tokens=1):
            pass
    third_until, third = await started(admission, prompt_tokens=10)
    assert shed == {Refusal.QUEUE_TOKENS: 1}
    until.set()
    await first
    second.cancel()
    third_until.set()
    await third
    assert admission.num_open == 0


async def test_a_key_over_its_concurrency_gets_429_and_others_are_served() -> None:
    admission = make(slots=1, key_concurrency=1)
    until, first = await started(admission, key_id="a")
    with pytest.raises(LimitExceededError) as caught:
        admission.refuse_if_full("a")
    assert caught.value.http_status == 429
    _, other = await started(admission, key_id="b")
    _, generous = await started(admission, key_id="a", limits=KeyLimits(concurrency=2))
    assert admission.num_waiting == 2
    until.set()
    await first
    other.cancel()
    generous.cancel()
    await asyncio.gather(other, generous, return_exceptions=True)
    assert admission.num_open == 0


async def test_a_key_over_its_rate_gets_429_with_the_time_until_the_bucket_has_refilled() -> None:
    admission = make(slots=8)
    limits = KeyLimits(tokens_per_min=600)
    async with admission.admit(key_id="a", prompt_tokens=100, max_tokens=500, limits=limits) as ticket:
        ticket.completion_tokens = 200
        with pytest.raises(LimitExceededError) as caught:
            async with admission.admit(key_id="a", prompt_tokens=100, max_tokens=0, limits=limits):
                pass
        assert caught.value.retry_after_s in {9, 10}
    async with admission.admit(key_id="a", prompt_tokens=100, max_tokens=199, limits=limits):
        pass


async def test_a_client_that_goes_away_frees_its_place_in_the_line_and_in_the_engine() -> None:
    admission = make()
    _, running = await started(admission)
    _, waiting = await started(admission)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.num_waiting == 0
    until, last = await started(admission)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert admission.num_running == 1
    until.set()
    await last
    assert admission.num_open == 0


async def test_a_wait_over_the_longest_wait_ends_with_503_and_one_over_its_deadline_with_504() -> None:
    shed: Counter[Refusal] = Counter()
    admission = make(max_wait_s=0.1, speed=Speed(), shed=shed)
    until, first = await started(admission)
    with pytest.raises(OverloadedError, match="No place became free"):
        await hold(admission, until)
    with pytest.raises(DeadlineError):
        await hold(admission, until, deadline_s=0.02)
    assert shed == {Refusal.MAX_WAIT: 1, Refusal.DEADLINE: 1}
    until.set()
    await first
    assert admission.num_open == 0


async def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    admission = make()
    async with admission.admit(prompt_tokens=1, max_tokens=1):
        await asyncio.sleep(0.01)
    held = [await started(admission, prompt_tokens=5000, max_tokens=1) for _ in range(3)]
    before_s = time.monotonic()
    with pytest.raises(OverloadedError, match="would wait about 10 seconds"):
        await hold(admission, asyncio.Event(), deadline_s=2.0)
    with pytest.raises(DeadlineError):
        await hold(admission, asyncio.Event(), deadline_s=-1.0)
    assert time.monotonic() - before_s < 0.5
    for until, task in held:
        until.set()
        await task


async def test_interactive_requests_overtake_batch_requests() -> None:
    admission = make()
    order: list[str] = []

    async def ask(name: str, priority: Priority) -> None:
        async with admission.admit(prompt_tokens=1, max_tokens=1, priority=priority):
            order.append(name)

    until, first = await started(admission)
    night = asyncio.create_task(ask("night", Priority.BATCH))
    await asyncio.sleep(0)
    day = asyncio.create_task(ask("day", Priority.INTERACTIVE))
    await asyncio.sleep(0)
    until.set()
    await asyncio.gather(first, night, day)
    assert order == ["day", "night"]


async def endless() -> AsyncIterator[int]:
    number = 0
    while True:
        await asyncio.sleep(0.005)
        yield number
        number += 1


async def test_the_deadline_also_ends_an_answer_that_takes_too_long() -> None:
    admission = make()
    seen: list[int] = []

    async def read(ticket: Ticket) -> None:
        async for piece in ticket.watch(endless()):
            seen.append(piece)  # noqa: PERF401 -- what came before the error counts

    async with admission.admit(prompt_tokens=1, max_tokens=1, deadline_s=0.1) as ticket:
        with pytest.raises(DeadlineError):
            await read(ticket)
    assert 3 < len(seen) < 25


async def test_an_interruption_reaches_all_who_wait_or_stream_at_once() -> None:
    admission = make(slots=1)
    stopped = OverloadedError("stopped")

    async def stream(ticket: Ticket) -> None:
        async for _ in ticket.watch(endless()):
            pass

    async def ask() -> None:
        async with admission.admit(prompt_tokens=1, max_tokens=1) as ticket:
            await asyncio.gather(stream(ticket), stream(ticket), stream(ticket))

    tasks = [asyncio.create_task(ask()) for _ in range(5)]
    await asyncio.sleep(0.02)
    assert admission.interrupt_all(stopped) == 5
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1.0)
    assert results == [stopped] * 5
    assert admission.num_open == 0


async def test_a_time_out_of_the_engines_own_is_not_taken_for_the_deadline() -> None:
    async def broken() -> AsyncIterator[int]:
        raise TimeoutError("the engine's own")
        yield 0

    async with make().admit(prompt_tokens=1, max_tokens=1) as ticket:
        with pytest.raises(TimeoutError, match="the engine's own"):
            async for _ in ticket.watch(broken()):
                pass


async def test_more_places_let_waiting_requests_in_and_other_limits_hold_at_once() -> None:
    admission = make(queue_requests=8)
    held = [await started(admission) for _ in range(4)]
    admission.resize(3)
    await asyncio.sleep(0)
    assert (admission.num_running, admission.num_waiting) == (3, 1)
    admission.reconfigure(LimitOptions(queue_requests=1))
    with pytest.raises(OverloadedError):
        admission.refuse_if_full()
    for until, task in held:
        until.set()
        await task


async def test_ten_thousand_requests_over_the_limit_are_shed_quickly_and_leave_no_memory_behind() -> None:
    shed: Counter[Refusal] = Counter()
    admission = make(slots=1, queue_requests=16, shed=shed)
    held = [await started(admission) for _ in range(17)]

    async def flood(count: int) -> None:
        for _ in range(count):
            with pytest.raises(OverloadedError):
                async with admission.admit(key_id="flood", prompt_tokens=10, max_tokens=10):
                    pass

    await flood(500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before_s = time.process_time()
    await flood(10_000)
    assert time.process_time() - before_s < 5.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
    assert shed == {Refusal.QUEUE_REQUESTS: 10_500}
    assert admission.num_open == 17
    for until, task in held:
        until.set()
        await task
    assert admission.num_open == 0


async def test_whatever_is_cancelled_at_whatever_moment_no_place_is_lost() -> None:
    admission = make(slots=3, queue_requests=1000)

    async def ask(number: int) -> None:
        async with admission.admit(key_id=str(number % 5), prompt_tokens=1, max_tokens=1):
            assert admission.num_running <= 3
            await asyncio.sleep(number % 4 / 1000)

    tasks = [asyncio.create_task(ask(number)) for number in range(300)]
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert admission.num_open == 0
    assert not [each for each in results if each is not None and not isinstance(each, asyncio.CancelledError)]
    assert results.count(None) >= 200


def test_work_is_timed_by_tokens_then_by_requests_then_by_a_guess() -> None:
    work = Work(requests=4, prompt_tokens=1000, output_tokens=100)
    assert seconds_of(work, FAST) == 2.0
    assert seconds_of(work, Speed(requests_per_s=2.0)) == 2.0
    assert seconds_of(work, Speed(prefill_tokens_per_s=10.0, requests_per_s=8.0)) == 0.5
    assert seconds_of(work, Speed()) == 4.0


@given(st.integers(0, 10**4), st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0, 10**5), st.floats(0, 10**4))
def test_more_work_never_takes_less_time_and_retry_after_is_a_whole_number_of_seconds(
    requests: int, prompt: int, output: int, prefill: float, decode: float
) -> None:
    speed = Speed(prefill_tokens_per_s=prefill, decode_tokens_per_s=decode)
    less = seconds_of(Work(requests=requests, prompt_tokens=prompt, output_tokens=output), speed)
    more = seconds_of(Work(requests=requests + 1, prompt_tokens=prompt + 9, output_tokens=output + 9), speed)
    assert 0 <= less <= more
    admission = make(speed=speed)
    admission.line.enter("", priority=Priority.BATCH, prompt_tokens=prompt, output_tokens=output)
    assert 1 <= admission.retry_after_s() <= 3600


def test_the_rate_of_finished_requests_counts_working_time_only() -> None:
    rate = FinishRate()
    assert rate.per_s(0.0) == 0.0
    for second in range(10):
        rate.start(float(second))
        rate.finish(second + 0.5, still_running=0)
    assert math.isclose(rate.per_s(1000.0), 2.0, rel_tol=0.1)
    rate = FinishRate()
    rate.start(0.0)
    rate.finish(2.0, still_running=0, num=8)
    assert rate.per_s(2.0) == pytest.approx(4.0, rel=0.1)


def test_a_deadline_is_seconds_or_a_time() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert parse_deadline("1.5", now=now) == 1.5
    assert parse_deadline("30s", now=now) == 30.0
    assert parse_deadline((now + timedelta(seconds=9)).isoformat(), now=now) == 9.0
    assert parse_deadline("2030-01-01T00:00:07Z", now=now) == 7.0
    assert parse_deadline("2030-01-01T00:00:07", now=now) == 7.0
    for wrong in ("soon", "nan", "inf", "", "s", "1e"):
        with pytest.raises(InvalidRequestError, match="neither seconds nor a time"):
            parse_deadline(wrong, now=now)
