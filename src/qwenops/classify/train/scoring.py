"""Logits of many calls, and the figures by which training chooses among its epochs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qwenops.classify.dataset import micro_batches, shared
from qwenops.classify.evaluate.counts import ACCURACY, MACRO, headlines, tallies
from qwenops.classify.head import LabelHead
from qwenops.classify.train.states import Source
from qwenops.classify.train.world import World

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How good logits are for calls whose class is known."""

    macro_f1: float
    accuracy: float
    nll: float
    """Mean of the negative logarithm of the true class's probability."""

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: macro-F1, and among equals the likelihood."""
        return self.macro_f1, -self.nll


def logits_of(
    source: Source,
    head: LabelHead,
    *,
    micro_tokens: int,
    world: World,
    heard: Callable[[float], None] = lambda _fraction: None,
) -> "NDArray[np.float32]":
    """Return the logits of all calls, [calls, classes]; each process computes its share, all get all.

    Args:
        source: Gives the calls' states.
        head: Turns states into logits.
        micro_tokens: Tokens computed at once.
        world: The processes that share the work.
        heard: Is told which fraction is done.
    """
    import torch

    calls = source.calls
    lengths = calls.lengths
    ordered = sorted(range(len(calls)), key=lambda place: -int(lengths[place]))
    found = torch.zeros((len(calls), head.num_classes), dtype=torch.float32, device=source.body.device)
    done = 0
    own = shared(ordered, world.rank, world.size)
    with torch.no_grad():
        for piece in micro_batches(own, lengths, micro_tokens):
            found[torch.tensor(piece, device=found.device)] = head(source.states(piece))
            done += len(piece)
            heard(done / max(1, len(own)))
    world.add([found])
    values: NDArray[np.float32] = found.cpu().numpy()
    return values


def figures(logits: "NDArray[np.float32]", labels: "NDArray[np.int64]") -> Figures:
    """Judge logits by the true classes; a logit that is no number makes all figures such."""
    if not np.isfinite(logits).all():
        return Figures(macro_f1=math.nan, accuracy=math.nan, nll=math.nan)
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    said = logits.argmax(axis=1).astype(np.int64)
    rows = np.zeros(len(labels), dtype=np.int64)
    heads = headlines(tallies(labels, said, rows, num_classes=logits.shape[1], num_rows=1))[0]
    return Figures(
        macro_f1=float(heads[MACRO]),
        accuracy=float(heads[ACCURACY]),
        nll=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
    )
