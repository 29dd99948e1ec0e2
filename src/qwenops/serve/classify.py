"""Classifying calls over HTTP, and what people say about the answers.

    POST /v1/classify    calls or texts, one or many: class, path, probabilities, decision
    POST /v1/feedback    what a person says about a call
    POST /v1/review      the next calls that a person should look at; GET says how many there are

What a caller sends is redacted before anything else happens to it, and only redacted text is kept, in the review queue.
A classification goes through the same line as every other request, so one key cannot crowd out the others.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from qwenops.calls.readers.turns import spoken_in
from qwenops.calls.redact import redact_text
from qwenops.calls.schema import Call, Role, Turn
from qwenops.errors import InvalidRequestError, MissingPartError, ModelNotServedError, QwenOpsError
from qwenops.serve.answering import begin
from qwenops.serve.auth import AuthClass, Principal, guard
from qwenops.serve.call_schemas import CallBody, ClassifyRequest, FeedbackRequest, ReviewRequest
from qwenops.serve.champion import About, Classifier, Desk, Judgement
from qwenops.serve.exchange import Answering
from qwenops.serve.generating import Asked
from qwenops.serve.openapi import CLASSIFY, FEEDBACK, QUEUE, REVIEW, described
from qwenops.serve.reading import read_body
from qwenops.serve.serving import Serving
from qwenops.state.database import Database
from qwenops.state.feedback import Feedback
from qwenops.state.review import Candidate, Item, answer, offer, queue_counts, take
from qwenops.text import say

_BYTES_PER_TOKEN = 4
"""A Chinese character has three bytes and less than one token, an English word a little more than one."""

_log = logging.getLogger(__name__)

Counted = Callable[[str, str], None]
"""Told the classifier's name and the decision of each call."""


def classify_router(serving: Serving, desk: Desk, counted: Counted = lambda _name, _decision: None) -> APIRouter:
    """Return the routes about calls."""
    router = APIRouter()

    @router.post(CLASSIFY, **described(CLASSIFY))
    async def classify(
        request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]
    ) -> Response:
        asked = await begin(request, serving, principal, ClassifyRequest)
        exchange = asked.exchange
        async with desk.champion.borrowed() as classifier:
            about = classifier.about
            _check_model(asked, about)
            calls = await asyncio.to_thread(_calls_of, asked.body.input, exchange.unique_id)
            judged = await _judged(asked, classifier, calls)
        exchange.prompt_tokens = sum(each.tokens for each in judged)
        for each in judged:
            counted(about.name, each.decision)
        wanted = asked.body.review is not False
        queued = await _offered(desk, [_candidate(each, about) for each in judged]) if wanted else 0
        exchange.succeed()
        return JSONResponse(
            {
                "model": about.ref,
                "taxonomy": about.taxonomy,
                "results": [_result(each, about) for each in judged],
                "queued": queued,
                "timing": {"queue_s": exchange.queue_s, "total_s": exchange.elapsed_s},
                "request_id": exchange.request_id,
            }
        )

    router.include_router(_review_router(serving, desk))
    return router


