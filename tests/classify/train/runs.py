"""A run on the tiny model in a process of its own: `python -m tests.classify.train.runs MODEL OUT [die at step N]`.

It is what tests kill, start again, and start twice under torchrun.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from qwenops.classify.dataset import TrainData, encode
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.training import train
from qwenops.models.tokenizer import open_tokenizer
from tests.classify.made import TAXONOMY, pairs
from tests.classify.train.conftest import BUDGET, now


def data_of(model: Path, *, count: int = 40) -> TrainData:
    tokenizer = open_tokenizer(model)
    train_calls, val_calls = (
        encode(pairs(number, seed=seed), taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=BUDGET)
        for number, seed in ((count, 1), (12, 2))
    )
    return TrainData(train=train_calls, val=val_calls, taxonomy=TAXONOMY, budget_tokens=BUDGET)


def options_of(model: Path, out: Path, **changes: Any) -> TrainOptions:
    usual: dict[str, Any] = {
        "model_dir": model,
        "model_name": "random:tiny",
        "out": out,
        "cache_dir": out.parent / "activations",
        "epochs": 3,
        "batch_calls": 8,
        "max_tokens": BUDGET,
        "micro_tokens": 256,
        "learning_rate": 5e-3,
        "precision": "f32",
        "four_bit": "never",
        "device": "cpu",
        "threads": 1,
        "dropout": 0.1,
        "top_layers": 1,
        "trained_head": True,
        "patience": 10,
        "checkpoint_every_s": 0.0,
    }
    return TrainOptions(**(usual | changes))


def main(model: str, out: str, changes: str = "{}", die_at: str = "-1") -> None:
    told: list[str] = []

    def report(_fraction: float, doing: str) -> None:
        if doing.startswith("Training"):
            told.append(doing)
            if len(told) == int(die_at):
                os.kill(os.getpid(), signal.SIGKILL)

    train(
        options_of(Path(model), Path(out), **json.loads(changes)),
        data_of(Path(model)),
        report=report,
        now=now,
        tell=lambda sentence: print(sentence, flush=True),  # noqa: T201 -- the test reads it
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
