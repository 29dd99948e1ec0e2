"""LoRA adapters as PEFT writes them, and a checkpoint seen as if one had been merged into it.

    adapter_config.json            rank, alpha, what kind of adapter it is
    adapter_model.safetensors      base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight  [rank, in]
                                   ...lora_B.weight                                               [out, rank]

A merged matrix is W + alpha / rank * B A, in float32, computed for the rows that somebody asks for: the merged model
never exists as a whole unless it is written. What the arithmetic here does not cover (DoRA, trained biases, other
modules that were saved) is refused, because leaving it out would give another model.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.errors import ModelLoadError, UnsupportedModelError
from qwenops.models.artefact import OPTIONAL_FILES
from qwenops.models.checkpoint import (
    Checkpoint,
    NewTensor,
    Tensors,
    open_checkpoint,
    open_tensors,
    read_json,
    write_shards,
)
from qwenops.models.compress import to_bf16
from qwenops.models.convert import copy_files
from qwenops.models.folders import new_folder
from qwenops.models.packing import row_slices
from qwenops.models.spec import EMBEDDING, HEAD, ModelSpec, TensorSpec
from qwenops.text import Report, Text, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SHARD_BYTES = 4_000_000_000

_PREFIX = "base_model.model."
_PLAIN: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "alpha_pattern": (None, {}),
    "rank_pattern": (None, {}),
    "lora_bias": (False, None),
    "alora_invocation_tokens": (None,),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
    "loftq_config": (None, {}),
    "target_parameters": (None, []),
    "init_lora_weights": (True, False, None, "gaussian"),  # the others change the base model, too
}
"""What an adapter may say of itself for W + alpha / rank * B A to be all of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What an adapter adds to one matrix: `scale * up @ down`."""

    down: "NDArray[np.float32]"
    """A: `[rank, in]`."""
    up: "NDArray[np.float32]"
    """B: `[out, rank]`."""
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapter:
    """An opened adapter: by the checkpoint's tensor names, what it adds."""

    folder: Path
    changes: Mapping[str, Change]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Merged:
    """A checkpoint with an adapter in it, or without one; read like a checkpoint."""

    base: Checkpoint
    adapter: Adapter | None = None
    head_rows: "Mapping[int, NDArray[np.float32]]" = field(default_factory=dict)
    """Rows of the head that take the place of the model's own, by token: a head that was trained on labels."""

    @property
    def spec(self) -> ModelSpec:
        """The shape, which an adapter does not change; a trained head is no longer the embedding's table."""
        return replace(self.base.spec, tie_word_embeddings=False) if self.head_rows else self.base.spec

    def read(self, name: str, rows: slice = slice(None)) -> "NDArray[np.float32]":
        """Return some rows of a tensor as float32, in memory of the caller's own."""
        source = EMBEDDING if name == HEAD and self.base.spec.tie_word_embeddings else name
        found = self.base.read(source, rows)
        change = self.adapter.changes.get(source) if self.adapter else None
        if change is not None:
            found += change.scale * (change.up[rows] @ change.down)
        if name == HEAD and self.head_rows:
            first, stop, _ = rows.indices(self.base.spec.vocab_size)
            for token, row in self.head_rows.items():
                if first <= token < stop:
                    found[token - first] = row
        return found

    def release(self, name: str) -> None:
        """Let go of what was read of a tensor."""
        if name != HEAD or not self.base.spec.tie_word_embeddings:
            self.base.release(name)


def open_merged(
    base: Path, adapter: Path | None = None, *, head_rows: "Mapping[int, NDArray[np.float32]] | None" = None
) -> Merged:
    """Open a checkpoint, and an adapter that belongs to it.

    Args:
        base: Folder of the checkpoint.
        adapter: Folder of the adapter, if there is one.
        head_rows: Rows of a trained head, by token.

    Raises:
        ModelLoadError: Files are missing or damaged, or do not belong together.
        UnsupportedModelError: The adapter is of a kind that cannot be merged exactly.
    """
    checkpoint = open_checkpoint(base)
    opened = open_adapter(adapter, checkpoint.spec) if adapter else None
    return Merged(base=checkpoint, adapter=opened, head_rows=head_rows or {})


