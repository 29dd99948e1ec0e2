"""Where the calls' states come from: computed from their tokens, or from what frozen layers gave, if that is known.

tokens ──(layers below the first trained one: once, kept on disk)──> hidden ──(trained layers)──> state ──> logits
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwenops.classify.dataset import EncodedCalls, micro_batches
from qwenops.classify.train.activations import Activations, open_activations
from qwenops.classify.train.body import Body, padded
from qwenops.classify.train.precision import torch_dtype
from qwenops.text import Report, say

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

SYNC_EVERY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Gives the states of some calls; `source_of` makes one."""

    body: Body
    calls: EncodedCalls
    first_layer: int
    """The first trained layer."""
    lower: Activations | None = None
    """What the layers below it gave; None when there are none, or they are computed each time."""
    digests: tuple[bytes, ...] = ()
    """The prompts' names in `lower`."""
    recompute: bool = False

    def hidden(self, places: Sequence[int]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return what the first trained layer reads, [calls, longest, hidden], padded on the right, and the lengths."""
        import torch

        if self.lower is None:
            ids, lengths = padded([self.calls.prompt(place) for place in places], self.body.device)
            with torch.no_grad():
                return self.body.through(self.body.embedded(ids), 0, self.first_layer), lengths
        rows = [self.lower.read(self.digests[place]) for place in places]
        whole = np.zeros((len(rows), max(map(len, rows)), self.lower.width), dtype=rows[0].dtype)
        for number, each in enumerate(rows):
            whole[number, : len(each)] = each
        bits = torch.from_numpy(whole.view(np.int16) if self.lower.kind == "bf16" else whole)
        lengths = torch.tensor([len(each) for each in rows], device=self.body.device)
        return bits.view(torch_dtype(self.lower.kind)).to(self.body.device), lengths

    def states(self, places: Sequence[int]) -> "torch.Tensor":
        """Return the normed states at the last positions, [calls, hidden], in float32; they can be differentiated."""
        hidden, lengths = self.hidden(places)
        return self.body.states(self.body.through(hidden, self.first_layer, recompute=self.recompute), lengths)


def source_of(
    calls: EncodedCalls, body: Body, *, first_layer: int, lower: Activations | None = None, recompute: bool = False
) -> Source:
    """Return what gives the states of `calls`."""
    digests = tuple(calls.digest(place) for place in range(len(calls))) if lower is not None else ()
    return Source(body=body, calls=calls, first_layer=first_layer, lower=lower, digests=digests, recompute=recompute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Stores of what the untrained model gives."""

    lower: Activations | None
    """After the frozen layers, each position."""
    last: Activations | None
    """After all layers and the norm, the last position."""

    @property
    def stores(self) -> tuple[Activations, ...]:
        """Those that there are."""
        return tuple(each for each in (self.lower, self.last) if each is not None)

    def close(self) -> None:
        """Close them."""
        for store in self.stores:
            store.close()


def open_frozen(root: Path, body: Body, *, facts: Mapping[str, Any], first_layer: int, last_too: bool) -> Frozen:
    """Open the stores that a run needs.

    Args:
        root: The folder of all stores.
        body: What computes.
        facts: About the weights and the libraries.
        first_layer: The first trained layer.
        last_too: Whether the last states are wanted, too.
    """
    whole = {**facts, "precision": body.precision, "four_bit": body.four_bit, "device": body.device.type}
    width = body.spec.hidden_size
    lower = (
        open_activations(root, {**whole, "layers": first_layer}, width=width, kind=body.precision)
        if first_layer
        else None
    )
    last = open_activations(root, {**whole, "layers": "all"}, width=width, kind="f32") if last_too else None
    return Frozen(lower=lower, last=last)


def fill(
    frozen: Frozen,
    body: Body,
    sets: Sequence[EncodedCalls],
    *,
    first_layer: int,
    micro_tokens: int,
    clock: Callable[[], float],
    report: Report,
) -> int:
    """Compute what the stores lack for these calls; return how many prompts that were.

    What is there already is not computed again, so a run that was killed goes on where it was.

    Raises:
        InsufficientDiskError: There is no room for it; nothing was computed.
    """
    wanted = missing(frozen, sets)
    if not wanted:
        return 0
    lengths = np.array([len(prompt) for _, prompt in wanted], dtype=np.int64)
    if frozen.lower is not None:
        frozen.lower.reserve(sum(len(prompt) for digest, prompt in wanted if digest not in frozen.lower))
    total, done, synced_s = int(lengths.sum()), 0, clock()
    for piece in micro_batches(range(len(wanted)), lengths, micro_tokens):
        _compute(frozen, body, [wanted[place] for place in piece], first_layer)
        done += int(lengths[list(piece)].sum())
        if clock() - synced_s >= SYNC_EVERY_S:
            _sync(frozen)
            synced_s = clock()
        report(done / total, say("Computing the frozen layers: {done} of {total} tokens", done=done, total=total))
    _sync(frozen)
    return len(wanted)


def last_states(last: Activations, calls: EncodedCalls) -> "NDArray[np.float32]":
    """Return the untrained model's states of calls, [calls, hidden], from a store that has been filled for them."""
    rows = [last.read(calls.digest(place)) for place in range(len(calls))]
    found: NDArray[np.float32] = np.concatenate(rows).astype(np.float32)
    return found


def missing(frozen: Frozen, sets: Sequence[EncodedCalls]) -> "list[tuple[bytes, NDArray[np.int32]]]":
    """Return each prompt once that one of the stores lacks, with its hash."""
    found: dict[bytes, NDArray[np.int32]] = {}
    for calls in sets:
        for place in range(len(calls)):
            digest = calls.digest(place)
            if any(digest not in store for store in frozen.stores):
                found[digest] = calls.prompt(place)
    return list(found.items())


def _compute(frozen: Frozen, body: Body, wanted: "Sequence[tuple[bytes, NDArray[np.int32]]]", first_layer: int) -> None:
    """Run prompts through the model and add what the stores lack."""
    import torch

    with torch.no_grad():
        ids, lengths = padded([prompt for _, prompt in wanted], body.device)
        hidden = body.through(body.embedded(ids), 0, first_layer)
        if frozen.lower is not None:
            for (digest, prompt), rows in zip(wanted, _plain(hidden), strict=True):
                frozen.lower.add(digest, rows[: len(prompt)])
        if frozen.last is not None:
            states = body.states(body.through(hidden, first_layer), lengths)
            for (digest, _), row in zip(wanted, _plain(states), strict=True):
                frozen.last.add(digest, row)


def _plain(tensor: "torch.Tensor") -> "Iterator[NDArray[Any]]":
    """Yield the rows of a tensor as numpy arrays; bf16 as its bits."""
    import torch

    whole = tensor.detach().cpu()
    if whole.dtype == torch.bfloat16:
        yield from whole.view(torch.int16).numpy().view(np.uint16)
    else:
        yield from whole.float().numpy()


def _sync(frozen: Frozen) -> None:
    for store in frozen.stores:
        store.sync()
