"""The moments from which a run in virtual time may be continued: none at which anything was in flight."""

from dataclasses import replace

import pytest

from qwenops.bench.record import Failure, RequestRecord
from qwenops.bench.rewind import IdleMoment, forgets, idle_moment
from qwenops.bench.segment import ClosedLoop, OpenLoop, Segment
from qwenops.bench.simulated.engine import SimulatedEngine
from qwenops.bench.simulated.options import parse_simulated
from tests.bench.driving import S, target_of
from tests.bench.records import answer

BEGAN = 10 * S


def over(sent_s: float, ended_s: float, user: int | None = None, failure: Failure | None = None) -> RequestRecord:
    at = replace(answer(0), scheduled_ns=round(sent_s * S), sent_ns=round(sent_s * S), ended_ns=round(ended_s * S))
    return replace(at, user=user, failure=failure)


def open_loop(*offsets_s: float) -> Segment:
    return Segment(name="load", load=OpenLoop(offsets_ns=tuple(round(each * S) for each in offsets_s)))


@pytest.mark.parametrize(
    ("records", "dropped", "at_s", "count"),
    [
        ({}, {}, 10, 0),
        ({0: over(10, 11)}, {}, 11, 1),
        ({0: over(10, 12.5), 1: over(12, 13)}, {}, 13, 2),
        ({1: over(12, 13), 2: over(20, 21)}, {}, 10, 0),
        ({0: over(10, 12)}, {}, 10, 0),
        ({0: over(10, 11), 1: over(12, 13), 2: over(20, 33)}, {}, 33, 3),
        ({0: over(10, 11)}, {1: 12 * S}, 12, 2),
    ],
)
def test_of_a_schedule_it_is_when_all_that_was_due_was_over(
    records: dict[int, RequestRecord], dropped: dict[int, int], at_s: float, count: int
) -> None:
    """Who was due at 0, 2 and 10 s: a request without a record may have been in flight."""
    found = idle_moment(open_loop(0, 2, 10), BEGAN, records, dropped)
    assert found == IdleMoment(at_ns=round(at_s * S), count=count)


def test_of_callers_it_is_when_every_one_was_resting() -> None:
    segment = Segment(name="load", load=ClosedLoop(users=2, think_s=3.0))
    first = {0: over(10, 11, 0), 1: over(10, 12, 1)}
    assert idle_moment(segment, BEGAN, first, {}) == IdleMoment(at_ns=12 * S, count=2, resting={0: 14 * S, 1: 15 * S})
    more = {**first, 2: over(14, 19, 0), 3: over(15, 21, 1)}
    assert idle_moment(segment, BEGAN, more, {}) == IdleMoment(at_ns=21 * S, count=4, resting={0: 22 * S, 1: 24 * S})
    late = {**first, 2: over(14, 19, 0), 3: over(15, 23, 1)}
    assert idle_moment(segment, BEGAN, late, {}).at_ns == 12 * S


def test_callers_that_go_on_at_once_are_never_all_at_rest_unless_there_is_one() -> None:
    two = Segment(name="load", load=ClosedLoop(users=2))
    assert idle_moment(two, BEGAN, {0: over(10, 11, 0), 1: over(10, 11, 1)}, {}) == IdleMoment(at_ns=BEGAN)
    one = Segment(name="load", load=ClosedLoop(users=1))
    assert idle_moment(one, BEGAN, {0: over(10, 11, 0), 1: over(11, 13, 0)}, {}) == IdleMoment(
        at_ns=13 * S, count=2, resting={0: 13 * S}
    )


def test_who_was_turned_away_rests_as_long_as_it_was_told() -> None:
    segment = Segment(name="load", load=ClosedLoop(users=1))
    shed = replace(over(10, 10.5, 0, Failure.SHED), retry_after_s=7.0)
    assert idle_moment(segment, BEGAN, {0: shed}, {}).resting == {0: round(17.5 * S)}


@pytest.mark.parametrize(("text", "does"), [("simulated:?slots=3", True), ("simulated:?cache_tokens=512", False)])
def test_only_servers_without_memory_are_as_new_when_idle(text: str, *, does: bool) -> None:
    assert forgets({"": target_of(SimulatedEngine(parse_simulated(text)))}) is does
