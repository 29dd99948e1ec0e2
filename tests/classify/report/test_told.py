from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qwenops.calls.schema import Call, Role, Turn
from qwenops.calls.tables import Cell, write_table
from qwenops.classify.prediction import DecisionKind, Prediction, dump_prediction
from qwenops.classify.report.told import NEEDED, About, abouts_of, read_predictions
from qwenops.cli.classify import COLUMNS
from qwenops.errors import InvalidDataError
from tests.classify.report.predicted import MONDAY, prediction


def write(path: Path, *predictions: Prediction, more: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{dump_prediction(each)}\n" for each in predictions) + more, "utf-8")
    return path


def test_a_folder_is_read_without_its_side_files(tmp_path: Path) -> None:
    write(tmp_path / "may.jsonl", prediction("c1", "a", MONDAY), prediction("c2", "b", MONDAY))
    write(tmp_path / "june" / "june.ndjson", prediction("c3", "a", MONDAY, model="m@2"))
    write(tmp_path / "may.jsonl.parts" / "shards" / "000000.jsonl", prediction("c1", "z", MONDAY))
    (tmp_path / "may.jsonl.parts" / "journal.jsonl").write_text("{}\n")
    (tmp_path / "may.jsonl.rejected.jsonl").write_text('{"problem": "x"}\n')
    (tmp_path / "calls.jsonl").write_text('{"schema": "qwenops.call/1"}\n')
    found = read_predictions(tmp_path)
    assert {(each.conversation_id, each.category, each.model) for each in found.told} == {
        ("c1", "a", "m@1"),
        ("c2", "b", "m@1"),
        ("c3", "a", "m@2"),
    }
    assert (found.files, found.passed_over) == (["june/june.ndjson", "may.jsonl"], ["calls.jsonl"])
    assert (found.problems, found.repeated, found.by_call_time) == ([], 0, False)


def test_a_batch_that_is_not_done_is_read_from_its_shards(tmp_path: Path) -> None:
    write(tmp_path / "may.jsonl.parts" / "shards" / "000000.jsonl", prediction("c1", "z", MONDAY))
    assert [each.category for each in read_predictions(tmp_path).told] == ["z"]


def test_a_call_counts_once_as_it_was_said_last(tmp_path: Path) -> None:
    later = MONDAY + timedelta(days=1)
    write(tmp_path / "a.jsonl", prediction("c1", "new", later))
    write(tmp_path / "b.jsonl", prediction("c1", "old", MONDAY))
    found = read_predictions(tmp_path)
    assert [each.category for each in found.told] == ["new"]
    assert found.repeated == 1


def test_a_bad_line_is_named_and_the_others_count(tmp_path: Path) -> None:
    timeless = Prediction(conversation_id="c2", model="m", primary="a", p=0.5, decision=DecisionKind.AUTO)
    path = write(tmp_path / "a.jsonl", prediction("c1", "a", MONDAY), timeless, more='{"half": \n')
    found = read_predictions(path)
    assert [each.conversation_id for each in found.told] == ["c1"]
    assert [(each.source, each.line) for each in found.problems] == [("a.jsonl", 2), ("a.jsonl", 3)]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_tables_are_read_as_the_command_writes_them(tmp_path: Path, suffix: str) -> None:
    assert set(NEEDED) <= set(COLUMNS.values())
    row: dict[str, Cell] = {"conversation_id": "=c1", "primary": "a", "p": 0.875, "decision": "review", "model": "m@1"}
    rows = [
        {**row, "ts": "2026-03-02T09:00:00Z"},
        {**row, "conversation_id": "c2", "ts": "soon"},
    ]
    write_table(tmp_path / f"filed{suffix}", rows, COLUMNS)
    found = read_predictions(tmp_path / f"filed{suffix}")
    (only,) = found.told
    assert (only.conversation_id, only.category, only.decision, only.p) == ("=c1", "a", DecisionKind.REVIEW, 0.875)
    assert only.at == datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert [each.line for each in found.problems] == [3]


def test_a_table_of_something_else_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text("conversation_id,text\nc1,hello\n")
    (tmp_path / "broken.xlsx").write_bytes(b"no workbook")
    write(tmp_path / "a.jsonl", prediction("c1", "a", MONDAY))
    assert read_predictions(tmp_path).passed_over == ["broken.xlsx", "calls.csv"]


def test_with_the_calls_their_own_times_and_customers_count(tmp_path: Path) -> None:
    made = datetime(2025, 11, 3, tzinfo=UTC)
    path = write(tmp_path / "a.jsonl", prediction("c1", "a", MONDAY), prediction("c2", "a", MONDAY))
    turns = (Turn(role=Role.CUSTOMER, text="喂"),)
    calls = abouts_of([Call(conversation_id="c1", turns=turns, customer_id="k1", started_at=made)])
    found = read_predictions(path, calls=calls)
    assert [(each.at, each.customer) for each in found.told] == [(made, "k1")]
    assert (found.by_call_time, found.without_call) == (True, 1)
    timeless = read_predictions(path, calls={"c1": About(customer="k1")})
    assert [(each.at, each.customer) for each in timeless.told] == [(MONDAY, "k1"), (MONDAY, "")]
    assert not timeless.by_call_time


def test_where_there_is_no_prediction_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text('{"schema": "qwenops.call/1"}\n')
    with pytest.raises(InvalidDataError, match="no prediction in") as refused:
        read_predictions(tmp_path)
    assert "qwenops classify" in refused.value.hint
