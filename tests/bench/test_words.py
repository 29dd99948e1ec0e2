"""What people read of outcomes, verdicts, series and parts is made of words that can be said in every language."""

import pytest

from qwenops.bench.conclusion import Outcome
from qwenops.bench.validity import Verdict
from qwenops.bench.words import listed, measure_word, outcome_word, part_word, series_word, verdict_word
from qwenops.text import Text


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_has_its_word(outcome: Outcome) -> None:
    assert isinstance(outcome_word(outcome), Text)
    assert outcome_word(outcome) == outcome.value.upper()


@pytest.mark.parametrize("verdict", Verdict)
def test_each_verdict_has_its_word(verdict: Verdict) -> None:
    assert isinstance(verdict_word(verdict.value), Text)
    assert verdict_word(verdict.value) == verdict.value


@pytest.mark.parametrize("name", ["block 12 A", "before B", "users=4", "alone", "overload", "first", "one caller"])
def test_parts_that_this_program_named_are_words_and_no_mere_names(name: str) -> None:
    assert isinstance(part_word(name), Text)
    assert part_word(name) == name


def test_names_that_nobody_knows_stay() -> None:
    assert part_word("mine") == "mine"
    assert series_word("mine") == "mine"
    assert series_word("server_rss_bytes") == "Memory of the server (RSS)"
    assert listed([]) == ""
    assert listed(["a", "b", "c"]) == "a, b, c"


def test_figures_are_called_as_people_call_them() -> None:
    assert measure_word("ttft mean") == "TTFT mean"
    assert measure_word("e2e p50") == "E2E median"
    assert measure_word("e2e p95") == "E2E p95"
    assert "_" not in measure_word("output_tokens_per_s")
