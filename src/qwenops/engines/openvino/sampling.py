"""The next token of each sequence, from rows of logits.

The order is: penalties and bias, the grammar's mask, temperature, top-k, top-p (over what top-k left), min-p. A row has
151,936 logits, so nothing here sorts one: the k best are found through the largest of each run of 128 logits, and top-p
looks at a few hundred of the best before it looks at more. A draw takes one uniform number from the request's own
generator and walks the candidates from the best to the least, ties by token id: it depends on the seed and the row, and
not on who else is in the batch. Rows are NumPy arrays of float32 and may be overwritten.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qwenops.errors import EngineError
from qwenops.generation import SamplingParams
from qwenops.text import say

Row = NDArray[np.float32]

RUN = 128
"""Logits that share one maximum in the search for the best; divides the vocabulary of Qwen3."""
FIRST_GUESS = 256
"""Candidates that top-p looks at first."""


class Mask(Protocol):
    """What a grammar says about the next token."""

    def allowed(self) -> NDArray[np.bool_]:
        """Return one flag for each token of the vocabulary."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """The next token of one sequence; log-probabilities (natural, of the model itself) where they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """How one sequence chooses, with the little that it must remember for that.

    Args:
        params: What was asked for.
        prompt: Ids of the prompt; the repetition penalty counts them.
        entropy: Where a seed comes from when the request has none.
        mask: The request's grammar, if any.
    """

    __slots__ = ("_bias", "_counts", "_mask", "_prompt", "_random", "params", "plain")

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        entropy: Callable[[], int],
        mask: Mask | None = None,
    ) -> None:
        """Seed the generator; nothing has been generated yet."""
        self.params = params
        self._mask = mask
        self._counts: dict[int, int] = {}
        self._prompt = (
            np.unique(np.asarray(prompt, dtype=np.int64)) if params.repetition_penalty != 1.0 else np.empty(0, np.int64)
        )
        self._bias = (
            np.array([each for each, _ in params.logit_bias], dtype=np.int64),
            np.array([bias for _, bias in params.logit_bias], dtype=np.float32),
        )
        penalised = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
        untouched = not penalised and not params.logit_bias and mask is None
        self.plain = untouched and params.temperature == 0.0
        """Whether the largest logit is the answer, whatever else."""
        seed = params.seed if params.seed is not None else entropy()
        self._random = np.random.Generator(np.random.PCG64(seed & (2**128 - 1))) if params.temperature > 0 else None

    def saw(self, token_id: int) -> None:
        """Count a generated token."""
        if not self.plain:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1

    def choose(self, row: Row) -> int:
        """Return the next token; overwrites `row`."""
        self._adjust(row)
        if self._random is None:
            return int(row.argmax())
        return self._draw(row, float(self._random.random()))

    def _adjust(self, row: Row) -> None:
        params = self.params
        if params.repetition_penalty != 1.0:
            seen = np.union1d(self._prompt, np.fromiter(self._counts, np.int64, len(self._counts)))
            values = row[seen]
            penalty = np.float32(params.repetition_penalty)
            row[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self._counts and (params.presence_penalty or params.frequency_penalty):
            ids = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            row[ids] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * counts
        if len(self._bias[0]):
            np.add.at(row, self._bias[0], self._bias[1])
        if self._mask is not None:
            row[~self._mask.allowed()] = -np.inf

    def _draw(self, row: Row, uniform: float) -> int:
        params = self.params
        best = float(row.max())
        if not np.isfinite(best):
            raise _unusable()
        scale = 1.0 / params.temperature
        if params.top_k > 0:
            ids = best_ids(row, params.top_k)
            weights = np.exp((row[ids].astype(np.float64) - best) * scale)
            ids, weights = _keep_top_p(ids, weights, float(weights.sum()), params.top_p)
        elif params.top_p < 1.0:
            ids, weights = _nucleus(row, best, scale, params.top_p)
        else:
            weights = np.exp((row.astype(np.float64) - best) * scale)
            ids = np.arange(len(row), dtype=np.int64)
        if params.min_p > 0.0:
            kept = weights >= params.min_p * weights.max()
            ids, weights = ids[kept], weights[kept]
        edges = np.cumsum(weights)
        at = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
        return int(ids[min(at, len(ids) - 1)])


def choose(rows: Row, samplers: Sequence[Sampler]) -> list[Chosen | EngineError]:
    """Choose the next token of each row; `rows` is [len(samplers), vocabulary] and is overwritten.

    A row without a finite maximum (the model's arithmetic failed), or whose grammar failed, gives an error in its
    place and leaves the others alone.
    """
    largest = rows.argmax(axis=1)
    finite = np.isfinite(rows[np.arange(len(rows)), largest])
    return [
        _choose_one(row, sampler, int(best)) if usable else _unusable()
        for row, sampler, best, usable in zip(rows, samplers, largest, finite, strict=True)
    ]


def _choose_one(row: Row, sampler: Sampler, best: int) -> Chosen | EngineError:
    wanted = sampler.params.logprobs
    try:
        if wanted is None:
            return Chosen(best if sampler.plain else sampler.choose(row))
        top = best_ids(row, wanted) if wanted else np.empty(0, np.int64)
        total = log_sum_exp(row)
        raw = row if sampler.plain else row.copy()
        token = best if sampler.plain else sampler.choose(row)
    except EngineError as error:
        return error
    pairs = zip(top.tolist(), (raw[top].astype(np.float64) - total).tolist(), strict=True)
    return Chosen(token, float(raw[token]) - total, tuple(pairs))


def best_ids(row: Row, count: int) -> NDArray[np.int64]:
    """Return the ids of the `count` largest logits, best first, ties by id."""
    size = len(row)
    count = min(count, size)
    if count * 2 < size // RUN:
        whole = size - size % RUN
        peaks = row[:whole].reshape(-1, RUN).max(axis=1)
        # `count` runs reach this value, so the `count` best are not below it.
        floor = np.partition(peaks, len(peaks) - count)[len(peaks) - count]
    else:
        floor = np.partition(row, size - count)[size - count]
    ids = np.flatnonzero(row >= floor)
    order = np.lexsort((ids, -row[ids]))
    return ids[order[:count]]


def log_sum_exp(row: Row) -> float:
    """Return the logarithm of the sum of exponentials, so that logit minus it is a log-probability."""
    best = float(row.max())
    return best + float(np.log(np.exp(row - np.float32(best)).sum(dtype=np.float64)))


def label_probabilities(row: Row, label_ids: Sequence[int]) -> tuple[float, ...]:
    """Return the softmax over the labels alone.

    Raises:
        EngineError: A label's logit is not finite.
    """
    logits = row[np.asarray(label_ids, dtype=np.int64)].astype(np.float64)
    if not np.isfinite(logits).all():
        raise _unusable()
    weights = np.exp(logits - logits.max())
    return tuple((weights / weights.sum()).tolist())


def _nucleus(row: Row, best: float, scale: float, top_p: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the smallest set of best tokens whose probability reaches `top_p`, looking at as few as will do."""
    total = float(np.exp((row - np.float32(best)) * np.float32(scale)).sum(dtype=np.float64))
    count = FIRST_GUESS
    while True:
        ids = best_ids(row, count)
        weights = np.exp((row[ids].astype(np.float64) - best) * scale)
        if float(weights.sum()) >= top_p * total or len(ids) == len(row):
            return _keep_top_p(ids, weights, total, top_p)
        count *= 16


def _keep_top_p(
    ids: NDArray[np.int64], weights: NDArray[np.float64], total: float, top_p: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if top_p >= 1.0:
        return ids, weights
    kept = int(np.searchsorted(np.cumsum(weights), top_p * total, side="left")) + 1
    return ids[:kept], weights[:kept]


def _unusable() -> EngineError:
    return EngineError(
        say("The model's logits are not finite numbers."),
        hint=say("Set decode_precision and prefill_precision to f32; verify the model's files."),
    )
