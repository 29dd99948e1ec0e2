import csv
import hashlib
import io
import json
import resource
from pathlib import Path

import pytest

from qwenops.calls.tables import write_table
from qwenops.calls.without import Gone, conversations_in, mentions, rewrite_without

GONE = Gone(customer_id="h:gone", conversations=frozenset({"c-1", "c-3"}))


def lines(path: Path, *objects: object, encoding: str = "utf-8") -> Path:
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects), encoding)
    return path


def test_lines_about_a_customer_or_a_call_go_and_the_others_keep_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    kept = '{"conversation_id":  "c-2", "customer_id": "h:other", "note": "h:gone is only a word here"}\n'
    path.write_text(
        '{"conversation_id": "c-1", "customer_id": "h:gone"}\n' + kept + '\n{"conversation_id": "c-3"}\nno json\n',
        "utf-8",
    )
    done = rewrite_without(path, GONE)
    assert done is not None
    assert done.num_entries == 2
    assert path.read_text("utf-8") == kept + "\nno json\n"
    assert done.new_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert rewrite_without(path, GONE) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_of_a_table_go_whatever_its_encoding_and_delimiter(tmp_path: Path, encoding: str, delimiter: str) -> None:
    path = tmp_path / "calls.csv"
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows(
        [
            ["通话编号", "客户编号", "内容"],
            ["c-1", "h:gone", "我要投诉"],
            ["c-2", "h:other", '第一行\n第二行，"引号"'],
            ["c-9", "h:gone", "多扣了钱\n还有一行"],
        ]
    )
    path.write_bytes(out.getvalue().encode(encoding))
    assert conversations_in(path, "h:gone") == {"c-1", "c-9"}
    done = rewrite_without(path, GONE)
    assert done is not None
    assert done.num_entries == 2
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode(encoding), newline=""), delimiter=delimiter))
    assert rows == [["通话编号", "客户编号", "内容"], ["c-2", "h:other", '第一行\n第二行，"引号"']]


def test_a_table_whose_quotation_mark_never_closes_is_left_alone_and_named(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text('conversation_id,customer_id,text\nc-1,h:gone,"open\nc-2,h:other,kept\n', "utf-8")
    before = path.read_bytes()
    assert rewrite_without(path, GONE) is None
    assert path.read_bytes() == before
    assert mentions(path, GONE)


def test_objects_of_an_array_and_ids_in_lists_go_from_json(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"conversation_id": "c-1"}, {"conversation_id": "c-2", "n": 1.5}]), "utf-8")
    done = rewrite_without(path, GONE)
    assert done is not None
    assert json.loads(path.read_text("utf-8")) == [{"conversation_id": "c-2", "n": 1.5}]
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["c-1", "c-2", "c-3"], "test": ["c-4"], "seed": 7}), "utf-8")
    done = rewrite_without(splits, GONE)
    assert done is not None
    assert done.num_entries == 2
    assert json.loads(splits.read_text("utf-8")) == {"train": ["c-2"], "test": ["c-4"], "seed": 7}


def test_a_file_that_is_a_call_or_is_named_by_one_goes_as_a_whole(tmp_path: Path) -> None:
    document = tmp_path / "transcript.json"
    document.write_text(json.dumps({"conversation_id": "c-1", "turns": []}, indent=2), "utf-8")
    recording = tmp_path / "c-3.wav"
    recording.write_bytes(b"RIFF")
    for path in (document, recording):
        done = rewrite_without(path, GONE)
        assert done is not None
        assert done.new_sha256 == ""
        assert not path.exists()


def test_what_names_a_file_by_its_hash_names_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "batch" / "shards"
    folder.mkdir(parents=True)
    path = lines(folder / "000000.jsonl", {"conversation_id": "c-1"}, {"conversation_id": "c-2"})
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    journal = tmp_path / "batch" / "journal.jsonl"
    journal.write_text(f'{{"shard": 0, "sha256": "{old}"}}\n', "utf-8")
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"files": {path.name: old}}), "utf-8")
    far = tmp_path / "manifest.json"
    far.write_text(json.dumps({"data": old}), "utf-8")
    done = rewrite_without(path, GONE)
    assert done is not None
    assert done.new_sha256 in journal.read_text("utf-8")
    assert json.loads(manifest.read_text("utf-8")) == {"files": {path.name: done.new_sha256}}
    assert json.loads(far.read_text("utf-8")) == {"data": old}, "what a model was trained on stays as it was"


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = lines(tmp_path / "calls.jsonl", *({"conversation_id": f"c-{n}", "text": "x" * 500} for n in range(200)))
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))
        with pytest.raises(OSError, match="too large"):
            rewrite_without(path, GONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["calls.jsonl"]


def test_what_cannot_be_rewritten_is_still_looked_into(tmp_path: Path) -> None:
    workbook = tmp_path / "calls.xlsx"
    write_table(workbook, [{"conversation_id": "c-1"}], ["conversation_id"])
    page = tmp_path / "report.html"
    page.write_text("<p>c-3 was wrong</p>", "utf-8")
    wide = tmp_path / "wide.txt"
    wide.write_text("h:gone", "utf-16")
    clean = tmp_path / "clean.txt"
    clean.write_text("nothing", "utf-8")
    for path in (workbook, page, wide, clean):
        assert rewrite_without(path, GONE) is None
    assert [mentions(path, GONE) for path in (workbook, page, wide, clean)] == [True, True, True, False]
