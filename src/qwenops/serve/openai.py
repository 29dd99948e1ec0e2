"""OpenAI's API: chat, completions, and the list of models."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from qwenops.errors import ModelNotServedError
from qwenops.serve.auth import AuthClass, Principal, guard
from qwenops.serve.chat import chat_router
from qwenops.serve.completions import completions_router
from qwenops.serve.openapi import MODEL, MODELS, described
from qwenops.serve.serving import ServedModel, Serving
from qwenops.text import say


def openai_router(serving: Serving) -> APIRouter:
    """Return the routes of OpenAI's API."""
    router = APIRouter()
    router.include_router(chat_router(serving))
    router.include_router(completions_router(serving))

    @router.get(MODELS, **described(MODELS))
    async def models(principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]) -> Response:
        listed = [model_json(serving.model())]
        allowed = principal.limits.models
        return JSONResponse(
            {"object": "list", "data": [each for each in listed if not allowed or each["id"] in allowed]}
        )

    @router.get(MODEL, **described(MODEL))
    async def model(request: Request, principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]) -> Response:
        asked = str(request.path_params["model"])
        found = model_json(serving.model())
        if found["id"] != asked:
            raise ModelNotServedError(
                say("The model {asked!r} is not served here.", asked=asked[:128]),
                hint=say("Use one of: {known}.", known=found["id"]),
                param="model",
            )
        principal.check_model(asked)
        return JSONResponse(found)

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
