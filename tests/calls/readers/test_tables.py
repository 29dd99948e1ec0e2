import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qwenops.calls.readers import Format, open_labels
from qwenops.calls.schema import Role
from qwenops.calls.tables import write_table
from qwenops.errors import ConfigError, InvalidDataError
from tests.calls.readers.reading import DIALOGUE, SAID, TAXONOMY, errors, read, said, warnings

ROWS = [
    ["通话编号", "通话内容", "投诉类别", "置信度", "客户编号", "通话时间", "通话时长（秒）", "地区"],
    ["c-1", DIALOGUE, "资费争议", "0.9", "h:1", "2026/3/1 9:12", "312", "330000"],
    ["c-2", "客户：一直没有信号", "网络质量", "", "h:2", "2026年3月2日 10:00", "05:12", ""],
]


def table(path: Path, rows: list[list[str]], *, delimiter: str = ",", codec: str = "utf-8") -> Path:
    with path.open("w", encoding=codec, newline="") as out:
        csv.writer(out, delimiter=delimiter).writerows(rows)
    return path


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_a_table_of_calls_is_read_however_it_was_saved(tmp_path: Path, delimiter: str, codec: str) -> None:
    found, problems, kind = read(table(tmp_path / "calls.csv", ROWS, delimiter=delimiter, codec=codec))
    assert (kind, problems) == (Format.TABLE_CSV, [])
    first, second = found
    assert first.call.conversation_id == "c-1"
    assert said(first) == SAID
    assert first.call.customer_id == "h:1"
    assert first.call.duration_s == second.call.duration_s == 312
    assert first.call.started_at == datetime(2026, 3, 1, 9, 12)  # noqa: DTZ001 -- the file names no zone
    assert first.call.meta == {"地区": "330000"}
    assert second.call.meta == {}
    assert first.label is not None
    assert (first.label.primary, first.label.weight, first.label.taxonomy) == ("billing.fee", 0.9, "test@2")
    assert second.label is not None
    assert (second.label.primary, second.label.weight) == ("network", 1.0)
    assert [each.line for each in found] == [2, 4]  # the first text goes over two lines


def test_dates_without_zone_get_the_one_that_is_told(tmp_path: Path) -> None:
    found, _, _ = read(table(tmp_path / "calls.csv", ROWS), timezone="Asia/Shanghai")
    assert found[0].call.started_at == datetime(2026, 3, 1, 1, 12, tzinfo=UTC)
    with pytest.raises(ConfigError, match="no time zone 'Shanghai'"):
        read(table(tmp_path / "calls.csv", ROWS), timezone="Shanghai")


def test_names_of_columns_may_stand_below_a_title(tmp_path: Path) -> None:
    rows = [["2026年投诉明细"], [], ["导出时间", "2026-04-01"], *ROWS]
    assert len(read(table(tmp_path / "calls.csv", rows))[0]) == 2


def test_a_file_whose_columns_nobody_names_is_refused_with_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="names no column for text") as caught:
        read(table(tmp_path / "calls.csv", [["甲", "乙"], ["1", "2"]]))
    assert "甲, 乙" in caught.value.message
    assert "通话内容" in caught.value.hint
    assert "--column text=" in caught.value.hint


def test_the_user_can_name_the_columns(tmp_path: Path) -> None:
    path = table(tmp_path / "calls.csv", [["甲", "乙"], ["1", "客户：喂"]])
    (entry,), problems, _ = read(path, columns=("conversation_id=甲", "text=乙"))
    assert (entry.call.conversation_id, said(entry), problems) == ("1", ((Role.CUSTOMER, "喂"),), [])


def test_one_column_of_text_is_enough(tmp_path: Path) -> None:
    found, problems, _ = read(table(tmp_path / "calls.csv", [["text"], ["喂"], ["你好"]]))
    assert [each.call.conversation_id for each in found] == ["calls-000002", "calls-000003"]
    assert problems == []


def test_a_title_that_is_called_like_a_column_is_no_row_of_names(tmp_path: Path) -> None:
    found, problems, _ = read(table(tmp_path / "calls.csv", [["通话内容"], *ROWS]))
    assert [each.call.conversation_id for each in found] == ["c-1", "c-2"]
    assert problems == []


