import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls import lines
from qwenops.calls.lines import Encoding, Line, decoded, encoding_of, mended, opened, read_lines, text_of
from qwenops.calls.problems import Severity
from qwenops.errors import InvalidDataError

CHINESE = "客服:您好,请问有什么可以帮您\n客户:你们多扣了我两个月彩铃费\n"


def read(tmp_path: Path, content: bytes) -> list[Line]:
    path = tmp_path / "calls.txt"
    path.write_bytes(content)
    return list(read_lines(path))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_is_read_in_whatever_it_is_written(tmp_path: Path, codec: str) -> None:
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(codec, "")
    found = read(tmp_path, (mark + CHINESE).encode(codec))
    assert [each.text for each in found] == CHINESE.splitlines()
    assert [each.number for each in found] == [1, 2]
    assert all(each.problem is None for each in found)


def test_what_a_file_is_written_in_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "calls.txt"
    path.write_bytes(CHINESE.encode("gb18030"))
    said: list[str] = []
    list(read_lines(path, report=lambda _done, what: said.append(what)))
    assert [each for each in said if "written in" in each] == [f"{path} is written in GB18030."]


def test_it_is_found_out_also_where_the_beginning_is_ascii(tmp_path: Path) -> None:
    long = b"plain\n" * (lines.HEAD_BYTES // 5)
    for codec in ("utf-8", "gb18030"):
        found = read(tmp_path, long + CHINESE.encode(codec))
        assert found[-1].text == "客户:你们多扣了我两个月彩铃费"
        assert found[-1].problem is None


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"", []),
        (b"\n", [""]),
    ],
)
def test_lines_end_as_every_system_ends_them(tmp_path: Path, content: bytes, texts: list[str]) -> None:
    assert [each.text for each in read(tmp_path, content)] == texts


def test_a_line_knows_where_it_begins(tmp_path: Path) -> None:
    content = "一\n22\r\n三\n".encode()
    for each in read(tmp_path, content):
        assert content[each.offset :].startswith(each.text.encode())
    assert [each.offset for each in read(tmp_path, content)] == [0, 4, 8]


def test_a_line_of_another_encoding_is_read_and_named(tmp_path: Path) -> None:
    other = "客户说流量用完了没有提醒".encode("gb18030")
    found = read(tmp_path, CHINESE.encode() + other + b"\n")
    assert found[2].text == "客户说流量用完了没有提醒"
    assert found[2].problem is not None
    assert found[2].problem.severity is Severity.WARNING
    assert found[2].problem.line == 3
    assert "GB18030" in found[2].problem.what
    assert found[2].is_readable
    assert found[0].problem is None


def test_a_line_that_is_nothing_is_an_error_and_the_others_are_read(tmp_path: Path) -> None:
    broken = "客服您好请问有什么可以帮您".encode()[:-1]
    found = read(tmp_path, CHINESE.encode() + broken + b"\n" + CHINESE.encode())
    assert [each.number for each in found if not each.is_readable] == [3]
    assert found[2].problem is not None
    assert "neither UTF-8 nor GB18030" in found[2].problem.what
    assert found[4].text == "客户:你们多扣了我两个月彩铃费"


def test_english_with_accents_is_not_taken_for_chinese(tmp_path: Path) -> None:
    found = read(tmp_path, "a café, naïve\n".encode() * 3)
    assert {each.text for each in found} == {"a café, naïve"}
    assert all(each.problem is None for each in found)


def test_the_letters_of_western_windows_are_no_chinese(tmp_path: Path) -> None:
    found = read(tmp_path, b"I don\x92t know\n")
    assert not found[0].is_readable


def test_a_short_line_is_what_its_file_is() -> None:
    raw = "小".encode("gb18030")
    assert raw.decode("utf-8")  # by chance
    assert decoded(raw, Encoding.GB18030) == ("小", Encoding.GB18030)
    assert decoded("é".encode(), Encoding.UTF_8) == ("é", Encoding.UTF_8)


def test_nul_bytes_are_an_error(tmp_path: Path) -> None:
    found = read(tmp_path, b"good\n\0\0\0\0\ngood\n")
    assert [each.is_readable for each in found] == [True, False, True]


def test_a_line_without_end_is_skipped_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE_BYTES", 1000)
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(lines, "HEAD_BYTES", 64)
    found = read(tmp_path, b"first\n" + b"x" * 5000 + b"\nlast\n")
    assert [each.text for each in found] == ["first", "", "last"]
    assert not found[1].is_readable
    assert found[2].offset == 6 + 5001
    assert found[2].number == 3


def test_a_block_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 3)
    monkeypatch.setattr(lines, "HEAD_BYTES", 40)
    for codec in ("utf-8", "gb18030", "utf-16"):
        assert [each.text for each in read(tmp_path, (CHINESE * 3).encode(codec))] == CHINESE.splitlines() * 3


def test_standard_input_is_read_as_it_comes() -> None:
    pipe = io.BytesIO(CHINESE.encode("gb18030"))
    assert [each.text for each in read_lines(Path("-"), stdin=pipe)] == CHINESE.splitlines()
    assert not pipe.closed


@pytest.mark.parametrize("name", ["missing.csv", "folder"])
def test_a_file_that_cannot_be_opened_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidDataError, match="cannot be read") as caught:
        list(read_lines(tmp_path / name))
    assert caught.value.hint


def test_a_compressed_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(InvalidDataError, match="is compressed") as caught:
        list(read_lines(tmp_path / "calls.jsonl.gz"))
    assert "gzip -dc" in caught.value.hint


def test_blocks_of_text_keep_what_cannot_be_read_so_that_it_can_be_mended(tmp_path: Path) -> None:
    path = tmp_path / "mixed.json"
    strange = "客户说流量用完了没有提醒"
    path.write_bytes(CHINESE.encode() + strange.encode("gb18030"))
    with opened(path) as source:
        whole = "".join(text_of(source))
        assert whole.startswith(CHINESE)
        assert mended(source, whole[len(CHINESE) :]) == (strange, Encoding.GB18030)
        assert mended(source, whole[: len(CHINESE)]) == (CHINESE, Encoding.UTF_8)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1))
def test_any_text_in_utf8_is_read_as_it_is(text: str) -> None:
    found = list(read_lines(Path("-"), stdin=io.BytesIO(text.encode())))
    assert [each.text for each in found] == [text.removeprefix("\ufeff")]


@given(st.binary(max_size=300))
def test_no_bytes_bring_the_reader_down(raw: bytes) -> None:
    try:
        found = list(read_lines(Path("-"), stdin=io.BytesIO(raw)))
    except InvalidDataError:
        assert raw.startswith(b"\x1f\x8b")
        return
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    assert encoding_of(raw) in {None, *Encoding}
