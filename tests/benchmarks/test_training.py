"""The comparison of trainings: its calls, its arithmetic, and all of it on a tiny model."""

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recording, training
from benchmarks.training_sides import (
    IGNORED,
    LABELS,
    LONGEST,
    PAD,
    SHORTEST,
    SYSTEMS,
    Task,
    between,
    encoded,
    grouped,
    label_of,
    padded_batch,
    padding_of,
    peak_resident_bytes,
    window,
    windows_of,
)
from qwenops.models.spec import QWEN3_0_6B

TASK = Task(
    checkpoint="nowhere",
    work="nowhere",
    precision="bf16",
    device="cpu",
    seed=3,
    batch_calls=4,
    at_once=2,
    micro_tokens=2048,
    window_calls=8,
    windows=2,
    top_layers=8,
    threads=1,
)
SPEEDS = {"trainer": 100.0, "trainer-grouped": 125.0, "ours": 250.0, "cached": 700.0}


def measured(system: str, task: Task) -> Mapping[str, Any]:
    """Answer as a side would whose speed is known and falls by a tenth from window to window."""
    if system == "precision":
        return {"precision": "f32", "reason": "it is a test"}
    tokens = 1000 * task.seed
    fill = {"fill": {"tokens_per_s": 1400.0, "seconds": [1.0]}} if system == "cached" else {}
    return {
        "windows": [
            {"tokens": tokens, "seconds": tokens / SPEEDS[system] / 0.9**number} for number in range(task.windows)
        ],
        "peak_resident_bytes": 2**30 * len(system),
        "peak_device_bytes": 0,
        "padding": 0.25,
        **fill,
    }


def test_each_window_has_calls_of_all_lengths() -> None:
    for number in range(20):
        lengths = sorted(map(len, window(7, number, 8)))
        assert SHORTEST <= lengths[0] < 260
        assert 1160 < lengths[-1] <= LONGEST
        assert 2800 < sum(lengths) < 7000


def test_windows_are_the_same_for_every_side_and_different_from_one_another() -> None:
    first, second, third = windows_of(TASK)
    assert (len(first), len(second), len(third)) == (4, 8, 8)
    assert windows_of(TASK) == [first, second, third]
    assert second != third
    assert windows_of(replace(TASK, seed=4))[1] != second
    assert max(map(len, windows_of(replace(TASK, longest=300))[1])) <= 300


def test_our_form_of_calls_holds_the_same_tokens_and_classes() -> None:
    calls = window(1, 1, 8)
    found = encoded(calls, "w")
    assert [found.prompt(place).tolist() for place in range(8)] == calls
    assert found.labels.tolist() == [label_of(call) for call in calls]
    assert len(set(found.ids)) == 8


def test_trainer_gets_the_prompt_the_answer_and_a_loss_on_the_answer_alone() -> None:
    batch = padded_batch([[5, 6, 7], [8]])
    first, second = LABELS[label_of([5, 6, 7])], LABELS[label_of([8])]
    assert batch["input_ids"] == [[5, 6, 7, first], [8, second, PAD, PAD]]
    assert batch["attention_mask"] == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"] == [[IGNORED, IGNORED, IGNORED, first], [IGNORED, second, IGNORED, IGNORED]]


def test_grouped_calls_are_the_same_calls_sorted_within_each_pool() -> None:
    calls = window(1, 1, 8)
    found = grouped(calls, 4, seed=2)
    assert sorted(found) == sorted(calls)
    for begin in (0, 4):
        lengths = [len(call) for call in found[begin : begin + 4]]
        assert lengths == sorted(lengths, reverse=True)
    many = [[1] * length for length in range(1, 65)]
    pooled = [len(call) for call in grouped(many, 4, seed=2)]
    assert pooled[:16] == sorted(pooled[:16], reverse=True), "a pool of four steps for 64 calls"


def test_padding_is_what_is_computed_for_nothing() -> None:
    assert padding_of([[[1], [1, 2, 3]], [[1, 2], [1, 2]]], 2) == pytest.approx(1 - 8 / 10)
    assert padding_of([[[1], [1, 2, 3]]], 1) == 0


def test_windows_are_timed_from_the_end_of_the_one_before() -> None:
    assert between([10.0, 12.0, 13.0, 15.0, 15.5], [1, 2, 1]) == [2.0, 3.0, 0.5]


