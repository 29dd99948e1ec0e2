import asyncio
import os

import pytest

from qwenops.bench.checks.truth import Check, at_most, equal
from qwenops.bench.conclusion import Outcome, conclusion_data
from qwenops.bench.selftest import EXIT_FAILED, concluded, selftest
from qwenops.text import say

RIGHT = equal(say("Requests"), 3, 3)
WRONG: Check = at_most(say("Schedule lag"), 7.0, 5.0, unit=" ms")


def test_when_everything_is_as_expected_it_passes() -> None:
    conclusion = concluded([RIGHT, RIGHT], waiting=0.5, cores=2)
    assert (conclusion.outcome, conclusion.exit_code) == (Outcome.PASS, 0)
    assert conclusion.tables[0].rows == (("Requests", "3", "3", "ok"),) * 2


def test_what_failed_is_said_with_what_was_expected_and_the_exit_code_is_not_zero() -> None:
    conclusion = concluded([RIGHT, WRONG], waiting=0.5, cores=2)
    assert (conclusion.outcome, conclusion.exit_code) == (Outcome.FAIL, EXIT_FAILED)
    assert conclusion.sentences[1] == "Schedule lag: expected <= 5 ms, measured 7 ms."
    assert "not busy" in conclusion.sentences[-1]
    assert "3.9 tasks want its 2 CPUs" in concluded([WRONG], waiting=3.9, cores=2).sentences[-1]
    data = conclusion_data(conclusion)
    assert [each["ok"] for each in data["data"]["checks"]] == [True, False]


@pytest.mark.slow
def test_here_everything_but_what_a_busy_machine_disturbs_comes_out_as_expected() -> None:
    told: list[tuple[float, str]] = []
    conclusion = asyncio.run(selftest(tell=lambda fraction, what: told.append((fraction, what)), tries=1))
    wrong = [row[0] for row in conclusion.tables[0].rows if row[3] != "ok"]
    # On a machine that runs other tests too, only what counts milliseconds may be off, and not much of it.
    assert all(str(title).startswith(("HTTP, ", "20 streams", "The ", "Ollama")) for title in wrong), wrong
    assert len(wrong) <= 4 or os.getloadavg()[0] > len(os.sched_getaffinity(0)), wrong
    assert told[-1][0] == 1.0
    assert (conclusion.exit_code == 0) == (not wrong)
