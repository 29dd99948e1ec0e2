import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qwenops.errors import ModelLoadError
from qwenops.models.artefact import (
    Artefact,
    dequantised,
    open_artefact,
    verify_artefact,
    write_manifest,
)
from qwenops.models.checkpoint import SINGLE, file_sha256, open_checkpoint
from qwenops.models.spec import TINY, Scheme

ARTEFACT = Callable[[Scheme], Artefact]


@pytest.fixture
def copied(tiny_artefact: ARTEFACT, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(tiny_artefact(Scheme.INT4).folder, folder)
    return folder


def _refused(folder: Path, said: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        open_artefact(folder)
    assert said in caught.value.message
    assert caught.value.hint


def test_the_manifest_tells_where_it_came_from_and_what_each_tensor_lost(
    tiny_checkpoint: Path, tiny_artefact: ARTEFACT
) -> None:
    artefact = tiny_artefact(Scheme.INT8)
    assert (artefact.spec, artefact.scheme) == (TINY, Scheme.INT8)
    assert artefact.sha256 == file_sha256(tiny_checkpoint / SINGLE)
    assert set(artefact.relative_errors) == {tensor.name for tensor in TINY.tensors()}
    assert 0.003 < artefact.relative_errors["model.embed_tokens.weight"] < 0.01
    assert artefact.relative_errors["model.norm.weight"] == 0
    assert artefact.manifest["worst_relative_error"] == max(artefact.relative_errors.values())
    verify_artefact(artefact)


def test_the_folder_holds_what_serving_needs(tiny_artefact: ARTEFACT) -> None:
    artefact = tiny_artefact(Scheme.INT8)
    assert {path.name for path in artefact.folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "openvino_model.bin",
        "openvino_model.xml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert artefact.num_bytes == sum(
        path.stat().st_size for path in artefact.folder.iterdir() if path.name != "manifest.json"
    )


@pytest.mark.parametrize("scheme", list(Scheme))
def test_the_weights_take_the_bytes_that_the_spec_says(tiny_artefact: ARTEFACT, scheme: Scheme) -> None:
    size = (tiny_artefact(scheme).folder / "openvino_model.bin").stat().st_size
    assert TINY.weight_bytes(scheme) <= size <= TINY.weight_bytes(scheme) + 20_000


@pytest.mark.parametrize(("scheme", "largest"), [("f32", 0.0), ("bf16", 0.0), ("int8", 0.01), ("int4", 0.12)])
def test_dequantised_tensors_differ_from_the_source_by_what_the_manifest_says(
    tiny_checkpoint: Path, tiny_artefact: ARTEFACT, scheme: str, largest: float
) -> None:
    checkpoint, artefact = open_checkpoint(tiny_checkpoint), tiny_artefact(Scheme(scheme))
    names = []
    for name, values in dequantised(artefact):
        source = checkpoint.read(name)
        names.append(name)
        assert values.dtype == np.float32
        assert values.shape == source.shape
        relative = float(np.linalg.norm(values - source) / np.linalg.norm(source))
        assert relative == pytest.approx(artefact.relative_errors[name], rel=1e-3, abs=1e-9)
        assert relative <= largest
    assert names == [tensor.name for tensor in TINY.tensors()]


def test_a_truncated_file_is_refused_with_its_name(copied: Path) -> None:
    with (copied / "openvino_model.bin").open("r+b") as file:
        file.truncate(1000)
    _refused(copied, "openvino_model.bin has 1000 of")


def test_a_missing_file_is_refused_with_its_name(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    _refused(copied, "tokenizer.json has 0 of")


def test_a_folder_without_a_manifest_is_no_artefact(tiny_checkpoint: Path) -> None:
    _refused(tiny_checkpoint, "is no converted model")


@pytest.mark.parametrize("text", ["{", "[]", "", "\x00\x01"])
def test_a_damaged_manifest_is_refused(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    _refused(copied, "manifest.json is damaged")


@pytest.mark.parametrize("missing", ["scheme", "source", "files"])
def test_an_incomplete_manifest_is_refused(copied: Path, missing: str) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest[missing]
    write_manifest(copied, manifest)
    _refused(copied, "its manifest is incomplete")


def test_a_manifest_of_another_format_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    write_manifest(copied, manifest | {"format": 99})
    _refused(copied, "has the format 99")


def test_a_flipped_bit_is_found_when_it_is_looked_for(copied: Path) -> None:
    path = copied / "openvino_model.bin"
    data = bytearray(path.read_bytes())
    data[1234] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"openvino_model\.bin is not what was written"):
        verify_artefact(open_artefact(copied))
