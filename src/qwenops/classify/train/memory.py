"""How to fit training into the memory that there is: which of the means to take, cheapest first.

Fewer tokens at once cost little, computing layers twice costs a third of the time, frozen matrices in four bits cost
more than that. What is estimated is an upper figure: what a layer keeps for the way back, the weights, and for each
trained number its value, its gradient, two averages and the best value so far.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from qwenops.classify.train.options import TrainOptions
from qwenops.errors import InsufficientMemoryError
from qwenops.models.spec import ModelSpec, Precision, TensorKind
from qwenops.options import show_bytes
from qwenops.text import Text, say

RUNTIME_BYTES = 900 * 1024**2
"""What the interpreter, torch, transformers and peft hold before any model is loaded, with a margin."""
TRAINED_BYTES = 20
"""Of each trained number: five times float32."""
FOUR_BIT_BYTES = 0.53
"""Of each frozen number in four bits, with its scales, which are quantised themselves."""
SHARE = 0.9
"""Of the limit; the rest is for the allocator and for what nobody counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How training fits into memory. A run that is taken up again keeps it, or its results would differ."""

    micro_tokens: int
    recompute: bool
    four_bit: bool
    needed_bytes: int
    reason: str


def fit(
    spec: ModelSpec,
    options: TrainOptions,
    *,
    precision: Precision,
    longest: int,
    limit_bytes: int,
    has_four_bit: bool,
) -> Fit:
    """Choose the cheapest way that fits.

    Args:
        spec: The model's shape.
        options: What was asked for.
        precision: The arithmetic.
        longest: Tokens of the longest prompt; no fewer can be computed at once.
        limit_bytes: Memory that may be used.
        has_four_bit: Whether what quantises is installed.

    Raises:
        InsufficientMemoryError: Nothing fits.
    """
    least, usable_bytes = 0, int(SHARE * limit_bytes)
    for number, (micro_tokens, recompute, four_bit) in enumerate(_ways(options, longest, has_four_bit=has_four_bit)):
        needed_bytes = estimate_bytes(
            spec,
            options,
            precision=precision,
            tokens=max(micro_tokens, longest),
            recompute=recompute,
            four_bit=four_bit,
        )
        if needed_bytes <= usable_bytes:
            reason = _told(needed_bytes, usable_bytes, first=number == 0, recompute=recompute, four_bit=four_bit)
            return Fit(
                micro_tokens=micro_tokens,
                recompute=recompute,
                four_bit=four_bit,
                needed_bytes=needed_bytes,
                reason=reason,
            )
        least = needed_bytes
    hint = say("Give it more memory, allow shorter prompts with --max-tokens, or train fewer layers with --top-layers.")
    if not has_four_bit and options.four_bit == "auto":
        hint = say(
            "Install bitsandbytes (pip install 'qwenops[qlora]') to keep the model in four bits, or give it more "
            "memory."
        )
    raise InsufficientMemoryError(
        say(
            "Training needs about {needed}, and {limit} may be used.",
            needed=show_bytes(least),
            limit=show_bytes(usable_bytes),
        ),
        needed_bytes=least,
        available_bytes=usable_bytes,
        hint=hint,
    )


def estimate_bytes(
    spec: ModelSpec, options: TrainOptions, *, precision: Precision, tokens: int, recompute: bool, four_bit: bool
) -> int:
    """Return about how much memory training takes when so many tokens are computed at once."""
    item = 2 if precision == "bf16" else 4
    layers = trained_layers(spec, options.top_layers)
    frozen = {TensorKind.LINEAR: FOUR_BIT_BYTES if four_bit else float(item)}
    weights = sum(tensor.num_elements * frozen.get(tensor.kind, item) for tensor in spec.tensors())
    widest = max(tensor.num_elements for tensor in spec.layer_tensors(0)) if four_bit else 0
    kept = _kept_elements(spec)
    held = layers * spec.hidden_size + kept if recompute else layers * kept
    trained = num_trained(spec, layers, options.rank)
    return int(weights + item * (tokens * held + 2 * widest) + TRAINED_BYTES * trained + RUNTIME_BYTES)


def trained_layers(spec: ModelSpec, top_layers: int) -> int:
    """Return how many of the last layers are trained."""
    return min(top_layers, spec.num_layers) or spec.num_layers


def num_trained(spec: ModelSpec, layers: int, rank: int) -> int:
    """Count the numbers of the LoRA matrices of so many layers."""
    matrices = [tensor.shape for tensor in spec.layer_tensors(0) if tensor.kind is TensorKind.LINEAR]
    return layers * rank * sum(rows + columns for rows, columns in matrices)


def _kept_elements(spec: ModelSpec) -> int:
    """Return how many numbers one token leaves in one layer for the way back.

    Norms keep float32 copies, each matrix its input and LoRA's after dropout, attention its rotated and plain parts.
    """
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    return 14 * spec.hidden_size + 8 * queries + 6 * keys + 6 * spec.intermediate_size


def _ways(options: TrainOptions, longest: int, *, has_four_bit: bool) -> Iterator[tuple[int, bool, bool]]:
    """Yield tokens at once, whether to compute twice, whether in four bits; cheapest first."""
    bits = [options.four_bit == "always"]
    if options.four_bit == "auto" and has_four_bit:
        bits.append(True)
    for four_bit in bits:
        for recompute in (True,) if options.recompute else (False, True):
            tokens = options.micro_tokens
            while True:
                yield tokens, recompute, four_bit
                if tokens <= longest:
                    break
                tokens = max(longest, tokens // 2)


def _told(needed_bytes: int, limit_bytes: int, *, first: bool, recompute: bool, four_bit: bool) -> Text:
    needed, limit = show_bytes(needed_bytes), show_bytes(limit_bytes)
    if first:
        return say("About {needed} are needed, and {limit} may be used.", needed=needed, limit=limit)
    if four_bit:
        return say(
            "Memory is short ({limit}), so the frozen matrices are kept in four bits: {needed}.",
            needed=needed,
            limit=limit,
        )
    if recompute:
        return say("Memory is short ({limit}), so layers are computed twice: {needed}.", needed=needed, limit=limit)
    return say("Memory is short ({limit}), so fewer tokens are computed at once: {needed}.", needed=needed, limit=limit)
