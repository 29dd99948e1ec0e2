"""The seam between those who want tokens or label scores and those who make them.

An engine turns a request into a stream of chunks and never reads a clock for it: whoever iterates measures, so TTFT has
one definition. What an engine can do is data (`EngineInfo`), not methods. A new engine is one new file and one line in
`engines.ENGINES`.
"""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from qwenops.generation import Chunk, GenerationRequest, Tokens

_LONGEST_RETRY_S = 300


def retry_after_s(expected_s: float) -> float:
    """Return when to ask an engine again that is expected after `expected_s`: whole seconds, 1 to 300."""
    return float(math.ceil(min(max(expected_s, 1.0), _LONGEST_RETRY_S)))


class EngineState(StrEnum):
    """Whether an engine can work right now."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It died or froze and is being started again."""
    FAILED = "failed"
    """It will not come back by itself."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """A snapshot of how an engine is doing; `reason` says in a sentence why it is not ready."""

    state: EngineState = EngineState.READY
    reason: str = ""
    restarts: int = 0
    load_progress: float = 1.0
    """From 0 to 1 while starting."""
    running: int = 0
    waiting: int = 0
    kv_used_ratio: float = 0.0
    preemptions: int = 0
    cached_prompt_tokens: int = 0
    """Prompt tokens taken from the prefix cache since the start."""
    prefill_tokens_per_s: float = 0.0
    """Measured over the recent past; 0 while nothing has run."""
    decode_tokens_per_s: float = 0.0
    memory_bytes: int = 0
    """Resident memory of the process that computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine runs and what it accepts. `health` is a fresh snapshot at each read of `Engine.info`."""

    engine: str
    """The name in `engines.ENGINES`."""
    model: str
    """The name it is served under."""
    accepts: Literal["tokens", "messages", "both"]
    context_tokens: int
    """Prompt and answer together."""
    model_context_tokens: int = 0
    """What the model was made for, which no option raises; 0 when unknown."""
    revision: str = ""
    sha256: str = ""
    quantization: str = ""
    version: str = ""
    """Of the library underneath."""
    max_running: int = 1
    """Requests that are computed at the same time; the rest wait inside the engine."""
    kv_capacity_tokens: int = 0
    """Tokens of all sequences together that fit the KV cache; 0 when unknown."""
    kv_cache_bytes: int = 0
    """Memory of the KV cache; 0 when unknown."""
    logprobs: bool = False
    structure: bool = False
    load_s: float = 0.0
    threads: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)
    """What was decided from this machine, each with its reason in a sentence."""
    left_out: tuple[str, ...] = ()
    """What requests ask for and a remote server turned out not to know, so that they go without (`notes` says more)."""
    fallback_for: str = ""
    """The configured model, when this one serves in its place."""
    health: EngineHealth = field(default_factory=EngineHealth)


class Engine(Protocol):
    """Turns requests into streams of tokens."""

    @property
    def info(self) -> EngineInfo:
        """What this engine runs, and how it is doing now. Never blocks."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Yield the answer piece by piece; closing the iterator cancels the request and frees all it held.

        Raises:
            InvalidRequestError: The request cannot be answered by this engine; nothing was computed.
            PromptTooLongError: The prompt does not fit the context or the KV cache.
            EngineUnavailableError: The engine is restarting, failed or closed.
            EngineCrashedError: The engine died or froze while it worked on this request.
        """
        ...

    async def aclose(self) -> None:
        """Give back threads, memory, processes and sockets. A second call does nothing."""
        ...


class LabelScorer(Protocol):
    """Says how probable each label is as the next token, in one prefill and without decoding."""

    async def score(self, prompts: Sequence[Tokens], label_ids: Sequence[int]) -> list[tuple[float, ...]]:
        """Return, for each prompt, the probabilities of `label_ids`, which sum to 1 (a softmax over the labels alone).

        Raises:
            InvalidRequestError: A label is not exactly one token of the vocabulary, or there are fewer than two.
            PromptTooLongError: A prompt does not fit.
        """
        ...
