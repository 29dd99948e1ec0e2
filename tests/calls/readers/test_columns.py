from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from qwenops.calls.readers.columns import (
    Column,
    columns_of,
    has_lost_digits,
    moment,
    number,
    seconds,
    told_columns,
    words,
)
from qwenops.errors import ConfigError

SHANGHAI = ZoneInfo("Asia/Shanghai")
MORNING = datetime(2026, 3, 1, 9, 12, tzinfo=SHANGHAI)


@pytest.mark.parametrize(
    ("names", "meanings"),
    [
        (["通话编号", "内容", "类别"], [Column.ID, Column.TEXT, Column.CATEGORY]),
        (
            ["conversation_id", "input_text", "complaint_category", "confidence_score", "metadata"],
            [Column.ID, Column.TEXT, Column.CATEGORY, Column.SCORE, Column.META],
        ),
        (["Call ID", "TRANSCRIPT", " Label "], [Column.ID, Column.TEXT, Column.CATEGORY]),
        (["通话时长（秒）", "通话时长(s)"], [Column.DURATION, None]),
        (["id", "conversation_id", "text"], [None, Column.ID, Column.TEXT]),
        (["天气", ""], [None, None]),
    ],
)
def test_columns_are_known_by_their_names(names: list[str], meanings: list[Column | None]) -> None:
    assert list(columns_of(names, {})) == meanings


def test_what_the_user_says_about_a_column_counts_more_than_its_name() -> None:
    told = told_columns(["text=小结", "category = 二级"])
    assert columns_of(["内容", "小结", "类别", "二级"], told) == (None, Column.TEXT, None, Column.CATEGORY)


@pytest.mark.parametrize("told", ["小结", "words=小结", "text="])
def test_what_says_nothing_about_a_column_is_refused_with_what_is_possible(told: str) -> None:
    with pytest.raises(ConfigError, match="says of no column") as caught:
        told_columns([told])
    assert "conversation_id" in caught.value.hint


@pytest.mark.parametrize(
    "written",
    [
        "2026-03-01 09:12",
        "2026-03-01T09:12:00",
        "2026/3/1 9:12",
        "2026.3.1 9:12:00",
        "2026年3月1日 9:12",
        "2026年3月1日9时12分",
        "20260301091200",
        "202603010912",
        "2026-03-01T01:12:00Z",
        "2026-03-01 09:12:00+08:00",
        "2026-03-01T02:12:00.000+0100",
        "1772327520",
        1772327520,
        1772327520000,
        46082.383333333,
        "46082.383333333",
        20260301091200,
        datetime(2026, 3, 1, 9, 12),  # noqa: DTZ001 -- as a sheet has it
    ],
    ids=repr,
)
def test_a_moment_is_read_as_people_and_spreadsheets_write_it(written: object) -> None:
    assert moment(written, SHANGHAI) == MORNING


def test_a_day_is_its_beginning() -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    assert {moment(each, UTC) for each in ("2026-03-01", "20260301", 20260301, 46082, date(2026, 3, 1))} == {midnight}


def test_a_moment_without_zone_stays_without_unless_one_is_told() -> None:
    assert moment("2026-03-01 09:12", None).tzinfo is None
    assert moment(46082.5, None).tzinfo is None
    assert moment("2026-03-01T01:12:00Z", None) == MORNING


@pytest.mark.parametrize(
    "written", ["03/04/2026", "1 March 2026", "2026-13-01", "2026-02-30", "", "x", True, -1.0, 12, "nan", "1e400", [1]]
)
def test_what_could_be_two_days_or_none_is_refused(written: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- its text is shown to nobody
        moment(written, UTC)


@pytest.mark.parametrize(
    ("written", "length_s"),
    [
        (312, 312),
        ("312", 312),
        ("312.5秒", 312.5),
        ("05:12", 312),
        ("1:05:12", 3912),
        ("1小时5分12秒", 3912),
        ("5分12秒", 312),
        (time(0, 5, 12), 312),
        (timedelta(minutes=5, seconds=12), 312),
    ],
    ids=repr,
)
def test_a_length_of_time_is_read_as_it_is_written(written: object, length_s: float) -> None:
    assert seconds(written) == length_s


@pytest.mark.parametrize("written", ["x", "", "5:1:2:3", True, None, "inf"])
def test_what_is_no_length_of_time_is_refused(written: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- its text is shown to nobody
        seconds(written)


def test_numbers_are_read_with_and_without_percent() -> None:
    assert [number(each) for each in (0.5, 1, "0.5", "87%", "\uff18\uff17\uff05")] == [0.5, 1.0, 0.5, 0.87, 0.87]
    for each in ("high", True, float("nan"), None, "inf"):
        with pytest.raises(ValueError):  # noqa: PT011 -- its text is shown to nobody
            number(each)


def test_cells_become_words() -> None:
    values = (None, 1001.0, 1001, "  x ", "#N/A", 0.5, datetime(2026, 3, 1, tzinfo=UTC))
    assert [words(each) for each in values] == ["", "1001", "1001", "  x ", "", "0.5", "2026-03-01 00:00:00+00:00"]


def test_ids_that_a_spreadsheet_rounded_are_seen() -> None:
    assert all(map(has_lost_digits, ("1.23457E+17", "2.02611e+17", 1.2345678901234567e17, 123456789012345680)))
    assert not any(map(has_lost_digits, ("123456789012345678", 1001, "E+17", None, "1e5", "c-1.5E+17")))
