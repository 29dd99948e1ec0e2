from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from qwenops.classify.report.weekly import Move, trends_of, week_of
from qwenops.statistics.clusters import share_interval
from tests.classify.report.predicted import told

EVEN = {"a": 0.5, "b": 0.3, "c": 0.2}
RISEN = {"a": 0.35, "b": 0.3, "c": 0.35}


def test_counts_and_shares_are_those_of_the_week() -> None:
    calls = told([EVEN, EVEN])
    found = trends_of(calls)
    assert found.num_calls == 600
    assert found.categories == ("a", "b", "c")
    for number, week in enumerate(found.weeks):
        mine = [each for each in calls if each.conversation_id.startswith(f"{number}-")]
        assert week.num_calls == len(mine) == 300
        for code, each in week.portions.items():
            count = sum(one.category == code for one in mine)
            assert (each.count, each.share.value) == (count, count / 300)
            interval = share_interval(count, [1] * 300)
            assert interval is not None
            assert (each.share.low, each.share.high) == (interval.low, interval.high)
        assert week.review is not None
        assert week.review.count == sum(one.decision == "review" for one in mine)
        assert week.confidence is not None
        assert week.confidence.value == pytest.approx(sum(one.p for one in mine) / 300)


def test_a_week_begins_on_monday_by_the_clock_of_the_time_itself() -> None:
    assert week_of(datetime(2026, 3, 8, 23, 59, tzinfo=UTC)) == date(2026, 3, 2)
    assert week_of(datetime(2026, 3, 9, tzinfo=UTC)) == date(2026, 3, 9)
    shanghai = timezone(timedelta(hours=8))
    assert week_of(datetime(2026, 3, 9, 1, tzinfo=shanghai)) == date(2026, 3, 9)
    assert week_of(datetime(2026, 1, 1, tzinfo=UTC)) == date(2025, 12, 29)


def test_a_week_without_calls_is_there_and_empty() -> None:
    calls = told([EVEN, EVEN, EVEN])
    found = trends_of([each for each in calls if not each.conversation_id.startswith("1-")])
    assert [week.num_calls for week in found.weeks] == [300, 0, 300]
    assert (found.weeks[1].portions, found.weeks[1].review, found.weeks[1].confidence) == ({}, None, None)
    assert found.changes_of_model == ()


def test_a_rise_and_a_fall_are_found_in_their_week_and_only_there() -> None:
    found = trends_of(told([EVEN] * 5 + [RISEN], num=800))
    moved = {
        (number, code): each.move
        for number, week in enumerate(found.weeks)
        for code, each in week.portions.items()
        if each.move is not Move.NONE
    }
    assert moved[5, "c"] is Move.RISE
    assert moved[5, "a"] is Move.FALL
    assert {number for number, _ in moved} == {5}
    risen = found.weeks[5].portions["c"]
    assert risen.before == pytest.approx(0.2, abs=0.03)
    assert risen.p is not None
    assert risen.p < 0.001


def test_more_calls_left_to_people_are_found() -> None:
    found = trends_of(told([EVEN] * 4, num=600, review=[0.1, 0.1, 0.1, 0.3]))
    assert [week.review.move for week in found.weeks if week.review] == [Move.NONE] * 3 + [Move.RISE]


def test_where_nothing_changes_a_page_with_any_mark_is_as_rare_as_promised() -> None:
    marked = 0
    for seed in range(40):
        weeks = trends_of(told([EVEN] * 8, num=120, seed=seed)).weeks
        portions = [each for week in weeks for each in (week.review, *week.portions.values()) if each is not None]
        marked += any(each.move is not Move.NONE for each in portions)
    assert marked <= 6  # more than 6 of 40 at 5 % each happen in 1 of 300


def test_one_customer_who_calls_again_and_again_is_no_trend() -> None:
    calls = told([EVEN] * 4, num=200)
    again = [
        replace(each, conversation_id=f"x{number}", category="c", customer="the same", at=calls[-1].at)
        for number, each in enumerate(calls[:150])
    ]
    loud = trends_of([*calls, *again])
    assert loud.weeks[3].portions["c"].count > 150
    assert all(each.move is Move.NONE for each in loud.weeks[3].portions.values())
    many = trends_of([*calls, *(replace(each, customer="") for each in again)])
    assert many.weeks[3].portions["c"].move is Move.RISE


def test_a_new_model_is_no_trend_and_is_said() -> None:
    found = trends_of(told([EVEN, EVEN, EVEN, RISEN, RISEN], num=800, models=["m@1", "m@1", "m@1", "m@2", "m@2"]))
    assert all(each.p is None for each in found.weeks[3].portions.values())
    assert all(each.move is Move.NONE for week in found.weeks for each in week.portions.values())
    ((before, after),) = found.changes_of_model
    assert (before.models, after.models) == (("m@1",), ("m@2",))
    assert found.weeks[4].portions["c"].before == pytest.approx(0.35, abs=0.05)


def test_a_category_that_appears_for_the_first_time_is_a_rise() -> None:
    found = trends_of(told([{"a": 1.0}] * 3 + [{"a": 0.9, "new": 0.1}], num=400))
    appeared = found.weeks[3].portions["new"]
    assert (appeared.before, appeared.move) == (0.0, Move.RISE)
    assert found.weeks[0].portions["new"].count == 0


def test_too_few_calls_are_not_compared() -> None:
    found = trends_of(told([EVEN, RISEN], num=20))
    assert found.num_comparisons == 0
    with pytest.raises(ValueError, match="no predictions"):
        trends_of([])


def test_a_single_call_has_a_mean_without_an_interval() -> None:
    (week,) = trends_of(told([EVEN], num=1)).weeks
    assert week.confidence is not None
    assert (week.confidence.low, week.confidence.high) == (None, None)
