"""`qwenops bench` from the words that are typed to the exit code, the folder and the page."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qwenops.bench.collect.energy import NO_COUNTERS
from qwenops.bench.conclusion import Conclusion, Finding, Outcome
from qwenops.bench.folder import read_run
from qwenops.cli.bench_limits import typed_program
from qwenops.cli.bench_local import local_settings
from qwenops.cli.bench_run import Measured, keys_of, ladder, show_conclusion
from qwenops.cli.bench_verdict import parse_share
from qwenops.cli.terminal import Terminal
from qwenops.command import PIPE, spawn
from qwenops.config import Settings
from qwenops.errors import ConfigError
from qwenops.text import say
from tests.cli.conftest import Run

FAST = "simulated:?virtual=1&slots=4&decode_tokens_per_s=100&prefill_tokens_per_s=2000"
SMALL = ("--max-tokens", "8", "--prompt-tokens", "64")


def test_a_load_prints_tables_and_sentences_and_leaves_a_folder_and_a_page(qwenops: Run, tmp_path: Path) -> None:
    ran = qwenops("bench", "load", FAST, "--users", "2", "--duration", "30s", *SMALL, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("Load\npart")
    assert "users=2" in ran.out
    assert f"Report: {tmp_path / 'run' / 'report.html'}" in ran.err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"manifest.json", "requests.jsonl", "segments.jsonl", "summary.json", "report.html"} <= names
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["state"] == "done"
    assert manifest["command"][:4] == ["qwenops", "bench", "load", FAST]


def test_several_numbers_of_callers_are_tried_one_after_the_other(qwenops: Run, tmp_path: Path) -> None:
    ran = qwenops("bench", "load", FAST, "--users", "1,2,4", "--duration", "10s", *SMALL, "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    segments = [driven.segment.name for driven in read_run(tmp_path / "run").drivens]
    assert segments[-3:] == ["users=1", "users=2", "users=4"]


def test_with_json_standard_output_is_one_document(qwenops: Run) -> None:
    ran = qwenops("bench", "load", FAST, "--rate", "1", "--duration", "20s", *SMALL, "--json")
    told = json.loads(ran.out)
    assert told["schema"] == "qwenops.bench/1"
    assert told["outcome"] == "done"
    assert told["data"]["segments"][0]["segment"] == "load"
    assert Path(told["report"]).is_file()


def test_the_language_of_the_reader_is_spoken(qwenops: Run, tmp_path: Path) -> None:
    words = ("bench", "load", FAST, "--users", "1", "--requests", "3", *SMALL, "--out", tmp_path / "run")
    ran = qwenops("--lang", "zh", *words)
    assert ran.code == 0, ran.err
    assert "报告" in ran.err
    assert re.search(r'<html lang="zh[^"]*" data-first="zh"', (tmp_path / "run" / "report.html").read_text("utf-8"))


@pytest.mark.parametrize(
    ("objective", "code"),
    [("e2e p50 < 30s", 0), ("e2e p50 < 1ms", 11), ("e2e p99 < 30s", 12)],
    ids=("kept", "missed", "undecided"),
)
def test_an_objective_at_a_rate_decides_the_exit_code(qwenops: Run, objective: str, code: int) -> None:
    ran = qwenops("bench", "slo", FAST, "--slo", objective, "--rate", "1", "--requests", "60", *SMALL)
    assert ran.code == code, ran.out + ran.err


def test_a_run_is_continued_with_nothing_but_its_folder_and_ends_as_if_undisturbed(
    qwenops: Run, tmp_path: Path
) -> None:
    words = ("bench", "load", FAST, "--rate", "2", "--duration", "30s", *SMALL)
    assert qwenops(*words, "--out", tmp_path / "whole").code == 0
    assert qwenops(*words, "--out", tmp_path / "cut").code == 0
    journal = tmp_path / "cut" / "requests.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2]) + lines[0][:20])
    for name in ("summary.json", "report.html"):
        (tmp_path / "cut" / name).unlink()
    ran = qwenops("bench", "load", "--resume", tmp_path / "cut")
    assert ran.code == 0, ran.err
    whole, cut = (read_run(tmp_path / name) for name in ("whole", "cut"))
    assert [driven.records for driven in cut.drivens] == [driven.records for driven in whole.drivens]
    assert cut.summary["data"] == whole.summary["data"]


def test_a_folder_of_another_verb_is_not_continued(qwenops: Run, tmp_path: Path) -> None:
    assert (
        qwenops("bench", "load", FAST, "--users", "1", "--requests", "2", *SMALL, "--out", tmp_path / "run").code == 0
    )
    ran = qwenops("bench", "soak", "--resume", tmp_path / "run")
    assert ran.code == 2
    assert "is one of `bench load`, not of `bench soak`" in ran.err
    assert f"`qwenops bench load --resume {tmp_path / 'run'}` continues it" in ran.err


def test_a_run_that_is_over_is_shown_again_and_not_touched(qwenops: Run, tmp_path: Path) -> None:
    words = ("bench", "slo", FAST, "--slo", "e2e p50 < 1ms", "--rate", "1", "--requests", "60", *SMALL)
    first = qwenops(*words, "--out", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    again = qwenops("bench", "slo", "--resume", tmp_path / "run")
    assert (first.code, again.code) == (11, 11)
    assert "is finished: nothing is left to do" in again.err
    assert again.out == first.out
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    other = qwenops(*words, "--seed", "9", "--resume", tmp_path / "run")
    assert other.code == 2
    assert "has another seed" in other.err


def test_a_run_of_which_records_were_lost_is_refused_everywhere(qwenops: Run, tmp_path: Path) -> None:
    words = ("bench", "load", FAST, "--users", "1", "--requests", "9", *SMALL, "--warmup", "0")
    for name in ("whole", "cut", "gone"):
        assert qwenops(*words, "--out", tmp_path / name).code == 0
    journal = tmp_path / "cut" / "requests.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:5]))
    (tmp_path / "gone" / "requests.jsonl").unlink()
    for name, left in (("cut", 5), ("gone", 0)):
        for ran in (
            qwenops("bench", "gate", tmp_path / name, "--baseline", tmp_path / "whole"),
            qwenops("bench", "report", tmp_path / name),
        ):
            assert ran.code == 13
            assert f"{left} of the 9 requests of a part are left" in ran.err


def test_the_secret_in_the_command_of_a_server_is_written_nowhere(qwenops: Run, tmp_path: Path) -> None:
    server = f"{sys.executable} -m qwenops.bench.simulated simulated:?slots=2 {{port}} --api-key geheim-geheim"
    ran = qwenops("bench", "startup", server, "--starts", "1", "--out", tmp_path / "run")
    assert ran.code == 0, ran.err
    command = json.loads((tmp_path / "run" / "manifest.json").read_text())["command"]
    assert server.replace("geheim-geheim", "***") in command
    assert not [path.name for path in (tmp_path / "run").iterdir() if b"geheim" in path.read_bytes()]
    assert "geheim" not in ran.out + ran.err


def test_a_command_without_a_port_cannot_be_asked_and_is_refused_at_once(qwenops: Run, tmp_path: Path) -> None:
    ran = qwenops("bench", "startup", "sleep 600", "--out", tmp_path / "run")
    assert ran.code == 2
    assert "has no {port}" in ran.err
    assert not (tmp_path / "run").exists()


def test_a_locustfile_is_not_written_over_what_is_there(qwenops: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("# mine\n")
    ran = qwenops("bench", "locust", "http://127.0.0.1:1", "--write", mine)
    assert ran.code == 2
    assert "--force" in ran.err
    assert mine.read_text() == "# mine\n"
    assert qwenops("bench", "locust", "http://127.0.0.1:1", "--write", mine, "--force").code == 0
    assert mine.read_text() != "# mine\n"


def test_why_energy_is_unknown_stands_in_the_report_and_not_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    found = tuple(Finding(text=each) for each in (NO_COUNTERS, say("It was slow.")))
    conclusion = Conclusion(outcome=Outcome.DONE, sentences=(), findings=found)
    measured = Measured(verb="load", conclusion=conclusion)
    show_conclusion(Terminal(environ={}), measured, None, as_json=False)
    shown = capsys.readouterr()
    assert "It was slow." in shown.err
    assert "Energy" not in shown.err + shown.out
    show_conclusion(Terminal(environ={}), measured, None, as_json=True)
    assert "Energy is unavailable" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("targets", "keys"),
    [
        (("https://mine/v1", "http://theirs:8000"), ("k1", "k2")),
        (("https://mine/v1", "https://mine:443"), ("k1", "k1")),
        (("https://mine", "http://mine"), ("k1", "k2")),
        (("http://127.0.0.1:8000", "127.0.0.1:8001"), ("k1", "k2")),
        (("simulated:", "ollama:qwen3@https://theirs"), ("k1", "k1")),
        (("ollama:qwen3", "ollama:qwen3:4b"), ("k1", "k1")),
        (("a.toml", "https://theirs"), ("k1", "k1")),
    ],
)
def test_a_server_is_never_sent_the_key_of_another(targets: tuple[str, str], keys: tuple[str, str]) -> None:
    """The key belongs to the first server on a network; another has its own, or none."""
    assert tuple(keys_of(dict(zip("AB", targets, strict=True)), "k1", "k2").values()) == keys


def test_a_run_whose_command_held_a_secret_is_continued_with_the_whole_command(qwenops: Run, tmp_path: Path) -> None:
    words = (FAST, "--users", "1", "--requests", "2", *SMALL)
    assert qwenops("bench", "load", *words, "--model", "x TOKEN=geheim", "--out", tmp_path / "run").code == 0
    ran = qwenops("bench", "load", "--resume", tmp_path / "run")
    assert ran.code == 2
    assert "secret on its command line" in ran.err


def test_a_target_against_itself_shows_no_difference_and_two_speeds_do(qwenops: Run) -> None:
    few = ("--pairs", "6", "--requests", "4", *SMALL)
    assert "EQUIVALENT" in qwenops("bench", "compare", FAST, FAST, *few).out
    slower = FAST.replace("decode_tokens_per_s=100", "decode_tokens_per_s=50")
    assert "REGRESSED" in qwenops("bench", "compare", FAST, slower, *few).out
    assert qwenops("bench", "noise", FAST, *few).code == 0


def gated(qwenops: Run, folder: Path, target: str) -> None:
    words = ("--users", "1", "--requests", "80", *SMALL)
    ran = qwenops("bench", "load", target, *words, "--out", folder)
    assert ran.code == 0, ran.err


def test_the_gate_passes_an_equal_run_and_stops_a_slower_one_and_writes_both_reports(
    qwenops: Run, tmp_path: Path
) -> None:
    slower = FAST.replace("decode_tokens_per_s=100", "decode_tokens_per_s=50")
    gated(qwenops, tmp_path / "main", FAST)
    gated(qwenops, tmp_path / "same", FAST)
    gated(qwenops, tmp_path / "slow", slower)
    reports = ("--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "gate.md", "--inconclusive", "pass")
    base = ("--baseline", tmp_path / "main", "--force")
    ran = qwenops("bench", "gate", tmp_path / "same", *base, *reports)
    assert ran.code == 0, ran.out + ran.err
    ran = qwenops("bench", "gate", tmp_path / "slow", *base, *reports)
    assert ran.code == 10, ran.out + ran.err
    assert "<failure" in (tmp_path / "gate.xml").read_text()
    assert "REGRESSED" in (tmp_path / "gate.md").read_text()


def test_the_page_of_a_run_is_written_again(qwenops: Run, tmp_path: Path) -> None:
    assert (
        qwenops("bench", "load", FAST, "--users", "1", "--requests", "2", *SMALL, "--out", tmp_path / "run").code == 0
    )
    (tmp_path / "run" / "report.html").unlink()
    ran = qwenops("bench", "report", tmp_path / "run")
    assert ran.out.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_locustfile_is_written_without_asking_anybody(qwenops: Run, tmp_path: Path) -> None:
    ran = qwenops("bench", "locust", "http://127.0.0.1:1", "--users", "3", "--write", tmp_path / "mine.py")
    assert ran.code == 0, ran.err
    assert ran.out.strip() == str(tmp_path / "mine.py")
    assert "class Caller(QwenUser)" in (tmp_path / "mine.py").read_text()
    assert "--users 3" in ran.err


def test_whom_nobody_answers_and_what_is_no_target_are_told_in_words(qwenops: Run) -> None:
    ran = qwenops("bench", "quick", "http://127.0.0.1:1")
    assert ran.code == 4
    assert "cannot be reached" in ran.err
    ran = qwenops("bench", "quick", "nonsense:?")
    assert ran.code == 2
    assert "names nothing to measure" in ran.err


def test_numbers_of_callers_and_shares_are_read_or_refused() -> None:
    assert ladder("1, 2,16") == (1, 2, 16)
    assert ladder("") == ()
    assert [parse_share(text) for text in ("5%", "0.05", "0")] == [0.05, 0.05, 0.0]
    for text in ("0", "1,x", "-3"):
        with pytest.raises(ConfigError):
            ladder(text)
    for text in ("five", "150%", "5%%", "-1%"):
        with pytest.raises(ConfigError):
            parse_share(text)


def test_qwenops_in_a_command_is_this_program() -> None:
    assert typed_program("qwenops serve x --port {port}")[:3] == [sys.executable, "-m", "qwenops"]
    assert typed_program("llama-server -m 'a b'") == ["llama-server", "-m", "a b"]
    with pytest.raises(ConfigError):
        typed_program("'")


def test_a_target_in_this_process_takes_the_options_that_its_text_has() -> None:
    made = local_settings(Settings(), "openvino", {"scheme": "int4", "threads": "1", "kv_cache_bytes": "1GiB"})
    assert (made.model.engine, made.model.scheme) == ("openvino", "int4")
    assert (made.engine.threads, made.engine.kv_cache_bytes) == (1, 2**30)
    for wrong in ({"schema": "int4"}, {"url": "http://x"}, {"threads": "many"}, {"scheme": "int3"}):
        with pytest.raises(ConfigError):
            local_settings(Settings(), "openvino", wrong)


@pytest.mark.slow
@pytest.mark.proves("C3")
def test_beside_the_requests_stand_what_the_host_and_the_engine_did(
    qwenops: Run, stocked_home: Path, tmp_path: Path
) -> None:
    words = ("--users", "2", "--duration", "5s", *SMALL, "--out", tmp_path / "run")
    ran = qwenops("bench", "load", "openvino:random:tiny?threads=1", *words, QWENOPS_HOME=str(stocked_home))
    assert ran.code == 0, ran.err
    found = read_run(tmp_path / "run")
    host = [sample for sample in found.host if "cpu_busy_ratio" in sample]
    assert len(host) >= 3
    assert all(0.0 <= sample["cpu_busy_ratio"] <= 1.0 for sample in host)
    assert any(sample.get("server_rss_bytes") for sample in host)
    times = [sample["at_ns"] for sample in found.host]
    assert times == sorted(times)
    # On the run's own time, so that they can be laid under the requests.
    assert times[-1] >= max(record.ended_ns or 0 for driven in found.drivens for record in driven.records) - 2 * 10**9
    assert found.engine
    assert found.manifest["machine"]["processor"]
    assert found.summary["data"]["live_view_cores"] < 0.05


@pytest.mark.slow
def test_ctrl_c_leaves_a_partial_result_with_its_page_and_a_way_to_continue(tmp_path: Path) -> None:
    real = "simulated:?slots=4&decode_tokens_per_s=100&prefill_tokens_per_s=2000"
    words = ("bench", "load", real, "--users", "2", "--duration", "10m", *SMALL, "--out", str(tmp_path / "run"))
    with spawn([sys.executable, "-m", "qwenops", *words], cwd=tmp_path, stdout=PIPE, stderr=PIPE) as child:
        wait_for_lines(tmp_path / "run" / "requests.jsonl", 5)
        os.kill(child.pid, signal.SIGINT)
        assert child.wait(timeout_s=30) == 130
        assert child.stdout is not None
        assert child.stderr is not None
        out, err = child.stdout.read().decode(), child.stderr.read().decode()
    assert "The run was stopped after" in out
    assert "Interrupted: the result is partial." in err
    assert f"bench load --resume {tmp_path / 'run'}" in err
    assert (tmp_path / "run" / "report.html").is_file()
    found = read_run(tmp_path / "run")
    assert found.manifest["state"] == "interrupted"
    assert found.summary["state"] == "interrupted"
    assert found.drivens[-1].interrupted


def wait_for_lines(path: Path, number: int) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < number:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_on_a_terminal_the_view_is_drawn_and_wiped_away_before_the_result(tmp_path: Path) -> None:
    words = ("bench", "load", FAST, "--users", "2", "--duration", "60s", *SMALL, "--slo", "e2e p95 < 1s")
    screen = shown_on_a_terminal([sys.executable, "-m", "qwenops", *words], tmp_path)
    assert "● measuring soundly" in screen
    assert re.search(r"[▁▂▃▄▅▆▇█]", screen)
    wiped = screen.rindex("\x1b[2K")
    assert "measuring soundly" not in screen[wiped:]
    assert "Load" in screen[wiped:]


def shown_on_a_terminal(argv: list[str], folder: Path) -> str:
    """Run a command on a terminal of its own; return all that it wrote there, without its colours."""
    terminal, other_end = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LANG": "C.UTF-8"}
    written = b""
    with subprocess.Popen(argv, stdin=other_end, stdout=other_end, stderr=other_end, cwd=folder, env=environ) as child:
        os.close(other_end)
        while piece := _read(terminal):
            written += piece
        assert child.wait(timeout=30) == 0, written.decode(errors="replace")
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # so a terminal tells that its last user has left
        return b""


def test_every_measurement_has_the_flags_that_every_measurement_has(qwenops: Run) -> None:
    missing: dict[str, Any] = {}
    for verb in ("quick", "latency", "load", "stress", "soak", "slo", "compare", "noise", "startup", "locust"):
        page = qwenops("bench", verb, "--help").out
        missing[verb] = [flag for flag in ("--json", "--out", "--model", "--runs") if flag not in page]
    assert not any(missing.values()), missing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("load", FAST, "--workload", "jsonl:missing.jsonl"), "missing.jsonl"),
        (("load", FAST, "--workload", "nonsense"), "nonsense"),
        (("load", FAST, "--rate", "1", "--users", "2"), "Both a rate"),
        (("soak", FAST, "--rate", "1", "--users", "2"), "Both a rate"),
        (("load", FAST, "--slo", "nonsense"), "nonsense"),
        (("slo", FAST), "no objective"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_first_and_leaves_no_folder(
    qwenops: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    ran = qwenops("bench", *words, "--runs", tmp_path / "runs")
    assert ran.code == 2
    assert said in ran.err
    assert "Measuring this client" not in ran.err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_two_configurations_are_both_read_before_a_server_is_started(qwenops: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('[model]\nname = "random:0.6b"\n')
    bad.write_text('model = "random:0.6b"\n')
    ran = qwenops("bench", "compare", good, bad, "--runs", tmp_path / "runs")
    assert ran.code == 2
    assert "'model' is a table in" in ran.err
    assert "[model]" in ran.err
    assert "name = " in ran.err
    assert "Starting a server" not in ran.err
    assert "There is no configuration file" in qwenops("bench", "compare", good, tmp_path / "none.toml").err


def test_what_runs_already_is_not_started_under_limits(qwenops: Run, tmp_path: Path) -> None:
    ran = qwenops("bench", "stress", "http://127.0.0.1:9", "--under", "cpu=1", "--out", tmp_path / "run")
    assert ran.code == 2
    assert "runs already cannot be limited" in ran.err
    assert not (tmp_path / "run").exists()
