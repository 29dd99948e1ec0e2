"""Rates are those of a server that is at work: no ramp in them, and nothing of what lies beyond the window."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Failure
from qwenops.bench.segment import ClosedLoop, OpenLoop, Segment
from qwenops.bench.stats import summarise
from qwenops.bench.tables import ramp_sentences
from qwenops.bench.window import answers_per_s, steady_window
from tests.bench.queue_server import QueueServer
from tests.bench.records import NS, answer, driven


def test_one_caller_has_no_ramp() -> None:
    records = [answer(each, at_s=3.0 * each, ttft_s=1.0, gaps_s=(2.0,)) for each in range(4)]
    found = steady_window(driven(records, window_s=12))
    assert (found.from_ns, found.until_ns, found.is_over) == (0, 12 * NS, True)


def test_the_ramp_ends_half_an_answer_after_each_caller_has_had_one() -> None:
    # One line, one second each: the third of three callers waits three seconds for the first answer.
    records = [answer(each, at_s=max(0, each - 2), ttft_s=min(each + 1, 3)) for each in range(30)]
    found = steady_window(driven(records, window_s=20, load=ClosedLoop(users=3)))
    assert found.ramp_ns == 3.5 * NS
    assert answers_per_s(driven(records, window_s=20, load=ClosedLoop(users=3))) == pytest.approx(1.0, rel=0.06)


def test_an_open_loop_at_an_empty_server_has_a_ramp_too() -> None:
    records = [answer(each, at_s=each, ttft_s=1.0, gaps_s=(9.0,), tokens=100) for each in range(60)]
    offsets = tuple(each * NS for each in range(60))
    found = summarise(driven(records, window_s=60, load=OpenLoop(offsets_ns=offsets)))
    assert found.steady.ramp_ns == pytest.approx((19 + 5) * NS)
    assert found.rates["completed_rate"] == pytest.approx(1.0, rel=0.01)
    assert found.rates["achieved_rate"] == pytest.approx(1.0)
    assert found.rates["input_tokens_per_s"] == pytest.approx(10.0, rel=0.01)
    assert found.little is not None
    assert found.little.in_flight == pytest.approx(10.0, rel=0.01)


def test_a_ramp_that_takes_too_much_is_cut_and_told() -> None:
    long = [answer(each, at_s=0.0, ttft_s=1.0, gaps_s=(7.0 + each,)) for each in range(2)]
    cut = summarise(driven(long, window_s=10, load=ClosedLoop(users=2)))
    assert (cut.steady.ramp_ns, cut.steady.is_over) == (5 * NS, False)
    assert any("the ramp was not" in sentence for sentence in ramp_sentences([cut]))
    third = [answer(each, at_s=4.0 * (each // 2), ttft_s=1.0, gaps_s=(3.0,)) for each in range(8)]
    noted = summarise(driven(third, window_s=16, load=ClosedLoop(users=2)))
    assert (noted.steady.ramp_ns, noted.steady.is_over) == (6 * NS, True)
    assert any("38% of the window" in sentence for sentence in ramp_sentences([noted]))
    assert ramp_sentences([summarise(driven([answer()]))]) == ()


def test_callers_who_have_no_more_to_ask_are_no_slow_server() -> None:
    records = [answer(each, at_s=each // 2, ttft_s=1.0) for each in range(20)]
    spent = driven(records, window_s=60, load=ClosedLoop(users=2, requests=20))
    assert steady_window(spent).until_ns == 9 * NS
    assert answers_per_s(spent) == pytest.approx(2.0)


@pytest.mark.parametrize("users", [4, 16])
async def test_a_short_load_of_many_callers_says_what_a_long_one_says(users: int) -> None:
    """Sixteen callers wait 11 s for each answer: over the whole of 45 s a quarter of the work would be missing."""
    rates = []
    for seed in range(20):
        server = QueueServer(service_s=2.75, servers=4, seed=seed, options=BenchOptions())
        segment = Segment(name="users", load=ClosedLoop(users=users), duration_s=45.0)
        rates.append(summarise(await server.drive(segment, overload=True)).rates["completed_rate"] or 0.0)
    assert sum(rates) / len(rates) == pytest.approx(4 / 2.75, rel=0.05)


@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20), st.floats(0.1, 20.0), st.integers(1, 5))
def test_a_window_lies_in_its_segment_and_keeps_half_of_it(starts: list[float], length: float, users: int) -> None:
    records = [answer(each, at_s=at, ttft_s=length) for each, at in enumerate(sorted(starts))]
    for load in (ClosedLoop(users=users), OpenLoop(offsets_ns=())):
        found = steady_window(driven(records, window_s=20, load=load))
        assert 0 <= found.from_ns <= 10 * NS
        assert found.until_ns == 20 * NS


def test_what_failed_is_no_answer_and_ends_the_ramp_all_the_same() -> None:
    lost = dataclasses.replace(answer(0, ttft_s=1.0), failure=Failure.CUT)
    good = answer(1, at_s=0.0, ttft_s=2.0)
    both = driven([lost, good], window_s=8, load=ClosedLoop(users=2))
    assert steady_window(both).ramp_ns == 3 * NS
    assert answers_per_s(both) == 0.0
