"""Frozen matrices in four bits (NF4, by bitsandbytes), for machines whose memory is too short for 16.

It computes on the CPU as well, and is slower there than bf16: each product first makes 16 bits of the four again. The
adapter that comes out is an ordinary one; it is merged into the original weights, never into these.

bitsandbytes has a second layout for its fast inference on the CPU, which a module takes on when it is switched to
evaluation; training does not work in it. So modules here always stay in training mode.
"""

import importlib.util
import os
from typing import TYPE_CHECKING, Any

from qwenops.errors import MissingPartError
from qwenops.text import say

if TYPE_CHECKING:
    import torch

PACKAGE = "bitsandbytes"


def is_installed() -> bool:
    """Say whether four bits are possible here."""
    return importlib.util.find_spec(PACKAGE) is not None


def check_installed() -> None:
    """Raise MissingPartError unless four bits are possible here."""
    if not is_installed():
        raise MissingPartError(
            say("Four bits need {package}, which is not installed.", package=PACKAGE),
            hint=say("Run `pip install 'qwenops[qlora]'`, or leave --four-bit out."),
        )


def four_bit_linear(weight: "torch.Tensor", compute: "torch.dtype") -> Any:
    """Return a linear layer that holds `weight` [out, in] in four bits, on the tensor's device.

    Raises:
        MissingPartError: bitsandbytes is not installed.
    """
    check_installed()
    # Beside the package `kernels` it would fetch code from a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import bitsandbytes

    rows, columns = weight.shape
    layer = bitsandbytes.nn.Linear4bit(
        columns, rows, bias=False, compute_dtype=compute, quant_type="nf4", device="meta"
    )
    held = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=layer)
    layer.weight = held.to(weight.device)
    return layer
