import io
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from qwenops.calls.problems import Severity
from qwenops.calls.readers import Format, ReadOptions, entries, open_calls, open_labels
from qwenops.calls.schema import Call, Label, Role, Turn, dump
from qwenops.errors import InvalidDataError
from tests.calls.readers.reading import TAXONOMY, errors, read, warnings, written

CALL = Call(
    conversation_id="c-1",
    lang="zh",
    started_at=datetime.fromisoformat("2026-03-01T09:12:33+08:00"),
    turns=(Turn(i=0, role=Role.AGENT, text="您好", t0=0.0), Turn(i=1, role=Role.CUSTOMER, text="我要投诉", t0=2.5)),
    meta={"region": "330000"},
)
LABEL = Label(conversation_id="c-1", taxonomy="test@2", primary="billing.fee", annotator="a")


class Pipe(io.BytesIO):
    """Gives one line at a time, and says how many were asked for."""

    num_lines = 0

    def read1(self, _size: int | None = -1, /) -> bytes:
        self.num_lines += 1
        return self.readline()


def test_our_own_lines_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(f"{dump(CALL)}\n\n{dump(CALL)}", "utf-8")
    found, problems, kind = read(path)
    assert [each.call for each in found] == [CALL, CALL]
    assert [each.line for each in found] == [1, 3]
    assert (kind, problems) == (Format.CALLS, [])


def test_each_wrong_field_of_a_line_is_named_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    wrong = {"conversation_id": 5, "turns": [{"role": "boss", "text": "喂"}, {"role": "agent"}], "colour": "red"}
    path.write_text(f"{dump(CALL)}\n{json.dumps(wrong)}\n{dump(CALL)[:-5]}\n{dump(CALL)}\n", "utf-8")
    found, problems, _ = read(path)
    assert [each.line for each in found] == [1, 4]
    assert set(errors(problems)) == {
        (2, "conversation_id"),
        (2, "turns[0].role"),
        (2, "turns[1].text"),
        (2, "colour"),
        (3, ""),
    }
    assert all(each.source == str(path) for each in problems)


def test_standard_input_is_read_as_it_comes() -> None:
    pipe = Pipe(f"{dump(CALL)}\n".encode() * 10)
    reading = open_calls(Path("-"), stdin=pipe)
    assert reading.format is Format.CALLS
    assert pipe.num_lines == 1
    assert next(iter(reading)).call == CALL
    assert pipe.num_lines <= 3
    assert len(list(reading)) == 9
    assert not pipe.closed


def test_a_table_can_come_through_a_pipe_and_a_workbook_cannot() -> None:
    (entry,) = open_calls(Path("-"), stdin=io.BytesIO("id,text\n1,喂你好\n".encode("gb18030")))
    assert entry.call.turns[0].text == "喂你好"
    with pytest.raises(InvalidDataError, match="workbook cannot be read from standard input"):
        open_calls(Path("-"), stdin=io.BytesIO(b"PK\x03\x04"))


def test_a_folder_is_read_file_by_file_and_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    written(tmp_path / "b.jsonl", [{"input_text": "喂", "conversation_id": "b"}])
    (tmp_path / "a.csv").write_text("id,text\na,喂\n", "utf-8")
    written(tmp_path / "call-7.json", [{"sentence_info": [{"text": "喂", "start": 0, "end": 1}]}])
    (tmp_path / "c.json").write_text('{"colour": "red"}', "utf-8")
    (tmp_path / "empty.txt").write_text("", "utf-8")
    (tmp_path / ".hidden.json").write_text("{", "utf-8")
    (tmp_path / "~$a.xlsx").write_text("lock", "utf-8")
    (tmp_path / "notes.md").write_text("notes", "utf-8")
    reading = open_calls(tmp_path)
    assert [each.call.conversation_id for each in reading] == ["a", "b", "call-7"]
    assert [Path(each.source).name for each in reading.problems] == ["c.json", "empty.txt"]
    assert all(each.severity is Severity.ERROR for each in reading.problems)


