"""Checkpoints to artefacts: one pass over the weights, each tensor checked, nothing held that is not needed.

A tensor is read in pieces through a memory map, packed, compared with its source and appended to a scratch file. The
graph is then built over that file, and OpenVINO writes model and weights. `convert` works in this process;
`convert_in_child` starts `python -m qwenops.models.convert`, so that the memory is given back and the caller never
loads OpenVINO.
"""

import hashlib
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from qwenops import __version__
from qwenops.errors import ConversionError, DeadlineError, QwenOpsError
from qwenops.models.artefact import (
    FORMAT,
    MODEL_BIN,
    MODEL_XML,
    OPTIONAL_FILES,
    Artefact,
    open_artefact,
    write_manifest,
)
from qwenops.models.checkpoint import Checkpoint, file_sha256, open_checkpoint
from qwenops.models.child import follow, speak
from qwenops.models.compress import (
    Layout,
    Piece,
    TensorError,
    keep_packed,
    layout_of,
    pack,
    stored_scales,
    weight_node,
)
from qwenops.models.folders import disk_full, new_folder
from qwenops.models.graph import build_model
from qwenops.models.spec import ModelSpec, Scheme, TensorSpec
from qwenops.text import Report, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_ELEMENTS = 1 << 20
ALIGNMENT_BYTES = 64
SPARE_BYTES = 1 << 26
"""Room for the graph, the tokenizer and the manifest."""

