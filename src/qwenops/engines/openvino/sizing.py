"""How much memory the engine takes: whether the model fits, and what the KV cache gets."""

from qwenops.engines.openvino.blocks import BLOCK_TOKENS, blocks_for
from qwenops.engines.options import EngineOptions
from qwenops.errors import InsufficientMemoryError
from qwenops.hardware.machine import Machine
from qwenops.hardware.reasoned import Reasoned
from qwenops.models.artefact import Artefact
from qwenops.text import say

SHARE = 0.5
"""Of the memory that is left when the model is loaded, for the KV cache; the rest is for activations and neighbours."""
LEAST_TOKENS = 512
"""A KV cache for fewer is of no use."""


def check_fit(artefact: Artefact, options: EngineOptions, machine: Machine) -> bool:
    """Return whether two compiled forms of the model fit the memory limit at a time.

    Raises:
        InsufficientMemoryError: Not even one does.
    """
    limit = machine.memory_limit.value
    one, two = (
        artefact.spec.estimate_memory(
            artefact.scheme,
            kv_tokens=LEAST_TOKENS,
            kv_precision=options.kv_precision,
            batched_tokens=options.max_batched_tokens,
            forms=forms,
        ).total_bytes
        for forms in (1, 2)
    )
    if one > limit:
        raise InsufficientMemoryError(
            say(
                "The model needs about {needed:.1f} GiB and {available:.1f} GiB may be used. {reason}",
                needed=one / 2**30,
                available=limit / 2**30,
                reason=machine.memory_limit.reason,
            ),
            needed_bytes=one,
            available_bytes=limit,
            hint=say("Choose a smaller model or a smaller scheme (int4), or raise the memory limit."),
        )
    return two <= limit


def plan_blocks(
    options: EngineOptions, *, context_tokens: int, block_bytes: int, limit_bytes: int, used_bytes: int
) -> Reasoned[int]:
    """Decide how many blocks the KV cache has.

    Args:
        options: May say how many bytes it gets.
        context_tokens: Longest sequence.
        block_bytes: Bytes of one block, all layers together.
        limit_bytes: What this process may use.
        used_bytes: What it uses already.

    Raises:
        InsufficientMemoryError: There is no room for a useful one.
    """
    most = options.max_running * blocks_for(context_tokens)
    if options.kv_cache_bytes:
        num = min(options.kv_cache_bytes // block_bytes, most)
        reason = say("The options give the KV cache {gib:.2f} GiB.", gib=options.kv_cache_bytes / 2**30)
    else:
        free = max(limit_bytes - used_bytes, 0)
        num = min(int(free * SHARE) // block_bytes, most)
        reason = (
            say("All {running} sequences fit at full length.", running=options.max_running)
            if num == most
            else say("Half of the {gib:.1f} GiB that are left beside the model.", gib=free / 2**30)
        )
    least = 1 if options.kv_cache_bytes else blocks_for(min(LEAST_TOKENS, context_tokens))
    if num < least:
        raise InsufficientMemoryError(
            say("The KV cache would hold {tokens} tokens only.", tokens=num * BLOCK_TOKENS),
            needed_bytes=least * block_bytes,
            available_bytes=num * block_bytes,
            hint=say("Raise kv_cache_bytes or the memory limit, or choose a smaller model."),
        )
    return Reasoned(value=num, reason=reason)
