"""A segment is sent on its schedule, whatever the server does."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from qwenops.bench.calibrate import NullEngine
from qwenops.bench.clock import RealClock
from qwenops.bench.definitions import schedule_lag_s
from qwenops.bench.drive import Before, Progress, drive
from qwenops.bench.record import Failure, RequestRecord
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.simulated.engine import SimulatedEngine
from qwenops.bench.simulated.loop import VirtualClock, run
from qwenops.bench.simulated.options import Faults, Simulated, SimulatedOptions
from qwenops.bench.stats import summarise
from qwenops.engines.seam import Engine, EngineInfo
from qwenops.errors import InsufficientDiskError
from qwenops.generation import Chunk, FinishReason, GenerationRequest
from tests.bench.driving import MS, Kept, S, line_to

FIXED = SimulatedOptions(service="fixed", service_s=1.0, first_share=0.5, contention=0.0, coherence=0.0, slots=1000)


def driven(
    segment: Segment, server: SimulatedOptions = FIXED, *, stop_s: float | None = None, **more: Any
) -> tuple[Driven, Kept, Progress]:
    """Drive a segment against a simulated server in virtual time."""

    async def main() -> tuple[Driven, Kept, Progress]:
        clock = VirtualClock()
        kept = Kept(line_to(SimulatedEngine(Simulated(server=server), clock=clock), clock))
        progress, stop = Progress(), asyncio.Event()
        if stop_s is not None:
            asyncio.get_running_loop().call_later(stop_s, stop.set)
        return await drive(segment, kept.course(progress=progress, **more), stop), kept, progress

    return run(main())


def in_order(kept: Kept) -> list[RequestRecord]:
    return sorted(kept.records, key=lambda record: record.index)


def test_an_open_loop_sends_exactly_on_its_schedule() -> None:
    offsets = arrivals("poisson", 5.0, duration_s=60, seed=3)
    found, kept, progress = driven(Segment(name="x", load=OpenLoop(offsets_ns=offsets), duration_s=60))
    assert tuple(record.sent_ns for record in in_order(kept)) == offsets
    assert tuple(record.scheduled_ns for record in in_order(kept)) == offsets
    assert (found.began_ns, found.window_ns, found.interrupted) == (0, 60 * S, False)
    assert progress == Progress(sent=len(offsets), done=len(offsets))


def test_a_server_that_stands_still_delays_no_send() -> None:
    """Coordinated omission: the pause is seen by every request that was due in it."""
    frozen = SimulatedOptions(
        service="fixed", service_s=0.1, contention=0.0, coherence=0.0, slots=1000, freeze=("20s@5s",)
    )
    offsets = tuple(range(0, 30 * S, S))
    _, kept, _ = driven(Segment(name="x", load=OpenLoop(offsets_ns=offsets), duration_s=30), frozen)
    records = in_order(kept)
    assert [schedule_lag_s(record) for record in records] == [0.0] * 30
    late = [record for record in records if record.ended_ns is not None and record.ended_ns - record.scheduled_ns > S]
    assert [record.index for record in late] == list(range(5, 25))


def test_requests_count_by_their_schedule_and_are_waited_for() -> None:
    """The last request ends after the window; it counts, and only tokens inside the window make throughput."""
    offsets = (0, 5_000 * MS, 9_900 * MS)
    found, kept, _ = driven(Segment(name="x", load=OpenLoop(offsets_ns=offsets), duration_s=10))
    assert [record.failure for record in in_order(kept)] == [None, None, None]
    assert found.window_ns == 10 * S
    assert found.ended_ns == 10_900 * MS
    summary = summarise(Driven(**{**fields_of(found), "records": in_order(kept)}))
    assert summary.counts.ok == 3
    assert summary.steady.ramp_ns == 1.5 * S
    assert summary.rates["output_tokens_per_s"] == pytest.approx(4 / 8.5)


def fields_of(found: Driven) -> dict[str, Any]:
    return {name: getattr(found, name) for name in Driven.__slots__}


def test_a_drain_has_a_limit_and_who_exceeds_it_has_failed() -> None:
    slow = SimulatedOptions(service="fixed", service_s=500.0, slots=8)
    found, kept, progress = driven(
        Segment(name="x", load=OpenLoop(offsets_ns=(0, S)), duration_s=10), slow, drain_s=20.0
    )
    assert [record.failure for record in in_order(kept)] == [Failure.TIMEOUT, Failure.TIMEOUT]
    assert found.ended_ns == 30 * S
    assert not found.interrupted
    assert progress.failed == 2


def test_a_closed_loop_keeps_its_callers_busy_for_the_window() -> None:
    found, kept, _ = driven(Segment(name="x", load=ClosedLoop(users=3), duration_s=10))
    assert len(kept.records) == 30
    assert {record.user for record in kept.records} == {0, 1, 2}
    assert found.window_ns == 10 * S
    assert [record.index for record in in_order(kept)] == list(range(30))


def test_a_closed_loop_ends_after_its_requests() -> None:
    found, kept, _ = driven(Segment(name="x", load=ClosedLoop(users=3, requests=10)))
    assert len(kept.records) == 10
    assert found.window_ns == found.ended_ns == 4 * S


def test_callers_think_and_are_not_waited_for_while_they_do() -> None:
    found, kept, _ = driven(Segment(name="x", load=ClosedLoop(users=1, think_s=4.0), duration_s=12))
    assert [record.scheduled_ns for record in in_order(kept)] == [0, 5 * S, 10 * S]
    assert found.ended_ns == 12 * S


def test_a_server_that_refuses_at_once_is_not_hammered() -> None:
    async def main() -> list[RequestRecord]:
        clock = VirtualClock()
        engine = SimulatedEngine(Simulated(server=FIXED, faults=Faults(status=503)), clock=clock)
        kept = Kept(line_to(engine, clock))
        await drive(Segment(name="x", load=ClosedLoop(users=2), duration_s=10), kept.course(), asyncio.Event())
        return kept.records

    records = run(main())
    assert len(records) == 20
    assert {record.failure for record in records} == {Failure.SHED}


def test_what_would_be_too_much_in_flight_is_dropped_and_told() -> None:
    segment = Segment(
        name="x", load=OpenLoop(offsets_ns=tuple(range(0, 2 * S, 100 * MS))), duration_s=2, max_in_flight=5
    )
    quicker = SimulatedOptions(service="fixed", service_s=0.95, contention=0.0, coherence=0.0, slots=1000)
    found, kept, _ = driven(segment, quicker)
    assert len(kept.records) + len(kept.dropped) == 20
    assert found.dropped == len(kept.dropped) == 10
    assert kept.dropped == [5, 6, 7, 8, 9, 15, 16, 17, 18, 19]


def test_a_stop_ends_the_window_gives_a_moment_and_gives_up_the_rest() -> None:
    server = SimulatedOptions(service="fixed", service_s=4.0, contention=0.0, coherence=0.0, slots=100)
    offsets = (0, 2 * S, 5 * S, 20 * S)
    found, kept, progress = driven(
        Segment(name="x", load=OpenLoop(offsets_ns=offsets), duration_s=60), server, stop_s=5.5
    )
    records = in_order(kept)
    assert [record.failure for record in records] == [None, None, Failure.INTERRUPTED]
    assert records[2].ended_ns == 8_500 * MS
    assert (found.window_ns, found.interrupted) == (5_500 * MS, True)
    assert (progress.done, progress.failed) == (2, 0)


def test_a_stop_while_answers_are_drained_shortens_the_wait() -> None:
    server = SimulatedOptions(service="fixed", service_s=500.0, slots=8)
    found, kept, _ = driven(Segment(name="x", load=OpenLoop(offsets_ns=(0, S))), server, stop_s=10.0)
    assert [record.failure for record in kept.records] == [Failure.INTERRUPTED] * 2
    assert found.ended_ns == 13 * S


def test_callers_stop_too() -> None:
    found, kept, _ = driven(
        Segment(name="x", load=ClosedLoop(users=2, think_s=100.0), duration_s=60), FIXED, stop_s=7.5
    )
    assert len(kept.records) == 2
    assert found.ended_ns == 7_500 * MS


def test_a_continued_open_loop_sends_what_is_not_over() -> None:
    """Positions 1 and 3 have no record; 3 was due before the interruption, 5 and 6 are still to come."""
    offsets = tuple(each * S for each in range(7))
    before = Before(began_ns=-4_500 * MS, over=frozenset({0, 2, 4}), resumed=True)
    _, kept, _ = driven(Segment(name="x", load=OpenLoop(offsets_ns=offsets), duration_s=7), before=before)
    assert [(record.index, record.sent_ns) for record in in_order(kept)] == [
        (1, 0),
        (3, 0),
        (5, 500 * MS),
        (6, 1_500 * MS),
    ]


def test_a_continued_closed_loop_sends_what_is_not_over() -> None:
    before = Before(began_ns=-3 * S, over=frozenset({0, 2}), resumed=True)
    _, kept, _ = driven(Segment(name="x", load=ClosedLoop(users=2, requests=6)), before=before)
    assert [record.index for record in in_order(kept)] == [1, 3, 4, 5]


def test_a_record_that_cannot_be_kept_ends_the_segment() -> None:
    async def main() -> int:
        clock = VirtualClock()
        engine = SimulatedEngine(Simulated(server=FIXED), clock=clock)
        kept = Kept(line_to(engine, clock))

        def full(_record: RequestRecord) -> None:
            raise InsufficientDiskError("full", needed_bytes=1, available_bytes=0)

        course = kept.course()
        course = type(course)(**{**{name: getattr(course, name) for name in course.__slots__}, "keep": full})
        with pytest.raises(InsufficientDiskError):
            await drive(
                Segment(name="x", load=OpenLoop(offsets_ns=tuple(range(0, 60 * S, S)))), course, asyncio.Event()
            )
        assert clock.now_ns() < 2 * S
        return len(engine.model.truths)

    run(main())


def test_a_cancelled_drive_keeps_records_of_what_was_in_flight() -> None:
    async def main() -> list[RequestRecord]:
        clock = VirtualClock()
        kept = Kept(line_to(SimulatedEngine(Simulated(server=FIXED), clock=clock), clock))
        segment = Segment(name="x", load=ClosedLoop(users=2), duration_s=60)
        task = asyncio.get_running_loop().create_task(drive(segment, kept.course(), asyncio.Event()))
        await asyncio.sleep(1.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return kept.records

    assert [record.failure for record in run(main())] == [None, None, Failure.INTERRUPTED, Failure.INTERRUPTED]


class Silent:
    """An engine that never answers, and notes who asked it."""

    def __init__(self) -> None:
        self.asked = 0

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(engine="silent", model="silent", accepts="both", context_tokens=4096)

    async def generate(self, _request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.asked += 1
        await asyncio.get_running_loop().create_future()
        yield Chunk()

    async def aclose(self) -> None:
        pass


class Stubborn(Silent):
    """An engine that takes a minute longer to let go of a request, and then says something after all."""

    async def generate(self, _request: GenerationRequest) -> AsyncIterator[Chunk]:
        yield Chunk(text="never")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(60)
        yield Chunk(text=" mind", finish_reason=FinishReason.STOP)


def test_a_request_whose_task_does_not_end_has_its_record_and_reaches_no_later_segment() -> None:
    async def main() -> tuple[list[RequestRecord], list[RequestRecord], Progress]:
        first = Kept(line_to(Stubborn(), VirtualClock()))
        progress, stop = Progress(), asyncio.Event()
        asyncio.get_running_loop().call_later(5.0, stop.set)
        segment = Segment(name="x", load=ClosedLoop(users=2), duration_s=30)
        await drive(segment, first.course(progress=progress), stop)
        at_once = list(first.records)
        await asyncio.sleep(120)
        return at_once, first.records, progress

    at_once, later, progress = run(main())
    assert [(record.index, record.failure) for record in at_once] == [
        (0, Failure.INTERRUPTED),
        (1, Failure.INTERRUPTED),
    ]
    assert later == at_once
    assert all(record.first_content_ns is not None for record in at_once), "what had come is in the record"
    assert (progress.in_flight, progress.done, progress.failed) == (0, 0, 0)


def real(engine: Engine, segment: Segment, *, max_tokens: int = 4, **more: Any) -> tuple[Driven, Kept]:
    async def main() -> tuple[Driven, Kept]:
        kept = Kept(line_to(engine, RealClock()), max_tokens=max_tokens)
        return await drive(segment, kept.course(**more), asyncio.Event()), kept

    return finished(main())


def finished(main: Coroutine[Any, Any, tuple[Driven, Kept]]) -> tuple[Driven, Kept]:
    return asyncio.run(main)


@pytest.mark.slow
def test_in_real_time_a_poisson_schedule_is_hit_within_milliseconds() -> None:
    offsets = arrivals("poisson", 100.0, duration_s=2, seed=5)
    _, kept = real(Silent(), Segment(name="x", load=OpenLoop(offsets_ns=offsets), duration_s=2), drain_s=0.1)
    lags = sorted(lag for record in kept.records if (lag := schedule_lag_s(record)) is not None)
    assert len(lags) == len(offsets)
    assert lags[0] >= 0
    assert lags[len(lags) // 2] < 0.005


@pytest.mark.slow
def test_a_thousand_streams_at_once_are_read_to_their_ends() -> None:
    engine = NullEngine(RealClock(), tokens_per_s=5)
    segment = Segment(name="x", load=OpenLoop(offsets_ns=(0,) * 1000))
    _, kept = real(engine, segment, max_tokens=8)
    assert [record.failure for record in kept.records] == [None] * 1000
    assert {record.num_chunks for record in kept.records} == {8}
