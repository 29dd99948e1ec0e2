"""How much memory the engine takes: whether the model fits, and what the KV cache gets."""

from qwenops.engines.openvino.blocks import BLOCK_TOKENS, blocks_for
from qwenops.engines.options import EngineOptions
from qwenops.errors import InsufficientMemoryError
from qwenops.hardware.machine import Machine
from qwenops.hardware.reasoned import Reasoned
from qwenops.models.artefact import Artefact
from qwenops.models.spec import KvPrecision
from qwenops.text import say

SHARE = 0.5
"""Of the memory that is left when the model is loaded, for the KV cache; the rest is for activations and neighbours."""
LEAST_TOKENS = 512
"""A KV cache for fewer is of no use."""
LONGEST_PAUSE_S = 0.5
"""How long a step may take while somebody waits for the next token; prompts are cut to what can be read in it."""
LONG_CALL_TOKENS = 2048
"""Prompt and answer of a long call."""


def forms_that_fit(artefact: Artefact, options: EngineOptions, machine: Machine) -> int:
    """Return how many compiled forms of the model fit the memory limit at a time: 1, 2 or 3.

    Raises:
        InsufficientMemoryError: Not even one does.
    """
    limit = machine.memory_limit.value
    needed = [_needed_bytes(artefact, options, forms) for forms in (1, 2, 3)]
    if needed[0] > limit:
        raise InsufficientMemoryError(
            say(
                "The model needs about {needed:.1f} GiB and {available:.1f} GiB may be used. {reason}",
                needed=needed[0] / 2**30,
                available=limit / 2**30,
                reason=machine.memory_limit.reason,
            ),
            needed_bytes=needed[0],
            available_bytes=limit,
            hint=say("Choose a smaller model or a smaller scheme (int4), or raise the memory limit."),
        )
    return sum(each <= limit for each in needed)


def kv_choices(artefact: Artefact, options: EngineOptions, machine: Machine) -> tuple[KvPrecision, ...]:
    """Return the formats of the KV cache that memory allows to choose from, the smallest first.

    The larger format is offered only where every sequence at a time could still hold a long call.
    """
    if options.kv_precision != "auto":
        return (options.kv_precision,)
    budget = options.kv_cache_bytes or int(SHARE * (machine.memory_limit.value - _needed_bytes(artefact, options, 2)))
    tokens = options.max_running * min(options.context_tokens, LONG_CALL_TOKENS)
    return ("u8", "bf16") if budget >= tokens * artefact.spec.kv_bytes_per_token("bf16") else ("u8",)


def _needed_bytes(artefact: Artefact, options: EngineOptions, forms: int) -> int:
    return artefact.spec.estimate_memory(
        artefact.scheme,
        kv_tokens=LEAST_TOKENS,
        kv_precision="u8" if options.kv_precision == "auto" else options.kv_precision,
        batched_tokens=options.max_batched_tokens,
        forms=forms,
    ).total_bytes


def mixed_tokens(prompt_tokens_per_s: float, most: int, *, pause_s: float = LONGEST_PAUSE_S) -> int:
    """Return how many tokens a step has in which somebody decodes: whole blocks that can be read in `pause_s`."""
    blocks = max(1, int(prompt_tokens_per_s * pause_s) // BLOCK_TOKENS)
    return min(blocks * BLOCK_TOKENS, most)


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
