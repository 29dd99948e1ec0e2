"""What the tests of training share: a tiny model, its tokenizer, and calls that it can learn."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qwenops.classify.dataset import TrainData, encode
from qwenops.classify.train.options import TrainOptions
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from tests.classify.made import TAXONOMY, pairs

BUDGET = 192
SILENT: Callable[[float, str], None] = lambda _fraction, _doing: None  # noqa: E731 -- a constant of the tests


def now() -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return open_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="session")
def data(tokenizer: Tokenizer) -> TrainData:
    """48 calls to learn from and 16 to validate with."""
    return data_of(tokenizer, 48, 16)


@pytest.fixture(scope="session")
def more_data(tokenizer: Tokenizer) -> TrainData:
    """Enough calls for a model of random weights to learn its classes: 288, and 48 to validate with."""
    return data_of(tokenizer, 288, 48)


def data_of(tokenizer: Tokenizer, num_train: int, num_val: int) -> TrainData:
    train, val = (
        encode(pairs(count, seed=seed), taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=BUDGET)
        for count, seed in ((num_train, 1), (num_val, 2))
    )
    return TrainData(
        train=train,
        val=val,
        taxonomy=TAXONOMY,
        budget_tokens=BUDGET,
        redactions=("zh-1",),
        sources={"calls.jsonl": "0" * 64},
    )


@pytest.fixture
def options(tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., TrainOptions]:
    """Return a function that makes options for a quick run on the tiny model."""
    return partial(quick, tiny_checkpoint, tmp_path)


def quick(model: Path, folder: Path, **changes: Any) -> TrainOptions:
    """Return options for a quick run, all of it in a folder."""
    usual: dict[str, Any] = {
        "model_dir": model,
        "model_name": "random:tiny",
        "out": folder / "run",
        "cache_dir": folder / "activations",
        "epochs": 2,
        "batch_calls": 8,
        "max_tokens": BUDGET,
        "micro_tokens": 512,
        "learning_rate": 2e-3,
        "precision": "f32",
        "four_bit": "never",
        "device": "cpu",
        "threads": 1,
        "probe": False,
        "checkpoint_every_s": 3600.0,
    }
    return TrainOptions(**(usual | changes))
