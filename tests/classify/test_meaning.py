import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwenops.calls.split import Part, Splits
from qwenops.classify.answers import Answers
from qwenops.classify.calibrate import Temperature
from qwenops.classify.hierarchy import Hierarchy
from qwenops.classify.meaning import chosen_precision, meaning_of, part_of, read_meaning, write_meaning
from qwenops.classify.score import CALIBRATION, CONFORMAL, THRESHOLDS
from qwenops.errors import ConfigError, ModelLoadError
from tests.classify.simulated import calibrated

HIERARCHY = Hierarchy(leaves=("a", "b", "c", "d"))


def answers(seed: int = 0, *, power: float = 1.0) -> Answers:
    """Answers that are calibrated when `power` is 1, and too sure above."""
    found = calibrated(np.random.default_rng(seed), 1500)
    powers = np.maximum(found.probabilities, 1e-9) ** power
    return replace(found, probabilities=powers / powers.sum(axis=1, keepdims=True))


def test_what_was_fitted_reads_back(tmp_path: Path) -> None:
    made = meaning_of(answers(), HIERARCHY, target_precision=0.9)
    write_meaning(tmp_path / "calibration", made, {"adapter_sha256": "a" * 64, "splits_sha256": "b" * 64})
    assert {path.name for path in (tmp_path / "calibration").iterdir()} == {
        CALIBRATION,
        THRESHOLDS,
        CONFORMAL,
        "manifest.json",
    }
    kept = read_meaning(tmp_path / "calibration")
    assert kept is not None
    assert kept.meaning == made
    assert kept.belongs("a" * 64, "b" * 64)
    assert kept.belongs("a" * 64, None)
    assert not kept.belongs("a" * 64, "c" * 64)
    assert not kept.belongs("c" * 64, "b" * 64)
    assert read_meaning(tmp_path / "nowhere") is None


def test_too_sure_a_model_is_put_right() -> None:
    made = meaning_of(answers(power=2.0), HIERARCHY)
    assert isinstance(made.calibration.scaling, Temperature)
    assert made.calibration.scaling.value == pytest.approx(2.0, rel=0.1)
    assert made.calibration.after is not None
    assert made.calibration.after.ece < made.calibration.before.ece / 2


@pytest.mark.parametrize("part", [Part.TEST, Part.TRAIN])
def test_nothing_is_fitted_to_test_or_training_calls(part: Part) -> None:
    with pytest.raises(ConfigError, match="Nothing is calibrated on"):
        meaning_of(answers(), HIERARCHY, part=part)


def test_a_part_that_is_for_nothing_else_is_taken_first() -> None:
    assert part_of(Splits(train=("a",), val=("b",), test=("c",))) is Part.VAL
    assert part_of(Splits(train=("a",), val=("b",), test=("c",), calibration=("d",))) is Part.CALIBRATION


def test_the_precision_that_was_chosen_is_found_beside_the_adapter(tmp_path: Path) -> None:
    assert chosen_precision(tmp_path / "adapter") == 0.95
    write_meaning(tmp_path / "calibration", meaning_of(answers(), HIERARCHY, target_precision=0.9), {})
    assert chosen_precision(tmp_path / "adapter") == 0.9


@pytest.mark.parametrize("name", [CALIBRATION, THRESHOLDS, CONFORMAL, "manifest.json"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "calibration"
    write_meaning(folder, meaning_of(answers(), HIERARCHY), {})
    told = json.loads((folder / name).read_text())
    told.pop("schema" if name == "manifest.json" else next(iter(told)))
    (folder / name).write_text(json.dumps(told))
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_meaning(folder)
