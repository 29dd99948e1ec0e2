"""`qwenops finetune train` on files and runs that are not as they should be: what is said, where, and what is left."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qwenops.calls.split import read_splits
from qwenops.classify.labelled import DataFiles
from tests.classify.judged import write_files
from tests.classify.made import SOURCE, pairs
from tests.cli.conftest import Ran, Run

torch = pytest.importorskip("torch", reason="training needs the train extra")
pytest.importorskip("peft", reason="training needs the train extra")

pytestmark = [pytest.mark.reference, pytest.mark.timeout(120)]
Spoil = Callable[[DataFiles], None]
QUICK = ("--epochs", "1", "--threads", "1", "--max-tokens", "192", "--no-probe", "--precision", "f32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A command line on files that a test may spoil."""

    qwenops: Run
    home: Path
    files: DataFiles
    out: Path

    def __call__(self, *more: str | Path, taxonomy: Path = SOURCE) -> Ran:
        files = self.files
        assert files.labels is not None
        words = ["finetune", "train", files.calls, "--labels", files.labels, "--splits", files.splits, *QUICK, *more]
        where = ["--taxonomy", taxonomy, "--model", "random:tiny", "--out", self.out]
        return self.qwenops(*map(str, [*words, *where]), QWENOPS_HOME=str(self.home))

    @property
    def left(self) -> set[str]:
        """What is in the run's folder."""
        return {path.name for path in self.out.iterdir()} - {".lock"} if self.out.exists() else set()


@pytest.fixture
def training(qwenops: Run, stocked_home: Path, tmp_path: Path) -> Training:
    files = write_files(tmp_path / "data", pairs(32, seed=7))
    return Training(qwenops=qwenops, home=stocked_home, files=files, out=tmp_path / "run")


def lines_of(path: Path | None) -> list[str]:
    assert path is not None
    return path.read_text("utf-8").splitlines()


def changed(path: Path | None, number: int, changes: Mapping[str, Any]) -> None:
    """Change fields of one line, from 1."""
    assert path is not None
    lines = lines_of(path)
    lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | changes, ensure_ascii=False)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def call(number: int, *turns: tuple[str, str]) -> Spoil:
    told = [{"role": role, "text": text} for role, text in turns]
    return lambda files: changed(files.calls, number, {"turns": told})


def label(number: int, **changes: Any) -> Spoil:
    return lambda files: changed(files.labels, number, changes)


def twice(files: DataFiles) -> None:
    with files.calls.open("a", encoding="utf-8") as file:
        file.write(lines_of(files.calls)[3] + "\n")


def glued(files: DataFiles) -> None:
    """One line is of another program, which writes GB18030."""
    raw = files.calls.read_bytes().splitlines()
    raw[2] = raw[2].decode("utf-8").encode("gb18030")
    files.calls.write_bytes(b"\n".join(raw) + b"\n")


def neither(files: DataFiles) -> None:
    """One line is cut within a character and goes on in the other encoding: nobody can read it."""
    raw = files.calls.read_bytes().splitlines()
    raw[2] = raw[2].replace("，".encode(), b"\xff\xff") + b"\xff"
    files.calls.write_bytes(b"\n".join(raw) + b"\n")


def lonely(files: DataFiles) -> None:
    """One class is left with a single training call."""
    assert files.labels is not None
    train = set(read_splits(files.splits).train)
    told = [json.loads(line) for line in lines_of(files.labels)]
    for each in [each for each in told if each["conversation_id"] in train and each["primary"] == "inquiry"][1:]:
        each["primary"] = "billing.fee"
    files.labels.write_text("".join(f"{json.dumps(each)}\n" for each in told), "utf-8")


REFUSED = {
    "an empty call": (call(3), "calls.jsonl:3: turns: Nobody says anything."),
    "a call of blanks": (call(3, ("customer", " \u3000 ")), "calls.jsonl:3: turns: Nobody says anything."),
    "an unknown label": (
        label(4, primary="nobody.knows"),
        "labels.jsonl:4: primary: made@1 has no class 'nobody.knows'",
    ),
    "a label of a parent": (label(4, primary="billing"), "labels.jsonl:4: primary:"),
    "labels of a later taxonomy": (label(4, taxonomy="made@7"), "labels.jsonl:4: taxonomy: The label is of made@7"),
    "labels of another taxonomy": (label(4, taxonomy="other@1"), "labels.jsonl:4: taxonomy:"),
    "two calls of one id": (twice, "calls.jsonl:33: conversation_id: There is a call of this id already"),
    "bytes of no encoding": (neither, "calls.jsonl:3"),
}


