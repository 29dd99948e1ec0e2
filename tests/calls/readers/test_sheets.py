import re
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from openpyxl.styles import Font

from qwenops.calls.problems import Severity
from qwenops.calls.readers import Format, open_labels, sheets
from qwenops.calls.schema import Role
from qwenops.errors import InvalidDataError
from tests.calls.readers.reading import DIALOGUE, SAID, TAXONOMY, errors, read, said, warnings

HEADER = ["通话编号", "通话内容", "类别", "通话时间", "通话时长"]
AT = datetime(2026, 3, 1, 9, 12)  # noqa: DTZ001 -- a sheet knows no zones


def workbook(path: Path, **rows_of: Sequence[Sequence[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for title, rows in rows_of.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def with_shared_texts(path: Path) -> Path:
    """Rewrite a workbook as spreadsheets write it: texts stand in a list of their own, the first in two styles."""
    texts: list[str] = []

    def share(found: re.Match[str]) -> str:
        texts.append(found[1])
        return f't="s"><v>{len(texts) - 1}</v></c>'

    shared = path.with_name(f"shared-{path.name}")
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(shared, "w") as new:
        for name in old.namelist():
            text = old.read(name).decode()
            if name.startswith("xl/worksheets/sheet"):
                text = re.sub(r't="inlineStr"><is><t[^>]*>([^<]*)</t></is></c>', share, text)
            part = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'
            link = f'<Relationship Id="texts" Type="{relation}" Target="sharedStrings.xml"/></Relationships>'
            if name.startswith("xl/_rels"):
                text = text.replace("</Relationships>", link)
            new.writestr(name, text.replace("</Types>", part))
        styled = f"<si><r><t>{texts[0][:1]}</t></r><r><rPr><b/></rPr><t>{texts[0][1:]}</t></r></si>"
        items = "".join([styled, *(f"<si><t>{text}</t></si>" for text in texts[1:])])
        space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
        new.writestr("xl/sharedStrings.xml", f'<sst xmlns="{space}" count="{len(texts)}">{items}</sst>')
    return shared


def test_texts_that_a_spreadsheet_shares_between_cells_are_read(tmp_path: Path) -> None:
    rows: list[list[Any]] = [HEADER, ["c-1", DIALOGUE, "资费争议", AT, 312], ["c-2", "喂", None, None, None]]
    found, problems, _ = read(with_shared_texts(workbook(tmp_path / "calls.xlsx", calls=rows)))
    assert problems == []
    assert [each.call.conversation_id for each in found] == ["c-1", "c-2"]
    assert said(found[0]) == SAID


def test_a_workbook_is_read_with_its_dates_and_numbers(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        HEADER,
        ["c-1", DIALOGUE, "资费争议", AT, timedelta(minutes=5)],
        [1002, "喂", "", 46082.5, 312],
    ]
    found, problems, kind = read(workbook(tmp_path / "calls.xlsx", calls=rows), timezone="Asia/Shanghai")
    assert (kind, problems) == (Format.TABLE_XLSX, [])
    first, second = found
    assert said(first) == SAID
    assert first.call.started_at == datetime(2026, 3, 1, 1, 12, tzinfo=UTC)
    assert first.call.duration_s == 300
    assert first.label is not None
    assert first.label.primary == "billing.fee"
    assert second.call.conversation_id == "1002"
    assert second.call.started_at == datetime(2026, 3, 1, 4, tzinfo=UTC)
    assert second.label is None
    assert (first.line, second.line) == (2, 3)
    assert first.source == f"{tmp_path / 'calls.xlsx'}[calls]"


def test_a_header_below_a_title_and_a_gap_is_found_and_lines_are_those_of_the_sheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.title = "明细"
    sheet["A1"] = "2026年3月投诉明细"
    sheet["A1"].font = Font(bold=True)
    sheet.merge_cells("A1:E1")
    for column, name in enumerate(HEADER, start=1):
        sheet.cell(row=3, column=column, value=name)
    sheet["A5"], sheet["B5"] = "c-5", "喂"
    sheet["A9"], sheet["B9"] = "c-9", "喂"
    book.save(tmp_path / "calls.xlsx")
    found, problems, _ = read(tmp_path / "calls.xlsx")
    assert [(each.call.conversation_id, each.line) for each in found] == [("c-5", 5), ("c-9", 9)]
    assert problems == []


def test_cells_that_are_merged_downwards_hold_for_each_row(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(["通话编号", "角色", "内容", "类别"])
    sheet.append(["c-1", "坐席", "您好", "资费争议"])
    sheet.append([None, "客户", "我要投诉", None])
    sheet.append(["c-2", "客户", "喂", "退费"])
    sheet.merge_cells("A2:A3")
    sheet.merge_cells("D2:D3")
    book.save(tmp_path / "turns.xlsx")
    (first, second), problems, _ = read(tmp_path / "turns.xlsx")
    assert said(first) == ((Role.AGENT, "您好"), (Role.CUSTOMER, "我要投诉"))
    assert second.call.conversation_id == "c-2"
    assert problems == []


def test_a_merged_category_holds_for_all_its_calls(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet.append(["通话编号", "类别", "内容"])
    for number in range(4):
        sheet.append([f"c-{number}", "退费" if number in {0, 3} else None, "喂"])
    sheet.merge_cells("B2:B4")
    book.save(tmp_path / "calls.xlsx")
    found, _, _ = read(tmp_path / "calls.xlsx")
    assert [each.label and each.label.primary for each in found] == ["billing.refund"] * 4


def test_all_sheets_that_name_their_columns_are_read_and_the_others_named(tmp_path: Path) -> None:
    months: dict[str, list[list[Any]]] = {
        "1月": [HEADER, ["c-1", "喂"]],
        "说明": [["怎么填写", "请看这里"]],
        "2月": [HEADER, [None, "你好"]],
    }
    path = workbook(tmp_path / "calls.xlsx", **months)
    found, problems, _ = read(path)
    assert [each.call.conversation_id for each in found] == ["c-1", "calls-2月-000002"]
    assert [each.source for each in problems if each.severity is Severity.WARNING] == [f"{path}[说明]", f"{path}[2月]"]
    assert errors(problems) == []
    found, problems, _ = read(path, sheet="1月")
    assert ([each.call.conversation_id for each in found], problems) == (["c-1"], [])
    with pytest.raises(InvalidDataError, match="no sheet '3月'; it has: 1月, 说明, 2月"):
        read(path, sheet="3月")


def test_hidden_sheets_are_not_read_unless_asked_for(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for title in ("shown", "hidden"):
        sheet = book.create_sheet(title)
        sheet.append(["id", "text"])
        sheet.append([title, "喂"])
    book["hidden"].sheet_state = "hidden"
    book.save(tmp_path / "calls.xlsx")
    assert [each.call.conversation_id for each in read(tmp_path / "calls.xlsx")[0]] == ["shown"]
    assert [each.call.conversation_id for each in read(tmp_path / "calls.xlsx", sheet="hidden")[0]] == ["hidden"]


def test_an_id_that_was_kept_as_a_number_is_named(tmp_path: Path) -> None:
    rows: list[list[Any]] = [HEADER[:2], [202603010912000123, "喂"], ["202603010912000123", "喂"]]
    _, problems, _ = read(workbook(tmp_path / "calls.xlsx", calls=rows))
    assert warnings(problems) == [(2, "通话编号")]
    assert "15 digits" in problems[0].what


def test_broken_formulas_are_empty_cells(tmp_path: Path) -> None:
    rows = [HEADER[:3], ["c-1", "喂", "#N/A"], ["c-2", "#REF!", "退费"]]
    found, problems, _ = read(workbook(tmp_path / "calls.xlsx", calls=rows))
    assert [(each.call.conversation_id, each.label) for each in found] == [("c-1", None)]
    assert errors(problems) == [(3, "通话内容")]


def test_a_sheet_that_says_a_wrong_size_is_read_to_its_end(tmp_path: Path) -> None:
    path = workbook(tmp_path / "calls.xlsx", calls=[["id", "text"], ["c-1", "喂"], ["c-2", "喂"]])
    wrong = tmp_path / "wrong.xlsx"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(wrong, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b'<dimension ref="A1:B3"', b'<dimension ref="A1"'))
        assert b'ref="A1"' in new.read("xl/worksheets/sheet1.xml")
    assert len(read(wrong)[0]) == 2


def test_what_is_no_workbook_is_a_clear_error(tmp_path: Path) -> None:
    path = workbook(tmp_path / "calls.xlsx", calls=[["id", "text"], ["c-1", "喂"]])
    whole = path.read_bytes()
    for number, content in enumerate((whole[: len(whole) // 2], b"PK\x03\x04", b"PK\x03\x04" + b"x" * 1000)):
        damaged = tmp_path / f"{number}.xlsx"
        damaged.write_bytes(content)
        with pytest.raises(InvalidDataError, match="cannot be read as a workbook") as caught:
            read(damaged)
        assert "CSV" in caught.value.hint
    old = tmp_path / "old.xls"
    old.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512)
    with pytest.raises(InvalidDataError, match="old or a protected workbook"):
        read(old)


def test_a_sheet_that_breaks_off_says_where(tmp_path: Path) -> None:
    path = workbook(tmp_path / "calls.xlsx", calls=[["id", "text"], ["c-1", "喂"], ["c-2", "喂"]])
    cut = tmp_path / "cut.xlsx"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(cut, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.partition(b'<row r="3"')[0] if "sheet1" in name else content)
    found, problems, _ = read(cut)
    assert [each.call.conversation_id for each in found] in ([], ["c-1"])
    assert "damaged" in problems[-1].what


def test_a_workbook_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_shared_texts(workbook(tmp_path / "calls.xlsx", calls=[["id", "text"], ["c-1", "喂" * 1000]]))
    assert read(path)[1] == []
    monkeypatch.setattr(sheets, "MOST_SHARED_BYTES", 1000)
    with pytest.raises(InvalidDataError, match="of text; of a workbook") as caught:
        read(path)
    assert "CSV" in caught.value.hint


def test_labels_are_read_from_a_workbook(tmp_path: Path) -> None:
    path = workbook(tmp_path / "labels.xlsx", labels=[["id", "label"], ["c-1", "退费"], ["c-2", "天气"]])
    reading = open_labels(path, taxonomy=TAXONOMY)
    assert [each.label.primary for each in reading] == ["billing.refund"]
    assert errors(reading.problems) == [(3, "label")]
