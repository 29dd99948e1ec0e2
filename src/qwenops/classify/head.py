"""What turns the state at a prompt's last position into one logit for each class: a matrix of K rows.

The rows start as those rows of the model's own head that belong to the classes' codes, so before any training the
logits are the ones that the model gives those tokens, in every engine. As long as the rows are frozen there is no head
to save or to lose: whoever has the base model and the codes has it.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class LabelHead:
    """K rows, in float32, on the device where states come from."""

    __slots__ = ("rows", "trainable")

    def __init__(self, rows: "torch.Tensor", trainable: bool = False) -> None:  # noqa: FBT001, FBT002 -- as the design writes it
        """Take over rows of shape [classes, hidden]; they are copied, so that training leaves their source alone."""
        self.rows = rows.detach().float().clone().requires_grad_(trainable)
        self.trainable = trainable

    def __call__(self, states: "torch.Tensor") -> "torch.Tensor":
        """Return logits [..., classes] of states [..., hidden] that have passed the final norm, in float32."""
        return states.float() @ self.rows.T

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return int(self.rows.shape[0])

    @property
    def sha256(self) -> str:
        """Hash the rows as they are now: float32, row by row."""
        return rows_sha256(self.rows.detach().cpu().numpy())


def head_of(table: "torch.Tensor", token_ids: Sequence[int], *, trainable: bool = False) -> LabelHead:
    """Return the head whose rows are those of `table` [vocabulary, hidden] that belong to the tokens."""
    import torch

    return LabelHead(table.detach()[torch.tensor(list(token_ids), device=table.device)], trainable)


def rows_sha256(rows: "NDArray[np.float32]") -> str:
    """Hash rows in float32."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<f4").tobytes()).hexdigest()
