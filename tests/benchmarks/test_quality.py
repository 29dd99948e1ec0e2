"""The quality figures come about by running the script, and stay with the model."""

import json
from pathlib import Path

import pytest

from benchmarks import quality, recording
from qwenops.engines.openvino.paged import QUANTIZATION_GROUP
from qwenops.engines.parity import Parity
from qwenops.models.artefact import open_artefact
from qwenops.models.spec import Scheme

pytestmark = pytest.mark.slow


def test_every_setting_of_the_engine_is_judged_and_the_figures_stay_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWENOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    quality.main(["--models", "random:tiny", "--texts", "8"])
    written = json.loads((tmp_path / "quality.json").read_text())
    assert written["options"]["quantization_group"] == QUANTIZATION_GROUP
    found = written["results"]["random:tiny"]
    assert len(found) == 2 * len(list(quality.settings(Scheme.INT8)))
    for setting in quality.settings(Scheme.INT8):
        added = Parity(**found[f"int8 weights, {setting}; against its own weights in float32"])
        whole = Parity(**found[f"int8 weights, {setting}; against the checkpoint in float32"])
        assert 0 < added.relative_error < whole.relative_error < 0.1
        assert added.num_positions == whole.num_positions == 2 * quality.LENGTH
    kept = open_artefact(recording.converted("random:tiny", "int8").resolve()).manifest["parity"]
    assert kept == found


def test_activations_as_they_are_cost_less_than_quantised_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the setting that is judged, not always the same one."""
    monkeypatch.setenv("QWENOPS_HOME", str(tmp_path / "home"))
    artefact = open_artefact(recording.converted("random:tiny", "int8"))
    found = quality.judge(artefact, artefact, [list(range(100, 132))])
    errors = {
        each.dynamic: found[f"int8 weights, {each}; against its own weights in float32"].relative_error
        for each in quality.settings(Scheme.INT8)
        if each.arithmetic == "f32"
    }
    assert errors[False] < errors[True]