def test_a_folder_without_calls_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="holds no files of calls"):
        open_calls(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.json", b"", "is empty"),
        ("x.jsonl", b'{"colour": "red"}\n', "the first has the keys: colour"),
        ("x.bin", b"\x00\x01\x02", "none of the formats that are known"),
        ("x.md", b"# notes\n", "none of the formats that are known"),
        ("x.json.gz", b"\x1f\x8b\x08", "is compressed"),
        ("missing.json", None, "cannot be read"),
    ],
)
def test_what_is_no_file_of_calls_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidDataError, match=reason) as caught:
        open_calls(tmp_path / name)
    assert caught.value.hint


def test_a_format_is_known_by_content_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "calls.txt"
    path.write_text(f"{dump(CALL)}\n", "utf-8")
    assert open_calls(path).format is Format.CALLS
    path = tmp_path / "calls.data"
    path.write_text("通话编号,内容\n1,喂\n", "utf-8")
    assert open_calls(path).format is Format.TABLE_CSV


def test_a_format_is_known_also_where_the_first_object_is_longer_than_the_beginning(tmp_path: Path) -> None:
    sentences = [{"text": "喂" * 1000, "start": number, "end": number + 1} for number in range(200)]
    assert open_calls(written(tmp_path / "a.json", [{"key": "a", "sentence_info": sentences}])).format is Format.FUNASR
    phrases = [{"offsetInTicks": 0, "nBest": [{"display": "喂" * 1000}]}] * 200
    path = written(tmp_path / "b.json", [{"recognizedPhrases": phrases}])
    assert open_calls(path).format is Format.CLOUD_TRANSCRIPT


def test_what_the_user_says_a_file_is_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "x.json", [{"messages": [{"role": "user", "content": "喂"}], "input_text": "你好"}])
    assert read(path)[0][0].call.turns[0].text == "你好"
    assert read(path, format=Format.MS_SWIFT)[0][0].call.turns[0].text == "喂"


def test_a_file_with_nothing_but_problems_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MOST_PROBLEMS", 50)
    path = tmp_path / "x.jsonl"
    path.write_text(f"{dump(CALL)}\n" + "no JSON\n" * 60, "utf-8")
    with pytest.raises(InvalidDataError, match="more than 50 problems as calls") as caught:
        list(open_calls(path))
    assert f"{path}:2" in caught.value.message
    assert len(caught.value.problems) == 50


def test_memory_is_flat_however_long_a_file_is() -> None:
    class Endless(io.BytesIO):
        num_blocks = 0

        def read1(self, _size: int | None = -1, /) -> bytes:
            self.num_blocks += 1
            return f"{dump(CALL)}\n".encode() * 100

    pipe = Endless()
    reading = iter(open_calls(Path("-"), stdin=pipe))
    for _ in range(1000):
        next(reading)
    assert pipe.num_blocks <= 12


def test_progress_is_told_from_the_first_byte_to_the_last(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(f"{dump(CALL)}\n" * 20_000, "utf-8")
    told: list[float] = []
    assert sum(1 for _ in open_calls(path, report=lambda done, _what: told.append(done))) == 20_000
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 2


def labels(path: Path) -> Iterator[Label]:
    return (each.label for each in open_labels(path, taxonomy=TAXONOMY, options=ReadOptions()))


def test_our_own_labels_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{dump(LABEL)}\n{dump(LABEL)}\n", "utf-8")
    assert list(labels(path)) == [LABEL, LABEL]


def test_wrong_fields_of_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        f'{dump(LABEL)}\n{{"conversation_id": "c-2", "primary": "x"}}\n'
        '{"conversation_id": "c-3", "category": "退费"}\n{"conversation_id": "c-4", "category": "天气"}\nno JSON\n',
        "utf-8",
    )
    reading = open_labels(path, taxonomy=TAXONOMY)
    assert [(each.label.primary, each.line) for each in reading] == [("billing.fee", 1), ("billing.refund", 3)]
    assert errors(reading.problems) == [(2, "taxonomy"), (4, "category"), (5, "")]
    assert warnings(reading.problems) == []


def test_labels_do_not_come_through_a_pipe() -> None:
    with pytest.raises(InvalidDataError, match="standard input"):
        open_labels(Path("-"))