def test_metadata_in_a_cell_fills_what_is_missing(tmp_path: Path) -> None:
    rows = [
        ["conversation_id", "input_text", "complaint_category", "confidence_score", "metadata"],
        ["c-1", "喂", "network", "0.8", '{"customer_id": "h:1", "region": "330000", "conversation_id": "other"}'],
        ["c-2", "喂", "network", "0.8", "no JSON"],
        ["c-3", "喂", "network", "0.8", ""],
    ]
    found, problems, _ = read(table(tmp_path / "calls.csv", rows))
    assert found[0].call.customer_id == "h:1"
    assert found[0].call.conversation_id == "c-1"
    assert found[0].call.meta == {"region": "330000"}
    assert found[1].call.meta == {"metadata": "no JSON"}
    assert found[2].call.meta == {}
    assert problems == []


def test_everything_that_is_wrong_is_said_by_line_and_column_and_the_rest_is_read(tmp_path: Path) -> None:
    header = ROWS[0]
    rows = [
        header,
        ["c-1", "", "资费争议", "", "", "", "", ""],
        ["c-2", "喂", "天气", "", "", "", "", ""],
        ["c-3", "喂", "资费争议", "95", "", "", "", ""],
        ["c-4", "喂", "资费争议", "high", "", "", "", ""],
        ["c-5", "喂", "资费争议", "0", "", "03/04/2026", "long", ""],
        ["", "喂", "", "", "", "", "", ""],
        ["1.2E+17", "喂", "", "", "", "", "", ""],
        header,
        ["c-9", "喂", "资费争议", "90%", "", "", "", ""],
    ]
    found, problems, _ = read(table(tmp_path / "calls.csv", rows))
    assert errors(problems) == [(2, "通话内容"), (3, "投诉类别"), (4, "置信度"), (6, "置信度")]
    assert warnings(problems) == [
        (5, "置信度"),
        (6, "通话时间"),
        (6, "通话时长（秒）"),
        (7, "通话编号"),
        (8, "通话编号"),
    ]
    names = ["c-2", "c-3", "c-4", "c-5", "calls-000007", "1.2E+17", "c-9"]
    assert [each.call.conversation_id for each in found] == names
    assert [each.label is not None for each in found] == [False] * 6 + [True]


def test_a_row_with_other_than_its_cells_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text("id,text,label\n1,喂,你好,network\n2,喂\n3,喂,network\n", "utf-8")
    found, problems, _ = read(path)
    assert [each.call.conversation_id for each in found] == ["3"]
    assert errors(problems) == [(2, ""), (3, "")]
    assert "The row has 4 cells, the names of columns are 3" in problems[0].what