_PACKED_SHARE = 0.8
"""Of the time; then the files are written and hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """One tensor in the scratch file."""

    tensor: TensorSpec
    layout: Layout
    offset: int
    scales: "NDArray[Any] | None"
    error: TensorError


def convert(source: Path, target: Path, scheme: Scheme, report: Report, *, threads: int = 2) -> Artefact:
    """Convert the checkpoint in `source` into an artefact at `target`, which is replaced if it exists.

    Raises:
        ModelLoadError: The checkpoint is damaged or of another architecture.
        ConversionError: A packed tensor differs from its source by more than its format allows.
        InsufficientDiskError: There is no room for the result.
    """
    checkpoint = open_checkpoint(source)
    # The weights lie in the scratch file and in the result for a moment.
    needed_bytes = 2 * checkpoint.spec.weight_bytes(scheme) + SPARE_BYTES
    with (
        new_folder(target, needed_bytes=needed_bytes) as folder,
        ThreadPoolExecutor(max_workers=threads, thread_name_prefix="convert") as pool,
    ):
        hashes = pool.submit(checkpoint.sha256)
        scratch = folder / "weights.scratch"
        with scratch.open("wb") as sink:
            stored = list(_pack_all(checkpoint, scheme, sink, pool, report))
        report(_PACKED_SHARE, say("Writing the model"))
        _save(checkpoint.spec, stored, scratch, folder)
        scratch.unlink()
        for name in ("config.json", *OPTIONAL_FILES):
            if (source / name).exists():
                shutil.copyfile(source / name, folder / name)
        report(0.95, say("Hashing the files"))
        write_manifest(folder, _manifest(scheme, stored, hashes.result(), folder))
    report(1.0, say("Converted"))
    return open_artefact(target)


def _pack_all(
    checkpoint: Checkpoint, scheme: Scheme, sink: IO[bytes], pool: ThreadPoolExecutor, report: Report
) -> Iterator[_Stored]:
    tensors = list(checkpoint.spec.tensors())
    total = sum(tensor.num_elements for tensor in tensors)
    done = 0
    for tensor in tensors:
        yield _pack_tensor(checkpoint, tensor, layout_of(tensor, scheme), sink, pool)
        done += tensor.num_elements
        report(
            _PACKED_SHARE * done / total,
            say("Packing the weights as {scheme}: {name}", scheme=scheme.value, name=tensor.name),
        )


def _pack_tensor(
    checkpoint: Checkpoint, tensor: TensorSpec, layout: Layout, sink: IO[bytes], pool: ThreadPoolExecutor
) -> _Stored:
    sink.write(bytes(-sink.tell() % ALIGNMENT_BYTES))
    offset = sink.tell()
    error = TensorError()

    def work(rows: slice) -> Piece:
        return pack(tensor.name, checkpoint.read(tensor.name, rows), layout)

    def take(future: "Future[Piece]") -> None:
        piece = future.result()
        sink.write(piece.data.data)
        error.add(piece)

    waiting: deque[Future[Piece]] = deque()
    for rows in _row_slices(tensor):
        waiting.append(pool.submit(work, rows))
        if len(waiting) > 4:  # noqa: PLR2004 -- enough for every thread, little in memory
            take(waiting.popleft())
    while waiting:
        take(waiting.popleft())
    checkpoint.release(tensor.name)
    scales = stored_scales(error.scales, layout) if layout.group else None
    return _Stored(tensor=tensor, layout=layout, offset=offset, scales=scales, error=error)


def _row_slices(tensor: TensorSpec) -> Iterator[slice]:
    rows = tensor.shape[0]
    step = max(1, PIECE_ELEMENTS * rows // tensor.num_elements)
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class _ScratchWeights:
    """Gives the graph its constants out of the scratch file."""

    stored: dict[str, _Stored]
    memory: "NDArray[np.uint8]"
    nodes: dict[str, Any]

    def matrix(self, name: str) -> Any:
        if name not in self.nodes:
            each = self.stored[name]
            size = each.layout.num_bytes(each.tensor.num_elements)
            data = self.memory[each.offset : each.offset + size]
            self.nodes[name] = weight_node(name, data, each.scales, each.layout, each.tensor.shape)
        return self.nodes[name]

    vector = matrix


def _save(spec: ModelSpec, stored: list[_Stored], scratch: Path, folder: Path) -> None:
    import numpy as np
    import openvino as ov

    memory = np.memmap(scratch, np.uint8, mode="r")
    weights = _ScratchWeights(stored={each.tensor.name: each for each in stored}, memory=memory, nodes={})
    model = build_model(spec, weights)
    try:
        ov.save_model(model, folder / MODEL_XML, compress_to_fp16=False)
    except RuntimeError as error:
        raise _unwritten(folder, scratch.stat().st_size) from error
    keep_packed(folder / MODEL_XML)
    if (folder / MODEL_BIN).stat().st_size < sum(
        each.layout.num_bytes(each.tensor.num_elements) for each in stored if len(each.tensor.shape) > 1
    ):
        raise _unwritten(folder, scratch.stat().st_size)


def _unwritten(folder: Path, needed_bytes: int) -> QwenOpsError:
    """Say why OpenVINO, which reports no reason, could not write the model."""
    if shutil.disk_usage(folder).free < needed_bytes:
        return disk_full(folder, needed_bytes)
    return ConversionError(
        say("OpenVINO could not write the model into {folder}.", folder=str(folder)),
        hint=say("Look for quotas and permissions of that folder."),
    )


def _manifest(scheme: Scheme, stored: list[_Stored], source: dict[str, str], folder: Path) -> dict[str, Any]:
    import openvino as ov

    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    tensors = [
        {
            "name": each.tensor.name,
            "shape": list(each.tensor.shape),
            "stored": each.layout.stored,
            "group": each.layout.group,
            "relative_error": each.error.relative,
            "largest_error": each.error.largest_error,
        }
        for each in stored
    ]
    return {
        "format": FORMAT,
        "scheme": scheme.value,
        "made_with": {"qwenops": __version__, "openvino": ov.get_version()},
        "source": {"sha256": source_sha256(source), "files": source},
        "worst_relative_error": max(each.error.relative for each in stored),
        "files": files,
        "tensors": tensors,
    }


def source_sha256(files: dict[str, str]) -> str:
    """Return the hash that names a checkpoint: its weight file's own, or one over those of all shards."""
    weights = {name: digest for name, digest in sorted(files.items()) if name.endswith(".safetensors")}
    if len(weights) == 1:
        return next(iter(weights.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in weights.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def convert_in_child(source: Path, target: Path, scheme: Scheme, report: Report, timeout_s: float = 1800.0) -> Artefact:
    """Convert in a process of its own; it is killed after `timeout_s`, and dies with this process.

    Raises:
        DeadlineError: It took longer than `timeout_s`.
        ConversionError: The process died, for example because memory ran out.
        QwenOpsError: What `convert` raises.
    """
    follow(
        "qwenops.models.convert",
        [str(source), str(target), scheme.value],
        report,
        timeout_s=timeout_s,
        late=_late,
        died=_died,
    )
    return open_artefact(target)


def _late(timeout_s: float) -> DeadlineError:
    return DeadlineError(
        say("Converting took longer than {seconds:g} s and was ended.", seconds=timeout_s),
        hint=say("Give it more time, or look whether the disk is slow."),
    )


def _died(status: int, words: str) -> ConversionError:
    return ConversionError(
        say("The converting process died with status {status}: {words}", status=status, words=words),
        hint=say("A killed process (-9) usually means that memory ran out; 3 GiB are enough for 0.6B."),
    )


def _main(argv: list[str]) -> int:
    source, target, scheme = argv
    return speak(lambda report: convert(Path(source), Path(target), Scheme(scheme), report))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
