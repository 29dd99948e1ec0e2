"""The HTTP application: every route, one shape of errors, one account of each inference request.

    arrival (id, account) ── guard (key) ── route ── reading ── admission ── engine ── answer

What FastAPI would do by itself and is off here: reading bodies before the key was checked, a documentation page that
loads scripts from elsewhere, and errors of another shape.
"""

import asyncio
import logging
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwenops.errors import InvalidRequestError, QwenOpsError
from qwenops.serve.answering import error_body, translation_for
from qwenops.serve.auth import AuthClass, KeyRing, Principal, guard
from qwenops.serve.exchange import Exchange, unexpected
from qwenops.serve.generating import request_id_of
from qwenops.serve.native import native_router
from qwenops.serve.openai import openai_router
from qwenops.serve.openapi import INFERENCE_PATHS, complete
from qwenops.serve.serving import Serving
from qwenops.serve.stream import encode
from qwenops.text import say

_log = logging.getLogger(__name__)


def create_app(serving: Serving, *, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application.

    Args:
        serving: What the inference routes need.
        routers: More routes: probes, metrics, administration.
    """
    app = FastAPI(
        title="qwenops",
        version=version("qwenops"),
        description="Qwen3 on a CPU, by OpenAI's API and a smaller one.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.keys = serving.keys
    ours = (openai_router(serving), native_router(serving), _description_router(app, serving.keys))
    for router in (*ours, _landing_router(serving), *routers):
        app.include_router(router)
    app.add_exception_handler(QwenOpsError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Exception, _answer_unexpected)
    app.state.serving = serving
    if origins := serving.options().cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Arrival, serving=serving)
    return app


def _description_router(app: FastAPI, keys: KeyRing) -> APIRouter:
    router = APIRouter()
    rendered: dict[bool, bytes] = {}

    @router.get("/openapi.json", include_in_schema=False, response_model=None)
    async def description(_: Annotated[Principal, Depends(guard(AuthClass.PUBLIC))]) -> Response:
        needed = keys.needed
        if needed not in rendered:
            # It takes a third of a second, in which the streams should go on.
            rendered[needed] = await asyncio.to_thread(lambda: encode(complete(app)).encode())
        return Response(rendered[needed], media_type="application/json")

    return router


_PLACES = (
    ("/v1", say("OpenAI's API")),
    ("/openapi.json", say("every route, with what it takes and gives")),
    ("/readyz", say("whether requests are answered now")),
)


def _landing_router(serving: Serving) -> APIRouter:
    router = APIRouter()
    name = f"qwenops {version('qwenops')}"

    @router.get("/", include_in_schema=False, response_model=None)
    async def landing(request: Request, _: Annotated[Principal, Depends(guard(AuthClass.PUBLIC))]) -> Response:
        translate = translation_for(request.headers, serving)
        said: Callable[[str], str] = translate or str
        lines = [
            name,
            "",
            *(f"{path:<15}{what.translated(said)}" for path, what in _PLACES),
            "",
            say("There is no page at /docs.").translated(said),
            "",
        ]
        headers = {"vary": "accept-language"}
        if translate is not None:
            headers["content-language"] = "zh"
        return PlainTextResponse("\n".join(lines), headers=headers)

    return router


class Arrival:
    """ASGI middleware around everything: the request's id, in and out, and the account of an inference request."""

    def __init__(self, app: ASGIApp, *, serving: Serving) -> None:
        """Stand in front of `app`."""
        self._app = app
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through; its account is closed when this returns, whatever happened."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope), lambda: uuid.uuid4().hex)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        path = scope["path"]
        exchange = None
        if path in INFERENCE_PATHS:
            exchange = Exchange(self._serving, request_id=request_id, endpoint=path)
            state["exchange"] = exchange
        header = (b"x-request-id", request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except BaseException as error:
            if exchange is not None:
                exchange.fail(error)
            raise


class NotFoundError(InvalidRequestError):
    """There is no such route."""

    http_status = 404
    code = "not_found"


class MethodNotAllowedError(InvalidRequestError):
    """The route has another method."""

    http_status = 405
    code = "method_not_allowed"


def _respond(request: Request, error: QwenOpsError, headers: Mapping[str, str] | None = None) -> Response:
    exchange: Exchange | None = getattr(request.state, "exchange", None)
    if exchange is not None:
        exchange.fail(error)
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        sent["www-authenticate"] = "Bearer"
    if error.http_status == HTTPStatus.REQUEST_TIMEOUT:
        sent["connection"] = "close"
    serving: Serving = request.app.state.serving
    translate = translation_for(request.headers, serving)
    if translate is not None:
        sent["content-language"] = "zh"
    return JSONResponse(error_body(error, translate), status_code=error.http_status, headers=sent)


async def _answer_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, QwenOpsError):
        raise error
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.retry_after_s is None:
        _log.error("request %s: %s (%s)", request.state.request_id, error.message, error.code)
    return _respond(request, error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path[:256]
    headers = error.headers
    if error.status_code == HTTPStatus.NOT_FOUND:
        known: QwenOpsError = NotFoundError(
            say("There is nothing at {path!r}.", path=path), hint=say("See /openapi.json for what there is.")
        )
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        known = MethodNotAllowedError(
            say("{path!r} has no method {method}.", path=path, method=request.method),
            hint=say("See /openapi.json for what there is."),
        )
        headers = {"allow": ", ".join(_methods_at(request))}
    else:
        known = InvalidRequestError(say("The request is not valid: {problem}.", problem=error.detail))
    return _respond(request, known, headers)


def _methods_at(request: Request) -> list[str]:
    """Return every method that the path of a request has: the router names those of its first route only."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        shape: re.Pattern[str] | None = getattr(route, "path_regex", None)
        if shape is not None and shape.match(request.scope["path"]):
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Answer for the few routes whose query FastAPI reads."""
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    name = ".".join(str(step) for step in first["loc"][1:])
    return _respond(
        request,
        InvalidRequestError(
            say("{param} is not valid: {problem}.", param=name, problem=first["msg"]),
            param=name,
            hint=say("See /openapi.json for what is accepted."),
        ),
    )


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    """Answer for what nobody foresaw; Starlette raises it again, so that the server logs its traceback."""
    response = _respond(request, unexpected(error))
    response.headers["x-request-id"] = request.state.request_id
    return response
