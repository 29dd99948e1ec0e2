"""The words of the seam: what is asked of an engine, and what comes back.

Everything here is frozen and plain, so that it can cross a process border and be compared in tests. Units: tokens are
counted in tokens, times in seconds, log-probabilities are natural logarithms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool that an assistant asked for; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A prompt that is already tokens."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """A prompt that is a conversation; a chat template turns it into tokens."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    enable_thinking: bool = False
    continue_final: bool = False
    """Whether the last assistant message is to be continued instead of answered."""


Prompt = Tokens | Messages


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchema:
    """The answer must be JSON that this schema (JSON text) accepts."""

    schema: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonObject:
    """The answer must be one JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regex:
    """The answer must match this regular expression as a whole."""

    pattern: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The answer must be one of these strings."""

    choices: tuple[str, ...]


Structure = JsonSchema | JsonObject | Regex | Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen, and when to stop.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch their filter off. `logprobs` None gives none,
    0 gives the chosen token's, n gives the n best beside it. Log-probabilities are those of the model before any of
    these.
    """

    max_tokens: int = 512
    temperature: float = 0.7
    top_k: int = 20
    top_p: float = 0.8
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    structure: Structure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt and how to answer it.

    `id` is unique among the requests in flight. `namespace` separates tenants in the prefix cache: two requests share
    cached blocks only when their namespaces are equal.
    """

    id: str
    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    model: str = ""
    namespace: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)
    """Context that travels with the request (W3C trace headers); engines pass it on and never read it."""


class FinishReason(StrEnum):
    """Why an answer ended. A failure is raised, never a finish reason."""

    STOP = "stop"
    """An end-of-text token, a stop string, or a finished structure."""
    LENGTH = "length"
    """`max_tokens`, or the end of the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One token with its natural log-probability under the model; `raw` is its bytes (half a character, possibly)."""

    token_id: int
    raw: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that one request took. `reported` holds timings that a remote server sent, in seconds by its own names."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    unsaid: frozenset[str] = frozenset()
    """Which of the three a remote server did not say; they are 0 here."""
    reported: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One piece of an answer.

    A chunk may hold text, tokens, both or neither (a token can be half a character, a remote server sends no ids).
    Exactly the last one has a `finish_reason` and `usage`; of a remote server that counts nothing, `usage` stays None.
    """

    text: str = ""
    is_added: bool = False
    """Whether `text` only closes what a remote server left open (`</think>`): nothing came at that moment."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
