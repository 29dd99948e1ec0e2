"""A trained adapter for engines of others: merged into its model, in the format that each of them reads.

    gguf      one file, for llama.cpp
    ollama    the same with a Modelfile: `ollama create NAME -f Modelfile`
    vllm      a checkpoint as the hubs publish them, in bf16; Transformers reads it, too

Such a model answers the prompt of `prompt.json` with a code of `head.json`. What its probabilities mean is calibrated
for our own engine only (`export`); whoever computes it elsewhere calibrates it there.
"""

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from qwenops.atomic import write_text
from qwenops.calls.taxonomy import TAXONOMY
from qwenops.classify.prompt import INSTRUCTIONS, QUESTIONS
from qwenops.classify.score import PROMPT
from qwenops.classify.train.adapter import HEAD, HEAD_ROWS, AdapterFolder, open_adapter, verify_adapter
from qwenops.models.adapter import Merged, open_merged, write_merged
from qwenops.models.checkpoint import open_tensors
from qwenops.models.folders import new_folder
from qwenops.models.gguf import GgufType, write_gguf, write_ollama
from qwenops.models.prefill import ROWS
from qwenops.text import Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Format(StrEnum):
    """For whom a model is written."""

    GGUF = "gguf"
    OLLAMA = "ollama"
    VLLM = "vllm"


def publish(
    adapter: Path,
    base: Path,
    out: Path,
    form: Format,
    *,
    kind: GgufType = GgufType.Q8_0,
    report: Report = lambda _fraction, _doing: None,
) -> Path:
    """Write a folder for another engine; it takes the place of what is there, and appears whole or not at all.

    Args:
        adapter: Folder that training wrote.
        base: The checkpoint that it was trained on.
        out: The folder.
        form: For whom.
        kind: How matrices are stored in a GGUF file.
        report: Is told how far it is.

    Raises:
        MissingPartError: The package gguf is not installed, and it is needed.
        ModelLoadError: Adapter or checkpoint are damaged, or do not belong together.
        ConversionError: A packed tensor differs from its source by more than its format allows.
        InsufficientDiskError: There is no room for it.
    """
    opened = open_adapter(adapter)
    verify_adapter(opened)
    merged = open_merged(base, adapter, head_rows=_head_rows(opened))
    with new_folder(out) as folder:
        match form:
            case Format.GGUF:
                _write_gguf(opened, merged, folder, kind, report)
            case Format.OLLAMA:
                file = _write_gguf(opened, merged, folder, kind, report)
                write_ollama(
                    folder,
                    file,
                    context_tokens=int(opened.manifest["prompt"]["budget_tokens"]) + 1,
                    num_labels=len(opened.leaves),
                )
            case Format.VLLM:
                write_merged(merged, folder / "merged", report)
                for path in sorted((folder / "merged").iterdir()):
                    path.rename(folder / path.name)
                (folder / "merged").rmdir()
            case _:
                assert_never(form)
        _describe(opened, folder)
    return out


def _write_gguf(adapter: AdapterFolder, merged: Merged, folder: Path, kind: GgufType, report: Report) -> Path:
    target = folder / f"classifier-{kind.value}.gguf"
    names = (adapter.manifest.get("base", {}).get("name", ""), adapter.manifest["taxonomy"]["ref"])
    write_gguf(merged, target, kind, name=" ".join(name for name in names if name), report=report)
    return target


def _head_rows(adapter: AdapterFolder) -> "dict[int, NDArray[np.float32]]":
    """Return the rows of a trained head by token; none where they are the model's own."""
    if not adapter.head_trained:
        return {}
    rows = open_tensors(adapter.folder / HEAD_ROWS).read(ROWS)
    return dict(zip(adapter.token_ids, rows, strict=True))


def _describe(adapter: AdapterFolder, folder: Path) -> None:
    """Put beside the model how it is asked, and which class each code is."""
    for name in (HEAD, TAXONOMY):
        shutil.copyfile(adapter.folder / name, folder / name)
    asked = {**adapter.manifest["prompt"], "instructions": dict(INSTRUCTIONS), "questions": dict(QUESTIONS)}
    write_text(folder / PROMPT, json.dumps(asked, indent=1, ensure_ascii=False) + "\n")