def test_a_quotation_mark_that_never_closes_is_an_error_of_its_row(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text('id,text\n1,喂\n2,"他说\n3,喂\n4,喂\n', "utf-8")
    found, problems, _ = read(path)
    assert [each.call.conversation_id for each in found] == ["1"]
    assert errors(problems) == [(3, "")]
    assert "never closes" in problems[0].what


def test_a_quotation_mark_that_never_closes_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwenops.calls.readers.rows.LONGEST_CELL", 1000)
    usual = csv.field_size_limit()
    path = tmp_path / "calls.csv"
    path.write_text('id,text\n1,"他说\n' + "2,喂\n" * 10_000, "utf-8")
    try:
        found, problems, _ = read(path)
    finally:
        csv.field_size_limit(usual)
    assert found == []
    assert errors(problems) == [(2, "")]
    assert "does not close within 1000 characters" in problems[0].what


def test_a_single_quotation_mark_within_a_text_spoils_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text('id,text\n1,"他说"好""\n2,他说"好"\n3,"他说""好"""\n', "utf-8")
    found, problems, _ = read(path)
    assert [(each.call.conversation_id, each.call.turns[0].text) for each in found] == [
        ("2", '他说"好"'),
        ("3", '他说"好"'),
    ]
    assert errors(problems) == [(2, "")]


def test_lines_that_cannot_be_read_spoil_their_row_only(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    strange = "客户说流量用完了没有提醒"
    path.write_bytes(
        "id,text\n1,客户说话费多扣了\n".encode()
        + f"2,{strange}\n".encode("gb18030")
        + "3,客服您好请问有什么可以帮您\n".encode().replace("帮".encode(), b"\xe5\xb8")
        + "4,客户说话费多扣了\n".encode()
    )
    found, problems, _ = read(path)
    assert [each.call.conversation_id for each in found] == ["1", "2", "4"]
    assert found[1].call.turns[0].text == strange
    assert warnings(problems) == [(3, "")]
    assert errors(problems) == [(4, "")]


def test_the_separator_that_a_spreadsheet_names_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text("sep=;\r\nid;text\r\n1;a, b, c\r\n", "utf-8")
    (entry,), problems, _ = read(path)
    assert (entry.call.turns[0].text, entry.line, problems) == ("a, b, c", 3, [])


def test_a_text_that_was_quoted_against_formulas_reads_as_it_was(tmp_path: Path) -> None:
    texts = ["=1+1 is what he said", "-5 yuan", "'=x", "plain"]
    for suffix in ("csv", "xlsx"):
        path = tmp_path / f"calls.{suffix}"
        write_table(path, [{"id": f"c-{text}", "text": text} for text in texts], ["id", "text"])
        found, problems, _ = read(path)
        assert [each.call.turns[0].text for each in found] == texts
        assert problems == []


TURNS = [
    ["会话ID", "说话人", "内容", "开始时间", "类别"],
    ["c-1", "坐席", "您好", "0.5", "资费争议"],
    ["c-1", "客户", "我要投诉", "3.0", ""],
    ["", "坐席", "请讲", "5", ""],
    ["c-2", "客户", "喂", "00:01", "退费"],
    ["c-2", "客户", "没信号", "00:03", "网络质量"],
]


def test_rows_that_are_turns_become_calls(tmp_path: Path) -> None:
    (first, second), problems, _ = read(table(tmp_path / "turns.csv", TURNS))
    assert said(first) == ((Role.AGENT, "您好"), (Role.CUSTOMER, "我要投诉"), (Role.AGENT, "请讲"))
    assert [turn.t0 for turn in first.call.turns] == [0.5, 3.0, 5.0]
    assert [turn.t0 for turn in second.call.turns] == [1.0, 3.0]
    assert (first.line, second.line) == (2, 5)
    assert first.call.started_at is None
    assert first.label is not None
    assert first.label.primary == "billing.fee"
    assert second.label is None
    assert errors(problems) == [(5, "类别")]


def test_moments_of_turns_become_seconds_and_the_calls_beginning(tmp_path: Path) -> None:
    rows = [
        ["id", "role", "text", "time", "end"],
        ["c-1", "agent", "hello", "2026-03-01 09:00:00", "2026-03-01 09:00:02"],
        ["c-1", "customer", "hi", "2026-03-01 09:00:03", "2026-03-01 09:00:04"],
        ["c-2", "agent", "hello", "2026-03-01 10:00:00", ""],
        ["c-2", "customer", "hi", "2026-03-01 10:00:00", ""],
    ]
    (first, second), problems, _ = read(table(tmp_path / "turns.csv", rows), timezone="UTC")
    assert [(turn.t0, turn.t1) for turn in first.call.turns] == [(0.0, 2.0), (3.0, 4.0)]
    assert first.call.started_at == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert [turn.t0 for turn in second.call.turns] == [None, None]
    assert second.call.started_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert problems == []


def test_a_table_of_ids_and_categories_is_one_of_labels(tmp_path: Path) -> None:
    rows = [
        ["通话编号", "类别", "标注人"],
        ["c-1", "退费", "a"],
        ["", "退费", "a"],
        ["c-3", "天气", "a"],
        ["c-4", "", "a"],
    ]
    reading = open_labels(table(tmp_path / "labels.csv", rows), taxonomy=TAXONOMY)
    (entry,) = reading
    assert (entry.label.conversation_id, entry.label.primary, entry.label.annotator) == ("c-1", "billing.refund", "a")
    assert errors(reading.problems) == [(3, "通话编号"), (4, "类别"), (5, "类别")]
