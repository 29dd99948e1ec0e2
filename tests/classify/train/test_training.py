"""Whole runs on the tiny model: they learn, they go on exactly, they say what is wrong."""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the train extra")
peft = pytest.importorskip("peft", reason="training needs the train extra")

from qwenops.classify.dataset import EncodedCalls, TrainData  # noqa: E402 -- after the skip
from qwenops.classify.train import loop  # noqa: E402 -- after the skip
from qwenops.classify.train.adapter import open_adapter, verify_adapter  # noqa: E402 -- after the skip
from qwenops.classify.train.options import TrainOptions  # noqa: E402 -- after the skip
from qwenops.classify.train.reload import reload  # noqa: E402 -- after the skip
from qwenops.classify.train.scoring import figures  # noqa: E402 -- after the skip
from qwenops.classify.train.training import train  # noqa: E402 -- after the skip
from qwenops.errors import InvalidDataError, RunFolderError, TrainingError  # noqa: E402 -- after the skip
from qwenops.models.locks import held_if_free  # noqa: E402 -- after the skip
from tests.classify.train.conftest import SILENT, now, quick  # noqa: E402 -- after the skip
from tests.classify.train.runs import started  # noqa: E402 -- after the skip

pytestmark = [pytest.mark.reference, pytest.mark.slow, pytest.mark.timeout(600)]
Make = Callable[..., TrainOptions]


def weights(out: Path) -> bytes:
    adapter = out / "adapter"
    rows = adapter / "head.safetensors"
    return (adapter / "adapter_model.safetensors").read_bytes() + (rows.read_bytes() if rows.exists() else b"")


def part_of(calls: EncodedCalls, count: int) -> EncodedCalls:
    end = int(calls.offsets[count])
    return replace(
        calls,
        ids=calls.ids[:count],
        tokens=calls.tokens[:end],
        offsets=calls.offsets[: count + 1],
        labels=calls.labels[:count],
        weights=calls.weights[:count],
    )


@pytest.mark.parametrize(
    "changes", [{}, {"top_layers": 1, "epochs": 8}, {"trained_head": True, "class_weights": "balanced"}]
)
def test_it_learns_what_can_be_learnt_and_the_adapter_says_it_again(
    options: Make, more_data: TrainData, changes: dict[str, object]
) -> None:
    made, data = options(**{"epochs": 5, "patience": 12, "learning_rate": 5e-3, **changes}), more_data
    adapter = train(made, data, report=SILENT, now=now)
    metrics = adapter.manifest["metrics"]
    first, best = metrics["history"][0]["macro_f1"], metrics["macro_f1"]
    assert best > 0.8
    assert first < 0.5
    losses = [each["loss"] for each in metrics["history"][1:]]
    assert losses[-1] < 0.7 * losses[0]
    verify_adapter(adapter)
    again = reload(open_adapter(adapter.folder), made.model_dir)
    assert again.golden_error() < 1e-5
    assert figures(again.logits(data.val), data.val.labels).macro_f1 == pytest.approx(best)
    assert not (made.out / "checkpoint").exists()


def test_without_a_step_the_adapter_changes_nothing(options: Make, data: TrainData) -> None:
    adapter = train(options(epochs=0), data, report=SILENT, now=now)
    assert [each["epoch"] for each in adapter.manifest["metrics"]["history"]] == [0]
    second = [name for name in adapter.weights() if name.endswith("lora_B.weight")]
    assert second
    assert all(not adapter.weights()[name].any() for name in second)


def test_the_manifest_says_where_everything_comes_from(options: Make, data: TrainData) -> None:
    made = options(epochs=1, probe=True)
    told: list[str] = []
    adapter = train(made, data, report=SILENT, now=now, tell=told.append)
    manifest = adapter.manifest
    assert manifest["created_at"].startswith("2026-03-01")
    assert set(manifest["base"]["sha256"]) == {"model.safetensors", "config.json"}
    assert manifest["taxonomy"] == {"ref": "made@1", "sha256": data.taxonomy.sha256}
    assert manifest["data"]["train"] == {
        "calls": 48,
        "sha256": data.train.sha256(),
        "classes": dict.fromkeys(data.taxonomy.leaves, 12),
    }
    assert manifest["data"]["sources"] == {"calls.jsonl": "0" * 64}
    assert manifest["redaction"] == ["zh-1"]
    assert manifest["seed"] == 0
    assert adapter.leaves == data.taxonomy.leaves
    assert set(manifest["files"]) == {
        "adapter_config.json", "adapter_model.safetensors", "golden.jsonl", "head.json", "taxonomy.yaml"
    }  # fmt: skip
    assert 0 <= manifest["decided"]["probe"]["macro_f1"] <= 1
    assert str(made.model_dir) not in json.dumps(manifest)
    whole = " ".join(told)
    for part in ("Training in f32", "Memory:", "to train", "linear model"):
        assert part in whole


