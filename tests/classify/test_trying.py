"""Trials and calibrations over files, with models that say what a test lets them say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.calls.split import Part, read_splits, write_splits
from qwenops.classify.baseline_folder import teach
from qwenops.classify.decide import thresholds_of
from qwenops.classify.evaluate import Evaluation, Outcome
from qwenops.classify.labelled import open_labelled
from qwenops.classify.linear import Kind
from qwenops.classify.meaning import chosen_precision, read_meaning
from qwenops.classify.plain import from_plain
from qwenops.classify.prediction import parse_prediction
from qwenops.classify.trying import (
    Calibrated,
    CalibrateOptions,
    TrialOptions,
    Tried,
    calibrate_adapter,
    read_facts,
    try_adapter,
    verdict_beside,
)
from qwenops.errors import ConfigError, InvalidDataError, ModelLoadError
from qwenops.text import Text
from tests.classify.adapted import rehash
from tests.classify.judged import Run, add_baselines, make_run, now, silent
from tests.classify.made import TAXONOMY

pytest.importorskip("sklearn", reason="baselines are trained with scikit-learn, which comes with the train extra")
NOISE = 0.35
Make = Callable[..., Run]


@pytest.fixture
def make(tiny_checkpoint: Path, tmp_path: Path) -> Make:
    """Return a function that makes a run with its baselines; words explain three quarters of its labels."""

    def made(**changes: Any) -> Run:
        run = make_run(tmp_path, tiny_checkpoint, **({"noise": NOISE} | changes))
        add_baselines(run)
        return run

    return made


def tried(run: Run, right: float, tell: Callable[[Text], None] = lambda _text: None, **changes: Any) -> Tried:
    options = TrialOptions(adapter=run.adapter, base=run.base, **changes)
    return try_adapter(run.files, options, report=silent, now=now, tell=tell, open_score=run.knowing(right))


def calibrated(run: Run, right: float, **changes: Any) -> Calibrated:
    options = CalibrateOptions(adapter=run.adapter, base=run.base, **changes)
    return calibrate_adapter(run.files, options, report=silent, now=now, open_score=run.knowing(right))


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text("utf-8"))


def test_a_model_that_knows_more_than_words_say_is_used(make: Make) -> None:
    run = make()
    found = tried(run, 0.95)
    assert found.trial.verdict.outcome is Outcome.BETTER
    assert found.trial.use_model
    metrics = read(found.folder, "metrics.json")
    assert metrics["use_model"] is True
    assert from_plain(Evaluation, metrics["test"]) == found.trial.evaluation
    assert metrics["training"]["best_epoch"] == 2
    beside = verdict_beside(run.adapter)
    assert beside is not None
    assert beside["verdict"]["outcome"] == "better"


def test_a_model_that_guesses_is_not_used(make: Make) -> None:
    found = tried(make(), 0.0)
    assert found.trial.verdict.outcome is Outcome.WORSE
    assert "Do not use" in read(found.folder, "metrics.json")["sentences"][0]


def test_the_folder_holds_what_each_said_of_each_call(make: Make) -> None:
    run = make()
    found = tried(run, 0.9)
    assert found.folder == run.adapter.parent / "evaluation"
    assert {path.name for path in found.folder.iterdir()} == {
        "metrics.json",
        "predictions.jsonl",
        "answers.npz",
        "manifest.json",
        "taxonomy.yaml",
    }
    lines = (found.folder / "predictions.jsonl").read_text("utf-8").splitlines()
    test = set(read_splits(run.files.splits).test)
    assert {parse_prediction(line).conversation_id for line in lines} == test
    assert len(lines) == len(test)
    with np.load(found.folder / "answers.npz", allow_pickle=False) as numbers:
        truth = [TAXONOMY.leaves[place] for place in numbers["truth"]]
        assert dict(zip(numbers["ids"].tolist(), truth, strict=True)) == {name: run.truth[name] for name in test}
        assert numbers["model"].shape == numbers["logistic"].shape == (len(test), len(TAXONOMY.leaves))
    manifest = read(found.folder, "manifest.json")
    assert manifest["created_at"] == "2026-03-01T00:00:00+00:00"
    assert manifest["data"]["sources"] == run.files.hashes()


def test_the_model_is_asked_once_for_each_part_and_gives_the_same_figures_again(make: Make) -> None:
    run = make()
    first = tried(run, 0.9)
    assert run.opened == ["adapter"]
    again = tried(run, 0.0)
    assert run.opened == ["adapter"], "what it said was kept"
    assert again.trial.evaluation == first.trial.evaluation
    calibrated(run, 0.0, target_precision=0.8)
    assert run.opened == ["adapter"]


def test_without_a_calibration_one_is_made_and_said(make: Make) -> None:
    run = make()
    told: list[Text] = []
    tried(run, 0.9, told.append)
    assert any("Calibrated on the part val" in each for each in told)
    kept = read_meaning(run.adapter.parent / "calibration")
    assert kept is not None
    assert kept.manifest["data"]["calls"] == len(read_splits(run.files.splits).val)
    told.clear()
    tried(run, 0.9, told.append)
    assert not told


def test_thresholds_that_were_chosen_are_those_of_the_trial(make: Make) -> None:
    run = make()
    loose, strict = (calibrated(run, 0.95, target_precision=each) for each in (0.7, 0.99))
    assert loose.meaning.thresholds.leaf is not None
    assert strict.meaning.thresholds.leaf is None
    assert tried(run, 0.95).trial.filed.auto == 0.0
    assert chosen_precision(run.adapter) == 0.99
    calibrated(run, 0.95, target_precision=0.7)
    assert tried(run, 0.95).trial.filed.auto > 0.5
    assert thresholds_of(read(loose.folder, "thresholds.json")) == loose.meaning.thresholds


def test_a_part_for_calibration_is_taken_where_there_is_one(make: Make) -> None:
    run = make(calibration=60)
    found = calibrated(run, 0.9)
    assert (found.part, found.num_calls) == (Part.CALIBRATION, 60)
    assert calibrated(run, 0.9, part=Part.VAL).num_calls == 60


@pytest.mark.parametrize("part", [Part.TEST, Part.TRAIN])
def test_nothing_is_calibrated_on_test_or_training_calls(make: Make, part: Part) -> None:
    run = make()
    with pytest.raises(ConfigError, match="Nothing is calibrated"):
        calibrated(run, 0.9, part=part)
    assert not run.opened
    assert not (run.adapter.parent / "calibration").exists()


def test_other_splits_than_those_of_training_are_refused(make: Make) -> None:
    run = make()
    splits = read_splits(run.files.splits)
    write_splits(run.files.splits, replace(splits, train=splits.test, test=splits.train))
    with pytest.raises(InvalidDataError, match="other splits"):
        tried(run, 0.9)
    with pytest.raises(InvalidDataError, match="other splits"):
        calibrated(run, 0.9)
    assert not run.opened, "nothing was looked at"


def test_calls_that_somebody_vouches_for_are_taken_with_the_calibration_that_there_is(make: Make) -> None:
    run = make()
    calibrated(run, 0.9)
    splits = read_splits(run.files.splits)
    write_splits(run.files.splits, replace(splits, seed=splits.seed + 1))
    found = tried(run, 0.9, other_calls=True)
    assert read(found.folder, "manifest.json")["other_calls"] is True
    (run.adapter.parent / "calibration" / "manifest.json").unlink()
    with pytest.raises(ModelLoadError, match="no calibration"):
        tried(run, 0.9, other_calls=True)


def test_baselines_of_other_splits_or_none_are_refused(make: Make, tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = make()
    other = make_run(tmp_path / "other", tiny_checkpoint, count=120)
    folder = teach(open_labelled(other.files, TAXONOMY), tmp_path / "elsewhere", seed=0, report=silent, now=now).folder
    with pytest.raises(InvalidDataError, match="baselines were trained under other splits"):
        tried(run, 0.9, baseline=folder)
    with pytest.raises(ModelLoadError, match="no baselines"):
        tried(run, 0.9, baseline=tmp_path)


def test_another_adapter_is_calibrated_anew_for_the_precision_that_was_chosen(make: Make) -> None:
    run = make()
    calibrated(run, 0.95, target_precision=0.7)
    tried(run, 0.95)
    rehash(run.adapter, seed=1)
    assert verdict_beside(run.adapter) is None, "the trial was another one's"
    tried(run, 0.95)
    kept = read_meaning(run.adapter.parent / "calibration")
    assert kept is not None
    assert kept.meaning.thresholds.target_precision == 0.7
    assert verdict_beside(run.adapter) is not None


def test_prompts_of_another_form_are_refused(make: Make) -> None:
    run = make()
    prompt = read(run.adapter, "manifest.json")["prompt"]
    rehash(run.adapter, prompt={**prompt, "fingerprint": "0" * 64})
    with pytest.raises(ModelLoadError, match="another form"):
        tried(run, 0.9)


def test_a_damaged_adapter_is_refused(make: Make) -> None:
    run = make()
    taxonomy = run.adapter / "taxonomy.yaml"
    taxonomy.write_bytes(taxonomy.read_bytes().replace(b"Overcharged", b"Undercharge"))
    with pytest.raises(ModelLoadError, match="not what was written"):
        tried(run, 0.9)


def test_calls_are_divided_by_facts_of_a_file(make: Make, tmp_path: Path) -> None:
    run = make()
    facts = tmp_path / "truth.jsonl"
    rows: list[dict[str, Any]] = [
        {"conversation_id": name, "author": "pine" if number % 2 else "stone", "plan": [1]}
        for number, name in enumerate(run.truth)
    ]
    facts.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    found = tried(run, 0.9, by=("author",), facts=facts)
    assert {each.value for each in found.trial.evaluation.slices if each.name == "author"} == {"pine", "stone"}
    assert read_facts(facts)[rows[0]["conversation_id"]] == {k: v for k, v in rows[0].items() if k != "plan"}
    facts.write_text('{"author": "pine"}\n', encoding="utf-8")
    with pytest.raises(InvalidDataError, match=r"truth\.jsonl:1"):
        tried(run, 0.9, by=("author",), facts=facts)


def test_what_breaks_off_leaves_the_earlier_trial(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    first = tried(run, 0.9)
    before = (first.folder / "metrics.json").read_bytes()

    def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("qwenops.classify.trying._write_answers", broken)
    with pytest.raises(RuntimeError):
        tried(run, 0.9, seed=5)
    assert (first.folder / "metrics.json").read_bytes() == before
    assert first.trial.baselines.keys() == set(Kind)