def test_the_peak_is_read_where_linux_says_it(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n")
    assert peak_resident_bytes(status) == 2048 * 1024
    assert peak_resident_bytes(tmp_path / "absent") > 2**20


def test_every_round_has_all_sides_with_the_same_calls_and_begins_with_another() -> None:
    order: list[tuple[str, int]] = []

    def noted(system: str, task: Task) -> Mapping[str, Any]:
        order.append((system, task.seed))
        return measured(system, task)

    found = training.compare(["trainer", "ours", "cached"], TASK, 2, limit_s=1e9, measure=noted)
    assert order == [("trainer", 3), ("ours", 3), ("cached", 3), ("ours", 4), ("cached", 4), ("trainer", 4)]
    assert found["rounds"] == 2
    assert found["ratios"]["ours"]["trainer"]["median"] == pytest.approx(2.5)
    assert found["ratios"]["ours"]["trainer"]["n"] == 4
    assert found["ratios"]["cached"]["trainer"]["min"] == pytest.approx(7.0)
    assert found["systems"]["trainer"]["tokens_per_s"]["min"] == pytest.approx(90.0)
    assert "trainer-grouped" not in found["ratios"]["ours"]


def test_no_round_begins_that_would_end_too_late() -> None:
    ticks = count()  # each look at the clock is a second later: a round takes one
    found = training.compare(["ours"], TASK, 50, limit_s=9.0, measure=measured, clock=lambda: float(next(ticks)))
    assert 1 < found["rounds"] < 9
    assert training.compare(["ours"], TASK, 50, limit_s=0.0, measure=measured)["rounds"] == 1


@pytest.mark.parametrize(
    ("ours", "cached", "met"),
    [(200.0, 600.0, (True, True)), (199.0, 599.0, (False, False)), (300.0, 500.0, (True, False))],
)
def test_goals_are_met_by_the_ratio_to_trainer(
    monkeypatch: pytest.MonkeyPatch, ours: float, cached: float, met: tuple[bool, bool]
) -> None:
    monkeypatch.setitem(SPEEDS, "ours", ours)
    monkeypatch.setitem(SPEEDS, "cached", cached)
    goals = training.judged(training.compare(SYSTEMS, TASK, 1, limit_s=1e9, measure=measured))
    assert (goals["ours_over_trainer"]["met"], goals["cached_over_trainer"]["met"]) == met


def test_a_side_that_was_left_out_is_not_judged() -> None:
    assert training.judged(training.compare(["ours", "cached"], TASK, 1, limit_s=1e9, measure=measured)) == {}


def test_what_the_lower_layers_took_counts_less_with_every_epoch() -> None:
    found = {"systems": {"cached": {"tokens_per_s": {"median": 100.0}, "fill_tokens_per_s": {"median": 50.0}}}}
    assert training.with_fill(found, 1) == pytest.approx(1 / (0.01 + 0.02))
    assert training.with_fill(found, 4) == pytest.approx(1 / (0.01 + 0.005))
    assert training.with_fill(found, 10**6) == pytest.approx(100.0, rel=1e-3)


def test_trainer_gets_fewer_calls_at_once_where_memory_is_short() -> None:
    task = replace(TASK, at_once=8)
    needed = training.trainer_bytes(QWEN3_0_6B, task)
    assert needed > 8 * LONGEST * QWEN3_0_6B.vocab_size * training.LOGIT_BYTES
    assert training.fitting(QWEN3_0_6B, task, 2 * needed) == task
    assert training.fitting(QWEN3_0_6B, task, needed).at_once == 4
    assert training.fitting(QWEN3_0_6B, task, 0).at_once == 1


@pytest.mark.parametrize(
    ("load", "systems", "said"),
    [
        (training.LOADS["cpu"], ["ours", "theirs"], "theirs"),
        (replace(training.LOADS["cpu"], window_calls=9), ["ours"], "whole steps"),
        (replace(training.LOADS["cpu"], at_once=3), ["ours"], "whole batches"),
        (replace(training.LOADS["cpu"], windows=0), ["ours"], "at least one"),
    ],
)
def test_what_is_not_possible_is_said(load: training.Load, systems: list[str], said: str) -> None:
    assert said in training.wrong(load, systems)


def test_what_is_set_for_each_device_is_possible() -> None:
    for load in training.LOADS.values():
        assert training.wrong(load, SYSTEMS) == ""


def test_the_result_says_how_it_came_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    arguments = ["--model", "tiny", "--device", "cpu", "--rounds", "1", "--seed", "5", "--window-calls", "16"]
    assert training.main(arguments, measure=measured) == 0, "goals are those of the true shape"
    written = json.loads((tmp_path / "training.json").read_text())
    assert written["options"]["precision"] == "f32"
    assert written["options"]["window_calls"] == 16
    assert written["options"]["rank"] == 16
    assert len(written["options"]["targets"]) == 7
    assert "checkpoint" not in written["options"], "no path of a machine gets into a result"
    assert written["results"]["precision"]["reason"] == "it is a test"
    assert "goals" not in written["results"]
    assert written["results"]["cached_with_fill_tokens_per_s"]["1_epochs"] < 700 * 0.95
    assert "| ours | **238** (225 to 250) | 2.50 (2.50 to 2.50) |" in (tmp_path / "training.md").read_text()


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_sides_train_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    arguments = ["--model", "tiny", "--device", "cpu", "--rounds", "1", "--windows", "1", "--top-layers", "1"]
    small = ["--batch-calls", "2", "--at-once", "2", "--window-calls", "2", "--longest", "300"]
    assert training.main([*arguments, *small, "--precision", "f32"]) == 0
    systems = json.loads((tmp_path / "training.json").read_text())["results"]["systems"]
    assert set(systems) == set(SYSTEMS)
    for row in systems.values():
        assert row["tokens_per_s"]["median"] > 0
        assert row["peak_resident_bytes"]["max"] > 2**27
    assert systems["trainer"]["peak_resident_bytes"]["max"] > systems["ours"]["peak_resident_bytes"]["max"]
    assert systems["cached"]["fill_tokens_per_s"]["median"] > 0
