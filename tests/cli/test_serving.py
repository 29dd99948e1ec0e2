"""serve, ps, stop, run and demo: real servers in processes of their own, with the fake engine where speed allows."""

import contextlib
import dataclasses
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from qwenops.cli.servers import chosen, wait_for_end
from qwenops.errors import ConfigError, DeadlineError, QwenOpsError
from qwenops.serve.runfile import RunFile, run_folder, running, this_process
from tests.cli.conftest import Run

PROGRAM = [sys.executable, "-m", "qwenops"]
FAKE = ["random:tiny", "--engine", "fake"]
BRIEFLY = {"QWENOPS_BENCH_DURATION_S": "1s"}


def environment(home: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "QWENOPS_HOME": str(home), "LANG": "C.UTF-8", "HOME": str(home), **more}


@contextlib.contextmanager
def serving(home: Path, *argv: str, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a server as a user would and yield it with its address once its run file is there."""
    command = [*PROGRAM, "serve", *argv, "--port", "0", "--log-destination", "off"]
    process = subprocess.Popen(
        command, env=environment(home, **environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=home
    )
    try:
        yield process, until(lambda: address_of(home, process.pid))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def address_of(home: Path, pid: int) -> str | None:
    found = running(run_folder({"QWENOPS_HOME": str(home)}))
    return next((run.url for run in found if run.pid == pid), None)


def until(ask: Any, timeout_s: float = 30.0) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError("it took too long")


def get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 -- our own server on loopback
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_a_server_is_listed_while_it_runs_and_stop_ends_it(qwenops: Run, stocked_home: Path) -> None:
    home = {"QWENOPS_HOME": str(stocked_home)}
    with serving(stocked_home, *FAKE, "--name", "mine", QWENOPS_SERVE_DRAIN_DELAY_S="0") as (process, url):
        until(lambda: get(f"{url}/readyz")[0] == 200)
        listed = json.loads(qwenops("ps", "--json", **home).out)["servers"]
        assert [(each["name"], each["pid"], each["url"], each["model"], each["engine"]) for each in listed] == [
            ("mine", process.pid, url, "random:tiny", "fake")
        ]
        assert url in qwenops("ps", **home).out
        stopped = qwenops("stop", "mine", "--json", **home)
        assert json.loads(stopped.out)["stopped"] == ["mine"]
        assert process.wait(timeout=10) == 0
    assert json.loads(qwenops("ps", "--json", **home).out)["servers"] == []
    assert qwenops("stop", "mine", **home).code == 1


@pytest.mark.slow
@pytest.mark.proves("E1")
def test_a_fallback_serves_when_the_wanted_model_cannot_be_loaded_and_says_so(
    stocked_home: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}", "utf-8")
    with serving(stocked_home, str(broken), "--engine", "fake", "--fallback", "random:tiny") as (_, url):
        status, body = until(lambda: ready(url))
        assert status == 200
        assert "random:tiny" in str(body["warnings"])
        model = get(f"{url}/api/v1/model")[1]
        assert model["name"] == "random:tiny"
        assert model["fallback_for"] == "broken"


def ready(url: str) -> tuple[int, dict[str, Any]] | None:
    answer = get(f"{url}/readyz")
    return answer if answer[0] == 200 else None


@pytest.mark.slow
def test_a_server_takes_a_changed_file_over_without_a_restart(stocked_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text("[serve]\nreload_poll_s = '200ms'\n[serve.limits]\nmax_output_tokens = 7\n", "utf-8")
    with serving(stocked_home, *FAKE, QWENOPS_CONFIG=str(file)) as (_, url):
        until(lambda: ready(url))
        assert get(f"{url}/api/v1/model")[1]["config_generation"] == 1
        file.write_text("[serve]\nreload_poll_s = '200ms'\n[serve.limits]\nmax_output_tokens = 9\n", "utf-8")
        until(lambda: get(f"{url}/api/v1/model")[1]["config_generation"] == 2)
        file.write_text("[serve]\nreload_poll_s = '200ms'\n[engine]\nmax_running = 3\n", "utf-8")
        asked = urllib.request.Request(f"{url}/admin/reload?dry_run=1", method="POST")  # noqa: S310 -- our own server
        with urllib.request.urlopen(asked, timeout=10) as reply:  # noqa: S310 -- our own server on loopback
            needs_restart = json.load(reply)["needs_restart"]
        assert needs_restart == [{"key": "engine.max_running", "old": 16, "new": 3}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["random:none"], 4, "random:tiny"),
        (["random:tiny", "--engine", "fake", "--host", "0.0.0.0"], 2, "API key"),
        (["random:tiny", "--port", "70000"], 2, "--port: 70000 is out of bounds"),
        (["random:tiny", "--scheme", "int5"], 2, "int8, int4, bf16, f32"),
        ([], 2, "No model was named"),
    ],
)
def test_what_cannot_be_served_ends_with_its_exit_code_and_a_reason(
    stocked_home: Path, argv: list[str], code: int, said: str
) -> None:
    words = argv if "--port" in argv else [*argv, "--port", "0"]
    ended = subprocess.run(
        [*PROGRAM, "serve", *words],
        env=environment(stocked_home),
        cwd=stocked_home,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "listening" not in ended.stderr


@pytest.mark.slow
def test_a_terminal_is_told_once_that_the_server_is_ready_how_to_ask_it_and_how_to_stop(stocked_home: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "serve", *FAKE, "--port", "0", "--log-destination", "off"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment(stocked_home, TERM="dumb"),
        close_fds=True,
    )
    os.close(child)
    said = ""
    try:
        while "Ctrl-C" not in said:
            said += os.read(parent, 4096).decode("utf-8", "replace")
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # Linux says so when the other end is closed
            while piece := os.read(parent, 4096):
                said += piece.decode("utf-8", "replace")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    assert said.count("Ready at http://127.0.0.1:") == 1
    assert said.count("curl http://127.0.0.1:") == 1


@pytest.mark.slow
def test_a_taken_port_is_refused_with_who_has_it(stocked_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [*PROGRAM, "serve", *FAKE, "--port", port],
            env=environment(stocked_home),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert ended.returncode == 2
    assert port in ended.stderr
    assert str(os.getpid()) in ended.stderr


def run_file(name: str, port: int) -> RunFile:
    return this_process(url=f"http://127.0.0.1:{port}", model="m", engine="e", name=name)


def test_a_server_is_chosen_by_name_or_port_and_without_either_when_it_is_alone() -> None:
    one, two = run_file("one", 8000), run_file("two", 8001)
    assert chosen([one], None, everything=False) == [one]
    assert chosen([one, two], "two", everything=False) == [two]
    assert chosen([one, two], "8000", everything=False) == [one]
    assert chosen([one, two], None, everything=True) == [one, two]
    with pytest.raises(ConfigError, match="one, two"):
        chosen([one, two], None, everything=False)
    with pytest.raises(QwenOpsError, match="three"):
        chosen([one, two], "three", everything=False)
    with pytest.raises(QwenOpsError, match="No server runs"):
        chosen([], None, everything=False)


def test_with_no_server_there_is_nothing_to_list(qwenops: Run) -> None:
    assert qwenops("stop").err == "Error: No server runs.\n"
    assert qwenops("stop", "7777").err == "Error: There is no server called '7777'; none runs.\n"
    assert "-。" not in qwenops("--lang", "zh", "stop", "7777").err


def test_a_server_that_ended_a_moment_ago_is_stopped_already(qwenops: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    gone = dataclasses.replace(run_file("one", 8000), pid=child.pid)
    monkeypatch.setattr("qwenops.cli.servers.running", lambda _folder: [gone])
    stopped = qwenops("stop", "one", "--json")
    assert stopped.code == 0, stopped.err
    assert json.loads(stopped.out)["stopped"] == ["one"]


def test_waiting_for_a_server_that_does_not_end_has_a_limit() -> None:
    now_s = iter(range(100))
    with pytest.raises(DeadlineError, match="still runs after 5s"):
        wait_for_end(run_file("one", 8000), 5.0, clock=lambda: float(next(now_s)), sleep=lambda _s: None)


@pytest.mark.slow
def test_run_prints_one_answer_and_what_it_took(qwenops: Run, stocked_home: Path) -> None:
    ran = qwenops("run", *FAKE, "--max-tokens", "20", prompt := "hello", QWENOPS_HOME=str(stocked_home))
    assert ran.code == 0, ran.err
    assert ran.out.strip()
    assert "+ 20 tokens" in ran.err
    data = json.loads(qwenops("run", *FAKE, "--max-tokens", "5", prompt, "--json", QWENOPS_HOME=str(stocked_home)).out)
    assert data["schema"] == "qwenops.answer/1"
    assert data["completion_tokens"] == 5
    assert data["text"]


@pytest.mark.slow
def test_run_refuses_an_empty_prompt_and_a_chat_as_json(qwenops: Run, stocked_home: Path) -> None:
    assert qwenops("run", *FAKE, " ", QWENOPS_HOME=str(stocked_home)).code == 2


@pytest.mark.slow
def test_a_piped_prompt_is_asked(stocked_home: Path) -> None:
    ran = subprocess.run(
        [*PROGRAM, "run", *FAKE, "--max-tokens", "4"],
        input="hello\n",
        env=environment(stocked_home),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stdout.strip()
    assert "+ 4 tokens" in ran.stderr


@pytest.mark.slow
def test_a_chat_goes_on_until_the_user_leaves(stocked_home: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "run", *FAKE, "--max-tokens", "4"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment(stocked_home, TERM="dumb"),
        close_fds=True,
    )
    os.close(child)
    said = ""
    for typed, expected in (("first\n", ">>> "), ("second\n", "+ 4 tokens"), ("/clear\n", ">>> "), ("/bye\n", ">>> ")):
        while expected not in said:
            said += os.read(parent, 4096).decode("utf-8", "replace")
        said = ""
        os.write(parent, typed.encode())
    assert process.wait(timeout=20) == 0
    os.close(parent)


@pytest.mark.slow
def test_the_demo_answers_nine_requests_and_leaves_nothing_running(qwenops: Run, stocked_home: Path) -> None:
    home = {"QWENOPS_HOME": str(stocked_home)}
    ran = qwenops("demo-speed", "--model", *FAKE, "--json", **home, **BRIEFLY)
    assert ran.code == 0, ran.err
    data = json.loads(ran.out)
    assert len(data["requests"]) == 9
    assert data["load"]["segments"][0]["counts"]["ok"] > 0
    assert Path(data["report"]).is_file()
    assert all(0 < each["completion_tokens"] <= 64 for each in data["requests"])
    assert all(0 < each["ttft_s"] <= each["total_s"] for each in data["requests"])
    assert data["api_memory_bytes"] > 10 * 2**20
    assert json.loads(qwenops("ps", "--json", **home).out)["servers"] == []
    assert not [child for child in psutil.Process().children(recursive=True) if "serve" in child.cmdline()]


@pytest.mark.slow
def test_the_demo_shows_a_table_and_where_to_go_next_in_chinese_too(qwenops: Run, stocked_home: Path) -> None:
    ran = qwenops("--lang", "zh", "demo-speed", "--model", *FAKE, QWENOPS_HOME=str(stocked_home), **BRIEFLY)
    assert ran.code == 0, ran.err
    assert "TTFT" in ran.out
    assert "report.html" in ran.out
    assert "token/秒" in ran.out
    assert "你好，请介绍一下你自己。" in ran.err
    assert "qwenops serve qwen3:0.6b" in ran.err
    assert "没有意义" in ran.err


@pytest.mark.slow
def test_the_demo_works_for_who_has_keys_and_settings_and_leaves_them_alone(stocked_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(stocked_home / "models")
    users = environment(home, QWENOPS_SERVE_KEYS_METRICS="key", QWENOPS_API_KEYS="qo-" + "a" * 40)
    users |= {**BRIEFLY, "QWENOPS_BENCH_FOLDER": str(tmp_path / "runs")}
    made = subprocess.run([*PROGRAM, "keys", "create", "mine"], env=users, capture_output=True, check=False, timeout=30)
    assert made.returncode == 0, made.stderr
    before = (home / "keys.sqlite").read_bytes()
    ran = subprocess.run(
        [*PROGRAM, "demo-speed", "--model", *FAKE, "--json"],
        env=users,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert len(json.loads(ran.stdout)["requests"]) == 9
    assert (home / "keys.sqlite").read_bytes() == before


@pytest.mark.slow
def test_ctrl_c_in_the_demo_leaves_nothing_running(stocked_home: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "demo-speed", "--model", *FAKE], env=environment(stocked_home), stderr=subprocess.PIPE, text=True
    )
    children = until(lambda: psutil.Process(process.pid).children(recursive=True))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


@pytest.mark.slow
def test_a_demo_whose_server_cannot_start_says_why(qwenops: Run, stocked_home: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    ran = qwenops("demo-speed", "--model", str(tmp_path), "--engine", "fake", QWENOPS_HOME=str(stocked_home))
    assert ran.code != 0
    assert "Traceback" not in ran.err
