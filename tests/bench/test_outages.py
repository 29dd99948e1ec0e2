from typing import Any

import numpy as np
import pytest

from qwenops.bench.conclusion import Outcome
from qwenops.bench.outages import judge_failures, longest_life, restart_sentence, restarts_ns
from tests.bench.records import NS

WINDOWS = 24


def looks(*processes: tuple[int, ...], every_s: int = 60) -> list[dict[str, Any]]:
    """Return samples of the host in which the first process of each is the largest."""
    return [
        {"at_ns": number * every_s * NS}
        | ({"server_process_ids": sorted(each), "server_largest_process": each[0]} if each else {})
        for number, each in enumerate(processes)
    ]


def test_no_failure_is_stable() -> None:
    assert judge_failures([(10, 0)] * WINDOWS).outcome is Outcome.STABLE
    assert judge_failures([]).outcome is Outcome.STABLE


def test_a_server_that_refuses_from_some_minute_on_fails() -> None:
    found = judge_failures([(10, 0)] * 6 + [(10, 10)] * 18)
    assert found.outcome is Outcome.FAIL
    assert "FAIL: 180 of 240 requests failed (75.0%), where 1.0% are allowed." in str(found.sentence)


def test_failures_that_come_more_and_more_are_a_drift_also_below_the_limit() -> None:
    found = judge_failures([(500, 0)] * 20 + [(500, 4)] * 4)
    assert found.outcome is Outcome.DRIFT
    assert "0.00% in the first half of the time, 0.27% in the second" in str(found.sentence)


def test_too_many_of_few_may_be_chance() -> None:
    found = judge_failures([(2, 0)] * 12 + [(2, 1)] + [(2, 0)] * 11)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "1 of 48" in str(found.sentence)


def test_a_few_failures_all_the_time_are_within_the_limit_and_raise_no_alarm() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(300):
        windows = [(200, int(rng.binomial(200, 0.005))) for _ in range(WINDOWS)]
        alarms += judge_failures(windows).outcome is not Outcome.STABLE
    assert alarms <= 12


def test_an_objective_may_allow_more() -> None:
    windows = [(100, 3)] * WINDOWS
    assert judge_failures(windows).outcome is Outcome.FAIL
    assert judge_failures(windows, allowed=0.05).outcome is Outcome.STABLE


def test_a_server_whose_largest_process_is_gone_was_started_again() -> None:
    host = looks((7, 8), (7, 8), (), (9, 10), (9, 10), (11,))
    assert restarts_ns(host, []) == [180 * NS, 300 * NS]


def test_workers_that_take_turns_in_being_the_largest_are_no_restart() -> None:
    assert restarts_ns(looks((7, 8), (8, 7), (8, 7, 9), (7, 8)), []) == []


@pytest.mark.parametrize(
    "samples", [[{"restarts": 0}, {"restarts": 1}], [{"restarts_per_s": 0.0}, {"restarts_per_s": 0.5}]]
)
def test_the_engines_own_count_of_restarts_counts(samples: list[dict[str, Any]]) -> None:
    told = [{"at_ns": number * 60 * NS, **each} for number, each in enumerate(samples)]
    assert restarts_ns([], told) == [60 * NS]
    assert restarts_ns(looks((7,), (9,), every_s=62), told) == [60 * NS], "one restart that two collectors saw"
    assert "started again, 1 times, first at 60 s" in restart_sentence([60 * NS])


def test_the_longest_life_is_between_restarts() -> None:
    assert longest_life([], 100) == (0, 100)
    assert longest_life([10, 70], 100) == (10, 70)
    assert longest_life([10, 20], 100) == (20, 100)