@pytest.mark.parametrize(("spoil", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_learnt_from_is_refused_with_its_place_before_anything_is_written(
    training: Training, spoil: Spoil, said: str
) -> None:
    spoil(training.files)
    ran = training()
    assert ran.code == 2
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert not training.left


def test_everything_that_is_wrong_is_said_at_once(training: Training) -> None:
    for spoil in (call(3), label(4, primary="nobody.knows"), twice):
        spoil(training.files)
    told = training().err
    assert "There are 3 problems" in told
    for place in ("calls.jsonl:3: turns", "labels.jsonl:4: primary", "calls.jsonl:33: conversation_id"):
        assert place in told


LONG = "多扣了钱，" * 40_000
"""About 100,000 tokens."""
WARNED = {
    "only the customer speaks": (call(3, ("customer", "扣费")), ["calls.jsonl:3: turns: Only one speaks: customer."]),
    "only the agent speaks": (call(3, ("agent", "您好")), ["calls.jsonl:3: turns: Only one speaks: agent."]),
    "a hundred thousand tokens": (
        call(3, ("agent", "您好"), ("customer", LONG)),
        ["calls.jsonl:3: turns: The call has 200002 characters; only its beginning and its end will be read."],
    ),
    "two encodings": (glued, ["calls.jsonl:3: The line is written in GB18030, the file in UTF-8"]),
    "a class with one example": (lonely, ["labels.jsonl:4: primary: The class inquiry has a single example"]),
}


@pytest.mark.parametrize(("spoil", "said"), WARNED.values(), ids=WARNED)
def test_what_is_odd_is_said_with_its_place_and_learnt_from(training: Training, spoil: Spoil, said: list[str]) -> None:
    spoil(training.files)
    ran = training()
    assert ran.code == 0, ran.err
    for each in said:
        assert ran.err.count(each) == 1
    assert training.left == {"adapter"}


def test_a_loss_that_is_no_number_names_calls_and_what_to_do_and_the_next_start_goes_on(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwenops.classify.train import loop

    real = loop.step

    def broken(learner: loop.Learner, batch: tuple[int, ...], number: int) -> float:
        if number == 3:
            with torch.no_grad():
                next(iter(learner.lora.parameters.values())).fill_(math.nan)
        return real(learner, batch, number)

    monkeypatch.setattr(loop, "step", broken)
    few = ("--batch", "4", "--epochs", "2", "--checkpoint-every", "0")
    ran = training(*few)
    assert ran.code != 0
    assert "At step 3 the loss is no number any more; the calls were: s7-" in ran.err
    assert "Lower --learning-rate" in ran.err
    assert training.left == {"checkpoint"}
    monkeypatch.setattr(loop, "step", real)
    again = training(*few)
    assert again.code == 0, again.err
    assert "Going on after step 3" in again.err
    assert training.left == {"adapter"}


def test_a_taxonomy_that_changed_under_a_run_is_refused_and_the_checkpoint_stays(
    training: Training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from qwenops.classify.train import loop

    real = loop.step

    def ended(learner: loop.Learner, batch: tuple[int, ...], number: int) -> float:
        if number == 2:
            raise KeyboardInterrupt
        return real(learner, batch, number)

    monkeypatch.setattr(loop, "step", ended)
    few = ("--batch", "4", "--checkpoint-every", "0")
    assert training(*few).code != 0
    monkeypatch.setattr(loop, "step", real)
    before = (training.out / "checkpoint" / "state.json").read_bytes()
    other = tmp_path / "made.yaml"
    other.write_text(SOURCE.read_text("utf-8").replace("version: 1", "version: 2"), "utf-8")
    ran = training(*few, taxonomy=other)
    assert ran.code == 2
    assert "labels.jsonl:1: taxonomy" in ran.err
    assert "migrations" in ran.err
    assert (training.out / "checkpoint" / "state.json").read_bytes() == before
