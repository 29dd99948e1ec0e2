"""What was packed is what was read, piece by piece."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.errors import ModelLoadError
from qwenops.models.compress import Layout, unpack
from qwenops.models.packing import ALIGNMENT_BYTES, PIECE_ELEMENTS, Packed, open_packed, pack_tensors, row_slices
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
