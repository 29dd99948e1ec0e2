"""An adapter folder as training writes it, made without training: small random LoRA, and a head fitted to calls.

The tiny model's weights are random, but the states at the ends of prompts still tell which words were said; a head that
is fitted to them by least squares classifies the calls of `made` well enough for exports to gain or lose something.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenops.calls.schema import dump
from qwenops.classify.codes import assign, code_of
from qwenops.classify.dataset import EncodedCalls, encode
from qwenops.classify.export import ExportData, Prompt
from qwenops.classify.golden import GOLDEN_CALLS, fingerprint, golden_prompts
from qwenops.classify.head import rows_sha256
from qwenops.classify.prompt import PROMPT_HASH, prompt_hash
from qwenops.engines.classifier.compiled import probabilities
from qwenops.models.checkpoint import file_sha256, open_checkpoint
from qwenops.models.prefill import PrefillScheme
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from tests.classify.made import SOURCE, TAXONOMY, Pair, pairs
from tests.models.adapters import write_adapter, write_tensors
from tests.models.prefilled import compiled, logits, made

BUDGET = 160
SHARPNESS = 8.0
RIDGE = 1e-2
SURE = 0.5
"""By how much the most probable class is more probable than the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """An adapter, what it was trained on, and calls to export it with."""

    folder: Path
    base: Path
    data: ExportData


def adapt(base: Path, work: Path) -> Adapted:
    """Make an adapter of the tiny model in `base`; `work` gets its folder and what it takes to make it."""
    tokenizer = open_tokenizer(base)
    train, val, drawn = (encoded(tokenizer, count, seed) for seed, count in ((1, 480), (2, 160), (3, 640)))
    folder = work / "adapter"
    spec = open_checkpoint(base).spec
    write_adapter(folder, spec, size=0.05)
    states = state_reader(base, folder, work / "states")
    rows = fitted(states(prompts_of(train)), train.labels)
    test = decided(tokenizer, pairs(640, seed=3), states(prompts_of(drawn)) @ rows.T)
    golden = golden_prompts(tokenizer, budget_tokens=BUDGET)
    write_tensors(folder / "head.safetensors", {"rows": rows})
    (folder / "taxonomy.yaml").write_bytes(SOURCE.read_bytes())
    write_head(folder, tokenizer, rows)
    write_golden_calls(folder, golden, states(golden) @ rows.T)
    write_manifest(folder, base, tokenizer, rows, train, val)
    customers = {name: f"customer-{number % 90}" for number, name in enumerate((*val.ids, *test.ids))}
    data = ExportData(train=train, val=val, test=test, customers=customers, sources={"more.jsonl": "1" * 64})
    return Adapted(folder=folder, base=base, data=data)


def encoded(tokenizer: Tokenizer, count: int, seed: int) -> EncodedCalls:
    """Return calls of one part."""
    return encode(pairs(count, seed=seed), taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=BUDGET)


def prompts_of(calls: EncodedCalls) -> list[Prompt]:
    return [tuple(calls.prompt(place).tolist()) for place in range(len(calls))]


def state_reader(base: Path, adapter: Path, target: Path) -> Any:
    """Return a function that gives the states at the ends of prompts: the logits of a head that is the identity."""
    size = open_checkpoint(base).spec.hidden_size
    target.mkdir()
    write_tensors(target / "identity.safetensors", {"rows": np.eye(size, dtype=np.float32)})
    prefill = made(
        base,
        target / "model",
        PrefillScheme.F32,
        adapter=adapter,
        label_ids=tuple(range(size)),
        rows=target / "identity.safetensors",
    )
    model = compiled(prefill)
    return lambda prompts: logits(model, prompts)


def fitted(states: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return rows whose logits are highest for the calls' classes, by least squares."""
    wanted = np.eye(len(TAXONOMY.leaves))[labels] - 1 / len(TAXONOMY.leaves)
    gram = states.T @ states + RIDGE * len(states) * np.eye(states.shape[1])
    return (SHARPNESS * np.linalg.solve(gram, states.T @ wanted)).T.astype(np.float32)


def decided(
    tokenizer: Tokenizer, drawn: Sequence[Pair], rows: NDArray[np.float32], *, count: int = 240
) -> EncodedCalls:
    """Return the first calls of which the model is as sure as a trained one is of most: of a random one few are left.

    What the gate makes of calls that are hardly decided is tested with it; here they would drown a broken scale.
    """
    said = np.sort(probabilities(rows), axis=1)
    sure = np.flatnonzero(said[:, -1] - said[:, -2] > SURE)[:count]
    assert len(sure) == count
    some = [drawn[place] for place in sure]
    return encode(some, taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=BUDGET)


def write_head(folder: Path, tokenizer: Tokenizer, rows: NDArray[np.float32]) -> None:
    (folder / "head.json").write_text(json.dumps({"schema": "qwenops.head/1", **about_head(tokenizer, rows)}))


def about_head(tokenizer: Tokenizer, rows: NDArray[np.float32]) -> dict[str, Any]:
    leaves = assign(TAXONOMY.leaves, tokenizer)
    return {
        "leaves": list(leaves),
        "codes": list(code_of(tuple(leaves)).values()),
        "token_ids": list(leaves.values()),
        "trained": True,
        "rows_sha256": rows_sha256(rows),
    }


def write_golden_calls(folder: Path, prompts: Sequence[Prompt], rows: NDArray[np.float32]) -> None:
    lines = [
        json.dumps({"call": json.loads(dump(call)), "tokens": list(ids), "logits": [float(each) for each in row]})
        for call, ids, row in zip(GOLDEN_CALLS, prompts, rows, strict=True)
    ]
    (folder / "golden.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_manifest(
    folder: Path,
    base: Path,
    tokenizer: Tokenizer,
    rows: NDArray[np.float32],
    train: EncodedCalls,
    val: EncodedCalls,
) -> None:
    manifest = {
        "schema": "qwenops.adapter/1",
        "created_at": "2026-03-01T00:00:00+00:00",
        "base": {"name": "random:tiny", "sha256": open_checkpoint(base).sha256()},
        "taxonomy": {"ref": TAXONOMY.ref, "sha256": hashlib.sha256(SOURCE.read_bytes()).hexdigest()},
        "prompt": {
            "form": PROMPT_HASH,
            "sha256": prompt_hash(budget_tokens=BUDGET),
            "fingerprint": fingerprint(tokenizer, budget_tokens=BUDGET),
            "budget_tokens": BUDGET,
            "legend": "",
        },
        "redaction": ["zh-1"],
        "data": {
            "sources": {"calls.jsonl": "0" * 64},
            "train": {"calls": len(train), "sha256": train.sha256(), "classes": {}},
            "val": {"calls": len(val), "sha256": val.sha256(), "classes": {}},
        },
        "lora": {"rank": 4, "alpha": 8, "layers": 2, "first_layer": 0},
        "metrics": {"best_epoch": 1, "macro_f1": 0.9, "nll": 0.3, "history": []},
        "seed": 0,
        "head": about_head(tokenizer, rows),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rehash(folder)


def rehash(folder: Path, **changes: Any) -> None:
    """Let the manifest say what the files are now, and what `changes` say."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["files"] = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
