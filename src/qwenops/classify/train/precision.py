"""Which arithmetic to train in, found out by measuring: bf16 where it is faster here, else float32.

With AMX or AVX512-BF16, bf16 products are several times faster than float32 ones; without, they are slower. What the
processor says about itself does not settle it (a virtual machine, a library that lacks the kernel), so the product that
training spends its time on is timed in both, for a second or so.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from qwenops.hardware.reasoned import Reasoned
from qwenops.models.spec import ModelSpec, Precision
from qwenops.options import show_number
from qwenops.text import say

if TYPE_CHECKING:
    import torch

PROBE_TOKENS = 512
PROBE_S = 0.3
WORTH = 1.15
"""bf16 is taken when it is at least this much faster: it has its own costs around the products, and less precision."""


def choose_precision(
    wanted: Literal["auto", "bf16", "f32"], spec: ModelSpec, *, device: "torch.device", clock: Callable[[], float]
) -> Reasoned[Precision]:
    """Decide in which arithmetic to train, and say why."""
    if wanted != "auto":
        return Reasoned(value=wanted, reason=say("{precision} was asked for.", precision=wanted))
    import torch

    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported()
        return Reasoned(
            value="bf16" if has else "f32",
            reason=say("This GPU computes bf16.") if has else say("This GPU does not compute bf16."),
        )
    speeds = {kind: gemm_flops(spec, kind, clock=clock) for kind in ("bf16", "f32")}
    faster = speeds["bf16"] >= WORTH * speeds["f32"]
    return Reasoned(
        value="bf16" if faster else "f32",
        reason=say(
            "Matrix products run at {bf16} TFLOP/s in bf16 and at {f32} in f32 here.",
            bf16=show_number(speeds["bf16"] / 1e12),
            f32=show_number(speeds["f32"] / 1e12),
        ),
    )


def gemm_flops(spec: ModelSpec, precision: str, *, clock: Callable[[], float]) -> float:
    """Return how many operations a second the widest product of a layer runs at, the best of a few tries."""
    import torch

    kind = torch_dtype(precision)
    left = torch.ones(PROBE_TOKENS, spec.hidden_size, dtype=kind)
    right = torch.ones(spec.intermediate_size, spec.hidden_size, dtype=kind)
    torch.nn.functional.linear(left, right)
    best_s, started_s = float("inf"), clock()
    while True:
        begun_s = clock()
        torch.nn.functional.linear(left, right)
        now_s = clock()
        best_s = min(best_s, now_s - begun_s)
        if now_s - started_s >= PROBE_S:
            break
    return 2.0 * PROBE_TOKENS * spec.hidden_size * spec.intermediate_size / max(best_s, 1e-9)


def torch_dtype(precision: str) -> "torch.dtype":
    """Return torch's name for an arithmetic."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32
