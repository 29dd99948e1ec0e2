"""Run files: a server is found while it runs, and never afterwards."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from qwenops.serve.runfile import process_start_s, run_folder, running, this_process, write_run_file


def test_a_running_server_is_found_and_one_whose_pid_was_used_again_is_not(tmp_path: Path) -> None:
    mine = this_process(url="http://127.0.0.1:8000", model="qwen3:0.6b", engine="fake")
    write_run_file(tmp_path, mine)
    assert running(tmp_path) == [mine]
    path = write_run_file(tmp_path, replace(mine, process_started_s=mine.process_started_s - 60))
    assert running(tmp_path) == []
    assert not path.exists()


def test_the_file_of_a_killed_server_is_removed(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started_s = process_start_s(child.pid)
    assert started_s is not None
    theirs = replace(this_process(url="", model="m", engine="e"), pid=child.pid, process_started_s=started_s)
    write_run_file(tmp_path, theirs)
    assert running(tmp_path) == [theirs]
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert running(tmp_path) == [], "a zombie serves nothing"
    child.communicate()
    assert process_start_s(child.pid) is None


def test_a_file_that_cannot_be_understood_goes_with_its_process_and_a_missing_folder_has_no_servers(
    tmp_path: Path,
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    for pid in (os.getpid(), child.pid):
        (tmp_path / f"{pid}.json").write_text("{", "utf-8")
    (tmp_path / "no-pid.json").write_text("[]", "utf-8")
    assert running(tmp_path) == []
    assert [each.name for each in tmp_path.iterdir()] == [f"{os.getpid()}.json"]
    for text in ("[]", '{"pid": 1}', "null"):
        (tmp_path / f"{os.getpid()}.json").write_text(text, "utf-8")
        assert running(tmp_path) == []
    assert running(tmp_path / "none") == []


def test_a_server_of_a_newer_version_is_found_and_keeps_its_file(tmp_path: Path) -> None:
    mine = this_process(url="http://127.0.0.1:8000", model="qwen3:0.6b", engine="fake")
    path = write_run_file(tmp_path, mine)
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"colour": "red"}), "utf-8")
    assert running(tmp_path) == [mine]
    assert path.exists()


def test_the_folder_follows_the_home_of_qwenops(tmp_path: Path) -> None:
    assert run_folder({"QWENOPS_HOME": str(tmp_path)}) == tmp_path / "servers"
    assert run_folder({"QWENOPS_HOME": "~/models"}) == Path.home() / "models" / "servers"
    assert run_folder({}).name == "servers"