def test_pieces_of_any_size_learn_the_same(options: Make, data: TrainData, tmp_path: Path) -> None:
    found = []
    for tokens in (64, 4096):
        made = options(epochs=1, dropout=0.0, micro_tokens=tokens, out=tmp_path / str(tokens))
        found.append(train(made, data, report=SILENT, now=now).weights())
    for name, each in found[0].items():
        assert torch.allclose(each, found[1][name], atol=2e-4), name
    assert any(not torch.equal(each, found[1][name]) for name, each in found[0].items())


def test_computing_twice_learns_the_same_bits(options: Make, data: TrainData, tmp_path: Path) -> None:
    for name, recompute in (("once", False), ("twice", True)):
        train(options(epochs=1, recompute=recompute, out=tmp_path / name), data, report=SILENT, now=now)
    assert weights(tmp_path / "once") == weights(tmp_path / "twice")


def test_equal_seeds_give_equal_bits_and_others_do_not(options: Make, data: TrainData, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        train(options(epochs=1, seed=seed, out=tmp_path / name), data, report=SILENT, now=now)
    assert weights(tmp_path / "one") == weights(tmp_path / "two") != weights(tmp_path / "three")


def test_chance_and_threads_of_the_process_are_left_alone(options: Make, data: TrainData) -> None:
    torch.manual_seed(5)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train(options(epochs=1, threads=1), data, report=SILENT, now=now)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


class EndedError(Exception):
    """What a test ends a run with."""


@pytest.fixture(scope="module", params=[0, 1], ids=lambda count: f"top {count}")
def unbroken(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, data: TrainData, tmp_path_factory: pytest.TempPathFactory
) -> TrainOptions:
    """Return the options of a run that went from its beginning to its end."""
    folder = tmp_path_factory.mktemp("unbroken")
    same = {"epochs": 2, "dropout": 0.2, "top_layers": request.param, "checkpoint_every_s": 0.0, "trained_head": True}
    made = quick(tiny_checkpoint, folder, **same)
    train(made, data, report=SILENT, now=now)
    return made


@pytest.mark.parametrize("after", [1, 5, 6, 7, 11])
def test_a_run_that_was_ended_goes_on_to_the_same_bits(
    unbroken: TrainOptions, data: TrainData, tmp_path: Path, after: int
) -> None:
    ended = replace(unbroken, out=tmp_path / "ended")
    count = 0

    def end(_fraction: float, doing: str) -> None:
        nonlocal count
        if doing.startswith("Training"):
            count += 1
            if count > after:
                raise EndedError

    with pytest.raises(EndedError):
        train(ended, data, report=end, now=now)
    told: list[str] = []
    adapter = train(ended, data, report=SILENT, now=now, tell=told.append)
    assert f"Going on after step {after}" in told[0]
    assert weights(unbroken.out) == weights(tmp_path / "ended")
    assert adapter.manifest["metrics"] == open_adapter(unbroken.out / "adapter").manifest["metrics"]


STEPS = 15
"""Of a run of `runs`."""


def test_a_run_that_was_killed_anywhere_goes_on_to_the_same_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    draw, note = random.Random(seed), f"the moments were drawn with the seed {seed}"
    whole, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    begun_s = time.monotonic()
    assert started(tiny_checkpoint, whole).status == 0
    whole_s = time.monotonic() - begun_s
    first = draw.randrange(1, STEPS - 1)
    ended = started(tiny_checkpoint, killed, die_at=first)
    assert ended.status == -signal.SIGKILL, f"{note}: {ended.said}"
    between = started(tiny_checkpoint, killed, kill_after_s=draw.uniform(0, whole_s))
    assert between.status in {-signal.SIGKILL, 0}, f"{note}: {between.said}"
    if between.status:
        last = started(tiny_checkpoint, killed)
        assert last.status == 0, f"{note}: {last.said}"
        between = last
    assert "Going on after step" in between.said or (killed / "adapter").exists(), note
    assert weights(whole) == weights(killed), note
    found = [open_adapter(run / "adapter").manifest["metrics"] for run in (whole, killed)]
    assert found[0] == found[1], note


def test_two_processes_learn_what_one_learns(tiny_checkpoint: Path, tmp_path: Path) -> None:
    changes = json.dumps({"dropout": 0.0, "epochs": 1})
    one, two = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert started(tiny_checkpoint, one, changes=changes).status == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    argv = [*launcher, "tests.classify.train.runs", str(tiny_checkpoint), str(two), changes]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("to train") == 1  # one of them speaks
    found = [open_adapter(out / "adapter") for out in (one, two)]
    assert found[1].manifest["processes"] == 2
    for name, each in found[0].weights().items():
        assert torch.allclose(each, found[1].weights()[name], atol=2e-4), name
    assert found[0].manifest["metrics"]["nll"] == pytest.approx(found[1].manifest["metrics"]["nll"], abs=1e-3)


def test_a_loss_that_is_no_number_names_the_calls_and_keeps_the_last_checkpoint(
    options: Make, data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = options(epochs=2, checkpoint_every_s=0.0)
    real, count = loop._losses, 0

    def breaking(learner: loop.Learner, piece: tuple[int, ...]) -> Any:
        nonlocal count
        count += 1
        found = real(learner, piece)
        if learner.optimiser.state and count > 8:
            return torch.where(torch.arange(len(found)) == 0, math.nan, found)
        return found

    monkeypatch.setattr(loop, "_losses", breaking)
    with pytest.raises(TrainingError) as caught:
        train(made, data, report=SILENT, now=now)
    ids = caught.value.conversation_ids
    assert ids
    assert set(ids) < set(data.train.ids)
    assert ids[0] in str(caught.value)
    assert not (made.out / "adapter").exists()
    state = json.loads((made.out / "checkpoint" / "state.json").read_text())
    assert 0 < state["standing"]["step"] < 12
    monkeypatch.setattr(loop, "_losses", real)
    train(made, data, report=SILENT, now=now)
    good = options(epochs=2, out=made.out.parent / "good")
    train(good, data, report=SILENT, now=now)
    assert weights(made.out) == weights(good.out)


def test_training_ends_when_nothing_gets_better_and_the_best_weights_are_kept(
    options: Make, data: TrainData, tmp_path: Path
) -> None:
    made = options(epochs=30, patience=2, learning_rate=0.0)
    metrics = train(made, data, report=SILENT, now=now).manifest["metrics"]
    assert [each["epoch"] for each in metrics["history"]] == [0, 1, 2]
    assert metrics["best_epoch"] == 0
    wild = options(epochs=6, patience=6, learning_rate=0.5, out=tmp_path / "wild")
    adapter = train(wild, data, report=SILENT, now=now)
    scores = [each["macro_f1"] for each in adapter.manifest["metrics"]["history"]]
    assert adapter.manifest["metrics"]["macro_f1"] == max(scores)
    again = reload(adapter, wild.model_dir)
    assert figures(again.logits(data.val), data.val.labels).macro_f1 == pytest.approx(max(scores))


def test_another_runs_checkpoint_is_refused_unless_it_may_go(options: Make, data: TrainData) -> None:
    def end(_fraction: float, doing: str) -> None:
        if doing.startswith("Training: epoch 2"):
            raise EndedError

    with pytest.raises(EndedError):
        train(options(), data, report=end, now=now)
    with pytest.raises(RunFolderError, match="options"):
        train(options(learning_rate=1e-3), data, report=SILENT, now=now)
    train(options(learning_rate=1e-3, restart=True), data, report=SILENT, now=now)


def test_two_runs_do_not_share_a_folder(options: Make, data: TrainData) -> None:
    made = options()
    with held_if_free(made.out / ".lock") as taken:
        assert taken
        with pytest.raises(RunFolderError, match="Another run"):
            train(made, data, report=SILENT, now=now)


def test_nothing_to_learn_from_or_to_validate_with_is_refused(options: Make, data: TrainData) -> None:
    empty = part_of(data.val, 0)
    with pytest.raises(InvalidDataError, match="as val"):
        train(options(), replace(data, val=empty), report=SILENT, now=now)
    with pytest.raises(InvalidDataError, match="in train and in val"):
        train(options(), replace(data, val=part_of(data.train, 4)), report=SILENT, now=now)


def test_a_second_run_on_the_same_model_reads_what_frozen_layers_gave(options: Make, data: TrainData) -> None:
    heard: list[str] = []
    made = options(epochs=1, top_layers=1)
    train(made, data, report=lambda _fraction, doing: heard.append(doing), now=now)
    assert any(each.startswith("Computing the frozen layers") for each in heard)
    heard.clear()
    shutil.rmtree(made.out)
    train(replace(made, seed=1), data, report=lambda _fraction, doing: heard.append(doing), now=now)
    assert not any(each.startswith("Computing the frozen layers") for each in heard)


def test_fewer_calls_than_a_batch_are_enough(options: Make, data: TrainData) -> None:
    few = replace(data, train=part_of(data.train, 3), val=part_of(data.val, 1))
    adapter = train(options(epochs=1, batch_calls=16), few, report=SILENT, now=now)
    assert adapter.manifest["time"]["steps"] == 1


def test_the_weights_of_calls_count(options: Make, data: TrainData, tmp_path: Path) -> None:
    light = replace(data.train, weights=np.where(data.train.labels == 0, 1.0, 1e-6).astype(np.float32))
    made = options(epochs=6, patience=6, learning_rate=5e-3, logit_adjustment=0.0, out=tmp_path / "light")
    adapter = train(made, replace(data, train=light), report=SILENT, now=now)
    history = adapter.manifest["metrics"]["history"]
    assert history[-1]["accuracy"] == pytest.approx(0.25, abs=0.13)  # it says the only class that counted
