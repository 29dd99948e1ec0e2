"""How figures are written for reading."""

import pytest

from qwenops.bench.report.facts import rate_facts
from qwenops.bench.stats import Estimate, summarise
from qwenops.bench.tables import overview_table, show_estimate, show_s, summary_sentence
from tests.bench.records import answer, driven


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, None),
        (0.0, "0.00 ms"),
        (0.00025, "0.25 ms"),
        (0.0812, "81.2 ms"),
        (0.812, "812 ms"),
        (1.3249, "1.32 s"),
        (13.249, "13.2 s"),
        (132.49, "132 s"),
    ],
)
def test_a_duration_has_three_digits_that_count(seconds: float | None, written: str | None) -> None:
    assert show_s(seconds) == written


def test_a_percentile_says_how_well_it_is_known() -> None:
    assert show_estimate(Estimate(value=1.0, low=0.9, high=1.2)) == "1.00 s (900 ms - 1.20 s)"
    assert show_estimate(Estimate(value=1.0, high=1.2)) == "1.00 s (< 1.20 s)"
    assert show_estimate(Estimate(value=1.0)) == "1.00 s"
    assert show_estimate(Estimate(value=None, note="n/a (40 < 299)")) == "n/a (40 < 299)"
    assert show_estimate(None) is None


def test_chunks_that_stand_for_tokens_are_called_chunks() -> None:
    counted, guessed = (
        summarise(driven([answer(gaps_s=(0.1,) * 9, token_source=source)])) for source in ("server", "estimate")
    )
    assert "chunks a second" in summary_sentence(guessed)
    assert "tokens a second" in summary_sentence(counted)
    assert "chunks" in str(overview_table("x", [guessed]).rows[0][4])
    assert isinstance(overview_table("x", [counted]).rows[0][4], float)
    assert "chunks/s" in str(rate_facts(guessed))
    assert "chunks/s" not in str(rate_facts(counted))


def test_the_sentence_claims_no_median_that_the_table_refuses() -> None:
    few, enough = (summarise(driven([answer(at_s=at) for at in range(number)])) for number in (3, 10))
    assert few.distributions["ttft"].p50.value is None
    assert "(means: too few for medians)" in summary_sentence(few)
    assert "(medians)" in summary_sentence(enough)
