"""What training gives: a folder that peft reads, with all that says what it is and how to ask it.

    adapter_model.safetensors, adapter_config.json    LoRA, as peft has it
    head.json, head.safetensors                       classes, codes, tokens; rows only where they were trained
    taxonomy.yaml                                     as it was
    golden.jsonl                                      eight made-up calls with the logits that this model gives them
    manifest.json                                     where it comes from, and a hash of every file

Before the folder gets its name, the adapter is read back from it into a model without one, and the golden calls must
give the very same logits: an adapter that does not load as it was saved is found here, not in service.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwenops.calls.schema import dump
from qwenops.calls.taxonomy import TAXONOMY
from qwenops.classify.codes import code_of
from qwenops.classify.golden import GOLDEN_CALLS
from qwenops.classify.head import LabelHead
from qwenops.classify.train.body import Body, padded
from qwenops.classify.train.lora import Lora, config_data, load_into
from qwenops.classify.train.tensors import num_bytes, read_tensors, write_tensors
from qwenops.errors import ModelLoadError
from qwenops.models.adapter import CONFIG, WEIGHTS
from qwenops.models.artefact import MANIFEST
from qwenops.models.checkpoint import file_sha256, read_json
from qwenops.models.folders import new_folder
from qwenops.text import Text, say

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SCHEMA = "qwenops.adapter/1"
HEAD, HEAD_ROWS = "head.json", "head.safetensors"
GOLDEN = "golden.jsonl"
_SLACK_BYTES = 1 << 22
_ROWS = "rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """An adapter on the disk, its files' sizes checked."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def leaves(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return tuple(self.manifest["head"]["leaves"])

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens that stand for them."""
        return tuple(self.manifest["head"]["token_ids"])

    @property
    def head_trained(self) -> bool:
        """Whether the head's rows are its own; else they are those of the base model."""
        return bool(self.manifest["head"]["trained"])

    def weights(self) -> "dict[str, torch.Tensor]":
        """Read the LoRA matrices, by their names."""
        return read_tensors(self.folder / WEIGHTS)

    def head_rows(self) -> "torch.Tensor":
        """Read the rows of a trained head.

        Raises:
            KeyError: The head was not trained.
        """
        return read_tensors(self.folder / HEAD_ROWS)[_ROWS]


def save_adapter(
    target: Path,
    *,
    lora: Lora,
    body: Body,
    head: LabelHead,
    leaves: Mapping[str, int],
    taxonomy: Path,
    golden: Sequence[Sequence[int]],
    manifest: Mapping[str, Any],
) -> AdapterFolder:
    """Write the folder whole, after what was written has been read back and compared.

    Args:
        target: Takes the place of what is there.
        lora: The trained matrices.
        body: The model that they are in.
        head: Its rows.
        leaves: The token of each class, in the order of the rows.
        taxonomy: The file that the classes come from.
        golden: The golden calls' prompts.
        manifest: What is to be said besides what follows from the files.

    Raises:
        InsufficientDiskError: The disk is full; what was at `target` is still there.
        ModelLoadError: What was written does not give the same logits.
    """
    own = {name: each.detach() for name, each in lora.parameters.items()}
    rows = {_ROWS: head.rows.detach()} if head.trainable else {}
    about = _head_data(head, leaves)
    with new_folder(target, needed_bytes=num_bytes(own) + num_bytes(rows) + _SLACK_BYTES) as folder:
        write_tensors(folder / WEIGHTS, own)
        base = str(manifest.get("base", {}).get("name", ""))
        _write_json(folder / CONFIG, config_data(lora, base=base))
        _write_json(folder / HEAD, {"schema": "qwenops.head/1", **about})
        if rows:
            write_tensors(folder / HEAD_ROWS, rows)
        (folder / TAXONOMY).write_bytes(taxonomy.read_bytes())
        logits = golden_logits(body, lora, head, golden)
        lines = [_golden_line(*each) for each in zip(GOLDEN_CALLS, golden, logits, strict=True)]
        (folder / GOLDEN).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _recheck(folder, body, lora, head, golden, logits)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
        }
        whole = {"schema": SCHEMA, **manifest, "head": about, "files": files}
        _write_json(folder / MANIFEST, whole)
    return open_adapter(target)


