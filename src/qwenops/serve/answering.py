"""The course of every inference request: read it, have it answered, whole or as a stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from qwenops.errors import InvalidRequestError, QwenOpsError
from qwenops.generation import Chunk, TokenLogprob
from qwenops.serve.auth import Principal
from qwenops.serve.exchange import Answering, Exchange
from qwenops.serve.generating import Asked, Plan, conditions_of, generate, trace_of
from qwenops.serve.reading import read_body
from qwenops.serve.serving import ServedModel, Serving
from qwenops.serve.stream import KEEP_ALIVE_S, STALLED_S, EventStream, Mailbox, Rendering, first_of
from qwenops.text import translate_text

_Body = TypeVar("_Body", bound=BaseModel)


def error_body(error: QwenOpsError, translate: Callable[[str], str] | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's shape, with our hint; translated where a translation is given."""

    def said(text: str) -> str:
        return str(translate_text(text, translate)) if translate is not None else str(text)

    return {
        "error": {
            "message": said(error.message),
            "type": _kind(error),
            "param": error.param if isinstance(error, InvalidRequestError) else None,
            "code": error.code,
            "hint": said(error.hint) or None,
        }
    }


def _kind(error: QwenOpsError) -> str:
    match error.http_status:
        case 401:
            return "authentication_error"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case status if status < 500:  # noqa: PLR2004 -- the border between the caller's errors and ours
            return "invalid_request_error"
        case _:
            return "server_error"


def translation_for(headers: Mapping[str, str], serving: Serving) -> Callable[[str], str] | None:
    """Return the translation that the client prefers; None for English."""
    if not prefers_chinese(headers.get("accept-language", "")):
        return None
    return lambda template: serving.translate("zh", template)


def prefers_chinese(accepted: str) -> bool:
    """Whether an Accept-Language puts Chinese before English."""
    best, chinese = 0.0, False
    for each in accepted.split(","):
        tag, _, parameters = each.partition(";")
        language = tag.strip().lower().partition("-")[0]
        try:
            weight = float(parameters.partition("q=")[2] or 1)
        except ValueError:
            continue
        if language in {"zh", "en"} and weight > best:
            best, chinese = weight, language == "zh"
    return chinese


async def begin(request: Request, serving: Serving, principal: Principal, model: type[_Body]) -> Asked[_Body]:
    """Turn a request away if nothing can come of it, else read it.

    Raises:
        OverloadedError: The line is full.
        InvalidRequestError: The body or a header is wrong.
    """
    exchange: Exchange = request.state.exchange
    exchange.key_name = principal.name
    serving.admission.refuse_if_full(principal.key_id, limits=principal.limits)
    limits = serving.options().limits
    body = await read_body(request, model, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
    translate = translation_for(request.headers, serving)
    return Asked(
        body=body,
        exchange=exchange,
        principal=principal,
        conditions=conditions_of(request.headers, exchange),
        trace=trace_of(request.headers),
        receive=request.receive,
        error_body=lambda error: error_body(error, translate),
    )


def note_prompt(asked: Asked[Any], *, length: int, text: Callable[[], str]) -> None:
    """Remember how long the prompt is, and the prompt itself only where the options want it in the log."""
    exchange = asked.exchange
    exchange.prompt_length = length
    if exchange.serving.options().log.prompts:
        exchange.prompt = text()
        exchange.response = []


async def answer_whole(asked: Asked[Any], plan: Plan, keep: Callable[[int, Chunk], None]) -> None:
    """Have the whole answer made; `keep` gets each chunk with the number of its answer.

    Raises:
        ClientGoneError: The client went away; the engine was told.
        QwenOpsError: What admission or the engine raises.
    """
    work = Answering(generate(asked, plan, keep), asked.receive, ended=lambda: None)
    try:
        await work.result()
    finally:
        await work.aclose()


async def answer_stream(asked: Asked[Any], plan: Plan, rendering: Rendering) -> Response:
    """Have the answer made, and return the response that sends it as it comes.

    Raises:
        QwenOpsError: It failed before the first chunk, so the error can have its own HTTP status.
    """
    asked.exchange.stream = True
    mailbox = Mailbox()
    work = Answering(generate(asked, plan, mailbox.put), asked.receive, ended=mailbox.close)
    try:
        first = await first_of(mailbox, work, keep_alive_s=KEEP_ALIVE_S)
    except BaseException:
        await work.aclose()
        raise
    return EventStream(
        work=work,
        mailbox=mailbox,
        first=first,
        rendering=rendering,
        exchange=asked.exchange,
        error_body=asked.error_body,
        stalled_s=STALLED_S,
        keep_alive_s=KEEP_ALIVE_S,
    )


@dataclass(slots=True, kw_only=True)
class Counts:
    """Tokens of one HTTP request, all its answers together."""

    exchange: Exchange
    """Knows what the prefix cache held."""
    prompt_tokens: int
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, chunk: Chunk) -> None:
        """Add the usage of an answer, if this chunk is its last."""
        if chunk.usage is not None:
            self.completion_tokens += chunk.usage.completion_tokens

    def as_json(self) -> dict[str, Any]:
        """Return OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.exchange.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


_LEAST_LOGPROB = -9999.0
"""In place of minus infinity, which JSON does not have."""


def logprob_of(token: TokenLogprob) -> float:
    """Return a log-probability that JSON can carry."""
    return max(token.logprob, _LEAST_LOGPROB)


def answered_by(served: ServedModel) -> dict[str, str]:
    """Return the fields that name the model; a fallback is named twice, so that nobody overlooks it."""
    info = served.engine.info
    return {"model": info.model, "served_model": info.model} if info.fallback_for else {"model": info.model}


def fingerprint_of(served: ServedModel) -> str:
    """Return what changes when answers may change although the request does not."""
    info = served.engine.info
    return "fp_" + "-".join(part for part in (info.sha256[:12], info.quantization, info.version) if part)
