import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from qwenops import command
from qwenops.command import PIPE, Secret, masked, run, shown, spawn
from qwenops.errors import CommandError, DeadlineError

SOURCE = str(Path(command.__file__).parents[1])


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def children() -> set[int]:
    """Every child of this process, zombies too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_a_program_s_words_and_status_come_back() -> None:
    finished = run(["sh", "-c", "echo out; echo err >&2"], timeout_s=10)
    assert (finished.stdout, finished.stderr, finished.returncode) == ("out\n", "err\n", 0)


def test_arguments_reach_the_program_as_they_are() -> None:
    words = ["a b", "$HOME", "*", "'", '"', "", "呼叫"]
    finished = run(python("import sys; print(sys.argv[1:])", *words), timeout_s=10)
    assert finished.stdout == f"{words}\n"


def test_standard_input_is_empty_unless_given() -> None:
    assert run(["cat"], timeout_s=10).stdout == ""
    big = "你好" * 500_000
    assert run(["cat"], timeout_s=10, input_text=big).stdout == big


def test_a_program_that_reads_nothing_of_its_input_is_no_failure() -> None:
    assert run(["true"], timeout_s=10, input_text="x" * 1_000_000).returncode == 0


def test_variables_are_added_replaced_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("GONE", "1")
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_CTYPE", raising=False)
    monkeypatch.setenv("LANG", "C")
    said = run(["env"], timeout_s=10, env={"GONE": None, "NEW": "2"}).stdout.splitlines()
    assert {"KEPT=1", "NEW=2"} <= set(said)
    assert not [line for line in said if line.startswith(("GONE=", "LC_CTYPE="))]


def test_a_program_starts_with_the_usual_signals() -> None:
    # Python itself ignores SIGPIPE; a program that inherited that would never end in a pipe.
    ignored = run(["grep", "SigIgn", "/proc/self/status"], timeout_s=10).stdout.split()[1]
    assert int(ignored, 16) & (1 << (signal.SIGPIPE - 1)) == 0


def test_it_runs_where_it_is_told_and_finds_programs_relative_to_there(tmp_path: Path) -> None:
    script = tmp_path / "here.sh"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(0o755)
    assert run(["./here.sh"], timeout_s=10, cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_a_missing_program_is_an_error_with_a_hint() -> None:
    with pytest.raises(CommandError, match="no-such-program") as caught:
        run(["no-such-program", "--help"], timeout_s=10)
    assert "Install" in caught.value.hint


def test_a_file_that_may_not_be_executed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(CommandError, match="may not be executed"):
        run([tmp_path / "data"], timeout_s=10)


def test_a_file_that_is_no_program_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "data").chmod(0o755)
    with pytest.raises(CommandError, match="format") as caught:
        run([tmp_path / "data"], timeout_s=10)
    assert caught.value.returncode == 126


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Could not start true"):
        run(["true"], timeout_s=10, cwd=tmp_path / "none")


def test_another_status_is_an_error_with_the_last_words() -> None:
    with pytest.raises(CommandError, match="ended with status 7: it broke") as caught:
        run(["sh", "-c", "echo it broke >&2; exit 7"], timeout_s=10)
    assert caught.value.returncode == 7
    assert caught.value.stderr == "it broke\n"
    assert "exit 7" in caught.value.hint


def test_accepted_statuses_are_returned() -> None:
    assert run(["sh", "-c", "exit 7"], timeout_s=10, ok_codes=(0, 7)).returncode == 7
    assert run(["sh", "-c", "kill -9 $$"], timeout_s=10, ok_codes=None).returncode == -9


def test_an_end_by_a_signal_is_named() -> None:
    with pytest.raises(CommandError, match=r"was ended by SIGFPE\."):
        run(["sh", "-c", "kill -FPE $$"], timeout_s=10)


def test_a_time_out_kills_grandchildren_too_and_leaves_no_zombie(tmp_path: Path) -> None:
    before = children()
    script = 'sleep 300 & echo $! > "$0"; echo working >&2; trap "" TERM; wait; sleep 300'
    with pytest.raises(DeadlineError, match="longer than 1 s and was ended: working"):
        run(["sh", "-c", script, tmp_path / "pid"], timeout_s=1)
    grandchild = int((tmp_path / "pid").read_text())
    assert eventually(lambda: not alive(grandchild))
    assert children() == before


def test_what_a_program_leaves_running_does_not_outlive_it() -> None:
    before_s = time.monotonic()
    grandchild = int(run(["sh", "-c", "sleep 300 & echo $!"], timeout_s=60).stdout)
    assert time.monotonic() - before_s < 30
    assert eventually(lambda: not alive(grandchild))


def test_too_much_output_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_OUTPUT_BYTES", 1024**2)
    with pytest.raises(CommandError, match="said more than 1 MiB"):
        run(["yes"], timeout_s=30)


def test_only_the_end_of_standard_error_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_OUTPUT_BYTES", 1000)
    finished = run(["sh", "-c", "yes | head -100000 >&2; echo last >&2"], timeout_s=30)
    assert finished.stderr.endswith("y\nlast\n")
    assert len(finished.stderr) == 1000


def test_words_that_are_not_utf_8_do_not_break_it() -> None:
    assert run(["printf", r"\377ok"], timeout_s=10).stdout == "�ok"


def test_a_dry_run_returns_the_argv_and_starts_nothing(tmp_path: Path) -> None:
    argv = ["no-such-program", "two words", str(tmp_path / "made")]
    finished = run(argv, timeout_s=1, dry_run=True)
    assert finished.argv == tuple(argv)
    assert shown(finished.argv) == f"no-such-program 'two words' {tmp_path / 'made'}"
    run(["touch", tmp_path / "made"], timeout_s=1, dry_run=True)
    assert not (tmp_path / "made").exists()


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(CommandError, match="empty"):
        run([], timeout_s=1)


def test_a_zero_byte_in_an_argument_is_refused() -> None:
    with pytest.raises(CommandError, match="zero byte"):
        run(["echo", "a\0b"], timeout_s=1)


class TestSecrets:
    def test_a_secret_reaches_the_program_by_environment_and_standard_input(self) -> None:
        finished = run(
            ["sh", "-c", 'cat; printf " %s" "$TOKEN"'],
            timeout_s=10,
            env={"TOKEN": Secret("tiger")},
            input_text=Secret("lion"),
        )
        assert finished.stdout == "lion tiger"

    def test_it_shows_itself_as_stars(self) -> None:
        secret = Secret("tiger")
        assert "tiger" not in f"{secret} {secret!r} {secret!s}"

    def test_errors_mask_it(self) -> None:
        with pytest.raises(CommandError) as caught:
            run(["sh", "-c", 'echo "bad token $TOKEN" >&2; exit 1'], timeout_s=10, env={"TOKEN": Secret("tiger")})
        assert "bad token ***" in caught.value.message
        assert "tiger" not in caught.value.message + caught.value.hint + caught.value.stderr

    @pytest.mark.parametrize(
        "argument",
        [
            "prefix-tiger",
            "--password=hunter2",
            "--hub-api-key=abc",
            "--auth-token=abc",
            "Authorization: Bearer abcdefgh12345",
            "postgresql://me:hunter2@db/qwenops",
            "hf_" + "a" * 34,
            "sk-" + "a" * 24,
        ],
    )
    def test_an_argument_that_holds_one_is_refused(self, argument: str) -> None:
        with pytest.raises(CommandError, match="Argument 1 of echo looks like a secret") as caught:
            run(["echo", argument], timeout_s=10, env={"TOKEN": Secret("tiger")})
        assert argument not in caught.value.message + caught.value.hint

    @pytest.mark.parametrize(
        "argument",
        ["--max-tokens=5", "--token-file=/run/key", "http://127.0.0.1:8000/v1", "create secret", "--tokens=3", "sk-1"],
    )
    def test_innocent_arguments_pass(self, argument: str) -> None:
        assert run(["echo", argument], timeout_s=10).stdout == f"{argument}\n"

    def test_a_dry_run_refuses_it_too(self) -> None:
        with pytest.raises(CommandError, match="looks like a secret"):
            run(["echo", "--password=x"], timeout_s=1, dry_run=True)


class TestSpawned:
    def test_it_runs_until_it_is_asked_to_end(self) -> None:
        with spawn(["sleep", "300"]) as child:
            assert child.poll() is None
            child.terminate()
            assert child.wait(timeout_s=10) == -signal.SIGTERM
            assert child.poll() == -signal.SIGTERM

    def test_waiting_too_long_is_an_error(self) -> None:
        with spawn(["sleep", "300"]) as child, pytest.raises(DeadlineError, match=r"sleep still runs after 0\.05 s"):
            child.wait(timeout_s=0.05)

    def test_a_program_that_does_not_listen_is_killed_after_the_grace(self) -> None:
        with spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], stdout=PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert child.stop(grace_s=0.1) == -signal.SIGKILL

    def test_leaving_the_block_kills_and_reaps_it(self) -> None:
        before = children()
        with spawn(["sleep", "300"]) as child:
            assert children() == before | {child.pid}
        assert children() == before
        assert not alive(child.pid)

    def test_its_pid_is_the_program_s_own(self) -> None:
        with spawn(["sh", "-c", "echo $$"], stdout=PIPE) as child:
            assert child.stdout is not None
            assert int(child.stdout.readline()) == child.pid

    def test_descriptors_are_handed_over(self) -> None:
        reader, writer = os.pipe()
        code = "import os,sys; os.write(int(sys.argv[1]), b'hello')"
        with spawn(python(code, str(writer)), pass_fds=(writer,)) as child:
            os.close(writer)
            assert child.wait(timeout_s=10) == 0
        assert os.read(reader, 100) == b"hello"
        os.close(reader)

    def test_other_descriptors_stay_here(self) -> None:
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)  # noqa: FBT003 -- it takes no keyword
        try:
            code = f"import os\ntry:\n os.fstat({writer})\nexcept OSError:\n print('closed')"
            assert run(python(code), timeout_s=10).stdout == "closed\n"
        finally:
            os.close(reader)
            os.close(writer)

    def test_signals_after_its_end_do_nothing(self) -> None:
        with spawn(["true"]) as child:
            child.wait(timeout_s=10)
            child.terminate()
            child.kill()

    def test_it_outlives_the_thread_that_started_it(self) -> None:
        started: list[command.Spawned] = []
        thread = threading.Thread(target=lambda: started.append(spawn(["sleep", "300"])))
        thread.start()
        thread.join()
        with started[0] as child:
            time.sleep(0.15)
            assert child.poll() is None

    async def test_it_outlives_the_pool_of_an_event_loop(self) -> None:
        child = await asyncio.to_thread(spawn, ["sleep", "300"])
        with child:
            await asyncio.get_running_loop().shutdown_default_executor()
            await asyncio.sleep(0.15)
            assert child.poll() is None

    def test_many_threads_may_start_and_watch_at_once(self) -> None:
        before = children()
        results: list[str] = []

        def work(number: int) -> None:
            results.append(run(["echo", str(number)], timeout_s=60).stdout)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(map(int, results)) == list(range(16))
        assert children() == before


PARENT = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from qwenops.command import spawn
child = spawn([sys.executable, "-c", "import time; time.sleep(300)"])
print(child.pid, flush=True)
end = sys.argv[2]
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "exit":
    os._exit(0)
if end == "raise":
    raise SystemExit(3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
@pytest.mark.parametrize("end", ["kill", "exit", "raise"])
def test_a_child_dies_with_its_parent(end: str) -> None:
    finished = run(python(PARENT, SOURCE, end), timeout_s=30, ok_codes=None)
    pid = int(finished.stdout)
    assert eventually(lambda: not alive(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_parent_that_died_before_the_guard_was_set_is_noticed() -> None:
    # The guard is told a parent that is not the one it has, as after the parent's death.
    finished = run(python(command._GUARD, "1", "0", "/bin/echo", "echo", "ran"), timeout_s=10, ok_codes=None)
    assert (finished.returncode, finished.stdout) == (137, "")


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["llama-server", "--api-key", "geheim", "--port", "1"], ["llama-server", "--api-key", "***", "--port", "1"]),
        (["x", "--api-key=geheim"], ["x", "--api-key=***"]),
        (["env", "HF_TOKEN=geheim", "x"], ["env", "HF_TOKEN=***", "x"]),
        (["env", "openai_api_key=geheim", "x"], ["env", "openai_api_key=***", "x"]),
        (["llama-server --api-key geheim --port {port}"], ["llama-server --api-key *** --port {port}"]),
        (["sh", "-c", "A_TOKEN=geheim x --password 'geheim 2'"], ["sh", "-c", "A_TOKEN=*** x --password '***'"]),
        (["curl", "-H", "Authorization: Bearer geheim"], ["curl", "-H", "Authorization: Bearer ***"]),
        (["git", "clone", "https://me:geheim@host/x"], ["git", "clone", "https://me:***@host/x"]),
        (["x", "--max-tokens", "5", "--tokenizer", "t"], ["x", "--max-tokens", "5", "--tokenizer", "t"]),
        (["x", "--api-key", "a", "a-model", "data"], ["x", "--api-key", "***", "a-model", "data"]),
        (["x", "--token", "--port", "1"], ["x", "--token", "--port", "1"]),
    ],
)
def test_the_secrets_of_a_command_that_was_typed_are_masked(words: list[str], kept: list[str]) -> None:
    assert masked(words) == kept
    assert "geheim" not in shown(words)
