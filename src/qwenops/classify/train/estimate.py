"""How long training will take, said before it starts: a few real pieces of the real data are computed and timed.

Nothing of it is kept: gradients are dropped, and chance depends on the place in the run alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qwenops.classify.dataset import Batch, epoch_batches, micro_batches, padded_tokens, shared
from qwenops.classify.head import LabelHead
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.states import Source
from qwenops.options import format_seconds, show_number
from qwenops.text import Text, say

WORTH_A_HINT_S = 1800.0
HINTED_SHARE = 2 / 7
"""Of the layers: what the hint proposes to train."""
_FORWARD = 1 / 3
"""Share of a step that is the way there; the way back takes twice as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Seconds that one token takes here."""

    lower_s: float
    """Through the frozen layers."""
    step_s: float
    """Through the trained layers and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How long the parts of a run will take, if it does not end early."""

    prepare_s: float
    train_s: float
    validate_s: float
    train_tokens_per_s: float
    shorter_s: float
    """What the same would take with `shorter_layers` trained."""
    shorter_layers: int

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.prepare_s + self.train_s + self.validate_s

    def data(self) -> dict[str, Any]:
        """Return it for the manifest."""
        return {**asdict(self), "total_s": self.total_s}


def measure(source: Source, head: LabelHead, pieces: Sequence[Batch], *, clock: Callable[[], float]) -> Speeds:
    """Time a small piece (to warm up), one of middle size and the largest.

    Args:
        source: Gives states without a store, so that the frozen layers are timed, too.
        head: Turns them into logits.
        pieces: What training will compute; at least one.
        clock: Seconds from any point.
    """
    import torch

    lengths = source.calls.lengths
    ordered = sorted(pieces, key=lambda piece: padded_tokens([piece], lengths))
    chosen = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    spent = {"lower": 0.0, "step": 0.0}
    tokens = 0
    for number, piece in enumerate(chosen):
        begun_s = clock()
        hidden, ends = source.hidden(piece)
        _settle(hidden.device)
        lower_s = clock()
        whole = source.body.through(hidden, source.first_layer, recompute=source.recompute)
        logits = head(source.body.states(whole, ends))
        if logits.requires_grad:
            torch.autograd.backward([logits.square().mean()])
        _settle(hidden.device)
        if number:
            spent["lower"] += lower_s - begun_s
            spent["step"] += clock() - lower_s
            tokens += padded_tokens([piece], lengths)
    return Speeds(lower_s=spent["lower"] / tokens, step_s=spent["step"] / tokens)


def pieces_of_epoch(source: Source, options: TrainOptions, micro_tokens: int, rank: int, size: int) -> list[Batch]:
    """Return what one process computes in the first epoch."""
    batches = epoch_batches(source.calls, batch_calls=options.batch_calls, seed=options.seed, epoch=0)
    lengths = source.calls.lengths
    return [
        piece for batch in batches for piece in micro_batches(shared(batch, rank, size), lengths, micro_tokens) if piece
    ]


def estimate(
    speeds: Speeds,
    *,
    epochs: int,
    train_tokens: int,
    val_tokens: int,
    missing_tokens: int,
    num_layers: int,
    layers: int,
    last_too: bool,
) -> Estimate:
    """Work out how long a run takes.

    Args:
        speeds: Seconds for each token.
        epochs: At most so many.
        train_tokens: Tokens that this process computes in an epoch, padding included.
        val_tokens: The same for one validation; there is one more of them than epochs.
        missing_tokens: Tokens of which the stores know nothing yet.
        num_layers: Layers of the model.
        layers: Layers that are trained.
        last_too: Whether the stores keep the last states, too.
    """
    forward_s = speeds.step_s * _FORWARD
    frozen = layers < num_layers
    prepare_s = missing_tokens * (speeds.lower_s + (forward_s if last_too else 0.0))
    train_s = epochs * train_tokens * speeds.step_s
    validate_s = (epochs + 1) * val_tokens * forward_s
    fewer = max(1, round(num_layers * HINTED_SHARE))
    once_s = (train_tokens + val_tokens) * forward_s  # through all layers, to know what the frozen ones give
    share = fewer / layers
    return Estimate(
        prepare_s=prepare_s,
        train_s=train_s,
        validate_s=validate_s,
        train_tokens_per_s=1.0 / max(speeds.step_s, 1e-12),
        shorter_s=0.0 if frozen or share >= 1 else once_s + share * (train_s + validate_s),
        shorter_layers=0 if frozen or share >= 1 else fewer,
    )


def told(found: Estimate, epochs: int) -> Text:
    """Say it in a sentence."""
    sentence = say(
        "About {total} for at most {epochs} epochs, at {rate} tokens/s: {prepare} to prepare, {train} to train, "
        "{validate} to validate.",
        total=show_time(found.total_s),
        epochs=epochs,
        rate=show_number(found.train_tokens_per_s),
        prepare=show_time(found.prepare_s),
        train=show_time(found.train_s),
        validate=show_time(found.validate_s),
    )
    if not found.shorter_layers or found.total_s < WORTH_A_HINT_S:
        return sentence
    return say(
        "{sentence} With --top-layers {layers} it would be about {shorter}.",
        sentence=sentence,
        layers=found.shorter_layers,
        shorter=show_time(found.shorter_s),
    )


def show_time(seconds: float) -> str:
    """Write a duration for reading: to the second below an hour, to the minute above."""
    unit = 60 if seconds >= 3600 else 1  # noqa: PLR2004 -- an hour
    return format_seconds(float(round(seconds / unit) * unit))


def _settle(device: Any) -> None:
    """Wait until a GPU has done what it was asked."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
