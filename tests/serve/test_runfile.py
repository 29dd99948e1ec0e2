"""Run files: a server is found while it runs, and never afterwards."""

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


def test_a_file_that_cannot_be_read_is_removed_and_a_missing_folder_has_no_servers(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("{", "utf-8")
    (tmp_path / "2.json").write_text('{"pid": 1, "colour": "red"}', "utf-8")
    assert running(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert running(tmp_path / "none") == []


def test_the_folder_follows_the_home_of_qwenops(tmp_path: Path) -> None:
    assert run_folder({"QWENOPS_HOME": str(tmp_path)}) == tmp_path / "servers"
    assert run_folder({}).name == "servers"
