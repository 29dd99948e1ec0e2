"""Tensors into a scratch file, packed and checked piece by piece, and out of it as the constants of a graph.

    Source ──read rows──> compress.pack ──> scratch file ──map──> PackedWeights ──> graph ──> save_model

Nothing is held that is not needed: a tensor is read in pieces, each piece is compared with its source after packing,
and the graph's constants are views of the mapped scratch file.
"""

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from qwenops.errors import ConversionError, QwenOpsError
from qwenops.models.artefact import MODEL_BIN, MODEL_XML
from qwenops.models.compress import (
    Layout,
    Piece,
    TensorError,
    keep_packed,
    pack,
    stored_scales,
    weight_node,
)
from qwenops.models.folders import disk_full
from qwenops.models.spec import TensorSpec
from qwenops.text import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_ELEMENTS = 1 << 20
ALIGNMENT_BYTES = 64
_WAITING = 4
"""Pieces that are packed ahead: enough for every thread, little in memory."""


class Source(Protocol):
    """Where a tensor's numbers come from."""

    def read(self, name: str, rows: slice = slice(None)) -> "NDArray[np.float32]":
        """Return some rows of a tensor as float32, in memory of the caller's own."""
        ...

    def release(self, name: str) -> None:
        """Let go of what was read of a tensor."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One tensor in the scratch file."""

    tensor: TensorSpec
    layout: Layout
    offset: int
    scales: "NDArray[Any] | None"
    error: TensorError

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says about it."""
        return {
            "name": self.tensor.name,
            "shape": list(self.tensor.shape),
            "stored": self.layout.stored,
            "group": self.layout.group,
            "relative_error": self.error.relative,
            "largest_error": self.error.largest_error,
        }


def pack_tensors(
    source: Source, wanted: Iterable[tuple[TensorSpec, Layout]], sink: IO[bytes], pool: ThreadPoolExecutor
) -> Iterator[Packed]:
    """Append tensors to the scratch file `sink`, in order; yield each when it is written.

    Raises:
        ModelLoadError: A tensor holds numbers that are not finite.
        ConversionError: A packed tensor differs from its source by more than its format allows.
    """
    for tensor, layout in wanted:
        yield _pack_tensor(source, tensor, layout, sink, pool)


def _pack_tensor(
    source: Source, tensor: TensorSpec, layout: Layout, sink: IO[bytes], pool: ThreadPoolExecutor
) -> Packed:
    sink.write(bytes(-sink.tell() % ALIGNMENT_BYTES))
    offset = sink.tell()
    error = TensorError()

    def work(rows: slice) -> Piece:
        return pack(tensor.name, source.read(tensor.name, rows), layout)

    def take(future: "Future[Piece]") -> None:
        piece = future.result()
        sink.write(piece.data.data)
        error.add(piece)

    waiting: deque[Future[Piece]] = deque()
    for rows in row_slices(tensor):
        waiting.append(pool.submit(work, rows))
        if len(waiting) > _WAITING:
            take(waiting.popleft())
    while waiting:
        take(waiting.popleft())
    source.release(tensor.name)
    scales = stored_scales(error.scales, layout) if layout.group else None
    return Packed(tensor=tensor, layout=layout, offset=offset, scales=scales, error=error)


def row_slices(tensor: TensorSpec) -> Iterator[slice]:
    """Cut a tensor into pieces of whole rows."""
    rows = tensor.shape[0]
    step = max(1, PIECE_ELEMENTS * rows // tensor.num_elements)
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))


@dataclass(slots=True, kw_only=True)
class PackedWeights:
    """Gives a graph its constants out of the scratch file."""

    packed: Mapping[str, Packed]
    memory: "NDArray[np.uint8]"
    nodes: dict[str, Any] = field(default_factory=dict)

    def matrix(self, name: str) -> Any:
        """Return the float32 node of a tensor; equal names give the same node."""
        if name not in self.nodes:
            each = self.packed[name]
            size = each.layout.num_bytes(each.tensor.num_elements)
            data = self.memory[each.offset : each.offset + size]
            self.nodes[name] = weight_node(name, data, each.scales, each.layout, each.tensor.shape)
        return self.nodes[name]

    vector = matrix


def open_packed(scratch: Path, packed: Iterable[Packed]) -> PackedWeights:
    """Map a scratch file that is written."""
    import numpy as np

    memory = np.memmap(scratch, np.uint8, mode="r")
    return PackedWeights(packed={each.tensor.name: each for each in packed}, memory=memory)


def save_model(model: Any, folder: Path, scratch: Path) -> None:
    """Write a graph over packed tensors into `folder`, as `openvino_model.xml` and `.bin`.

    Raises:
        InsufficientDiskError: The disk ran full.
        ConversionError: OpenVINO could not write it.
    """
    from xml.etree import ElementTree as ET

    import openvino as ov

    try:
        ov.save_model(model, folder / MODEL_XML, compress_to_fp16=False)
    except RuntimeError as error:
        raise _unwritten(folder, scratch.stat().st_size) from error
    try:
        keep_packed(folder / MODEL_XML)
        whole = (folder / MODEL_BIN).stat().st_size >= _weights_end(folder / MODEL_XML)
    except ET.ParseError as error:
        raise _unwritten(folder, scratch.stat().st_size) from error
    if not whole:
        raise _unwritten(folder, scratch.stat().st_size)


def _weights_end(model_xml: Path) -> int:
    """Return where the last constant of a saved graph ends; tensors that are equal bit by bit are stored once."""
    from xml.etree import ElementTree as ET

    constants = ET.parse(model_xml).iterfind("layers/layer[@type='Const']/data")  # noqa: S314 -- a file that we wrote
    return max((int(each.attrib["offset"]) + int(each.attrib["size"]) for each in constants), default=0)


def _unwritten(folder: Path, needed_bytes: int) -> QwenOpsError:
    """Say why OpenVINO, which reports no reason, could not write the model."""
    if shutil.disk_usage(folder).free < needed_bytes:
        return disk_full(folder, needed_bytes)
    return ConversionError(
        say("OpenVINO could not write the model into {folder}.", folder=str(folder)),
        hint=say("Look for quotas and permissions of that folder."),
    )
