"""The runner computes and never decides.

It takes a step, lays its pieces out as the paged model wants them, lets one of the compiled forms compute, and returns
the rows of logits that were asked for. Inputs live in arrays that are kept; nothing is copied that need not be.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenops.engines.openvino.blocks import BLOCK_TOKENS, blocks_for
from qwenops.engines.openvino.paged import CacheLayout, Form, allocate_cache
from qwenops.engines.openvino.scheduler import Piece


class Runner:
    """One or two forms over one KV cache.

    Args:
        prefill: Computes steps of more than `decode_up_to` tokens.
        decode: Computes the others; may be the same form.
        decode_up_to: Where the forms change.
        num_blocks: Blocks of the KV cache.
        context_tokens: Longest sequence.
        max_tokens: Most tokens of one step.
        max_sequences: Most sequences of one step.
    """

    def __init__(
        self,
        prefill: Form,
        decode: Form,
        *,
        decode_up_to: int,
        num_blocks: int,
        context_tokens: int,
        max_tokens: int,
        max_sequences: int,
    ) -> None:
        """Allocate the cache, and arrays for the largest step there can be."""
        self.prefill = prefill
        self.decode = decode
        self.decode_up_to = decode_up_to
        self.num_blocks = num_blocks
        self.layout: CacheLayout = prefill.layout
        self._cache: Mapping[str, Any] = allocate_cache(self.layout, num_blocks)
        for form in {id(each): each for each in (prefill, decode)}.values():
            for name, tensor in self._cache.items():
                form.request.set_tensor(name, tensor)
        max_tokens = max(max_tokens, max_sequences + BLOCK_TOKENS)
        self._tokens = np.zeros(max_tokens, np.int64)
        self._positions = np.zeros(max_tokens, np.int64)
        self._rows = np.zeros(max_sequences, np.int64)
        self._past = np.zeros(max_sequences, np.int32)
        self._begins = np.zeros(max_sequences + 1, np.int32)
        self._blocks = np.zeros(max_sequences * blocks_for(context_tokens + BLOCK_TOKENS), np.int32)
        self._block_begins = np.zeros(max_sequences + 1, np.int32)
        self._longest = np.zeros((), np.int32)
        self._counting = np.arange(context_tokens + BLOCK_TOKENS, dtype=np.int64)

    def touch(self) -> None:
        """Take the cache's memory from the system now, as it will be when it is full."""
        for tensor in self._cache.values():
            memory = (ctypes.c_char * tensor.byte_size).from_address(tensor.data.ctypes.data)
            ctypes.memset(memory, 0, tensor.byte_size)

    def run(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Compute one step; return `[rows, vocabulary]`, one row for each piece that wants one, in their order.

        The rows are the model's own output: they may be overwritten, and last until the next step.
        """
        return self.run_in(self._form_for(sum(piece.count for piece in pieces)), pieces)

    def run_in(self, form: Form, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Compute one step in a form of the caller's choice."""
        request = form.request
        for name, array in self._lay_out(pieces).items():
            request.set_tensor(name, _shared(array))
        request.infer()
        logits: NDArray[np.float32] = request.get_output_tensor(0).data
        return logits.reshape(-1, logits.shape[-1])[: sum(piece.wants_row for piece in pieces)]

    def _form_for(self, num_tokens: int) -> Form:
        return self.decode if num_tokens <= self.decode_up_to else self.prefill

    def _lay_out(self, pieces: Sequence[Piece]) -> dict[str, NDArray[Any]]:
        tokens = blocks = rows = longest = 0
        for at, piece in enumerate(pieces):
            begin, count, sequence = piece.begin, piece.count, piece.sequence
            end = begin + count
            if count == 1:
                self._tokens[tokens] = sequence.tokens[begin]
                self._positions[tokens] = begin
            else:
                self._tokens[tokens : tokens + count] = sequence.tokens[begin:end]
                self._positions[tokens : tokens + count] = self._counting[begin:end]
            used = blocks_for(end)
            self._blocks[blocks : blocks + used] = sequence.blocks[:used]
            self._past[at] = begin
            tokens += count
            blocks += used
            self._begins[at + 1] = tokens
            self._block_begins[at + 1] = blocks
            longest = max(longest, end)
            if piece.wants_row:
                self._rows[rows] = tokens - 1
                rows += 1
        if not rows:  # the head has to have something to do
            self._rows[0] = tokens - 1
        self._longest[()] = longest
        num = len(pieces)
        return {
            "input_ids": self._tokens[:tokens],
            "position_ids": self._positions[:tokens],
            "past_lens": self._past[:num],
            "subsequence_begins": self._begins[: num + 1],
            "block_indices": self._blocks[:blocks],
            "block_indices_begins": self._block_begins[: num + 1],
            "max_context_len": self._longest,
            "rows": self._rows[: max(rows, 1)],
        }


def _shared(array: NDArray[Any]) -> Any:
    import openvino as ov

    return ov.Tensor(array, shared_memory=True)
