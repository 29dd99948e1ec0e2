import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls import lines
from qwenops.calls.lines import opened
from qwenops.calls.problems import FieldProblem, Problem, Severity
from qwenops.calls.readers.documents import Document, documents, each_object, loads
from qwenops.calls.readers.entries import Place

OBJECTS: list[dict[str, Any]] = [
    {"text": '话费 ] } " \\ , [', "n": 1},
    {"text": "二\n", "inner": {"list": [1, [2, {"three": 3}]]}},
    {"text": "", "none": None},
]


def read(path: Path) -> tuple[list[Document], list[Problem]]:
    with opened(path) as source:
        found = list(documents(source))
    return [each for each in found if isinstance(each, Document)], [each for each in found if isinstance(each, Problem)]


def values(path: Path) -> list[Any]:
    return [json.loads(each.text) for each in read(path)[0]]


def forms() -> dict[str, str]:
    compact = [json.dumps(each, ensure_ascii=False) for each in OBJECTS]
    return {
        "lines": "\n".join(compact),
        "lines with a gap": "\n\n".join(compact) + "\n",
        "list": json.dumps(OBJECTS, ensure_ascii=False),
        "spread list": json.dumps(OBJECTS, ensure_ascii=False, indent=2),
        "list in lists": "[" + ",".join(f"[{each}]" for each in compact) + "]",
        "list with a last comma": "[" + ",\n".join(compact) + ",\n]\n",
        "two lists": f"[{compact[0]}]\n[{compact[1]},{compact[2]}]",
        "spread objects": "\n".join(json.dumps(each, ensure_ascii=False, indent=2) for each in OBJECTS),
    }


@pytest.mark.parametrize("form", list(forms()))
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("block", [1, 7, 2**20])
def test_values_are_found_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, codec: str, block: int
) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", block)
    monkeypatch.setattr(lines, "HEAD_BYTES", 80)
    path = tmp_path / "data.json"
    path.write_bytes(forms()[form].encode(codec))
    assert read(path)[1] == []
    assert values(path) == OBJECTS


def test_a_value_knows_the_line_in_which_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(OBJECTS, indent=1), "utf-8")
    text = path.read_text("utf-8").splitlines()
    found, _ = read(path)
    assert [text[each.place.line - 1].strip() for each in found] == ["{", "{", "{"]
    assert len({each.place.name for each in found}) == len(OBJECTS)


def test_values_in_one_line_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(OBJECTS), "utf-8")
    assert [each.place.name for each in read(path)[0]] == ["data-000001", "data-000002", "data-000003"]


@pytest.mark.parametrize("text", ['{"a": 1}', '[{"a": 1}]', '{\n"a": 1\n}\n'])
def test_a_value_that_is_alone_is_called_as_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "call-17.json"
    path.write_text(text, "utf-8")
    assert [each.place.name for each in read(path)[0]] == ["call-17"]


def test_a_broken_line_does_not_keep_the_next_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": NaN}\n[1]\n{"a": 2}\n', "utf-8")
    with opened(path) as source:
        found = list(each_object(source, lambda value, place: iter([(value["a"], place.line)])))
    assert [each for each in found if isinstance(each, tuple)] == [(1, 1), (2, 5)]
    assert [each.line for each in found if isinstance(each, Problem)] == [2, 3, 4]
    assert all("no JSON" in each.what for each in found if isinstance(each, Problem))


def test_a_broken_list_ends_where_it_breaks_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[\n{"a": 1},\n{"a": 2\n "b"},\n{"a": 3}]', "utf-8")
    found, problems = read(path)
    assert [json.loads(each.text) for each in found] == [{"a": 1}]
    assert [each.line for each in problems] == [4]
    assert "What follows was not read" in problems[0].what


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": "b', '[{"a": 1}, {"a": 2}', "["])
def test_a_list_that_is_cut_off_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text, "utf-8")
    assert [each.severity for each in read(path)[1]] == [Severity.ERROR]


def test_an_object_of_another_encoding_within_a_list_is_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    usual, other = '{"text": "客户说流量用完了"}'.encode(), '{"text": "没有人给我提醒"}'.encode("gb18030")
    broken = '{"text": "客服您好请问有什么可以帮您"}'.encode().replace("帮".encode(), b"\xe5\xb8")
    path.write_bytes(b"[" + b",\n".join([usual, other, broken, usual]) + b"]")
    found, problems = read(path)
    assert [json.loads(each.text)["text"] for each in found] == [
        "客户说流量用完了",
        "没有人给我提醒",
        "客户说流量用完了",
    ]
    assert [(each.line, each.severity) for each in problems] == [(2, Severity.WARNING), (3, Severity.ERROR)]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '[{"a":' + "[" * 100_000 + "]}"])
def test_what_is_nested_without_end_is_an_error_and_no_crash(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text, "utf-8")
    with opened(path) as source:
        found = list(each_object(source, lambda value, _place: iter([value])))
    assert found
    assert all(isinstance(each, Problem) for each in found)


@pytest.mark.parametrize("text", ["", "x", "[1]", "null", '{"a": Infinity}', '{"a": 1} {"b": 2}', "9" * 5000])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(FieldProblem) as caught:
        loads(text)
    (problem,) = caught.value.problems("a.jsonl", 7)
    assert (problem.place, problem.severity) == ("a.jsonl:7", Severity.ERROR)


def test_places_are_called_by_file_and_sheet() -> None:
    assert Place(source="-", line=7).name == "stdin-000007"
    assert Place(source="/data/call-a.csv", line=7).name == "call-a-000007"
    assert Place(source="/data/calls.xlsx[1月]", line=7).name == "calls-1月-000007"


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.none() | st.booleans())), min_size=1)
)
def test_any_list_of_objects_reads_as_it_was(tmp_path_factory: pytest.TempPathFactory, whole: list[Any]) -> None:
    path = tmp_path_factory.mktemp("data") / "data.json"
    path.write_text(json.dumps(whole), "utf-8")
    assert values(path) == whole
