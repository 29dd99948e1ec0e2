"""Work in a child process: what it tells, what it fails with, and how it is ended."""

import time
from pathlib import Path

import pytest

from qwenops.errors import CommandError, DeadlineError, InsufficientDiskError, QwenOpsError
from qwenops.models.child import follow, speak
from qwenops.text import Report, Text, say

pytestmark = pytest.mark.slow

COUNTS = """
import sys, time
from qwenops.errors import InsufficientDiskError
from qwenops.models.child import speak
from qwenops.text import say

def work(report):
    print("a library that prints")
    print("[1, 2]")
    report(0.5, say("Half of {what}", what=say("the work")))
    if sys.argv[1] == "full":
        raise InsufficientDiskError(say("No room in {folder}.", folder="/x"), needed_bytes=7, available_bytes=3)
    if sys.argv[1] == "dies":
        sys.exit("last words")
    if sys.argv[1] == "sleeps":
        time.sleep(60)
    report(1.0, say("Done"))

sys.exit(speak(work))
"""


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module that a child can run."""
    (tmp_path / "counts_for_a_test.py").write_text(COUNTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "counts_for_a_test"


def late(timeout_s: float) -> QwenOpsError:
    return DeadlineError(f"late after {timeout_s}")


def died(status: int, words: str) -> QwenOpsError:
    return CommandError(words, returncode=status)


def followed(module: str, how: str, timeout_s: float = 30.0) -> list[tuple[float, str]]:
    told: list[tuple[float, str]] = []
    follow(module, [how], lambda done, doing: told.append((done, doing)), timeout_s=timeout_s, late=late, died=died)
    return told


def test_a_child_tells_how_far_it_is_in_sentences_that_can_be_translated(counts: str) -> None:
    told = followed(counts, "works")
    assert told == [(0.5, "Half of the work"), (1.0, "Done")]
    first = told[0][1]
    assert isinstance(first, Text)
    assert isinstance(first.arguments["what"], Text)


def test_what_it_raises_is_raised_here(counts: str) -> None:
    with pytest.raises(InsufficientDiskError, match="No room in /x") as caught:
        followed(counts, "full")
    assert (caught.value.needed_bytes, caught.value.available_bytes) == (7, 3)
    assert isinstance(caught.value.message, Text)


def test_one_that_ends_without_a_reason_is_quoted(counts: str) -> None:
    with pytest.raises(CommandError, match="last words") as caught:
        followed(counts, "dies")
    assert caught.value.returncode == 1


def test_one_that_takes_too_long_is_ended(counts: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(DeadlineError, match=r"late after 3\.0"):
        followed(counts, "sleeps", timeout_s=3.0)
    assert time.monotonic() - began_s < 20


def test_one_whose_report_is_unwanted_is_ended_at_once(counts: str) -> None:
    def unwanted(_done: float, _doing: str) -> None:
        raise KeyError

    began_s = time.monotonic()
    with pytest.raises(KeyError):
        follow(counts, ["sleeps"], unwanted, timeout_s=50.0, late=late, died=died)
    assert time.monotonic() - began_s < 20


def test_what_json_has_no_word_for_is_told_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    def work(report: Report) -> None:
        report(0.0, say("Reading {path}", path=Path("/x")))

    assert speak(work) == 0
    assert "Reading /x" in capsys.readouterr().out
