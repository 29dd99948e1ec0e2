"""One process, or several that train together under torchrun; they need to add up and to agree, nothing more.

Gradients of LoRA are small (40 MB for 0.6B), so they are added up in one flat tensor over gloo, or NCCL on GPUs. Every
process computes its share of each batch, and all of them end each step with the same weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from qwenops.errors import ConfigError
from qwenops.text import say

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")

TIMEOUT = timedelta(hours=6)
"""How long one waits for another; they may prepare for different times, and who dies is noticed at once anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes that train together; by default this one alone."""

    rank: int = 0
    """The number of this one, from 0."""
    size: int = 1
    local_rank: int = 0
    """Its number on this machine."""
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def add(self, tensors: "Sequence[torch.Tensor]") -> None:
        """Replace each tensor by its sum over all processes; they must be of one kind and on one device."""
        import torch

        if self.size == 1 or not tensors:
            return
        flat = torch.cat([each.reshape(-1) for each in tensors])
        torch.distributed.all_reduce(flat)
        _spread(flat, tensors)

    def take_first(self, tensors: "Sequence[torch.Tensor]") -> None:
        """Replace each tensor by the first process's."""
        import torch

        if self.size == 1 or not tensors:
            return
        flat = torch.cat([each.detach().reshape(-1) for each in tensors])
        torch.distributed.broadcast(flat, src=0)
        _spread(flat, tensors)

    def agreed(self, value: Value) -> Value:
        """Return the first process's value."""
        import torch

        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def _spread(flat: "torch.Tensor", tensors: "Sequence[torch.Tensor]") -> None:
    import torch

    at = 0
    with torch.no_grad():
        for each in tensors:
            each.copy_(flat[at : at + each.numel()].view_as(each))
            at += each.numel()


@contextmanager
def joined(environ: Mapping[str, str], *, cuda: bool) -> Iterator[World]:
    """Join the other processes that torchrun started, if it did; leave them at the end.

    Raises:
        ConfigError: torchrun's variables are incomplete or make no sense.
    """
    world = _world(environ)
    if world.size == 1:
        yield world
        return
    import torch

    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo", rank=world.rank, world_size=world.size, timeout=TIMEOUT
    )
    try:
        yield world
    finally:
        torch.distributed.destroy_process_group()


def _world(environ: Mapping[str, str]) -> World:
    if "WORLD_SIZE" not in environ:
        return World()
    try:
        rank, size, local_rank, local_size = (
            int(environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            say("The variables of torchrun are incomplete: {reason}.", reason=str(error)),
            hint=say("Start all processes with torchrun, or none."),
        ) from error
    if not 0 <= rank < size or not 0 <= local_rank < local_size:
        raise ConfigError(
            say("Process {rank} of {size} is none.", rank=rank, size=size),
            hint=say("Start all processes with torchrun, or none."),
        )
    return World(rank=rank, size=size, local_rank=local_rank, local_size=local_size)
