"""All that a run needs to go on exactly where it was: weights, averages of the optimiser, the best weights, the place.

    <run>/checkpoint/state.safetensors    now/… best/… mean/… square/…, float32
                     state.json           the place in the run, what was decided from the machine, hashes

The folder is there whole or not at all, and the old one stays until the new one is on the disk: a kill, a crash or a
full disk in the middle loses nothing but time. The learning rate, the order of the data and every random number follow
from the place and the seed (`schedule`, `dataset`, `loop.seed_of`), so none of them needs a state of its own.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.classify.train.tensors import num_bytes, read_tensors, write_tensors
from qwenops.errors import RunFolderError
from qwenops.models.checkpoint import file_sha256
from qwenops.models.folders import new_folder, remove_left_overs
from qwenops.text import Text, say

if TYPE_CHECKING:
    import torch

FORMAT = 1
FOLDER = "checkpoint"
STATE, TENSORS = "state.json", "state.safetensors"
_SLACK_BYTES = 1 << 20


@dataclass(slots=True, kw_only=True)
class Standing:
    """The place in a run, and what it has found so far."""

    epoch: int = 0
    """Epochs that are done."""
    batch: int = 0
    """Batches of the current epoch that are done."""
    step: int = 0
    """Steps of the optimiser that are done."""
    loss_sum: float = 0.0
    """Of the batches of the current epoch."""
    best_epoch: int = 0
    best_macro_f1: float = -1.0
    best_nll: float = math.inf
    stale: int = 0
    """Validations since the best one."""
    elapsed_s: float = 0.0
    """Time spent on training, over all takings-up."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Of each epoch: loss, macro-F1, accuracy, likelihood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint that was read."""

    standing: Standing
    decided: Mapping[str, Any]
    """What was decided from the machine, which holds for the rest of the run."""
    tensors: "Mapping[str, torch.Tensor]"


def save(
    run: Path,
    *,
    fingerprint: str,
    standing: Standing,
    decided: Mapping[str, Any],
    tensors: "Mapping[str, torch.Tensor]",
) -> None:
    """Write a checkpoint in the place of the old one.

    Args:
        run: The run's folder.
        fingerprint: Of options, data and model; only the same run may go on from here.
        standing: The place.
        decided: What was decided from the machine.
        tensors: By name, float32.

    Raises:
        InsufficientDiskError: The disk is full; the old checkpoint is still there.
    """
    with new_folder(run / FOLDER, needed_bytes=num_bytes(tensors) + _SLACK_BYTES) as folder:
        write_tensors(folder / TENSORS, tensors)
        state = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "decided": dict(decided),
            "standing": asdict(standing),
            "sha256": file_sha256(folder / TENSORS),
        }
        (folder / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def load(run: Path, fingerprint: str) -> Saved | None:
    """Read the checkpoint of a run; None when there is none.

    Raises:
        RunFolderError: It is damaged, or belongs to a run with other options, data or model.
    """
    folder = run / FOLDER
    if run.is_dir():
        remove_left_overs(folder)  # puts back an old checkpoint that had stepped aside when a crash came
    if not (folder / STATE).exists():
        return None
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
        known, found = state["format"], state["fingerprint"]
        standing, sha256, decided = Standing(**state["standing"]), state["sha256"], state["decided"]
        same = file_sha256(folder / TENSORS) == sha256
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _wrong(folder, say("it is damaged ({reason})", reason=repr(error))) from error
    if known != FORMAT:
        raise _wrong(folder, say("another version wrote it"))
    if found != fingerprint:
        raise _wrong(folder, say("its options, its data or its model are others"))
    if not same:
        raise _wrong(folder, say("{name} is not what was written", name=TENSORS))
    return Saved(standing=standing, decided=decided, tensors=read_tensors(folder / TENSORS))


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Return the hash of all that makes a run what it is."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _wrong(folder: Path, what: Text) -> RunFolderError:
    return RunFolderError(
        say("The run cannot go on from {folder}: {what}.", folder=str(folder), what=what),
        hint=say("Choose another --out, or begin anew with --restart."),
    )
