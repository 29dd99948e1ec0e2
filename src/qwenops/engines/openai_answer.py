"""From the pieces of an answer of OpenAI's API to chunks.

What carries content is given out at once. Why the answer ended is kept until the usage, which comes after it, so that
the last chunk has both. A server that ignores `stream` sends one piece, and it is read as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from qwenops.engines.inband import InBand
from qwenops.engines.logprobs import UNKNOWN_ID, read_logprob
from qwenops.engines.refusal import failure_within
from qwenops.errors import EngineCrashedError, MalformedAnswerError
from qwenops.generation import Chunk, FinishReason, TokenLogprob, Usage
from qwenops.text import say

DONE = b"[DONE]"
JSON = "application/json"
NO_STREAM = frozenset({JSON, "text/html"})
"""Kinds of content that are not sent piece by piece."""
_LENGTHS = frozenset({"length", "max_tokens"})
_FAILURES = frozenset({"error", "abort"})


class Answer:
    """One answer as it arrives.

    Args:
        url: Names the server in errors.
        thinking: Whether the model was asked to think.
    """

    def __init__(self, url: str, *, thinking: bool = True) -> None:
        """Start before the first piece."""
        self._url = url
        self._text = InBand(thinking=thinking)
        self._reason: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._timings: Mapping[str, Any] | None = None
        self.is_done = False
        """Whether the server said that nothing more comes."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole even if the connection ends here."""
        return self.is_done or self._reason is not None

    def take_rest(self, data: bytes) -> Chunk | None:
        """Read what stood before the end without a blank line; half a piece is no piece."""
        try:
            return self.take(data)
        except MalformedAnswerError:
            return None

    def take(self, data: bytes) -> Chunk | None:
        """Read one piece; return what content it holds.

        Raises:
            MalformedAnswerError: It is not what the API allows.
            QwenOpsError: It is a failure; see `refusal.failure_within`.
        """
        if data == DONE:
            self.is_done = True
            return None
        try:
            piece = from_json(data)
            return self._take(piece)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise MalformedAnswerError(
                say("{url} sent a piece that is none of OpenAI's API.", url=self._url),
                hint=say("Check that the address is that of a server with OpenAI's API."),
            ) from error

    def last(self) -> Chunk:
        """Return the last chunk.

        Raises:
            EngineCrashedError: The answer is not complete.
        """
        if not self.is_complete or self._reason in _FAILURES:
            raise EngineCrashedError(
                say("{url} ended its answer before its end.", url=self._url),
                hint=say("Look into the server's log."),
            )
        cut = self._reason in _LENGTHS
        closing = self._text.finish(cut=cut)
        return Chunk(
            text=closing,
            is_added=bool(closing),
            finish_reason=FinishReason.LENGTH if cut else FinishReason.STOP,
            usage=_usage(self._usage, self._timings),
        )

    def _take(self, piece: Mapping[str, Any]) -> Chunk | None:
        choices = piece.get("choices")
        if not choices:
            self._take_account(piece)
            return None
        if "usage" in piece or "timings" in piece:
            self._take_account(piece)
        choice = choices[0]
        if reason := choice.get("finish_reason"):
            self._reason = reason
        if (delta := choice.get("delta")) is None:
            delta = choice.get("message")
        text = choice["text"] if delta is None else self._said(delta)
        logprobs = choice.get("logprobs")
        if not text and not logprobs:
            return None
        if not isinstance(text, str):
            raise TypeError(text)
        return Chunk(text=text, logprobs=_logprobs(logprobs) if logprobs else ())

    def _said(self, delta: Mapping[str, Any]) -> str:
        """Return the text of a piece of a chat, with reasoning and calls in it."""
        content = delta.get("content") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        calls = delta.get("tool_calls")
        if not thought and not calls and self._text.is_plain:
            return self._text.speech(content)
        text = (self._text.thought(thought) if thought else "") + self._text.speech(content)
        for place, call in enumerate(calls or ()):
            function = call.get("function") or {}
            text += self._text.call(
                call.get("index", place), function.get("name") or "", function.get("arguments") or ""
            )
        return text

    def _take_account(self, piece: Mapping[str, Any]) -> None:
        failure = failure_within(self._url, piece)
        if failure is not None:
            raise failure
        self._usage = piece.get("usage") or self._usage
        self._timings = piece.get("timings") or self._timings


def page_for_people(url: str) -> MalformedAnswerError:
    """Return the error that an answer is which is no JSON."""
    return MalformedAnswerError(
        say("{url} answered with a page for people.", url=url),
        hint=say("Check that the address is that of a server with OpenAI's API."),
    )


def _usage(told: Mapping[str, Any] | None, timings: Mapping[str, Any] | None) -> Usage | None:
    """Return what the server counted; None where it counted nothing."""
    if not told:
        return None
    details = told.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    counted = {
        "prompt_tokens": told.get("prompt_tokens"),
        "completion_tokens": told.get("completion_tokens"),
        "cached_tokens": (timings or {}).get("cache_n") if cached is None else cached,
    }
    return Usage(
        **{name: int(number or 0) for name, number in counted.items()},
        unsaid=frozenset(name for name, number in counted.items() if number is None),
        reported=_seconds(timings or {}),
    )


def _seconds(timings: Mapping[str, Any]) -> dict[str, float]:
    """Return the server's times in seconds: `prompt_ms` becomes `prompt_s`."""
    return {
        name.removesuffix("_ms") + "_s": value / 1000
        for name, value in timings.items()
        if name.endswith("_ms") and isinstance(value, int | float)
    }


def _logprobs(told: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    """Read the log-probabilities of a chat, or the older form that completions have."""
    if "content" in told:
        return tuple(read_logprob(each) for each in told["content"] or ())
    tops: Sequence[Mapping[str, float] | None] = told.get("top_logprobs") or [None] * len(told["tokens"])
    return tuple(
        TokenLogprob(
            token_id=UNKNOWN_ID,
            raw=token.encode(errors="replace"),
            logprob=logprob,
            top=tuple(
                TokenLogprob(token_id=UNKNOWN_ID, raw=name.encode(errors="replace"), logprob=each)
                for name, each in sorted((top or {}).items(), key=lambda item: -item[1])
            ),
        )
        for token, logprob, top in zip(told["tokens"], told["token_logprobs"], tops, strict=True)
    )
