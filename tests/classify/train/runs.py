"""A run on the tiny model in a process of its own, which tests kill, start again, and start twice under torchrun.

Under torchrun it is `python -m tests.classify.train.runs MODEL OUT CHANGES`. Otherwise `started` forks it off a server
that has imported everything, since to import takes longer than to train.
"""

import json
import math
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing import get_context
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended."""

    status: int
    """Negative when a signal ended it."""
    said: str


def started(model: Path, out: Path, *, changes: str = "{}", die_at: int = -1, kill_after_s: float = math.inf) -> Ended:
    """Train in a process of its own to the end, or until it is killed (SIGKILL).

    Args:
        model: The checkpoint.
        out: The run's folder.
        changes: Options, as JSON.
        die_at: It kills itself after so many steps of this sitting.
        kill_after_s: It is killed from outside after so long, wherever it is.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.parent / f"{out.name}.log"
    log.touch()
    server = get_context("forkserver")
    server.set_forkserver_preload(["peft", "transformers.models.qwen3.modeling_qwen3", __name__])
    child = server.Process(target=logged, args=(str(log), str(model), str(out), changes, str(die_at)))
    child.start()
    child.join(None if math.isinf(kill_after_s) else kill_after_s)
    child.kill()
    child.join()
    assert child.exitcode is not None
    return Ended(status=child.exitcode, said=log.read_text("utf-8"))


def logged(log: str, *arguments: str) -> None:
    """Run `main`, with all that it prints in a file."""
    with Path(log).open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        main(*arguments)


def main(model: str, out: str, changes: str = "{}", die_at: str = "-1") -> None:
    """Train."""
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
