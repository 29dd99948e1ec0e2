"""Parts of a run on the tiny model, for tests that need no whole run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwenops.classify.codes import assign
from qwenops.classify.dataset import EncodedCalls
from qwenops.classify.head import LabelHead, head_of
from qwenops.classify.train.body import Body, load_body
from qwenops.classify.train.lora import Lora, attach
from qwenops.classify.train.options import TrainOptions
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.spec import Precision
from qwenops.models.tokenizer import Tokenizer
from tests.classify.made import TAXONOMY


def body_of(folder: Path, *, precision: Precision = "f32", four_bit: bool = False) -> Body:
    import torch

    return load_body(open_checkpoint(folder), precision=precision, device=torch.device("cpu"), four_bit=four_bit)


def label_head(body: Body, tokenizer: Tokenizer) -> LabelHead:
    return head_of(body.table, tuple(assign(TAXONOMY.leaves, tokenizer).values()))


def with_lora(body: Body, options: TrainOptions, *, seed: int = 0) -> Lora:
    """Attach matrices that change what the model says, as trained ones do."""
    import torch

    torch.manual_seed(seed)
    lora = attach(body, options)
    with torch.no_grad():
        for each in lora.parameters.values():
            each.normal_(0.0, 0.2)
    return lora


def encoded(prompts: Sequence[Sequence[int]]) -> EncodedCalls:
    """Prompts as calls of the first class."""
    lengths = [len(prompt) for prompt in prompts]
    return EncodedCalls(
        ids=tuple(f"p-{number}" for number in range(len(prompts))),
        tokens=np.array([token for prompt in prompts for token in prompt], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.zeros(len(prompts), dtype=np.int64),
        weights=np.ones(len(prompts), dtype=np.float32),
    )


def random_prompts(lengths: Sequence[int], *, seed: int = 0) -> list[list[int]]:
    rng: Any = np.random.default_rng(seed)
    return [[int(token) for token in rng.integers(100, 100_000, size=length)] for length in lengths]
