"""The API of the user's design: `POST /api/v1/inference` and `GET /api/v1/model`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from qwenops.generation import Chunk, Message, Messages, Prompt
from qwenops.serve.answering import Counts, answer_whole, answered_by, begin, note_prompt, translation_for
from qwenops.serve.auth import AuthClass, Principal, guard
from qwenops.serve.generating import Asked, Plan, choose_model, fit, length_of, plan_of, sampling_of, tokens_of
from qwenops.serve.openapi import INFERENCE, MODEL_INFO, described
from qwenops.serve.parts import AnswerParts, parts_of
from qwenops.serve.reasoning import Speech, Thought
from qwenops.serve.schemas import InferenceRequest
from qwenops.serve.serving import Serving
from qwenops.text import translate_text


def native_router(serving: Serving) -> APIRouter:
    """Return the routes of the user's design."""
    router = APIRouter()

    @router.post(INFERENCE, **described(INFERENCE))
    async def inference(
        request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]
    ) -> Response:
        asked = await begin(request, serving, principal, InferenceRequest)
        plan = await _plan(asked)
        answer = _Answer(
            parts_of(thinking=bool(asked.body.enable_thinking), tools=False, new_id=str),
            Counts(exchange=asked.exchange, prompt_tokens=plan.prompt_tokens),
        )
        await answer_whole(asked, plan, answer.keep)
        exchange = asked.exchange
        exchange.finish_reason = answer.finish_reason
        exchange.succeed()
        return JSONResponse(
            {
                **answer.as_json(),
                "response_time": exchange.elapsed_s,
                **answered_by(plan.served),
                "request_id": exchange.request_id,
            }
        )

    @router.get(MODEL_INFO, **described(MODEL_INFO))
    async def model_info(
        request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]
    ) -> Response:
        del principal
        return JSONResponse(_model_info(serving, translation_for(request.headers, serving) or str))

    return router


async def _plan(asked: Asked[InferenceRequest]) -> Plan:
    body = asked.body
    served = choose_model(asked.exchange, asked.principal, body.model)
    options = asked.exchange.serving.options()
    info = served.engine.info
    turns = [Message(role="user", content=body.text)]
    if body.system is not None:
        turns.insert(0, Message(role="system", content=body.system))
    messages = Messages(messages=tuple(turns), enable_thinking=bool(body.enable_thinking))
    note_prompt(asked, length=length_of(messages), text=lambda: body.text)
    tokens = await tokens_of(served, messages)
    sampling = sampling_of(body, options.sampling, options.limits)
    room = fit(info, options.limits, prompt_tokens=len(tokens.ids), wanted_tokens=sampling.max_tokens, param="text")
    prompt: Prompt = messages if info.accepts == "messages" else tokens
    sampled = [(prompt, replace(sampling, max_tokens=room))]
    return plan_of(asked, served, sampled, num_choices=1, prompt_tokens=len(tokens.ids))


class _Answer:
    """The answer while it comes."""

    def __init__(self, parts: AnswerParts, counts: Counts) -> None:
        self.finish_reason: str | None = None
        self._parts = parts
        self._counts = counts
        self._said: list[str] = []
        self._thought: list[str] = []

    def keep(self, _: int, chunk: Chunk) -> None:
        """Add a chunk."""
        self._counts.add(chunk)
        found = self._parts.push(chunk.text, len(chunk.token_ids))
        if chunk.finish_reason is not None:
            found += self._parts.finish()
            self.finish_reason = chunk.finish_reason.value
        self._said += [part.text for part in found if isinstance(part, Speech)]
        self._thought += [part.text for part in found if isinstance(part, Thought)]

    def as_json(self) -> dict[str, Any]:
        """Return the fields that the answer itself gives."""
        counts = self._counts
        return {
            "result": "".join(self._said),
            "reasoning": "".join(self._thought) or None,
            "tokens_used": counts.prompt_tokens + counts.completion_tokens,
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "finish_reason": self.finish_reason,
        }


def _model_info(serving: Serving, translate: Callable[[str], str]) -> dict[str, Any]:
    served = serving.model()
    info = served.engine.info
    return {
        "name": info.model,
        "revision": served.revision,
        "sha256": info.sha256,
        "quantization": info.quantization,
        "context_tokens": info.context_tokens,
        "engine": info.engine,
        "engine_version": info.version,
        "state": info.health.state.value,
        "threads": info.threads,
        "memory_bytes": info.health.memory_bytes,
        "kv_capacity_tokens": info.kv_capacity_tokens,
        "kv_cache_bytes": info.kv_cache_bytes,
        "load_s": info.load_s,
        "served_since_s": served.since_s,
        "fallback_for": info.fallback_for or None,
        "config_generation": serving.generation(),
        "notes": {name: str(translate_text(why, translate)) for name, why in info.notes.items()},
    }
