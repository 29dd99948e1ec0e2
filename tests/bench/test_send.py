"""One request, its moments and what can become of it."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.clock import RealClock
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.send import THINK_CLOSE, THINK_OPEN, FirstAnswer, Line, failure_of
from qwenops.bench.simulated.engine import SimulatedEngine
from qwenops.bench.simulated.loop import VirtualClock, run
from qwenops.bench.simulated.options import Simulated, SimulatedOptions
from qwenops.engines.fake import FakeEngine, Script
from qwenops.engines.remote import Moment, OnMoment
from qwenops.engines.seam import EngineInfo
from qwenops.errors import (
    AuthenticationError,
    DeadlineError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    LimitExceededError,
    MalformedAnswerError,
    ModelNotServedError,
    NoConnectionLeftError,
    OverloadedError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.generation import Chunk, FinishReason, GenerationRequest, Usage
from tests.bench.driving import MS, S, ask, line_to, target_of

END = Chunk(finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=2))


class TimedEngine:
    """Yields chunks at given times after the request; the last item may be an error."""

    def __init__(self, *steps: tuple[float, Chunk | QwenOpsError], closing_s: float = 0.0) -> None:
        self.steps = steps
        self.closing_s = closing_s
        self.closed = 0

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(engine="timed", model="timed", accepts="both", context_tokens=4096)

    async def generate(self, _request: GenerationRequest) -> AsyncIterator[Chunk]:
        begun = asyncio.get_running_loop().time()
        try:
            for at_s, chunk in self.steps:
                await asyncio.sleep(max(0.0, begun + at_s - asyncio.get_running_loop().time()))
                if isinstance(chunk, QwenOpsError):
                    raise chunk
                yield chunk
        finally:
            self.closed += 1
            await asyncio.sleep(self.closing_s)

    async def aclose(self) -> None:
        pass


def said(*pieces: tuple[float, str]) -> list[tuple[float, Chunk | QwenOpsError]]:
    return [(at_s, Chunk(text=text)) for at_s, text in pieces]


def sent(engine: TimedEngine, **more: object) -> RequestRecord:
    """Send one request in virtual time, scheduled a second before it is sent."""

    async def main() -> RequestRecord:
        clock = VirtualClock()
        await asyncio.sleep(1)
        line = Line(target_of(engine), clock, 0, **more)  # type: ignore[arg-type] # each is an argument of Line
        errand = line.errand(ask(), index=7, segment="part", phase=Phase.MEASURE)
        return await line.send(errand, 0, user=3)

    return run(main())


def test_moments_are_those_at_which_chunks_with_content_came() -> None:
    engine = TimedEngine(*said((0.2, ""), (0.5, "a"), (0.6, ""), (0.75, "b"), (1.0, "c")), (1.5, END))
    record = sent(engine)
    assert (record.index, record.segment, record.item, record.user) == (7, "part", "item-0", 3)
    assert (record.scheduled_ns, record.sent_ns) == (0, S)
    assert record.first_content_ns == S + 500 * MS
    assert record.first_answer_ns == record.first_content_ns
    assert record.last_content_ns == 2 * S
    assert record.ended_ns == 2 * S + 500 * MS
    assert record.chunk_gaps_us == (250_000, 250_000)
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (3, 5, 2)
    assert (record.token_source, record.finish_reason, record.failure) == ("server", "stop", None)
    assert (record.prompt, record.answer) == (None, None)


def test_gaps_add_up_to_the_whole_however_small_they_are() -> None:
    pieces = [(0.1 + number * 0.000_000_4, "x") for number in range(2000)]
    record = sent(TimedEngine(*said(*pieces), (1.0, END)))
    assert record.first_content_ns is not None
    assert record.last_content_ns is not None
    assert abs(sum(record.chunk_gaps_us) * 1000 - (record.last_content_ns - record.first_content_ns)) <= 1000


@pytest.mark.parametrize(
    ("pieces", "answered_s"),
    [
        (["<think>", "so", "</think>", "\n\n", "Yes"], 5),
        (["<thi", "nk>so</th", "ink>\n", "Yes"], 4),
        (["  ", "<think>a</think> Yes"], 2),
        (["<think>", "no end"], None),
        (["<thin", " air"], 1),
        (["<thin"], 1),
        (["Yes", "<think>"], 1),
        (["\n", "Yes"], 1),
        (["<think>\n</think>\n\nYes"], 1),
    ],
)
def test_the_answer_begins_after_the_reasoning(pieces: list[str], answered_s: int | None) -> None:
    timed = [(float(number), text) for number, text in enumerate(pieces, start=1)]
    record = sent(TimedEngine(*said(*timed), (10.0, END)))
    assert record.first_content_ns == 2 * S
    assert record.first_answer_ns == (None if answered_s is None else (1 + answered_s) * S)


@given(
    st.text(alphabet="ab <>/think\n", max_size=30),
    st.text(alphabet="xy </", min_size=1, max_size=9),
    st.lists(st.integers(1, 50)),
)
def test_the_answer_is_found_however_the_text_is_cut(thought: str, answer: str, cuts: Sequence[int]) -> None:
    thought = thought.replace(THINK_CLOSE, "")
    text = f"{THINK_OPEN}{thought}{THINK_CLOSE}{answer}"
    begins = text.index(THINK_CLOSE, len(THINK_OPEN)) + len(THINK_CLOSE)
    begins += len(text[begins:]) - len(text[begins:].lstrip())
    finder = FirstAnswer()
    borders = sorted({0, len(text), *(each % len(text) for each in cuts)})
    for start, end in itertools.pairwise(borders):
        if finder.at_ns is None:
            finder.push(text[start:end], end, 1)
    expected = next((end for end in borders if end > begins), None) if begins < len(text) else None
    assert finder.finish(1) == expected


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (EngineUnavailableError("x"), Failure.CONNECT),
        (NoConnectionLeftError("x"), Failure.CLIENT),
        (DeadlineError("x"), Failure.TIMEOUT),
        (InvalidRequestError("x"), Failure.REJECTED),
        (PromptTooLongError("x"), Failure.REJECTED),
        (ModelNotServedError("x"), Failure.REJECTED),
        (AuthenticationError("x"), Failure.REJECTED),
        (ForbiddenError("x"), Failure.REJECTED),
        (LimitExceededError("x"), Failure.SHED),
        (OverloadedError("x"), Failure.SHED),
        (EngineError("x"), Failure.FAILED),
        (QwenOpsError("x"), Failure.FAILED),
        (EngineCrashedError("x"), Failure.CUT),
        (MalformedAnswerError("x"), Failure.MALFORMED),
    ],
)
def test_each_error_has_its_class(error: QwenOpsError, failure: Failure) -> None:
    assert failure_of(error) is failure
    record = sent(TimedEngine(*said((0.5, "a")), (0.75, error)))
    assert (record.failure, record.message) == (failure, "x")
    assert record.first_content_ns == S + 500 * MS
    assert record.ended_ns == S + 750 * MS
    assert record.completion_tokens is None


def test_a_message_that_repeats_the_prompt_is_kept_without_it_unless_text_is_recorded() -> None:
    error = InvalidRequestError('http://h answered 400: cannot read "question 0 please".')
    record = sent(TimedEngine((0.1, error)))
    assert record.message == 'http://h answered 400: cannot read "…".'
    assert "question 0 please" in sent(TimedEngine((0.1, error)), record_text=True).message


def test_when_to_come_back_is_kept() -> None:
    record = sent(TimedEngine((0.1, OverloadedError("full", retry_after_s=7.0))))
    assert (record.failure, record.retry_after_s) == (Failure.SHED, 7.0)


def test_a_time_out_ends_the_request_and_closes_the_stream() -> None:
    engine = TimedEngine(*said((0.5, "a"), (900.0, "b")), (901.0, END))
    record = sent(engine, timeout_s=2.0)
    assert (record.failure, record.ended_ns) == (Failure.TIMEOUT, 3 * S)
    assert record.num_chunks == 1
    assert engine.closed == 1


def test_an_engine_that_does_not_let_go_holds_nobody_up() -> None:
    record = sent(TimedEngine(*said((900.0, "b")), closing_s=1e6), timeout_s=2.0)
    assert record.failure is Failure.TIMEOUT


def test_a_stream_without_an_end_is_cut_and_one_without_content_is_empty() -> None:
    assert sent(TimedEngine(*said((0.5, "a")))).failure is Failure.CUT
    assert sent(TimedEngine((0.5, END))).failure is Failure.EMPTY
    assert sent(TimedEngine()).failure is Failure.CUT


def test_what_the_engine_adds_to_close_the_text_is_no_content_and_has_no_moment() -> None:
    closing = Chunk(text="</think>", is_added=True, finish_reason=FinishReason.STOP, usage=END.usage)
    record = sent(TimedEngine(*said((0.5, "<think>"), (1.0, "so")), (3.0, closing)), record_text=True)
    assert (record.num_chunks, record.last_content_ns, record.ended_ns) == (2, 2 * S, 4 * S)
    assert record.answer == "<think>so</think>"


def test_what_nobody_counted_is_none_and_never_zero() -> None:
    unsaid = frozenset({"prompt_tokens", "completion_tokens", "cached_tokens"})
    end = Chunk(finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=0, completion_tokens=0, unsaid=unsaid))
    record = sent(TimedEngine(*said((0.5, "a"), (1.0, "b")), (1.5, end)))
    assert (record.prompt_tokens, record.cached_tokens) == (None, None)
    assert (record.completion_tokens, record.token_source) == (2, "estimate")


def test_a_cancelled_request_has_a_record_of_what_was_there() -> None:
    async def main() -> RequestRecord:
        clock = VirtualClock()
        line = line_to(TimedEngine(*said((0.5, "a"), (900.0, "b"))), clock)
        errand = line.errand(ask(), index=0, segment="part", phase=Phase.MEASURE)
        task = asyncio.get_running_loop().create_task(line.send(errand, 0))
        await asyncio.sleep(1)
        line.give_up_as(Failure.INTERRUPTED, "stopped")
        task.cancel()
        return await task

    record = run(main())
    assert (record.failure, record.message, record.num_chunks) == (Failure.INTERRUPTED, "stopped", 1)
    assert record.ended_ns == S


def test_connections_and_first_bytes_come_from_the_engine() -> None:
    hooks: list[OnMoment | None] = []
    moments: list[tuple[float, Moment]] = [(0.1, "connected"), (0.2, "again"), (0.3, "first_byte")]

    async def tell() -> None:
        for at_s, moment in moments:
            await asyncio.sleep(1 + at_s - asyncio.get_running_loop().time())
            assert hooks[0] is not None
            hooks[0]("bench-7", moment)
            hooks[0]("unknown", moment)

    async def main() -> RequestRecord:
        clock = VirtualClock()
        await asyncio.sleep(1)
        line = Line(target_of(TimedEngine(*said((0.5, "a")), (0.6, END)), hooks.append), clock, 0)
        errand = line.errand(ask(), index=7, segment="part", phase=Phase.MEASURE)
        _, record = await asyncio.gather(tell(), line.send(errand, 0))
        line.close()
        return record

    record = run(main())
    assert (record.connected_ns, record.first_byte_ns) == (S + 100 * MS, S + 300 * MS)
    assert record.tries == 2
    assert hooks[-1] is None


def test_text_is_recorded_only_where_it_was_asked_for() -> None:
    record = sent(TimedEngine(*said((0.5, "好"), (0.75, "的")), (1.0, END)), record_text=True)
    assert record.answer == "好的"
    assert record.prompt is not None
    assert json.loads(record.prompt) == [{"role": "user", "content": "question 0 please"}]


def test_tokens_without_usage_are_counted_or_marked_as_an_estimate() -> None:
    bare = Chunk(finish_reason=FinishReason.STOP)
    counted = sent(TimedEngine((0.1, Chunk(text="ab", token_ids=(1, 2))), (0.2, bare)))
    assert (counted.completion_tokens, counted.token_source) == (2, "tokenizer")
    guessed = sent(TimedEngine(*said((0.1, "a"), (0.2, "b")), (0.3, bare)))
    assert (guessed.completion_tokens, guessed.token_source) == (2, "estimate")


async def test_the_fake_engine_is_measured_as_what_it_is() -> None:
    engine = FakeEngine(script=lambda _request: Script(text="one two three"))
    line = line_to(engine, RealClock())
    record = await line.send(line.errand(ask(max_tokens=9), index=0, segment="x", phase=Phase.MEASURE), 0)
    assert (record.failure, record.completion_tokens, record.num_chunks) == (None, 3, 3)
    assert record.first_answer_ns == record.first_content_ns


def test_the_simulated_server_is_measured_to_the_microsecond() -> None:
    async def main() -> None:
        clock = VirtualClock()
        engine = SimulatedEngine(Simulated(server=SimulatedOptions(thinking_tokens=4)), clock=clock)
        line = line_to(engine, clock)
        errand = line.errand(ask(max_tokens=12), index=0, segment="x", phase=Phase.MEASURE)
        record = await line.send(errand, clock.now_ns())
        (truth,) = engine.model.truths
        assert record.sent_ns == truth.arrived_ns
        assert (record.first_content_ns, record.last_content_ns) == (truth.first_ns, truth.last_ns)
        assert record.completion_tokens == truth.num_tokens

    run(main())


@pytest.mark.slow
def test_a_chunk_costs_at_most_twenty_microseconds() -> None:
    number = 20_000

    class Endless(TimedEngine):
        async def generate(self, _request: GenerationRequest) -> AsyncIterator[Chunk]:
            chunk = Chunk(text="word")
            for _ in range(number):
                yield chunk
            yield END

    async def cost_us(consume: Callable[[], object]) -> float:
        begun_ns = time.process_time_ns()
        await consume()  # type: ignore[misc] # each of them is a coroutine function
        return (time.process_time_ns() - begun_ns) / number / 1000

    async def main() -> float:
        line = line_to(Endless(), RealClock())
        errand = line.errand(ask(), index=0, segment="x", phase=Phase.MEASURE)
        return min([await cost_us(lambda: line.send(errand, 0)) for _ in range(5)])

    assert asyncio.run(main()) <= 20
