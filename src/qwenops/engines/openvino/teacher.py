"""The paged engine's logits over a given text, for `parity` to compare.

Teacher forced: each token is one step of its own, as when an answer is written, so that the precision of weights, of
arithmetic and of the KV cache all count, just as they do in service.
"""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qwenops.engines.openvino.blocks import blocks_for
from qwenops.engines.openvino.paged import Form
from qwenops.engines.openvino.runner import Runner
from qwenops.engines.openvino.scheduler import Piece, Tracked
from qwenops.errors import PromptTooLongError
from qwenops.text import say


class Teacher:
    """Makes one form read texts; called with n tokens it returns [n, vocabulary].

    Args:
        form: What computes.
        context_tokens: Longest text.
    """

    def __init__(self, form: Form, *, context_tokens: int = 512) -> None:
        """Allocate a cache for one text."""
        self._form = form
        self._context_tokens = context_tokens
        self._runner = Runner(
            form,
            form,
            decode_up_to=1,
            num_blocks=blocks_for(context_tokens),
            context_tokens=context_tokens,
            max_tokens=context_tokens,
            max_sequences=1,
        )

    def __call__(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each token.

        Raises:
            PromptTooLongError: The text is longer than `context_tokens`.
        """
        if len(token_ids) > self._context_tokens:
            raise PromptTooLongError(
                say("The text has {tokens} tokens, over {limit}.", tokens=len(token_ids), limit=self._context_tokens)
            )
        sequence = Tracked("", list(token_ids))
        sequence.blocks = array("i", range(blocks_for(len(token_ids))))
        rows = [
            self._runner.run_in(self._form, [Piece(sequence, at, 1, wants_row=True)])[0].copy()
            for at in range(len(token_ids))
        ]
        return np.stack(rows)
