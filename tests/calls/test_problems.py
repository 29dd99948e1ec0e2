"""Problems: what is wrong comes with its place, in the reader's language, all at once, and into a side file."""

import json
from pathlib import Path

import pytest

from qwenops.calls.problems import MOST_SHOWN, Problem, Severity, field_path, refuse, write_rejected
from qwenops.errors import InvalidDataError
from qwenops.text import Text, say, translator

LOST = Problem(what=say("The field is missing."), source="calls.jsonl", line=7, field="turns[2].text")
ODD = Problem(what=say("Odd."), source="calls.jsonl", line=8, severity=Severity.WARNING)


def test_a_place_is_written_as_compilers_write_it() -> None:
    assert LOST.place == "calls.jsonl:7: turns[2].text"
    assert ODD.place == "calls.jsonl:8"
    assert Problem(what=say("x"), source="calls.jsonl").place == "calls.jsonl"
    assert Problem(what=say("x"), field="primary").place == "primary"
    assert Problem(what=say("x")).said() == "x"
    assert field_path(("turns", 2, "text")) == "turns[2].text"
    assert field_path((0, "a")) == "[0].a"


def test_a_warning_refuses_nothing() -> None:
    refuse([ODD], say("Never."))


def test_errors_are_listed_with_their_places() -> None:
    with pytest.raises(InvalidDataError) as caught:
        refuse([ODD, LOST], say("These files cannot be used."))
    assert caught.value.message == (
        "These files cannot be used. There is one problem:\ncalls.jsonl:7: turns[2].text: The field is missing."
    )
    assert caught.value.problems == (LOST,)
    assert caught.value.hint == ""


def test_many_errors_are_counted_and_the_first_of_them_shown() -> None:
    with pytest.raises(InvalidDataError) as caught:
        refuse([LOST] * (MOST_SHOWN + 3), say("These files cannot be used."))
    assert f"There are {MOST_SHOWN + 3} problems:" in caught.value.message
    assert caught.value.message.count("calls.jsonl:7") == MOST_SHOWN
    assert caught.value.hint.startswith("3 more are not shown")


def test_each_of_them_is_said_in_the_readers_language() -> None:
    with pytest.raises(InvalidDataError) as caught:
        refuse([LOST], say("These files cannot be used."))
    message = caught.value.message
    assert isinstance(message, Text)
    words = {
        "These files cannot be used.": "这些文件不能使用。",
        "{what} There is one problem:\n{shown}": "{what}有 1 个问题：\n{shown}",
        "The field is missing.": "缺少该字段。",
    }
    assert message.translated(lambda template: words.get(template, template)) == (
        "这些文件不能使用。有 1 个问题：\ncalls.jsonl:7: turns[2].text: 缺少该字段。"
    )
    assert message.translated(translator("en")) == message


def test_what_was_left_out_stands_in_a_side_file(tmp_path: Path) -> None:
    path = tmp_path / "calls.rejected.jsonl"
    assert write_rejected(path, [LOST, ODD]) == 2
    first, second = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    assert first == {
        "source": "calls.jsonl",
        "line": 7,
        "field": "turns[2].text",
        "severity": "error",
        "conversation_id": "",
        "problem": "The field is missing.",
    }
    assert second["severity"] == "warning"
    assert path.stat().st_mode & 0o777 == 0o600