def open_adapter(folder: Path) -> AdapterFolder:
    """Open an adapter; compares the files' sizes with the manifest.

    Raises:
        ModelLoadError: It is no adapter of this version, or a file is missing or truncated.
    """
    if not (folder / MANIFEST).exists():
        raise ModelLoadError(
            say("{folder} is no trained adapter: it has no {name}.", folder=str(folder), name=MANIFEST),
            hint=say("`qwenops finetune train` makes one."),
        )
    manifest = read_json(folder / MANIFEST)
    try:
        if manifest["schema"] != SCHEMA:
            raise _damaged(folder, say("it is of the version {found!r}", found=manifest["schema"]))
        sizes = {name: int(facts["bytes"]) for name, facts in manifest["files"].items()}
        leaves, tokens = manifest["head"]["leaves"], manifest["head"]["token_ids"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, say("its manifest is incomplete ({reason})", reason=repr(error))) from error
    if len(leaves) != len(tokens):
        told = say("it has {leaves} classes and {tokens} codes", leaves=len(leaves), tokens=len(tokens))
        raise _damaged(folder, told)
    for name, size in sizes.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found != size:
            raise _damaged(folder, say("{name} has {found} of {size} bytes", name=name, found=found, size=size))
    return AdapterFolder(folder=folder, manifest=manifest)


def verify_adapter(adapter: AdapterFolder) -> None:
    """Compare every file's hash with the manifest.

    Raises:
        ModelLoadError: A file is not what was written.
    """
    for name, facts in adapter.manifest["files"].items():
        if file_sha256(adapter.folder / name) != facts["sha256"]:
            raise _damaged(adapter.folder, say("{name} is not what was written", name=name))


def read_golden(adapter: AdapterFolder) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Return the golden calls' prompts with the logits that the adapter gave when it was saved."""
    text = (adapter.folder / GOLDEN).read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines() if line]
    return [(tuple(line["tokens"]), tuple(line["logits"])) for line in lines]


def golden_logits(body: Body, lora: Lora, head: LabelHead, prompts: Sequence[Sequence[int]]) -> "NDArray[np.float32]":
    """Return the logits of prompts, [prompts, classes], one after the other, so that none depends on the others."""
    import torch

    found = []
    with torch.no_grad():
        for prompt in prompts:
            ids, lengths = padded([np.array(prompt, dtype=np.int32)], body.device)
            hidden = body.through(body.embedded(ids), 0, lora.first_layer)
            found.append(head(body.states(body.through(hidden, lora.first_layer), lengths)).cpu().numpy())
    whole: NDArray[np.float32] = np.concatenate(found)
    return whole


def _recheck(
    folder: Path,
    body: Body,
    lora: Lora,
    head: LabelHead,
    golden: Sequence[Sequence[int]],
    logits: "NDArray[np.float32]",
) -> None:
    """Empty the model of what it learnt, read it back from the folder, and compare the golden calls' logits."""
    import torch

    with torch.no_grad():
        for each in lora.parameters.values():
            each.fill_(math.nan)
    load_into(lora, read_tensors(folder / WEIGHTS))
    again = LabelHead(read_tensors(folder / HEAD_ROWS)[_ROWS].to(body.device)) if head.trainable else head
    if not np.array_equal(golden_logits(body, lora, again, golden), logits):
        raise ModelLoadError(
            say("The adapter gives other logits after it was read back from {folder}.", folder=str(folder)),
            hint=say(
                "The versions of torch, transformers and peft may not go together; install those of constraints.txt."
            ),
        )


def _head_data(head: LabelHead, leaves: Mapping[str, int]) -> dict[str, Any]:
    return {
        "leaves": list(leaves),
        "codes": list(code_of(tuple(leaves)).values()),
        "token_ids": list(leaves.values()),
        "trained": head.trainable,
        "rows_sha256": head.sha256,
    }


def _golden_line(call: Any, prompt: Sequence[int], logits: "NDArray[np.float32]") -> str:
    data = {"call": json.loads(dump(call)), "tokens": list(prompt), "logits": [float(each) for each in logits]}
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def _damaged(folder: Path, what: Text) -> ModelLoadError:
    return ModelLoadError(
        say("The adapter in {folder} is damaged: {what}.", folder=str(folder), what=what),
        hint=say("Take it from a copy, or train it again."),
    )
