"""YAML with lines: what stands there is read as text, what could mislead is refused, and every problem has its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.marked import DEEPEST, Marked, MarkedFile, read_marked
from qwenops.errors import InvalidDataError


def reading(folder: Path, text: str | bytes) -> MarkedFile:
    path = folder / "file.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_marked(path)


def refusal(folder: Path, text: str | bytes) -> InvalidDataError:
    with pytest.raises(InvalidDataError) as caught:
        reading(folder, text)
    return caught.value


def test_every_value_knows_its_line_and_stays_a_text(tmp_path: Path) -> None:
    file = reading(tmp_path, "a: no\nb:\n  - 12315\n  - 'x'\nc: {zh: ~, en: '~'}\n")
    assert file.problems == []
    assert file.root == Marked(
        {
            "a": Marked("no", 1),
            "b": Marked([Marked("12315", 3), Marked("x", 4)], 3),
            "c": Marked({"zh": Marked(None, 5), "en": Marked("~", 5)}, 5),
        },
        1,
    )


def test_a_mark_at_the_beginning_and_ends_of_lines_from_windows_make_no_difference(tmp_path: Path) -> None:
    file = reading(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert file.root.value == {"a": Marked("1", 1), "b": Marked("2", 2)}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "again, after line 1"),
        ("a: &x [1]\nb: *x\n", 2, "Aliases"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "Tags"),
        ("a: 1\n---\nb: 1\n", 3, "one document"),
        ("a: 1\n? [b]\n: 2\n", 2, "must be a text"),
    ],
)
def test_what_hides_what_a_file_says_is_a_problem_with_its_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    file = reading(tmp_path, text)
    assert [(each.line, said in each.what) for each in file.problems] == [(line, True)]


def test_a_mapping_that_contains_itself_is_refused_and_not_walked(tmp_path: Path) -> None:
    file = reading(tmp_path, "a: &x\n  children: [*x]\n")
    assert [each.line for each in file.problems] == [2]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        (b"a: 1\nb: \xff\xfe\n", 2),
        ("a: 1\nb: " + "[" * (DEEPEST + 1), 2),
    ],
)
def test_what_cannot_be_read_at_all_is_an_error_with_its_line(tmp_path: Path, text: str | bytes, line: int) -> None:
    error = refusal(tmp_path, text)
    assert [each.line for each in error.problems] == [line]
    assert error.message.startswith(f"{tmp_path / 'file.yaml'}:{line}: ")
    assert error.hint


def test_a_file_that_nests_without_end_is_refused_before_it_hurts(tmp_path: Path) -> None:
    assert "deeper" in refusal(tmp_path, "[" * 1_000_000).message


def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"none\.yaml"):
        read_marked(tmp_path / "none.yaml")


def test_the_methods_say_what_belongs_where(tmp_path: Path) -> None:
    file = reading(tmp_path, "a: [1]\nb: -3\nc: maybe\nd: {x: 1}\ne: ''\nf: 007\ng: Yes\n")
    fields = file.fields(file.root, "", known=("a", "b", "c", "d", "e", "g"), required=("z",))
    assert file.text(fields["a"], "a") == ""
    assert file.number(fields["b"], "b") is None
    assert file.flag(fields["c"], "c") is None
    assert list(file.items(fields["d"], "d")) == []
    assert file.texts(fields["e"], "e") == ()
    assert file.number(fields["f"], "f") == 7
    assert file.flag(fields["g"], "g") is True
    assert file.mapping(fields["b"], "b") == {}
    assert [(each.line, each.field) for each in file.problems] == [
        (6, "f"),
        (1, ""),
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (4, "d"),
        (5, "e"),
        (2, "b"),
    ]


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        read_marked(path)
    except InvalidDataError as error:
        assert error.problems  # noqa: PT017 -- either answer is right
