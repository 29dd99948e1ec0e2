"""What is remembered of one request: the same object becomes a log line and moves the metrics."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Status = Literal["success", "error", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request at its end. Times are in seconds and were taken by the server around the engine's chunks."""

    request_id: str
    endpoint: str
    """The route, as `/v1/chat/completions`; one of the few that exist."""
    model: str
    """As asked for by the client."""
    served_model: str
    """As answered by; one of the few that are served."""
    status: Status
    http_status: int
    error: str | None = None
    """What the client was told, in English."""
    error_code: str | None = None
    prompt_length: int = 0
    """Characters of what the client sent as prompt."""
    response_length: int = 0
    """Characters of the answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_s: float = 0.0
    ttft_s: float | None = None
    """From arrival to the first piece of the answer; None when there was none."""
    last_s: float | None = None
    """From arrival to the last piece of the answer, as it came from the engine; None when nobody looked."""
    duration_s: float = 0.0
    """From arrival to the last byte handed to the network."""
    finish_reason: str | None = None
    stream: bool = False
    key_name: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(tz=UTC))
    prompt: str | None = None
    """Only when `log.prompts` is on."""
    response: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, whatever the network did; None when there are fewer than two."""
        if self.ttft_s is None or self.completion_tokens < 2:  # noqa: PLR2004 -- one interval needs two tokens
            return None
        until_s = self.duration_s if self.last_s is None else self.last_s
        return (until_s - self.ttft_s) / (self.completion_tokens - 1)

    def line(self) -> dict[str, Any]:
        """Return the fields of the log line: first those of the user's design, in their units, then ours."""
        fields: dict[str, Any] = {
            "timestamp": self.at.astimezone().isoformat(timespec="milliseconds"),
            "model": self.model,
            "prompt_length": self.prompt_length,
            "response_length": self.response_length,
            "latency_ms": round(self.duration_s * 1000, 3),
            "status": self.status,
            "error": self.error,
            "request_id": self.request_id,
            "endpoint": self.endpoint,
            "served_model": self.served_model,
            "http_status": self.http_status,
            "error_code": self.error_code,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "queue_s": round(self.queue_s, 6),
            "ttft_s": None if self.ttft_s is None else round(self.ttft_s, 6),
            "tpot_s": None if self.tpot_s is None else round(self.tpot_s, 6),
            "finish_reason": self.finish_reason,
            "stream": self.stream,
            "key_name": self.key_name,
        }
        if self.prompt is not None:
            fields["prompt"] = self.prompt
        if self.response is not None:
            fields["response"] = self.response
        return fields
