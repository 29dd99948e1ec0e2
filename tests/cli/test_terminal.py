"""The terminal: columns that line up in Chinese too, JSON with a schema, quiet, and bars on terminals only."""

import dataclasses
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from qwenops.cli.demo_speed import Stage
from qwenops.cli.help import wrapped
from qwenops.cli.terminal import Terminal, aligned, cell_width, fitting, printable
from qwenops.errors import QwenOpsError
from qwenops.text import say


def test_a_chinese_character_takes_two_columns() -> None:
    assert [cell_width(text) for text in ("abc", "模型", "é", "a模")] == [3, 4, 1, 3]
    assert list(aligned([["名称", "b"], ["x", "c"]])) == ["名称  b", "x     c"]


def test_paragraphs_break_at_spaces_and_between_chinese_characters_but_not_before_a_full_stop() -> None:
    assert wrapped("one two three", 8) == ["one two", "three"]
    assert wrapped("把模型转换成格式", 8) == ["把模型转", "换成格式"]
    assert wrapped("把模型转。", 10) == ["把模型转。"]
    assert wrapped("把模型转换。", 10) == ["把模型转", "换。"]
    assert wrapped("用 qwenops 转换", 10) == ["用 qwenops", "转换"]
    assert wrapped("", 10) == [""]


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\tc\nd\x07\u202ee\x9b") == "a[2Jb\tc\nde"


def test_json_names_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(environ={}).show_json("qwenops.test/1", {"name": "模型"})
    assert json.loads(capsys.readouterr().out) == {"schema": "qwenops.test/1", "name": "模型"}


def test_quiet_keeps_data_and_drops_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(environ={}, verbosity=-1)
    terminal.show("data")
    terminal.tell(say("a remark"))
    with terminal.progress() as report:
        report(0.5, say("working"))
    assert capsys.readouterr() == ("data\n", "")


def test_through_a_pipe_progress_is_a_line_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(environ={}).progress() as report:
        for percent in range(0, 101, 10):
            report(percent / 100, say("packing") if percent < 50 else say("writing"))
    assert capsys.readouterr() == ("", "  0%  packing\n 50%  writing\n")


def test_a_table_through_a_pipe_is_aligned_columns_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(environ={}).show_table((say("Name"), say("Size")), [("qwen3:0.6b", "596 MiB"), ("x", "1 B")])
    assert capsys.readouterr().out == "Name        Size\nqwen3:0.6b  596 MiB\nx           1 B\n"


_ON_A_TERMINAL = """
import os
from qwenops.cli.terminal import Terminal
from qwenops.text import say
terminal = Terminal(environ=os.environ)
with terminal.progress() as report:
    report(0.5, say("packing"))
    import time; time.sleep(0.3)
terminal.show_table((say("Name"),), [("qwen3:0.6b",)])
"""


def _on_a_terminal(**environ: str) -> str:
    parent, child = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", **environ}
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_A_TERMINAL], stdin=child, stdout=child, stderr=child, env=env, close_fds=True
    )
    os.close(child)
    said = b""
    while True:
        try:
            piece = os.read(parent, 4096)
        except OSError:  # Linux says so when the other end is closed.
            break
        if not piece:
            break
        said += piece
    os.close(parent)
    assert process.wait(timeout=20) == 0
    return said.decode("utf-8")


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_a_table_with_colour_unless_no_color_is_set() -> None:
    colourful, plain = _on_a_terminal(), _on_a_terminal(NO_COLOR="1")
    for said in (colourful, plain):
        assert "packing" in said
        assert "50%" in said
        assert "qwen3:0.6b" in said
    assert "\x1b[3" in colourful
    assert "\x1b[3" not in plain


def test_commands_are_shown_as_they_can_be_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called = Terminal(environ={"PATH": str(tmp_path)}, argv0=".venv/bin/qwenops")
    assert called.program == ".venv/bin/qwenops"
    assert dataclasses.replace(called, argv0="/my files/qwenops").program == "'/my files/qwenops'"
    assert dataclasses.replace(called, argv0="/usr/lib/qwenops/__main__.py").program == "qwenops"
    called.fail(QwenOpsError("Gone.", hint=say("Run `qwenops list`.")), as_json=False)
    assert "Run `.venv/bin/qwenops list`." in capsys.readouterr().err
    Stage(terminal=called).show_next("random:tiny")
    assert "  .venv/bin/qwenops rm random:tiny  " in capsys.readouterr().err
    (tmp_path / "qwenops").touch(mode=0o755)
    assert called.program == "qwenops"
    called.tell(say("Run `qwenops list`."))
    assert capsys.readouterr().err == "Run `qwenops list`.\n"


def test_a_table_too_wide_for_the_terminal_is_turned_and_not_torn() -> None:
    titles = ["part", *(f"heading {number}" for number in range(10))]
    rows = [["load", *(f"{number}.00 ms" for number in range(10))]]
    assert fitting(titles, rows, 200) == (titles, rows)
    head, turned = fitting(titles, rows, 80)
    assert list(head) == ["part", "load"]
    assert list(turned[3]) == ["heading 3", "3.00 ms"]
    many = rows * 30
    assert fitting(titles, many, 80) == (titles, many)
