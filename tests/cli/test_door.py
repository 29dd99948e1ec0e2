"""The door: exit codes, messages with hints, nearest names, languages, closed pipes, Ctrl-C."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from qwenops.cli import root as root_module
from qwenops.cli.door import asked_language, language_first
from qwenops.errors import EngineUnavailableError, ModelNotFoundError, QwenOpsError
from qwenops.text import say
from tests.cli.conftest import Run

PROGRAM = [sys.executable, "-m", "qwenops"]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes `qwenops fail` raise something."""

    def install(error: BaseException) -> None:
        @click.command("fail")
        @click.option("--json", is_flag=True)
        def fail(**_: object) -> None:
            raise error

        monkeypatch.setitem(root_module.root.commands, "fail", fail)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QwenOpsError("broken"), 1),
        (ModelNotFoundError("gone"), 4),
        (EngineUnavailableError("off"), 4),
        (click.UsageError("wrong"), 2),
        (click.ClickException("odd"), 1),
        (KeyboardInterrupt(), 130),
        (ValueError("a defect"), 1),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(qwenops: Run, failing: Any, error: BaseException, code: int) -> None:
    failing(error)
    ran = qwenops("fail")
    assert ran.code == code
    assert ran.out == ""
    assert ran.err


def test_an_error_is_a_message_and_a_hint_on_standard_error_and_json_on_standard_output(
    qwenops: Run, failing: Any
) -> None:
    failing(ModelNotFoundError(say("There is no {name}.", name="x"), hint=say("Run `qwenops list`.")))
    plain = qwenops("fail")
    assert plain.err == "Error: There is no x.\n  Run `qwenops list`.\n"
    both = qwenops("fail", "--json")
    assert both.err == plain.err
    assert json.loads(both.out) == {
        "schema": "qwenops.error/1",
        "error": {
            "code": "model_not_found",
            "exit_code": 4,
            "message": "There is no x.",
            "hint": "Run `qwenops list`.",
        },
    }


def test_a_defect_shows_where_it_arose_and_an_expected_error_only_when_asked(qwenops: Run, failing: Any) -> None:
    failing(ValueError("a defect"))
    assert "Traceback" in qwenops("fail").err
    failing(QwenOpsError("broken"))
    assert "Traceback" not in qwenops("fail").err
    assert "Traceback" in qwenops("-vv", "fail").err


@pytest.mark.parametrize(
    ("argv", "near"),
    [(["servee"], "serve"), (["--lnag", "zh", "ps"], "--lang"), (["stop", "--timeuot", "1s"], "--timeout")],
)
def test_an_unknown_command_or_option_offers_the_nearest(qwenops: Run, argv: list[str], near: str) -> None:
    ran = qwenops(*argv)
    assert ran.code == 2
    assert f"Did you mean '{near}'?" in ran.err
    assert "--help" in ran.err


def test_a_flag_of_the_whole_program_in_the_wrong_place_is_told_its_place(qwenops: Run) -> None:
    ran = qwenops("ps", "--quiet")
    assert ran.code == 2
    assert "qwenops --quiet … ps" in ran.err


def test_a_wrong_value_is_refused_with_the_flag_and_what_was_possible(qwenops: Run) -> None:
    ran = qwenops("--lang", "fr", "ps")
    assert ran.code == 2
    assert "'en', 'zh'" in ran.err


def test_without_arguments_it_prints_its_help(qwenops: Run) -> None:
    ran = qwenops()
    assert ran.code == 0
    assert "Commands:" in ran.out


@pytest.mark.parametrize(
    ("argv", "language"),
    [
        (["--lang", "zh", "ps"], "zh"),
        (["--lang=zh"], "zh"),
        (["ps"], ""),
        (["--lang"], ""),
        ([], ""),
    ],
)
def test_the_language_is_read_before_anything_is_parsed(argv: list[str], language: str) -> None:
    assert asked_language(argv) == language


@pytest.mark.parametrize("language", [["--lang", "zh"], ["--lang=zh"]])
def test_the_language_may_be_typed_behind_the_command(qwenops: Run, language: list[str]) -> None:
    ran = qwenops("ps", *language)
    assert ran.code == 0
    assert "没有正在运行的服务" in ran.err


@pytest.mark.parametrize(
    ("argv", "ordered"),
    [
        (["keys", "list", "--lang", "zh", "--json"], ["--lang", "zh", "keys", "list", "--json"]),
        (["--quiet", "--lang=zh", "ps"], ["--lang=zh", "--quiet", "ps"]),
        (["run", "m", "--", "--lang", "zh"], ["run", "m", "--", "--lang", "zh"]),
        (["ps", "--lang"], ["ps", "--lang"]),
    ],
)
def test_only_a_whole_language_flag_of_ours_is_moved(argv: list[str], ordered: list[str]) -> None:
    assert language_first(argv) == ordered


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    command = f"{sys.executable} -m qwenops config schema | head -c 10"
    ran = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False, timeout=30
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_ctrl_c_ends_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text(
        "import sys, time, click\n"
        "from qwenops.cli import door\n"
        "@door.root.command('wait')\n"
        "def wait():\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(door.run(['wait']))\n",
        "utf-8",
    )
    child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "waiting\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Traceback" not in err


def _least_cpu_s(argv: list[str], times: int) -> float:
    """Return the processor time that a program needs; unlike the wall clock's it is not that of its neighbours."""
    taken = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_help_costs_little_more_than_starting_python() -> None:
    bare_s = _least_cpu_s([sys.executable, "-c", ""], 5)
    help_s = _least_cpu_s([*PROGRAM, "--help"], 5)
    assert help_s - bare_s < 0.110


def test_importing_qwenops_and_printing_its_help_import_nothing_heavy() -> None:
    heavy = "numpy openvino torch transformers fastapi starlette uvicorn aiohttp sqlalchemy pydantic rich psutil jinja2"
    script = (
        "import sys\n"
        f"heavy = set('{heavy}'.split())\n"
        "import qwenops\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from qwenops.cli.door import run\n"
        "assert run(['--help']) == 0\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=30)


def test_a_shell_that_asks_what_could_follow_is_told(qwenops: Run) -> None:
    asking = {"_QWENOPS_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    ran = subprocess.run(
        PROGRAM, env={**asking, "COMP_WORDS": "qwenops se"}, capture_output=True, text=True, check=True, timeout=30
    )
    assert ran.stdout == "plain,serve\n"
    script = qwenops("completion", "bash")
    assert "_QWENOPS_COMPLETE=bash_complete" in script.out
    assert qwenops("completion", "tcsh").code == 2
