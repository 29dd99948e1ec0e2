"""Checkpoints with random weights of a true shape, for demonstrations, benchmarks and tests. Their text is meaningless.

Matrices keep the size of what passes through them, so every layer has its say in the next token; gains of norms are
spread around 1, so that a graph that leaves one out gives other logits. Equal seeds give equal files.
"""

import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, assert_never

from qwenops.errors import DeadlineError, ModelLoadError
from qwenops.models.checkpoint import Dtype, NewTensor, write_shards
from qwenops.models.child import follow, speak
from qwenops.models.compress import to_bf16
from qwenops.models.folders import new_folder
from qwenops.models.qwen_vocabulary import write_tokenizer
from qwenops.models.spec import QWEN3_0_6B, QWEN3_1_7B, TINY, ModelSpec, TensorKind, TensorSpec
from qwenops.text import Report, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPECS: dict[str, ModelSpec] = {"0.6b": QWEN3_0_6B, "1.7b": QWEN3_1_7B, "tiny": TINY}
"""What stands behind the names `random:0.6b`, `random:1.7b` and `random:tiny`."""

TABLE_DEVIATION = 0.02
NORM_DEVIATION = 0.1
CHUNK_ELEMENTS = 1 << 21
SHARD_BYTES = 4_000_000_000
LEVELS = 1 << 16

_FORMATS: dict[str, tuple[Dtype, str]] = {
    "bf16": ("BF16", "bfloat16"),
    "f16": ("F16", "float16"),
    "f32": ("F32", "float32"),
}


def write_random_checkpoint(
    folder: Path,
    spec: ModelSpec,
    *,
    seed: int = 0,
    dtype: Literal["bf16", "f16", "f32"] = "bf16",
    tokenizer: bool = True,
    shard_bytes: int = SHARD_BYTES,
    report: Report = lambda _fraction, _doing: None,
) -> None:
    """Write config, weights and, unless `tokenizer` is false, the true Qwen tokenizer into a new `folder`.

    `report` is told the fraction that is written.

    Raises:
        InsufficientDiskError: The disk has no room for it.
        MissingPartError: The package that carries the tokenizer's vocabulary is not installed.
    """
    stored, config_name = _FORMATS[dtype]
    with new_folder(folder, needed_bytes=spec.num_parameters * 4 + (1 << 25)) as new:
        _write_json(new / "config.json", spec.to_config(dtype=config_name))
        generation = {
            "bos_token_id": 151643,
            "do_sample": True,
            "eos_token_id": list(spec.eos_token_ids),
            "pad_token_id": 151643,
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
        }
        _write_json(new / "generation_config.json", generation)
        heard = _Heard(total=spec.num_parameters, report=report)
        tensors = [
            NewTensor(
                name=each.name, dtype=stored, shape=each.shape, chunks=partial(_chunks, each, stored, seed, heard)
            )
            for each in spec.tensors()
        ]
        write_shards(new, tensors, shard_bytes=shard_bytes)
        if tokenizer:
            write_tokenizer(new)


def write_in_child(folder: Path, shape: str, report: Report, timeout_s: float = 1800.0) -> None:
    """Write the checkpoint that `SPECS` has under `shape` in a process of its own, which dies with this one.

    Raises:
        DeadlineError: It took longer than `timeout_s`.
        ModelLoadError: The process died.
        QwenOpsError: What `write_random_checkpoint` raises.
    """
    follow("qwenops.models.random", [str(folder), shape], report, timeout_s=timeout_s, late=_late, died=_died)


def _late(timeout_s: float) -> DeadlineError:
    return DeadlineError(
        say("Making random weights took longer than {seconds:g} s and was ended.", seconds=timeout_s),
        hint=say("Give it more time, or look whether the disk is slow."),
    )


def _died(status: int, words: str) -> ModelLoadError:
    return ModelLoadError(
        say("The process that makes random weights died with status {status}: {words}", status=status, words=words),
        hint=say("A killed process (-9) usually means that memory ran out."),
    )


@dataclass(slots=True, kw_only=True)
class _Heard:
    """Counts what is written and tells it."""

    total: int
    report: Report
    done: int = 0

    def count(self, elements: int) -> None:
        self.done += elements
        self.report(self.done / self.total, say("Making random weights"))


def _chunks(tensor: TensorSpec, dtype: Dtype, seed: int, heard: _Heard) -> Iterator[memoryview]:
    """Yield the bytes of one tensor: random 16-bit numbers, each looked up in a table of normal quantiles."""
    import numpy as np

    random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    table = _quantiles(tensor, dtype)
    for begin in range(0, tensor.num_elements, CHUNK_ELEMENTS):
        count = min(CHUNK_ELEMENTS, tensor.num_elements - begin)
        levels = np.frombuffer(random.bytes(2 * count), np.uint16)
        yield np.take(table, levels).data.cast("B")
        heard.count(count)


def _quantiles(tensor: TensorSpec, dtype: Dtype) -> "NDArray[Any]":
    import numpy as np

    match tensor.kind:
        case TensorKind.NORM:
            values = 1 + NORM_DEVIATION * _normal_quantiles()
        case TensorKind.EMBEDDING | TensorKind.HEAD:
            values = TABLE_DEVIATION * _normal_quantiles()
        case TensorKind.LINEAR:
            values = tensor.shape[1] ** -0.5 * _normal_quantiles()
        case _:
            assert_never(tensor.kind)
    wide: NDArray[np.float32] = values.astype(np.float32)
    match dtype:
        case "BF16":
            return to_bf16(wide)
        case "F16":
            return wide.astype(np.float16)
        case "F32":
            return wide


@cache
def _normal_quantiles() -> "NDArray[np.float64]":
    import numpy as np

    normal = NormalDist()
    half = [normal.inv_cdf((level + 0.5) / LEVELS) for level in range(LEVELS // 2, LEVELS)]
    return np.array([-value for value in reversed(half)] + half)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _main(argv: list[str]) -> int:
    folder, shape = argv
    return speak(lambda report: write_random_checkpoint(Path(folder), SPECS[shape], report=report))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
