"""The first answer, in minutes: how far a linear model on the untrained model's last states comes.

It costs one pass over the calls, whose result is kept on disk, and a few seconds of fitting. Training is worth its
hours where it beats this; a linear model that is hardly better than chance says that something else is wrong.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qwenops.classify.train.losses import losses
from qwenops.classify.train.scoring import Figures, figures

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the L2 penalty; the one whose validation likelihood is best is taken."""
ITERATIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What the linear model reached on the validation calls."""

    figures: Figures
    strength: float


def probe(
    train: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    weights: "NDArray[np.float32]",
    val: "NDArray[np.float32]",
    val_labels: "NDArray[np.int64]",
    adjusted: "NDArray[np.float32]",
) -> Probed:
    """Fit and judge. Chance has no part in it.

    Args:
        train: States of the training calls, [calls, hidden].
        labels: Their classes.
        weights: How much each counts.
        val: States of the validation calls.
        val_labels: Their classes.
        adjusted: What the loss adds to the logits, by class; see `losses.adjustment`.
    """
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    left, right = (train - mean) / scale, (val - mean) / scale
    best: Probed | None = None
    for strength in STRENGTHS:
        matrix, offset = _fit(left, labels, weights, adjusted, strength)
        found = Probed(figures=figures(right @ matrix.T + offset, val_labels), strength=strength)
        if best is None or found.figures.nll < best.figures.nll:
            best = found
    assert best is not None  # noqa: S101 -- there are strengths
    return best


def _fit(
    states: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    weights: "NDArray[np.float32]",
    adjusted: "NDArray[np.float32]",
    strength: float,
) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Return matrix [classes, hidden] and offsets [classes] of a multinomial logistic regression."""
    import torch

    inputs, targets = torch.from_numpy(states), torch.from_numpy(labels)
    shares = torch.from_numpy(weights / weights.sum())
    added = torch.from_numpy(adjusted)
    matrix = torch.zeros((len(adjusted), states.shape[1]), requires_grad=True)
    offset = torch.zeros(len(adjusted), requires_grad=True)
    optimiser = torch.optim.LBFGS([matrix, offset], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        each = losses(inputs @ matrix.T + offset, targets, added, 0.0)
        loss = (each * shares).sum() + strength * matrix.square().sum()
        torch.autograd.backward([loss])
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call] # torch says nothing about it
    return matrix.detach().numpy(), offset.detach().numpy()
