"""The law is found where it holds, with intervals that cover it, and a level that was not steady is told."""

import dataclasses
import math

import numpy as np
import pytest

from qwenops.bench.knee import Level, fit_knee, level_of
from qwenops.bench.options import BenchOptions
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, Segment
from tests.bench.queue_server import QueueServer

S = 1_000_000_000


def usl(users: float, one: float, contention: float, coherence: float) -> float:
    return one * users / (1 + contention * (users - 1) + coherence * users * (users - 1))


def level(users: int, per_s: float, error: float = 0.01) -> Level:
    return Level(users=users, per_s=per_s, error=error * per_s, residence_s=1.0, little_error=0.0, sent=100, failed=0)


LAWS = [(0.5, 0.05, 0.002), (2.0, 0.3, 0.02), (0.05, 0.02, 0.0005), (1.0, 0.9, 0.01)]


@pytest.mark.parametrize(("one", "contention", "coherence"), LAWS)
def test_an_exact_law_is_found_exactly(one: float, contention: float, coherence: float) -> None:
    found = fit_knee([level(users, usl(users, one, contention, coherence)) for users in (1, 2, 4, 8, 16, 32)])
    assert found is not None
    assert found.one_per_s.value == pytest.approx(one)
    assert found.contention.value == pytest.approx(contention)
    assert found.coherence.value == pytest.approx(coherence)
    peak = math.sqrt((1 - contention) / coherence)
    assert found.peak_users.value == pytest.approx(peak)
    assert found.most_per_s.value == pytest.approx(usl(min(peak, 32), one, contention, coherence))
    assert found.knee_users.value == pytest.approx(found.most_per_s.value / one)
    assert found.misfit < 1e-6
    assert found.at(3) == pytest.approx(usl(3, one, contention, coherence))


def test_the_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    one, contention, coherence = 0.5, 0.1, 0.01
    peak, most = math.sqrt(0.9 / 0.01), usl(math.sqrt(90), one, contention, coherence)
    covered = np.zeros(3)
    runs = 40
    for seed in range(runs):
        levels = [
            level(users, usl(users, one, contention, coherence) * (1 + 0.03 * random.standard_normal()), 0.03)
            for users in (1, 2, 4, 8, 16, 32)
        ]
        found = fit_knee(levels, seed=seed)
        assert found is not None
        covered += [
            peak in found.peak_users.interval,
            most in found.most_per_s.interval,
            one in found.one_per_s.interval,
        ]
    assert np.all(covered / runs >= 0.85)


def test_where_the_steps_lie_off_the_law_the_intervals_say_so() -> None:
    """The machine was slower at some steps: the errors within each step know nothing of that."""
    random = np.random.default_rng(5)
    one, contention, coherence = 0.5, 0.1, 0.01
    most = usl(math.sqrt(90), one, contention, coherence)
    covered, runs = 0, 60
    for seed in range(runs):
        levels = [
            level(users, usl(users, one, contention, coherence) * (1 + 0.15 * random.standard_normal()), 0.01)
            for users in (1, 2, 4, 8, 16, 32)
        ]
        found = fit_knee(levels, seed=seed)
        assert found is not None
        covered += most in found.most_per_s.interval
    assert covered / runs >= 0.8


def test_a_step_that_was_far_from_steady_has_no_say() -> None:
    levels = [level(users, usl(users, 1.0, 0.2, 0.01)) for users in (1, 2, 4, 8)]
    broken = dataclasses.replace(level(16, 0.01), little_error=0.6)
    assert fit_knee([*levels, broken]) == fit_knee(levels)
    assert fit_knee([*levels[:2], broken]) is None


def test_without_a_cost_of_pairs_throughput_never_falls() -> None:
    found = fit_knee([level(users, usl(users, 1.0, 0.2, 0.0)) for users in (1, 2, 4, 8, 16)])
    assert found is not None
    assert found.peak_users.value == math.inf
    assert found.most_per_s.value == pytest.approx(usl(16, 1.0, 0.2, 0.0))


def test_perfect_scaling_has_its_knee_at_the_end() -> None:
    found = fit_knee([level(users, float(users)) for users in (1, 2, 4, 8)])
    assert found is not None
    assert found.contention.value == pytest.approx(0.0, abs=1e-9)
    assert found.knee_users.value == pytest.approx(8.0)


def test_two_levels_make_no_law() -> None:
    assert fit_knee([level(1, 1.0), level(2, 1.5)]) is None
    assert fit_knee([level(1, 1.0), level(2, 1.5), level(4, 0.0)]) is None


