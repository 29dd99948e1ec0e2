"""One token with its log-probability, as OpenAI's chat, llama-server and Ollama write it."""

from collections.abc import Mapping
from typing import Any

from qwenops.generation import TokenLogprob

UNKNOWN_ID = -1
"""Servers tell tokens by their text; few tell the number."""


def read_logprob(told: Mapping[str, Any]) -> TokenLogprob:
    """Read `{"token", "logprob", "bytes", "top_logprobs"}`; llama-server adds the `id`."""
    raw = told.get("bytes")
    return TokenLogprob(
        token_id=told.get("id", UNKNOWN_ID),
        raw=bytes(raw) if raw is not None else told["token"].encode(errors="replace"),
        logprob=told["logprob"],
        top=tuple(read_logprob(each) for each in told.get("top_logprobs") or ()),
    )
