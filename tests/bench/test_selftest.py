import asyncio
from functools import partial

import pytest

from qwenops.bench.checks.truth import Check, at_most, equal
from qwenops.bench.conclusion import Cell, Outcome, conclusion_data
from qwenops.bench.selftest import EXIT_FAILED, concluded, selftest
from qwenops.text import say
from tests.quiet import quiet_tries

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
@pytest.mark.timeout(900)
def test_here_everything_comes_out_as_expected() -> None:
    wrong: list[tuple[Cell, ...]] = []
    for _ in quiet_tries(3):
        told: list[float] = []
        conclusion = asyncio.run(selftest(tell=partial(_note, told), tries=2))
        wrong = [row for row in conclusion.tables[0].rows if row[3] != "ok"]
        assert told[-1] == 1.0
        assert (conclusion.exit_code == 0) == (not wrong)
        # A busy machine disturbs what counts milliseconds, and nothing else.
        assert all(str(row[0]).startswith(("HTTP, ", "20 streams", "The ", "Ollama")) for row in wrong), wrong
        if not wrong:
            break
    assert not wrong


def _note(told: list[float], fraction: float, _what: str) -> None:
    told.append(fraction)
