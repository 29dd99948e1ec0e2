"""A server that keeps up is not blamed for the requests in flight; one that does not is told."""

import pytest

from qwenops.bench.backlog import backlog_of
from qwenops.bench.options import BenchOptions
from qwenops.bench.schedule import arrivals
from qwenops.bench.segment import ClosedLoop, OpenLoop, Segment
from tests.bench.queue_server import QueueServer
from tests.bench.records import NS, answer, driven

RUNS = 20


async def share_that_grows(load: float, *, window_s: float = 180.0, servers: int = 1) -> float:
    """Return how many of many Poisson loads at a machine are said to grow."""
    told = 0
    for seed in range(RUNS):
        server = QueueServer(service_s=1.0, servers=servers, seed=seed, options=BenchOptions())
        offsets = arrivals("poisson", load * servers, duration_s=window_s, seed=seed)
        segment = Segment(name="load", load=OpenLoop(offsets_ns=offsets), duration_s=window_s)
        found = backlog_of(await server.drive(segment, overload=True))
        told += found is not None and found.grows
    return told / RUNS


def at_a_second(residence_s: float, *, window_s: int = 60) -> list[float]:
    """Return in flight in both halves, and whether they grow, at one request a second."""
    records = [answer(each, at_s=each, ttft_s=residence_s) for each in range(window_s)]
    offsets = tuple(each * NS for each in range(window_s))
    found = backlog_of(driven(records, window_s=window_s, load=OpenLoop(offsets_ns=offsets)))
    return [] if found is None else [found.first, found.last, found.grows]


def test_ten_in_flight_by_littles_law_are_no_backlog() -> None:
    assert at_a_second(11.0) == pytest.approx([11.0, 11.0, False])


def test_where_no_answer_came_in_time_nothing_is_said() -> None:
    assert at_a_second(100.0) == []


@pytest.mark.parametrize("servers", [1, 4])
async def test_a_busy_server_that_keeps_up_is_not_blamed(servers: int) -> None:
    assert await share_that_grows(0.8, servers=servers) == 0.0


@pytest.mark.parametrize("servers", [1, 4])
async def test_a_server_at_one_and_a_half_of_its_capacity_is(servers: int) -> None:
    assert await share_that_grows(1.5, servers=servers) >= 0.9


def test_requests_that_were_not_sent_are_not_kept_up_with() -> None:
    records = [answer(each, at_s=each, ttft_s=1.0) for each in range(40)]
    load = OpenLoop(offsets_ns=tuple(each * NS for each in range(40)))
    assert backlog_of(driven(records, window_s=40, load=load)).grows is False  # type: ignore[union-attr]  # long enough
    full = backlog_of(driven(records, window_s=40, load=load, dropped=20))
    assert full is not None
    assert full.grows
    assert full.unsent_share == pytest.approx(1 / 3)


def test_callers_that_wait_have_no_backlog() -> None:
    records = [answer(each, at_s=each, ttft_s=1.0) for each in range(40)]
    assert backlog_of(driven(records, window_s=40, load=ClosedLoop(users=1))) is None
    assert backlog_of(driven(records[:5], window_s=40, load=OpenLoop(offsets_ns=(0,)))) is None
