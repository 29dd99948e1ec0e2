import csv
import gc
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls import tables
from qwenops.calls.tables import Cell, Written, quoted, unquoted, write_table
from qwenops.errors import ConfigError, InvalidDataError

ROWS: list[dict[str, Cell]] = [
    {"conversation_id": "c-1", "class": "套餐资费争议", "p": 0.91, "n": 3, "at": date(2026, 3, 1)},
    {"conversation_id": "c-2", "class": "=HYPERLINK(1)", "p": -0.5, "n": None},
]
COLUMNS = {"conversation_id": "通话编号", "class": "类别", "p": "概率", "n": "n", "at": "日期"}


def cells(path: Path) -> list[list[object]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as raw:
            return [list(row) for row in csv.reader(raw)]
    book = openpyxl.load_workbook(path)
    found: list[list[object]] = [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    book.close()
    return found


def test_a_csv_file_begins_with_the_mark_by_which_spreadsheets_know_utf8(tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.csv"
    assert write_table(path, ROWS, COLUMNS) == Written(rows=2)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert cells(path) == [
        ["通话编号", "类别", "概率", "n", "日期"],
        ["c-1", "套餐资费争议", "0.91", "3", "2026-03-01"],
        ["c-2", "'=HYPERLINK(1)", "-0.5", "", ""],
    ]


def test_a_workbook_holds_numbers_as_numbers_and_formulas_as_text(tmp_path: Path) -> None:
    path = tmp_path / "results.xlsx"
    assert write_table(path, ROWS, COLUMNS) == Written(rows=2)
    book = openpyxl.load_workbook(path)
    sheet = book.worksheets[0]
    assert [cell.value for cell in sheet[1]] == list(COLUMNS.values())
    assert [cell.value for cell in sheet[2]][:4] == ["c-1", "套餐资费争议", 0.91, 3]
    assert sheet["E2"].value == datetime(2026, 3, 1)  # noqa: DTZ001 -- a sheet knows no zones
    assert (sheet["B3"].value, sheet["B3"].data_type, sheet["B3"].quotePrefix) == ("=HYPERLINK(1)", "s", True)
    assert sheet["C3"].value == -0.5
    book.close()
    with zipfile.ZipFile(path) as archive:
        assert b"<f>" not in archive.read("xl/worksheets/sheet1.xml")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff20x"])
def test_what_begins_as_a_formula_is_quoted(text: str) -> None:
    assert quoted(text) == f"'{text}"


@given(st.text())
def test_a_quoted_text_reads_back_as_it_was(text: str) -> None:
    assert unquoted(quoted(text)) == text
    assert not quoted(text).startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"))


def test_a_long_text_is_cut_in_a_workbook_and_that_is_said(tmp_path: Path) -> None:
    rows: list[dict[str, Cell]] = [{"text": "长" * 40_000}]
    assert write_table(tmp_path / "a.xlsx", rows, ["text"]) == Written(rows=1, cut=1)
    text = cells(tmp_path / "a.xlsx")[1][0]
    assert isinstance(text, str)
    assert len(text) == 32_767
    assert text.endswith("长…")
    assert write_table(tmp_path / "a.csv", rows, ["text"]) == Written(rows=1)
    assert cells(tmp_path / "a.csv")[1][0] == "长" * 40_000


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_what_no_sheet_can_hold_is_no_reason_to_fail(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"odd.{suffix}"
    zoned = datetime(2026, 3, 1, 9, tzinfo=UTC)
    row: dict[str, Cell] = {
        "nan": float("nan"),
        "inf": float("inf"),
        "control": "a\x01b\ud800c\0d",
        "long": 12345678901234567890,
        "zoned": zoned,
        "true": True,
    }
    write_table(path, [row], list(row))
    found = dict(zip(list(row), cells(path)[1], strict=True))
    assert found["nan"] in {None, ""}
    assert found["inf"] in {None, ""}
    assert str(found["control"]).startswith("a")
    assert found["long"] == "12345678901234567890"
    assert found["zoned"] == "2026-03-01 09:00:00+00:00"
    assert found["true"] in {True, "TRUE"}


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_a_table_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"results.{suffix}"
    write_table(path, ROWS, COLUMNS)
    before = path.read_bytes()

    def failing() -> Iterator[dict[str, Cell]]:
        yield ROWS[0]
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_table(path, failing(), COLUMNS)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_table_is_for_its_owner_alone(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ROWS, COLUMNS)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o600


def test_a_workbook_that_breaks_off_ends_at_once_and_leaves_no_texts_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def failing() -> Iterator[dict[str, Cell]]:
        yield ROWS[0]
        assert list(temporary.iterdir()), "openpyxl keeps its rows there meanwhile"
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_table(tmp_path / "a.xlsx", failing(), COLUMNS)
    gc.collect()  # what is still open then makes a test fail
    assert list(temporary.iterdir()) == []


def test_more_rows_than_a_sheet_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 3)
    rows: list[dict[str, Cell]] = [{"n": number} for number in range(4)]
    assert write_table(tmp_path / "a.xlsx", rows[:3], ["n"]).rows == 3
    with pytest.raises(InvalidDataError, match="more than 3 rows") as caught:
        write_table(tmp_path / "b.xlsx", rows, ["n"])
    assert ".csv" in caught.value.hint
    assert not (tmp_path / "b.xlsx").exists()


def test_another_ending_is_refused_with_those_that_are_possible(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no table that can be written") as caught:
        write_table(tmp_path / "a.xls", ROWS, COLUMNS)
    assert ".csv, .xlsx" in caught.value.hint
