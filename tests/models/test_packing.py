"""What was packed is what was read, piece by piece."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.errors import ConversionError, InsufficientDiskError, ModelLoadError
from qwenops.models.artefact import MODEL_BIN, MODEL_XML
from qwenops.models.compress import Layout, unpack
from qwenops.models.packing import (
    ALIGNMENT_BYTES,
    PIECE_ELEMENTS,
    Packed,
    PackedWeights,
    open_packed,
    pack_tensors,
    row_slices,
    save_model,
)
from qwenops.models.spec import TensorKind, TensorSpec

MATRIX = TensorSpec(name="matrix", shape=(70, 64), kind=TensorKind.LINEAR)
VECTOR = TensorSpec(name="vector", shape=(64,), kind=TensorKind.NORM)


@dataclass(slots=True)
class Numbers:
    """A source that remembers what was released."""

    tensors: dict[str, NDArray[np.float32]]
    released: list[str] = field(default_factory=list)

    def read(self, name: str, rows: slice = slice(None)) -> NDArray[np.float32]:
        return self.tensors[name][rows].copy()

    def release(self, name: str) -> None:
        self.released.append(name)


def numbers() -> Numbers:
    draw = np.random.default_rng(3)
    return Numbers({each.name: draw.standard_normal(each.shape, np.float32) for each in (VECTOR, MATRIX)})


def packed(source: Numbers, scratch: Path, stored: str) -> list[Packed]:
    layouts = [
        (VECTOR, Layout(stored="f32")),
        (MATRIX, Layout(stored="i8", group=64) if stored == "i8" else Layout(stored="bf16")),
    ]
    with scratch.open("wb") as sink, ThreadPoolExecutor(max_workers=2) as pool:
        return list(pack_tensors(source, layouts, sink, pool))


@pytest.mark.parametrize("stored", ["i8", "bf16"])
def test_the_scratch_file_holds_what_was_read_at_aligned_places(
    tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwenops.models.packing.PIECE_ELEMENTS", 640)  # seven pieces of ten rows
    source, scratch = numbers(), tmp_path / "scratch"
    found = packed(source, scratch, stored)
    assert source.released == ["vector", "matrix"]
    assert [each.offset % ALIGNMENT_BYTES for each in found] == [0, 0]
    weights = open_packed(scratch, found)
    np.testing.assert_array_equal(weights.memory[: 4 * 64].view(np.float32), source.tensors["vector"])
    matrix = found[1]
    size = matrix.layout.num_bytes(MATRIX.num_elements)
    data = np.array(weights.memory[matrix.offset : matrix.offset + size])
    kind = np.int8 if stored == "i8" else np.uint16
    back = unpack(data.view(kind).reshape(MATRIX.shape), matrix.scales, matrix.layout, MATRIX.shape)
    error = np.linalg.norm(back - source.tensors["matrix"]) / np.linalg.norm(source.tensors["matrix"])
    assert error == pytest.approx(matrix.facts["relative_error"], rel=1e-3)
    assert 0 < error < 0.01


def test_a_node_is_made_once(tmp_path: Path) -> None:
    weights = open_packed(tmp_path / "scratch", packed(numbers(), tmp_path / "scratch", "i8"))
    assert weights.matrix("matrix") is weights.matrix("matrix")
    assert weights.vector("vector") is not weights.matrix("matrix")


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    source = numbers()
    source.tensors["matrix"][69, 63] = np.nan
    with pytest.raises(ModelLoadError, match="matrix"):
        packed(source, tmp_path / "scratch", "i8")


def test_pieces_are_whole_rows_and_cover_the_tensor() -> None:
    wide = TensorSpec(name="wide", shape=(5, PIECE_ELEMENTS), kind=TensorKind.LINEAR)
    assert [(each.start, each.stop) for each in row_slices(wide)] == [(row, row + 1) for row in range(5)]
    assert [(each.start, each.stop) for each in row_slices(MATRIX)] == [(0, 70)]


# -- the model that is saved over it -----------------------------------------------------------------------------------


def twins(scratch: Path) -> tuple[Any, PackedWeights]:
    """Return a graph of two matrices that are equal bit by bit, and the memory that it shares."""
    import openvino as ov
    from openvino import opset13 as ops

    matrix = np.random.default_rng(4).standard_normal(MATRIX.shape, np.float32)
    names = [TensorSpec(name=name, shape=MATRIX.shape, kind=TensorKind.LINEAR) for name in ("left", "right")]
    layouts = [(each, Layout(stored="i8", group=64)) for each in names]
    with scratch.open("wb") as sink, ThreadPoolExecutor(max_workers=2) as pool:
        made = list(pack_tensors(Numbers({each.name: matrix for each in names}), layouts, sink, pool))
    weights = open_packed(scratch, made)
    hidden = ops.parameter([1, 64], np.float32)
    sides = [ops.matmul(hidden, weights.matrix(each.name), transpose_a=False, transpose_b=True) for each in names]
    return ov.Model([ops.add(*sides)], [hidden], "twins"), weights


def test_equal_matrices_may_share_their_place_in_the_file(tmp_path: Path) -> None:
    """OpenVINO stores them once; the file is whole nevertheless."""
    import openvino as ov

    scratch = tmp_path / "scratch"
    model, _shared = twins(scratch)
    save_model(model, tmp_path, scratch)
    assert (tmp_path / MODEL_BIN).stat().st_size < 2 * MATRIX.num_elements
    hidden = np.random.default_rng(5).standard_normal((1, 64), np.float32)
    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    found = ov.Core().compile_model(str(tmp_path / MODEL_XML), "CPU", properties)(hidden)[0]
    matrix = np.random.default_rng(4).standard_normal(MATRIX.shape, np.float32)
    np.testing.assert_allclose(found, 2 * hidden @ matrix.T, atol=0.5)


@pytest.mark.parametrize("name", [MODEL_XML, MODEL_BIN])
@pytest.mark.parametrize(("free_bytes", "error"), [(0, InsufficientDiskError), (2**40, ConversionError)])
def test_a_file_that_was_cut_off_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, free_bytes: int, error: type[Exception]
) -> None:
    """OpenVINO says nothing when a disk runs full while it writes."""
    import openvino as ov

    save = ov.save_model

    def cut_off(model: Any, path: Path, **more: Any) -> None:
        save(model, path, **more)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-1] if name == MODEL_BIN else whole[: len(whole) // 2])

    monkeypatch.setattr(ov, "save_model", cut_off)
    usage = shutil.disk_usage(tmp_path)._replace(free=free_bytes)
    monkeypatch.setattr("qwenops.models.packing.shutil.disk_usage", lambda _path: usage)
    scratch = tmp_path / "scratch"
    model, _shared = twins(scratch)
    with pytest.raises(error):
        save_model(model, tmp_path, scratch)