def test_the_same_seed_gives_the_same_intervals() -> None:
    levels = [level(users, usl(users, 1.0, 0.2, 0.01)) for users in (1, 2, 4, 8)]
    assert fit_knee(levels, seed=3) == fit_knee(levels, seed=3)


def request(index: int, sent_s: float, ended_s: float, failure: Failure | None = None) -> RequestRecord:
    sent_ns, ended_ns = round(sent_s * S), round(ended_s * S)
    return RequestRecord(
        index=index,
        segment="users=2",
        phase=Phase.MEASURE,
        item="0",
        prompt_hash="",
        scheduled_ns=sent_ns,
        sent_ns=sent_ns,
        first_content_ns=ended_ns,
        last_content_ns=ended_ns,
        ended_ns=ended_ns,
        failure=failure,
    )


def closed(records: list[RequestRecord], users: int, seconds: float) -> Driven:
    return Driven(
        segment=Segment(name="users", load=ClosedLoop(users=users), duration_s=seconds),
        began_ns=0,
        window_ns=round(seconds * S),
        ended_ns=round(seconds * S),
        records=records,
    )


def test_a_request_under_way_at_the_end_counts_by_the_part_inside() -> None:
    records = [request(each, 3.0 * each, 3.0 * each + 3.0) for each in range(4)]  # the last one ends at 12 s
    found = level_of(closed(records, 1, 10.0), 1)
    assert found.per_s == pytest.approx(1 / 3)
    assert found.residence_s == pytest.approx(3.0)


def test_a_steady_level_keeps_littles_law_and_one_that_changed_does_not() -> None:
    steady = [request(2 * each + user, each, each + 1.0) for each in range(100) for user in (0, 1)]
    assert level_of(closed(steady, 2, 100.0), 2).steady
    broken = steady[:100]  # the server stood still for the second half
    found = level_of(closed(broken, 2, 100.0), 2)
    assert found.little_error == pytest.approx(0.5, abs=0.01)
    assert not found.steady


@pytest.mark.parametrize("answers_long", [6, 30])
def test_the_error_of_a_level_covers_the_truth_where_answers_are_long_too(answers_long: int) -> None:
    """Four callers without a queue: 4 answers a second. Parts shorter than an answer would share answers."""
    random = np.random.default_rng(11)
    covered, runs = 0, 200
    for _ in range(runs):
        records: list[RequestRecord] = []
        for _user in range(4):
            at_s = 0.0
            while at_s < answers_long:
                stay_s = float(random.gamma(4.0, 0.25))
                records.append(request(len(records), at_s, at_s + stay_s))
                at_s += stay_s
        found = level_of(closed(records, 4, float(answers_long)), 4)
        covered += abs(found.per_s - 4.0) <= 1.96 * found.error
    assert covered / runs >= 0.85


def test_failures_are_no_throughput() -> None:
    records = [request(each, each, each + 1.0, Failure.SHED if each % 2 else None) for each in range(10)]
    found = level_of(closed(records, 1, 10.0), 1)
    assert (found.sent, found.failed) == (10, 5)
    assert found.per_s == pytest.approx(0.5)


def test_a_crowd_that_waits_past_the_end_is_no_throughput() -> None:
    # One a second, one after the other; twenty callers came at once, and ten are still waiting at the end.
    waiting = [
        dataclasses.replace(request(each, 0.0, each + 1.0), first_content_ns=round((each + 0.2) * S))
        for each in range(20)
    ]
    assert level_of(closed(waiting, 20, 10.0), 20).per_s == pytest.approx(1.0, abs=0.05)


def test_nothing_done_is_no_throughput() -> None:
    found = level_of(closed([], 1, 10.0), 1)
    assert (found.per_s, found.residence_s, found.steady) == (0.0, None, False)


async def test_a_simulated_machine_with_four_lines_saturates_at_four() -> None:
    server = QueueServer(service_s=1.0, servers=4, options=BenchOptions())
    levels = []
    for users in (1, 2, 4, 8, 16):
        segment = Segment(name=f"users={users}", load=ClosedLoop(users=users), duration_s=2000.0)
        levels.append(level_of(await server.drive(segment, overload=True), users))
    assert [each.per_s for each in levels] == pytest.approx([1.0, 2.0, 4.0, 4.0, 4.0], rel=0.06)
    assert all(each.steady for each in levels)
    assert all(abs(each.per_s - min(each.users, 4)) < 5 * each.error for each in levels)
    found = fit_knee(levels)
    assert found is not None
    assert 3.0 < found.knee_users.value < 5.5
