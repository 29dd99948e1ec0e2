"""What is minimised: cross-entropy over the classes, adjusted for how frequent they are.

Logit adjustment (Menon et al. 2021) adds the logarithm of each class's share of the training data to its logit, in the
loss only. The logits themselves then need not learn that frequent classes are frequent, and rare ones are not
overlooked: what is said without the adjustment is what balanced data would have taught. Shares are counted with one
call more of every class, so a class without a single call has one.

Class weights are the older way: calls of rare classes count more, by the inverse of their number (`balanced`) or by the
effective number of Cui et al. 2019. Either is scaled so that calls weigh 1 on average.
"""

from typing import TYPE_CHECKING, assert_never

import numpy as np
import numpy.typing as npt

from qwenops.classify.train.options import ClassWeights

if TYPE_CHECKING:
    import torch

EFFECTIVE_BETA = 0.999

Shares = npt.NDArray[np.float64]


def class_counts(
    labels: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], num_classes: int
) -> npt.NDArray[np.float64]:
    """Return how many calls each class has; one that is trusted by half counts as half."""
    found: Shares = np.bincount(labels, weights=weights.astype(np.float64), minlength=num_classes).astype(np.float64)
    return found


def adjustment(counts: Shares, strength: float) -> npt.NDArray[np.float32]:
    """Return what is added to the logits in the loss, by class: `strength` times the logarithm of the share."""
    shares = (counts + 1.0) / (counts.sum() + counts.size)
    found: npt.NDArray[np.float32] = (strength * np.log(shares)).astype(np.float32)
    return found


def weights_of_classes(counts: Shares, kind: ClassWeights) -> npt.NDArray[np.float32]:
    """Return how much a call of each class counts; calls weigh 1 on average, a class without calls weighs 1."""
    match kind:
        case "none":
            return np.ones(counts.size, dtype=np.float32)
        case "balanced":
            raw = 1.0 / np.maximum(counts, 1e-12)
        case "effective":
            raw = (1.0 - EFFECTIVE_BETA) / (1.0 - np.power(EFFECTIVE_BETA, np.maximum(counts, 1e-9)))
        case _:
            assert_never(kind)
    present = counts > 0
    mean = float((raw * counts)[present].sum() / counts[present].sum()) if present.any() else 1.0
    return np.where(present, raw / mean, 1.0).astype(np.float32)


def losses(
    logits: "torch.Tensor", labels: "torch.Tensor", adjusted: "torch.Tensor", smoothing: float
) -> "torch.Tensor":
    """Return the loss of each call.

    Args:
        logits: Float32, [calls, classes].
        labels: The true classes, [calls].
        adjusted: As `adjustment` makes it, [classes].
        smoothing: Share of each label that is spread over all classes.
    """
    import torch

    return torch.nn.functional.cross_entropy(logits + adjusted, labels, reduction="none", label_smoothing=smoothing)