def open_adapter(folder: Path, spec: ModelSpec) -> Adapter:
    """Open an adapter and check that it fits a model of this shape.

    Raises:
        ModelLoadError: A file is missing or damaged, or a tensor does not fit the model.
        UnsupportedModelError: It is of a kind that cannot be merged exactly.
    """
    config = read_json(folder / CONFIG)
    _refuse_other_kinds(config)
    if not (folder / WEIGHTS).is_file():
        raise ModelLoadError(
            say("{folder} has no {name}, so it is no adapter's folder.", folder=str(folder), name=WEIGHTS),
            hint=say("Give the folder that training has written."),
        )
    tensors = open_tensors(folder / WEIGHTS)
    scale = _scale(config)
    pairs = _pairs(tensors, {tensor.name: tensor.shape for tensor in spec.tensors()})
    return Adapter(
        folder=folder,
        changes={
            name: Change(down=tensors.read(down), up=tensors.read(up), scale=scale)
            for name, (down, up) in pairs.items()
        },
    )


def write_merged(merged: Merged, target: Path, report: Report, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a merged checkpoint as the hubs publish them: bf16 safetensors, config, tokenizer.

    Raises:
        InsufficientDiskError: There is no room for it.
    """
    spec = merged.spec
    total = sum(tensor.num_elements for tensor in spec.tensors())
    written = _Written(total=total, report=report)
    with new_folder(target, needed_bytes=2 * total + (1 << 26)) as folder:
        tensors = [
            NewTensor(name=each.name, dtype="BF16", shape=each.shape, chunks=partial(_chunks, merged, each, written))
            for each in spec.tensors()
        ]
        write_shards(folder, tensors, shard_bytes=shard_bytes)
        config = {**merged.base.config, "torch_dtype": "bfloat16", "tie_word_embeddings": spec.tie_word_embeddings}
        if "dtype" in config:
            config["dtype"] = "bfloat16"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        copy_files(merged.base.folder, folder, OPTIONAL_FILES)


@dataclass(slots=True, kw_only=True)
class _Written:
    """Counts what is written and tells it."""

    total: int
    report: Report
    done: int = 0

    def count(self, elements: int) -> None:
        self.done += elements
        self.report(self.done / self.total, say("Writing the merged weights"))


def _chunks(merged: Merged, tensor: TensorSpec, written: _Written) -> Iterator[memoryview]:
    for rows in row_slices(tensor):
        values = merged.read(tensor.name, rows)
        yield to_bf16(values).data.cast("B")
        written.count(values.size)
    merged.release(tensor.name)


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    for key, known in _PLAIN.items():
        if config.get(key) not in known:
            raise UnsupportedModelError(
                say("The adapter has {key} = {value!r}, which cannot be merged.", key=key, value=config.get(key)),
                hint=say("Train a plain LoRA adapter, as `qwenops finetune train` does."),
            )


def _scale(config: Mapping[str, Any]) -> float:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise _unfit(say("its configuration has r = {rank!r} and lora_alpha = {alpha!r}", rank=rank, alpha=alpha))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pairs(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, str]]:
    """Return, by the checkpoint's name, the names of both factors; each must be there and fit."""
    found: dict[str, dict[str, str]] = {}
    for name in tensors.entries:
        matrix, _, factor = name.removesuffix(".weight").rpartition(".lora_")
        target = _target(matrix)
        if factor not in {"A", "B"} or len(shapes.get(target, ())) != 2:  # noqa: PLR2004 -- a matrix
            raise _unfit(say("it has a tensor {name}, which changes no matrix of the model", name=name))
        found.setdefault(target, {})[factor] = name
    if not found:
        raise _unfit(say("it changes nothing"))
    for target, factors in found.items():
        if len(factors) < 2:  # noqa: PLR2004 -- both
            raise _unfit(say("it has one of the two factors for {name} only", name=target))
        down, up = (tensors.entries[factors[each]].shape for each in "AB")
        if len(down) != 2 or len(up) != 2 or (up[0], down[1]) != shapes[target] or up[1] != down[0]:  # noqa: PLR2004 -- matrices
            raise _unfit(
                say(
                    "its factors for {name} have the shapes {up} and {down}, and the matrix {shape}",
                    name=target,
                    up=list(up),
                    down=list(down),
                    shape=list(shapes[target]),
                )
            )
    return {target: (factors["A"], factors["B"]) for target, factors in found.items()}


def _target(matrix: str) -> str:
    """Return the checkpoint's name of a matrix; an adapter of the bare body leaves the first `model.` out."""
    inner = matrix.removeprefix(_PREFIX)
    return f"{inner if inner.startswith('model.') else f'model.{inner}'}.weight"


def _unfit(what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("The adapter does not fit the model: {what}.", what=what),
        hint=say("Check that it was trained on this model."),
    )