def _review_router(serving: Serving, desk: Desk) -> APIRouter:
    router = APIRouter()

    @router.post(FEEDBACK, **described(FEEDBACK))
    async def feedback(request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.REVIEW))]) -> Response:
        limits = serving.options().limits
        body = await read_body(
            request, FeedbackRequest, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s
        )
        database, about = _database(desk), desk.champion.about_now()
        said = await asyncio.to_thread(_feedback, body, about, principal)
        settled = await asyncio.to_thread(answer, database, said)
        return JSONResponse(
            {
                "conversation_id": said.conversation_id,
                "outcome": settled.outcome.value,
                "label": settled.label,
                "votes": len(settled.votes),
                "wanted": settled.wanted,
            }
        )

    @router.post(REVIEW, **described(REVIEW))
    async def review(request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.REVIEW))]) -> Response:
        limits = serving.options().limits
        body = await read_body(request, ReviewRequest, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
        database, reviewer = _database(desk), _reviewer(body.reviewer, principal)

        def taken() -> list[Item]:
            options = desk.options.review
            return take(database, reviewer, options, count=body.count or 1, key_name=principal.name)

        items = [_item(each) for each in await asyncio.to_thread(taken)]
        return JSONResponse({"reviewer": reviewer, "items": items, "lease_s": desk.options.review.lease_s})

    @router.get(REVIEW, **described(QUEUE))
    async def queue(principal: Annotated[Principal, Depends(guard(AuthClass.REVIEW))]) -> Response:
        del principal
        counts = await asyncio.to_thread(queue_counts, _database(desk))
        return JSONResponse(
            {
                "open": counts.open,
                "claimed": counts.claimed,
                "done": counts.done,
                "disputed": counts.disputed,
                "by_class": dict(counts.by_class),
                "oldest_at": counts.oldest_at.isoformat() if counts.oldest_at else None,
            }
        )

    return router


async def _offered(desk: Desk, candidates: Sequence[Candidate]) -> int:
    """Put into the review queue what belongs there; an answer is not kept back because that cannot be done now."""
    if desk.database is None:
        return 0
    try:
        return await asyncio.to_thread(offer, desk.database, candidates, desk.options.review)
    except QwenOpsError as error:
        _log.error("%d calls could not be offered for review: %s", len(candidates), error.message)
        return 0


def _check_model(asked: Asked[ClassifyRequest], about: About) -> None:
    """Refuse another classifier than the one that serves, and one that the key does not open.

    Raises:
        ModelNotServedError: Another one is asked for.
        ForbiddenError: The caller's key does not open it.
    """
    exchange, wanted = asked.exchange, asked.body.model
    exchange.model = wanted or about.name
    exchange.served_model = about.name
    known = {about.name, f"{about.name}@champion", about.ref, about.ref.partition("-")[0]}
    if wanted is not None and wanted not in known:
        raise ModelNotServedError(
            say("The classifier {asked!r} does not serve here.", asked=wanted[:128]),
            hint=say("Use one of: {known}.", known=", ".join(sorted(known))),
            param="model",
        )
    asked.principal.check_model(about.name)


async def _judged(asked: Asked[ClassifyRequest], classifier: Classifier, calls: Sequence[Call]) -> list[Judgement]:
    """Wait for a place and let the calls be judged, unless the client goes away.

    Raises:
        ClientGoneError: The client went away.
        QwenOpsError: What admission or the classifier raises.
    """
    exchange, principal = asked.exchange, asked.principal
    texts = [turn.text for call in calls for turn in call.turns]
    exchange.prompt_length = sum(map(len, texts))
    found: list[Judgement] = []

    async def once() -> AsyncIterator[Sequence[Judgement]]:
        yield await classifier.classify(calls, evidence=bool(asked.body.evidence))

    async def work() -> None:
        async with exchange.serving.admission.admit(
            key_id=principal.key_id,
            prompt_tokens=sum(len(text.encode("utf-8", "replace")) for text in texts) // _BYTES_PER_TOKEN + 1,
            max_tokens=0,
            deadline_s=asked.conditions.deadline_s,
            priority=asked.conditions.priority,
            limits=principal.limits,
        ) as ticket:
            exchange.queue_s = ticket.queue_s
            async for judged in ticket.watch(once()):
                found.extend(judged)

    answering = Answering(work(), asked.receive, ended=lambda: None)
    try:
        await answering.result()
    finally:
        await answering.aclose()
    return found


def _calls_of(given: str | CallBody | list[str] | list[CallBody], unique_id: str) -> list[Call]:
    """Return what was sent as calls.

    Raises:
        InvalidRequestError: Two have one id.
    """
    several = given if isinstance(given, list) else [given]
    calls = [_call_of(each, f"{unique_id}-{place}") for place, each in enumerate(several)]
    first: dict[str, int] = {}
    for place, call in enumerate(calls):
        if call.conversation_id in first:
            raise InvalidRequestError(
                say(
                    "Calls {one} and {other} have the same id.",
                    one=first[call.conversation_id],
                    other=place,
                ),
                hint=say("Give each call an id of its own, or none."),
                param=f"input[{place}].conversation_id",
            )
        first[call.conversation_id] = place
    return calls


def _call_of(given: str | CallBody, made_up: str) -> Call:
    if isinstance(given, str):
        spoken = spoken_in(given, {})
        before = (Turn(role=Role.UNKNOWN, text=spoken.preamble),) if spoken.preamble else ()
        return Call(conversation_id=made_up, turns=_numbered((*before, *spoken.turns)))
    return Call(
        conversation_id=given.conversation_id or made_up,
        turns=tuple(
            Turn(role=Role(turn.role), text=turn.text, i=turn.i, t0=turn.t0, t1=turn.t1, conf=turn.conf)
            for turn in given.turns
        ),
        customer_id=given.customer_id or "",
        agent_id=given.agent_id or "",
        channel=given.channel or "",
        lang=given.lang or "",
    )


def _result(judged: Judgement, about: About) -> dict[str, Any]:
    zh, en = about.names.get(judged.label, (judged.label, judged.label))
    return {
        "conversation_id": judged.call.conversation_id,
        "label": judged.label,
        "name": {"zh": zh, "en": en},
        "path": list(judged.path),
        "p": judged.p,
        "probabilities": dict(judged.probabilities),
        "decision": judged.decision,
        "threshold": judged.threshold,
        "set": list(judged.candidates),
        "evidence": None if judged.carried is None else _carried(judged),
        "tokens": judged.tokens,
        "latency_ms": round(judged.latency_s * 1000, 3),
    }


def _carried(judged: Judgement) -> list[dict[str, Any]]:
    return [{"turns": list(each.turns), "drop": round(each.drop, 6)} for each in judged.carried or ()]


def _candidate(judged: Judgement, about: About) -> Candidate:
    return Candidate(
        conversation_id=judged.call.conversation_id,
        customer_id=judged.call.customer_id,
        model=about.ref,
        taxonomy=about.taxonomy,
        predicted=judged.label,
        confidence=judged.p,
        probabilities=judged.probabilities,
        turns=[{"role": turn.role.value, "text": turn.text} for turn in judged.call.turns],
        evidence=_carried(judged),
        is_unsure=judged.decision == "review",
        is_critical=judged.label in about.critical,
    )


def _item(item: Item) -> dict[str, Any]:
    call = item.call
    predicted = {
        "label": call.predicted,
        "p": call.confidence,
        "probabilities": dict(call.probabilities),
        "evidence": [dict(each) for each in call.evidence],
    }
    return {
        "conversation_id": call.conversation_id,
        "model": call.model,
        "taxonomy": call.taxonomy,
        "why": item.why.value,
        "turns": [dict(each) for each in call.turns],
        "predicted": None if item.blind else predicted,
        "wanted": item.wanted,
    }


def _numbered(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    return tuple(replace(turn, i=place) for place, turn in enumerate(turns))


def _feedback(body: FeedbackRequest, about: About, principal: Principal) -> Feedback:
    secondary = tuple(body.secondary or ())
    _check_codes(about, {"label": body.label} | {f"secondary[{n}]": code for n, code in enumerate(secondary)})
    _check_axes(about, body.axes or {})
    return Feedback(
        conversation_id=body.conversation_id,
        taxonomy=about.taxonomy,
        label=body.label,
        reviewer=_reviewer(body.reviewer, principal),
        secondary=secondary,
        axes=body.axes or {},
        customer_id=body.customer_id or "",
        model=body.model or "",
        predicted=body.predicted or "",
        key_name=principal.name,
        seconds=body.seconds,
        note=redact_text(body.note) if body.note else "",
        critical=not about.critical.isdisjoint({body.label, body.predicted or ""}),
    )


def _check_codes(about: About, codes: Mapping[str, str]) -> None:
    """Refuse what is no class.

    Raises:
        InvalidRequestError: The taxonomy has no such class.
    """
    for param, code in codes.items():
        if code not in about.classes:
            raise InvalidRequestError(
                say("{taxonomy} has no class {code!r}.", taxonomy=about.taxonomy, code=code[:128]),
                hint=say("Classes: {classes}.", classes=", ".join(about.classes)),
                param=param,
            )


def _check_axes(about: About, axes: Mapping[str, str]) -> None:
    """Refuse what is no axis, or no value of one.

    Raises:
        InvalidRequestError: The taxonomy has no such axis or value.
    """
    for axis, value in axes.items():
        possible = about.axes.get(axis)
        if possible is None or value not in possible:
            raise InvalidRequestError(
                say("{taxonomy} has no {axis}={value}.", taxonomy=about.taxonomy, axis=axis[:64], value=value[:64]),
                hint=say("Possible: {possible}.", possible=", ".join(possible if possible is not None else about.axes)),
                param=f"axes.{axis[:64]}",
            )


def _reviewer(given: str | None, principal: Principal) -> str:
    name = (given or principal.name).strip()
    if not name:
        raise InvalidRequestError(
            say("Nobody says who looks at the calls."),
            hint=say("Send `reviewer`, or use an API key of one's own."),
            param="reviewer",
        )
    return name


def _database(desk: Desk) -> Database:
    if desk.database is None:
        raise MissingPartError(
            say("This server keeps neither feedback nor a review queue."),
            hint=say("Give it a file with `--state`."),
        )
    return desk.database
