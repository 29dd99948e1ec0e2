"""What is known about one request: raw moments, from which every figure is computed (`definitions.py`).

All times are nanoseconds since the beginning of the run (its origin); the manifest has the origin's wall-clock time.
None means that the moment did not come. A record is written once, when its request is over, and never changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

SCHEMA = "qwenops.request/1"

NS_PER_S = 1_000_000_000

TokenSource = Literal["server", "tokenizer", "estimate"]
ESTIMATE: TokenSource = "estimate"
"""Nobody counted: the number of chunks stands for that of tokens."""


class Failure(StrEnum):
    """Why a request has no good answer."""

    CLIENT = "client"
    """The measuring side could not even send it: no file, port or buffer was left. No fault of the server."""
    CONNECT = "connect"
    """No connection, or the server was not ready."""
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    """4xx other than 429: the request itself is wrong."""
    SHED = "shed"
    """429 or 503: the server chose not to."""
    FAILED = "failed"
    """Another 5xx, or an error in process."""
    CUT = "cut"
    """The stream ended before its end."""
    MALFORMED = "malformed"
    """Something came that the protocol does not allow."""
    EMPTY = "empty"
    """It ended well and held no content."""
    INTERRUPTED = "interrupted"
    """The run was stopped while it was in flight; no fault of the server, and not counted as one."""


class Phase(StrEnum):
    """Which part of a run a request belongs to."""

    WARMUP = "warmup"
    MEASURE = "measure"
    RECOVERY = "recovery"
    """After an overload, to see whether the server is itself again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request with its moments. The window it counts in is decided by `scheduled_ns` alone."""

    index: int
    """Its number in the run, from 0; unique in a run folder."""
    segment: str
    """The part of the run that it belongs to, such as `load`, `users=4`, `block 3 B`."""
    phase: Phase
    item: str
    """Which item of the workload was asked."""
    prompt_hash: str
    user: int | None = None
    """Of a closed loop: which caller."""
    target: str = ""
    """Of a comparison: which of its targets."""
    scheduled_ns: int
    sent_ns: int | None = None
    """When it was handed to the client; a missing connection is opened after this moment."""
    tries: int = 1
    """How often it went out. More than once only where nothing was computed before: a connection that was kept turned
    out to be closed, or the server refused a field as unknown. All count from the first time."""
    connected_ns: int | None = None
    """When its new connection stood; None when one was used again, or there is none."""
    first_byte_ns: int | None = None
    """When the head of the response was there."""
    first_content_ns: int | None = None
    first_answer_ns: int | None = None
    """The first content after the reasoning; equal to `first_content_ns` where nothing was reasoned."""
    last_content_ns: int | None = None
    ended_ns: int | None = None
    chunk_gaps_us: tuple[int, ...] = ()
    """Microseconds between consecutive chunks that hold content, oldest first; one fewer than there are chunks."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    token_source: TokenSource | None = None
    finish_reason: str | None = None
    failure: Failure | None = None
    message: str = ""
    """What the failure said, in English."""
    retry_after_s: float | None = None
    reported: Mapping[str, float] = field(default_factory=dict)
    """Timings that the server sent, in seconds, by its own names."""
    prompt: str | None = None
    answer: str | None = None
    """Both only where the user asked to record text."""

    @property
    def num_chunks(self) -> int:
        """Chunks that held content."""
        return 0 if self.first_content_ns is None else len(self.chunk_gaps_us) + 1
