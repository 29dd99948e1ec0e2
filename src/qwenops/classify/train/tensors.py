"""Named float32 tensors in a safetensors file that is on the disk when the call returns."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qwenops.models.checkpoint import NewTensor, write_safetensors

if TYPE_CHECKING:
    import torch


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Write tensors in the order of their names, as float32.

    Raises:
        OSError: The disk is full, or cannot be written to.
    """
    ordered = sorted(tensors.items())
    write_safetensors(
        path,
        [
            NewTensor(name=name, dtype="F32", shape=tuple(each.shape), chunks=partial(_bytes, each))
            for name, each in ordered
        ],
    )
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """Read tensors; each is a copy, so nothing hangs on the file."""
    from safetensors.torch import load_file

    return {name: each.clone() for name, each in load_file(path).items()}


def num_bytes(tensors: "Mapping[str, torch.Tensor]") -> int:
    """Return how many bytes tensors take in a file, without its header."""
    return 4 * sum(each.numel() for each in tensors.values())


def _bytes(tensor: "torch.Tensor") -> Iterator[memoryview]:
    yield tensor.detach().float().cpu().contiguous().numpy().data.cast("B")
