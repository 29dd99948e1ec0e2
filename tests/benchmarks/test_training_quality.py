"""What the cached form costs: the calls, the arithmetic, and all of it once with next to nothing."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs the train extra")
pytest.importorskip("peft", reason="training needs the train extra")

from benchmarks import recording, training_quality
from qwenops.calls.taxonomy import load

pytestmark = [pytest.mark.reference, pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_classes_are_others_than_those_that_the_model_learnt() -> None:
    taxonomy = load("telecom-cn")
    before, after = (training_quality.made(16, taxonomy, 1, rotated) for rotated in (0, 3))
    assert [call for call, _ in before] == [call for call, _ in after]
    assert all(one.primary != other.primary for (_, one), (_, other) in zip(before, after, strict=True))
    assert {label.primary for _, label in before} == {label.primary for _, label in after}


def test_what_is_lost_is_taken_seed_by_seed() -> None:
    scores = {"taught": {"all layers": [0.9, 0.8, 0.7], "top 2": [0.8, 0.75, 0.7]}}
    found = training_quality.told(scores, {"taught": {"all layers": [9.0] * 3, "top 2": [3.0] * 3}})
    lost = found["taught"]["top 2"]["lost"]
    assert (lost["min"], lost["median"], lost["max"]) == (0.0, 0.05, 0.1)
    assert "| taught | top 2 | **0.750** (0.700 to 0.800) | 5.0 (0.0 to 10.0) | 3.0 |" in training_quality.table(found)


def test_both_forms_of_both_models_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    monkeypatch.setattr(training_quality, "LAYERS", 3)
    assert training_quality.main(["--calls", "16", "--seeds", "1", "--epochs", "1"]) == 0
    found = json.loads((tmp_path / "training-quality.json").read_text())["results"]
    assert {(base, form) for base, forms in found.items() for form in forms} == {
        (base, form) for base in training_quality.BASES for form in training_quality.FORMS
    }
    assert all(0 <= row["macro_f1"]["median"] <= 1 for forms in found.values() for row in forms.values())
