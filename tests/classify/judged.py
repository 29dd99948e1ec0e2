"""A run as `finetune train` leaves it, made without training, and what says something of its calls without a model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from qwenops.calls.schema import dump
from qwenops.calls.split import Splits, write_splits
from qwenops.classify.baseline_folder import teach
from qwenops.classify.codes import assign, code_of
from qwenops.classify.dataset import EncodedCalls
from qwenops.classify.golden import fingerprint
from qwenops.classify.labelled import DataFiles, open_labelled
from qwenops.classify.part_logits import Logits, Score, Told
from qwenops.classify.prompt import PROMPT_HASH, prompt_hash
from qwenops.classify.train.adapter import AdapterFolder
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from qwenops.text import Report
from tests.classify.adapted import rehash
from tests.classify.made import SOURCE, TAXONOMY, Pair, pairs

BUDGET = 192
SHARPNESS = 4.0


def now() -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC)


def silent(_fraction: float, _doing: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Files of calls, and an adapter that was trained with them."""

    files: DataFiles
    adapter: Path
    base: Path
    truth: Mapping[str, str]
    """The label of each call, by conversation."""
    opened: list[str] = field(default_factory=list)
    """Notes each time a model is opened."""

    def knowing(self, right: float, *, seed: int = 0) -> Callable[[AdapterFolder, Path, Report], Score]:
        """Return what opens a model that says the label of so many calls, and of the others any class."""

        def open_score(adapter: AdapterFolder, _base: Path, _report: Report) -> Score:
            self.opened.append(adapter.folder.name)

            def score(calls: EncodedCalls, told: Told) -> Logits:
                rng = np.random.default_rng(seed)
                size = len(TAXONOMY.leaves)
                drawn = rng.integers(0, size, len(calls))
                said = np.where(rng.random(len(calls)) < right, [self._place(name) for name in calls.ids], drawn)
                told(1.0)
                return (SHARPNESS * np.eye(size)[said] + rng.normal(0, 0.3, (len(calls), size))).astype(np.float32)

            return score

        return open_score

    def _place(self, name: str) -> int:
        return TAXONOMY.leaves.index(self.truth[name])


def make_run(folder: Path, base: Path, *, noise: float = 0.0, calibration: int = 0, count: int = 480) -> Run:
    """Write calls, labels, splits and an adapter; `noise` is the share of labels that no word of the call explains."""
    drawn = enumerate(pairs(count, seed=7, noise=noise))
    items = [(replace(call, customer_id=f"c-{number}"), label) for number, (call, label) in drawn]
    files = write_files(folder / "data", items, calibration=calibration)
    adapter = folder / "run" / "adapter"
    write_fake_adapter(adapter, open_tokenizer(base), files)
    truth = {call.conversation_id: label.primary for call, label in items}
    return Run(files=files, adapter=adapter, base=base, truth=truth)


def write_files(folder: Path, items: Sequence[Pair], *, calibration: int = 0) -> DataFiles:
    """Write calls, labels and splits: half to learn from, a quarter less `calibration` calls to validate with."""
    folder.mkdir(parents=True)
    ids = [call.conversation_id for call, _ in items]
    half, rest = len(ids) // 2, 3 * len(ids) // 4
    splits = Splits(
        train=tuple(ids[:half]),
        val=tuple(ids[half : rest - calibration]),
        calibration=tuple(ids[rest - calibration : rest]),
        test=tuple(ids[rest:]),
    )
    calls, labels, parts = folder / "calls.jsonl", folder / "labels.jsonl", folder / "splits.json"
    calls.write_text("".join(f"{dump(call)}\n" for call, _ in items), encoding="utf-8")
    labels.write_text("".join(f"{dump(label)}\n" for _, label in items), encoding="utf-8")
    write_splits(parts, splits)
    return DataFiles(calls=calls, splits=parts, labels=labels)


def write_fake_adapter(folder: Path, tokenizer: Tokenizer, files: DataFiles) -> None:
    """Write an adapter that says what it was trained with, and has no weights."""
    folder.mkdir(parents=True)
    leaves = assign(TAXONOMY.leaves, tokenizer)
    (folder / "taxonomy.yaml").write_bytes(SOURCE.read_bytes())
    manifest: dict[str, Any] = {
        "schema": "qwenops.adapter/1",
        "created_at": now().isoformat(),
        "base": {"name": "random:tiny", "sha256": {}},
        "taxonomy": {"ref": TAXONOMY.ref, "sha256": TAXONOMY.sha256},
        "prompt": {
            "form": PROMPT_HASH,
            "sha256": prompt_hash(budget_tokens=BUDGET),
            "fingerprint": fingerprint(tokenizer, budget_tokens=BUDGET),
            "budget_tokens": BUDGET,
            "legend": "",
        },
        "redaction": ["zh-1"],
        "data": {"sources": files.hashes()},
        "metrics": {"best_epoch": 2, "macro_f1": 0.9, "nll": 0.3, "history": []},
        "seed": 0,
        "head": {
            "leaves": list(leaves),
            "codes": list(code_of(tuple(leaves)).values()),
            "token_ids": list(leaves.values()),
            "trained": False,
            "rows_sha256": "",
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    rehash(folder)


def add_baselines(run: Run) -> Path:
    """Train the baselines beside the adapter; return their folder."""
    target = run.adapter.parent / "baseline"
    return teach(open_labelled(run.files, TAXONOMY), target, seed=0, report=silent, now=now).folder
