import dataclasses

import pytest

from qwenops.bench.checks.truth import (
    at_most,
    close_to,
    each_figure,
    each_request,
    equal,
    failed,
    milliseconds,
    order_statistic,
    will_do,
)
from qwenops.bench.record import Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, Segment
from qwenops.bench.stats import summarise

MS = 1_000_000


def record(index: int, *, late_ms: float = 0.0) -> RequestRecord:
    """Return one whose first chunk comes after 100 ms and whose last after 500 ms."""
    sent_ns = index * 1000 * MS
    first_ns, last_ns = sent_ns + round((100 + late_ms) * MS), sent_ns + round((500 + late_ms) * MS)
    return RequestRecord(
        index=index,
        segment="s",
        phase=Phase.MEASURE,
        item="0",
        prompt_hash="",
        scheduled_ns=sent_ns,
        sent_ns=sent_ns,
        first_content_ns=first_ns,
        first_answer_ns=first_ns,
        last_content_ns=last_ns,
        ended_ns=last_ns,
        chunk_gaps_us=(100_000,) * 4,
        prompt_tokens=10,
        completion_tokens=5,
        token_source="server",
        finish_reason="stop",
    )


TRUE = {"ttft": 0.1, "tpot": 0.1, "e2e": 0.5}


def said(late_ms: float) -> dict[str, float | None]:
    return {"ttft": 0.1 + late_ms / 1000, "tpot": 0.1, "e2e": 0.5 + late_ms / 1000}


@pytest.mark.parametrize(
    ("measured", "true", "fits"),
    [(0.1019, 0.1, True), (0.1021, 0.1, False), (10.09, 10.0, True), (10.11, 10.0, False), (0.0981, 0.1, True)],
)
def test_a_time_will_do_within_two_milliseconds_or_one_per_cent(measured: float, true: float, fits: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    assert will_do(measured, true) is fits


def test_one_request_that_is_wrong_fails_the_check_of_each() -> None:
    right = each_request(str, [said(1.9)] * 10, [TRUE] * 10)
    assert failed(right) == []
    wrong = each_request(str, [said(1.9)] * 9 + [said(5.5)], [TRUE] * 10)
    assert [check.title for check in failed(wrong)] == ["ttft", "e2e"]
    assert failed(each_request(str, [said(1.9)] * 9 + [said(5.5)], [TRUE] * 10, share=0.9)) == []


def test_a_time_that_is_there_where_there_is_none_is_wrong() -> None:
    invented = [{**said(0), "tpot": 0.0}]
    assert [check.title for check in failed(each_request(str, invented, [{**TRUE, "tpot": None}]))] == ["tpot"]


def test_figures_that_were_made_of_other_requests_are_found() -> None:
    segment = Segment(name="s", load=ClosedLoop(users=1))
    records = [record(index, late_ms=index / 2) for index in range(80)]
    true = [{"ttft": 0.1 + index / 2000, "tpot": 0.1, "e2e": 0.5 + index / 2000} for index in range(80)]
    driven = Driven(segment=segment, began_ns=0, window_ns=80_000 * MS, ended_ns=80_000 * MS, records=records)
    assert failed(each_figure(str, summarise(driven), true)) == []
    fewer = dataclasses.replace(driven, records=records[:70])
    assert [check.title for check in failed(each_figure(str, summarise(fewer), true))] == ["ttft", "tpot", "e2e"]


def test_numbers_are_held_against_what_was_expected() -> None:
    assert close_to("x", 1.04, 1.0, relative=0.05).ok
    assert not close_to("x", 1.06, 1.0, relative=0.05).ok
    assert not close_to("x", None, 1.0, relative=0.05).ok
    assert at_most("x", 5.0, 5.0).ok
    assert not at_most("x", 5.1, 5.0).ok
    assert not at_most("x", None, 5.0).ok
    assert equal("x", 3, 3).ok
    assert not equal("x", 3, 4).ok


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    assert [order_statistic(range(1, 21), percent) for percent in (50, 90, 95, 99)] == [10, 18, 19, 20]
    assert order_statistic([7.0], 50) == 7.0


def test_times_are_written_in_milliseconds() -> None:
    assert [milliseconds(each) for each in (None, 0.0001234, 1.23456)] == ["-", "0.123 ms", "1234.6 ms"]
