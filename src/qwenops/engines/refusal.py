"""From what a server says when it refuses or fails to the typed error that it is.

Servers say it in many shapes: OpenAI's `{"error": {"message", "type", "param", "code"}}`, Ollama's
`{"error": "words"}`, FastAPI's `{"detail": ...}`, older vLLM's `{"object": "error", "message"}`, or plain text.
Their words are kept short, and what a validator repeats of the request is dropped: it may be personal.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from qwenops.errors import (
    AuthenticationError,
    BodyTooLargeError,
    DeadlineError,
    EngineCrashedError,
    EngineError,
    EngineUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    LimitExceededError,
    ModelNotServedError,
    OverloadedError,
    PromptTooLongError,
    QwenOpsError,
)
from qwenops.text import clause, say

LONGEST_QUOTE = 200
"""Characters of a server's own words that an error repeats."""

_BY_CODE: Mapping[str, type[QwenOpsError]] = {
    "context_length_exceeded": PromptTooLongError,
    "exceed_context_size_error": PromptTooLongError,
    "deadline_exceeded": DeadlineError,
    "engine_crashed": EngineCrashedError,
    "engine_unavailable": EngineUnavailableError,
    "invalid_api_key": AuthenticationError,
    "model_not_found": ModelNotServedError,
    "not_found_error": ModelNotServedError,
    "overloaded": OverloadedError,
    "rate_limit_exceeded": LimitExceededError,
}
"""Words for programs that servers send (`code` or `type`), which say more than the status."""

_BY_STATUS: Mapping[int, type[QwenOpsError]] = {
    401: AuthenticationError,
    403: ForbiddenError,
    408: DeadlineError,
    413: BodyTooLargeError,
    429: LimitExceededError,
    502: EngineCrashedError,
    503: OverloadedError,
    504: DeadlineError,
}
_LOADING = re.compile(r"\b(loading|starting|warming|not ready)\b", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context (length|size|window)|maximum (sequence|input) length|too many tokens|prompt (is too long|has \d+ tokens)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"\bmodel\b.*\b(not found|does not exist|unknown)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a server said about a failure."""

    words: str
    param: str | None = None
    codes: tuple[str, ...] = ()
    status: int | None = None
    """Of an error inside an answer that began with 200."""


def refusal_of(url: str, status: int, headers: Mapping[str, str], body: str) -> QwenOpsError:
    """Return the error that an answer with another status than 200 is."""
    said = said_of(body)
    if 300 <= status < 400:  # noqa: PLR2004 -- the redirects
        return InvalidRequestError(
            say("{url} answered {status}: it is elsewhere.", url=url, status=status),
            hint=say("Give the address that it names: {place}", place=headers.get("Location", "")[:LONGEST_QUOTE]),
        )
    error = _made(
        _kind(status, said),
        say("{url} answered {status}: {words}", url=url, status=status, words=_quoted(said.words)),
        said,
    )
    error.retry_after_s = _retry_after_s(headers)
    if status == 404 and type(error) is InvalidRequestError:  # noqa: PLR2004 -- not found
        error.hint = say("Check the address; of most servers it ends with /v1.")
    return error


def failure_within(url: str, data: Mapping[str, Any]) -> QwenOpsError | None:
    """Return the error that a piece of a running answer is; None when it is none."""
    told = data.get("error")
    if not told:
        return None
    said = _said_in(data)
    status = said.status or 500
    return _made(
        _kind(status, said), say("{url} failed within its answer: {words}", url=url, words=_quoted(said.words)), said
    )


def said_of(body: str) -> Said:
    """Read the body of a refusal, whatever its shape."""
    from pydantic_core import from_json

    try:
        data = from_json(body)
    except ValueError:
        data = None
    if isinstance(data, Mapping):
        return _said_in(data)
    return Said(words=" ".join(body.split()))


def _said_in(data: Mapping[str, Any]) -> Said:
    inner = data.get("error", data)
    if not isinstance(inner, Mapping):
        return Said(words=str(inner), status=_status(data.get("code")))
    words = inner.get("message") or inner.get("detail") or inner.get("error") or ""
    param = inner.get("param")
    codes = tuple(str(inner[name]) for name in ("code", "type") if isinstance(inner.get(name), str))
    return Said(
        words=words if isinstance(words, str) else _validation(words),
        param=param if isinstance(param, str) else None,
        codes=codes,
        status=_status(inner.get("code")),
    )


def _status(code: Any) -> int | None:
    return code if isinstance(code, int) and 400 <= code < 600 else None  # noqa: PLR2004 -- the failures


def _validation(details: Any) -> str:
    """Say what a validator found without the values that it repeats."""
    if not isinstance(details, list):
        return ""
    parts = []
    for each in details:
        if isinstance(each, Mapping):
            place = ".".join(str(step) for step in each.get("loc", ()) if isinstance(step, str | int))
            parts.append(f"{place}: {each.get('msg', '')}")
    return "; ".join(parts)


def _kind(status: int, said: Said) -> type[QwenOpsError]:
    for code in said.codes:
        if code in _BY_CODE and not (code == "not_found_error" and not _NO_MODEL.search(said.words)):
            return _BY_CODE[code]
    if status == 503 and _LOADING.search(said.words):  # noqa: PLR2004 -- unavailable
        return EngineUnavailableError
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:  # noqa: PLR2004 -- the server's failures
        return EngineError
    if _TOO_LONG.search(said.words):
        return PromptTooLongError
    return ModelNotServedError if _NO_MODEL.search(said.words) else InvalidRequestError


def _made(kind: type[QwenOpsError], message: str, said: Said) -> QwenOpsError:
    hint = _HINTS.get(kind, "")
    return (
        kind(message, hint=hint, param=said.param)
        if issubclass(kind, InvalidRequestError)
        else kind(message, hint=hint)
    )


_HINTS: Mapping[type[QwenOpsError], str] = {
    AuthenticationError: say(
        "Give the key that the server wants: set QWENOPS_ENGINE_API_KEY, or QWENOPS_ENGINE_API_KEY_FILE to a file "
        "that holds it."
    ),
    EngineUnavailableError: say("Wait until the server is ready."),
    ModelNotServedError: say("Name a model that the server lists."),
    OverloadedError: say("Ask less often, or with fewer at the same time."),
    LimitExceededError: say("Ask less often, or with fewer at the same time."),
    PromptTooLongError: say("Shorten the prompt, or serve with a longer context."),
}


def _quoted(words: str) -> str:
    words = " ".join(words.split())
    return clause(words if len(words) <= LONGEST_QUOTE else words[:LONGEST_QUOTE] + " …") + "."


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return when to ask again; a date is read against the server's own clock."""
    told = headers.get("Retry-After", "").strip()
    try:
        seconds = float(told)
    except ValueError:
        try:
            until, now = parsedate_to_datetime(told), parsedate_to_datetime(headers.get("Date", ""))
            seconds = (until - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
