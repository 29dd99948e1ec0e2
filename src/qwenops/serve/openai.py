"""OpenAI's API: chat, completions, and the list of models."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from qwenops.serve.auth import AuthClass, Principal, guard
from qwenops.serve.chat import chat_router
from qwenops.serve.completions import completions_router
from qwenops.serve.openapi import MODEL, MODELS, described
from qwenops.serve.serving import ServedModel, Serving


def openai_router(serving: Serving) -> APIRouter:
    """Return the routes of OpenAI's API."""
    router = APIRouter()
    router.include_router(chat_router(serving))
    router.include_router(completions_router(serving))

    @router.get(MODELS, **described(MODELS))
    async def models(principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]) -> Response:
        served = serving.model()
        listed = [model_json(served)] if served.is_open_to(principal.limits.models) else []
        return JSONResponse({"object": "list", "data": listed})

    @router.get(MODEL, **described(MODEL))
    async def model(request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]) -> Response:
        asked = str(request.path_params["model"])
        served = serving.model()
        principal.check_model(served.known_as(asked))
        return JSONResponse(model_json(served))

    return router


def model_json(served: ServedModel) -> dict[str, Any]:
    """Return a model as OpenAI's API lists it, with what callers of small models want to know."""
    info = served.engine.info
    return {
        "id": info.model,
        "object": "model",
        "created": int(served.since_s),
        "owned_by": "qwenops",
        "context_tokens": info.context_tokens,
        "quantization": info.quantization,
        "fallback_for": info.fallback_for or None,
    }
