"""Artefact folders that are read like exported ones, and a scorer whose answers follow from the words of a call."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenops.calls.classes import Taxonomy
from qwenops.calls.schema import Call, Role, Turn
from qwenops.classify.calibrate import Calibration, Quality, Temperature
from qwenops.classify.decide import Cut, Thresholds
from qwenops.classify.plain import to_plain
from qwenops.classify.prompt import prompt_hash
from qwenops.generation import Tokens
from qwenops.models.tokenizer import Tokenizer
from tests.classify.made import SOURCE, TAXONOMY

BUDGET = 512
WORDS: dict[str, str] = {
    "billing.fee": "多扣",
    "network.down": "断网",
    "service.rude": "态度",
    "inquiry": "请问",
}
"""What a call of each class says; several of them make the scorer unsure."""


def call_of(name: str, *texts: str, customer: str = "") -> Call:
    """Return a call in which agent and customer take turns, the agent first."""
    turns = tuple(Turn(role=Role.CUSTOMER if n % 2 else Role.AGENT, text=text) for n, text in enumerate(texts))
    return Call(conversation_id=name, turns=turns, customer_id=customer)


class WordScorer:
    """Gives each class a logit of 4 for each time its word is said."""

    def __init__(self, tokenizer: Tokenizer, taxonomy: Taxonomy = TAXONOMY) -> None:
        self.tokenizer = tokenizer
        self.leaves = taxonomy.leaves
        self.batches: list[int] = []
        self.is_closed = False

    async def score(self, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> list[tuple[float, ...]]:
        assert not self.is_closed
        assert len(label_ids) == len(self.leaves)
        self.batches.append(len(prompts))
        return [self._of(self.tokenizer.decode(prompt.ids)) for prompt in prompts]

    def _of(self, text: str) -> tuple[float, ...]:
        powers = [math.exp(4.0 * text.count(WORDS[leaf])) for leaf in self.leaves]
        return tuple(power / sum(powers) for power in powers)

    async def aclose(self) -> None:
        self.is_closed = True


QUALITY = Quality(ece=0.0, class_wise_ece=0.0, brier=0.0, nll=0.0)
CUT = Cut(threshold=0.9, coverage=0.5, precision=0.97, precision_low=0.95, num_calls=100)


def write_artefact(folder: Path, *, temperature: float = 1.0, note: str = "", **changes: Any) -> Path:
    """Write what `open_form` reads, and one file of weights; `changes` replace keys of prompt.json and the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration = Calibration(scaling=Temperature(value=temperature), before=QUALITY, after=None, num_calls=100, seed=0)
    thresholds = Thresholds(
        leaf=CUT, parent=None, target_precision=0.95, confidence=0.95, num_calls=100, num_groups=100
    )
    told = {
        "prompt.json": {
            "budget_tokens": BUDGET,
            "legend": "",
            "hash": changes.get("prompt_hash", prompt_hash(budget_tokens=BUDGET)),
            "fingerprint": changes.get("fingerprint", ""),
        },
        "calibration.json": to_plain(calibration),
        "thresholds.json": to_plain(thresholds),
        "metrics.json": {"test": {"leaves": {"macro_f1": {"value": 0.8}}}},
        "manifest.json": {
            "taxonomy": {"ref": changes.get("taxonomy", TAXONOMY.ref)},
            "redaction": changes.get("redaction", "zh-1"),
            "data": {"sources": {"calls.jsonl": changes.get("data", "a" * 64)}},
            "note": note,
        },
    }
    for name, data in told.items():
        (folder / name).write_text(json.dumps(data, ensure_ascii=False), "utf-8")
    (folder / "taxonomy.yaml").write_bytes(SOURCE.read_bytes())
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "adapter" / "weights.bin").write_bytes(bytes(range(256)))
    return folder
