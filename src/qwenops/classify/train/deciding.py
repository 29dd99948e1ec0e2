"""What is decided from the machine before a run, with the reasons; a run that is taken up again keeps it."""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from qwenops.classify.train import qlora
from qwenops.classify.train.memory import fit
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.precision import choose_precision
from qwenops.errors import ConfigError, MissingPartError
from qwenops.hardware import detect_machine, plan_threads
from qwenops.models.spec import ModelSpec
from qwenops.text import say

if TYPE_CHECKING:
    import torch

REQUIRES = ("torch", "transformers", "peft")
VERSIONED = (*REQUIRES, "safetensors", "tokenizers", "numpy", "bitsandbytes", "qwenops")


def check_installed() -> None:
    """Raise MissingPartError unless all that training needs can be imported."""
    missing = [name for name in REQUIRES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPartError(
            say("Training needs {missing}, which is not installed.", missing=" and ".join(missing)),
            hint=say("Install the train extra: pip install 'qwenops[train]'."),
        )


def versions() -> dict[str, str]:
    """Return the versions of all that the numbers depend on; what is not installed is left out."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def choose_device(wanted: Literal["auto", "cpu", "cuda"], local_rank: int) -> "torch.device":
    """Return where to compute.

    Raises:
        ConfigError: A GPU was asked for, and torch finds none.
    """
    import torch

    has = torch.cuda.is_available()
    if wanted == "cuda" and not has:
        raise ConfigError(
            say("torch finds no GPU here."),
            hint=say("Leave the device to be found, or install a build of torch for it."),
        )
    return torch.device("cuda", local_rank) if has and wanted != "cpu" else torch.device("cpu")


def choose_threads(options: TrainOptions, local_size: int) -> int:
    """Return how many threads compute in each of the processes on this machine."""
    return options.threads or max(1, plan_threads(detect_machine()).value // local_size)


def decide(
    options: TrainOptions,
    spec: ModelSpec,
    *,
    device: "torch.device",
    longest: int,
    local_size: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Decide on arithmetic and memory.

    Args:
        options: What was asked for.
        spec: The model's shape.
        device: Where it is computed.
        longest: Tokens of the longest prompt.
        local_size: Processes that share this machine's memory.
        clock: Seconds from any point.

    Raises:
        InsufficientMemoryError: Nothing fits.
        MissingPartError: Four bits were asked for, and what makes them is not installed.
    """
    if options.four_bit == "always":
        qlora.check_installed()
    precision = choose_precision(options.precision, spec, device=device, clock=clock)
    found = fit(
        spec,
        options,
        precision=precision.value,
        longest=longest,
        limit_bytes=_limit_bytes(device) // local_size,
        has_four_bit=qlora.is_installed(),
    )
    return {
        "precision": precision.value,
        "precision_reason": precision.reason,
        "micro_tokens": found.micro_tokens,
        "recompute": found.recompute,
        "four_bit": found.four_bit,
        "needed_bytes": found.needed_bytes,
        "memory_reason": found.reason,
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of those facts that differ, of which bits depend though the meaning does not."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _limit_bytes(device: "torch.device") -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return detect_machine().memory_limit.value
