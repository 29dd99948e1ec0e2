"""The API's description: `/openapi.json`, made of the models in `schemas` and `replies`.

The routes read their bodies themselves (`reading`), so FastAPI cannot know them; `described` says what a route takes
and gives, and `complete` puts the shapes behind the references.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from qwenops.serve.auth import AuthClass, auth_class_of
from qwenops.serve.call_schemas import (
    CALL_EXAMPLES,
    CALL_REPLIES,
    ClassifyRequest,
    FeedbackRequest,
    ReviewRequest,
)
from qwenops.serve.replies import EXAMPLES, REPLIES
from qwenops.serve.schemas import ChatRequest, CompletionRequest, InferenceRequest
from qwenops.serve.serving import Serving

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"
MODEL = "/v1/models/{model:path}"
INFERENCE = "/api/v1/inference"
MODEL_INFO = "/api/v1/model"
CLASSIFY = "/v1/classify"
FEEDBACK = "/v1/feedback"
REVIEW = "/v1/review"
QUEUE = f"GET {REVIEW}"
"""The one path that has two methods."""

INFERENCE_PATHS = frozenset({CHAT, COMPLETIONS, INFERENCE, CLASSIFY})
"""The routes whose requests are counted and logged one by one."""

_ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or a wrong one.",
    403: "The key may not do this.",
    404: "The model is not served here.",
    405: "The route has another method.",
    408: "The body did not arrive in time.",
    413: "The body is over the limit.",
    415: "The body is not JSON.",
    429: "The caller is over a limit of its own; Retry-After says when to try again.",
    500: "The server failed.",
    501: "This server keeps no such data.",
    502: "The engine died while it worked on this request; another try may succeed.",
    503: "The server is full, loading or draining; Retry-After says when to try again.",
    504: "The deadline passed.",
}
_READ_ERRORS = (401, 403, 405, 500, 503)
_KEPT_ERRORS = (400, 401, 403, 405, 408, 413, 415, 500, 501, 503)
_WORK_ERRORS = tuple(status for status in _ERRORS if status != 501)  # noqa: PLR2004 -- a server that works has the part
_WITH_RETRY = (429, 503)

_EXAMPLES = EXAMPLES | CALL_EXAMPLES

_REQUEST_ID_HEADER = {"X-Request-Id": {"description": "The id in the log.", "schema": {"type": "string"}}}
_RETRY_HEADER = {"Retry-After": {"description": "Whole seconds.", "schema": {"type": "integer"}}}

_REQUEST_HEADERS = [
    {
        "name": "X-Request-Id",
        "in": "header",
        "schema": {"type": "string"},
        "description": "An id of the caller's own; up to 128 letters, digits and `._:@/+=-` are taken over.",
    },
    {
        "name": "X-Priority",
        "in": "header",
        "schema": {"type": "string", "enum": ["interactive", "batch"]},
        "description": "Batch requests yield to interactive ones.",
    },
    {
        "name": "X-Request-Deadline",
        "in": "header",
        "schema": {"type": "string", "pattern": r"^([1-9][0-9]{0,5}(\.[0-9]{1,3})?|0\.[1-9][0-9]{0,2})s?$"},
        "example": "30",
        "description": "Seconds (or a time as in ISO 8601) after which the caller has no use for an answer.",
    },
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What a route is, takes and gives."""

    summary: str
    description: str
    operation_id: str
    tag: str
    reply: str
    body: type[BaseModel] | None = None
    streams: bool = False
    errors: Sequence[int] = _READ_ERRORS
    parameters: tuple[dict[str, Any], ...] = ()


_ROUTES: dict[str, _Described] = {
    CHAT: _Described(
        summary="Answer a conversation",
        description=(
            "OpenAI's chat API. With `stream` the answer comes as server-sent events of `chat.completion.chunk` "
            "objects, ended by `data: [DONE]`; an error after the first of them is an event of the type `error`."
        ),
        operation_id="create_chat_completion",
        tag="openai",
        reply="ChatReply",
        body=ChatRequest,
        streams=True,
        errors=_WORK_ERRORS,
    ),
    COMPLETIONS: _Described(
        summary="Continue a text",
        description="OpenAI's completions API: no chat template is applied.",
        operation_id="create_completion",
        tag="openai",
        reply="CompletionReply",
        body=CompletionRequest,
        streams=True,
        errors=_WORK_ERRORS,
    ),
    MODELS: _Described(
        summary="List the served models",
        description="One entry: a server serves one model.",
        operation_id="list_models",
        tag="openai",
        reply="ModelsReply",
    ),
    MODEL: _Described(
        summary="Describe a served model",
        description="The entry of one model.",
        operation_id="retrieve_model",
        tag="openai",
        reply="ModelReply",
        errors=(*_READ_ERRORS, 404),
        parameters=({"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},),
    ),
    INFERENCE: _Described(
        summary="Answer one turn of a person",
        description=(
            "`text` goes through the chat template as one turn. Thinking is off unless asked for. `tokens_used` counts "
            "prompt and answer, `response_time` is in seconds."
        ),
        operation_id="create_inference",
        tag="native",
        reply="InferenceReply",
        body=InferenceRequest,
        errors=_WORK_ERRORS,
    ),
    MODEL_INFO: _Described(
        summary="Describe the model and the engine",
        description="Name, revision, hash, quantisation, context, memory, load time, what was decided and why.",
        operation_id="get_model_info",
        tag="native",
        reply="ModelInfoReply",
    ),
    CLASSIFY: _Described(
        summary="Classify calls",
        description=(
            "One call or text, or a list of them. Each is redacted, judged by the classifier that is champion, and "
            "decided: filed under a leaf, under its parent, or left to a person. What is left to a person goes into "
            "the review queue."
        ),
        operation_id="classify_calls",
        tag="calls",
        reply="ClassifyReply",
        body=ClassifyRequest,
        errors=_WORK_ERRORS,
    ),
    FEEDBACK: _Described(
        summary="Say what a call is about",
        description=(
            "What a person says becomes a label of `qwenops calls label --from-review`. Where a critical class is at "
            "stake, two people must agree."
        ),
        operation_id="create_feedback",
        tag="calls",
        reply="FeedbackReply",
        body=FeedbackRequest,
        errors=_KEPT_ERRORS,
    ),
    REVIEW: _Described(
        summary="Take the next calls that a person should look at",
        description=(
            "They are kept for this person for a while; that they were seen is logged. Those come first that would "
            "teach most. In a share of them the prediction is hidden."
        ),
        operation_id="take_calls_for_review",
        tag="calls",
        reply="ReviewReply",
        body=ReviewRequest,
        errors=_KEPT_ERRORS,
    ),
    QUEUE: _Described(
        summary="Say how full the review queue is",
        description="Numbers only, no calls.",
        operation_id="get_review_queue",
        tag="calls",
        reply="QueueReply",
        errors=(*_READ_ERRORS, 501),
    ),
}


_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "description": "`error` for an error, else left out."},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "JSON, or `[DONE]`."},
    },
    "required": ["data"],
}


def described(path: str) -> dict[str, Any]:
    """Return what FastAPI is told about the route at `path`."""
    route = _ROUTES[path]
    extra: dict[str, Any] = {}
    parameters = list(route.parameters)
    if route.body is not None:
        parameters += _REQUEST_HEADERS if route.errors is _WORK_ERRORS else _REQUEST_HEADERS[:1]
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(route.body.__name__)}},
        }
    if parameters:
        extra["parameters"] = parameters
    return {
        "summary": route.summary,
        "description": route.description,
        "operation_id": route.operation_id,
        "tags": [route.tag],
        "response_model": None,
        "responses": {200: _success(route)} | {status: error_response(status) for status in sorted(route.errors)},
        "openapi_extra": extra or None,
    }


def _success(route: _Described) -> dict[str, Any]:
    whole: dict[str, Any] = {"schema": _reference(route.reply)}
    if route.reply in _EXAMPLES:
        whole["example"] = _EXAMPLES[route.reply]
    content = {"application/json": whole}
    if route.streams:
        content["text/event-stream"] = {"itemSchema": _EVENT}
    return {"description": "The answer.", "content": content, "headers": _REQUEST_ID_HEADER}


def error_response(status: int) -> dict[str, Any]:
    """Return what the description says about one status of an error."""
    return {
        "description": _ERRORS[status],
        "content": {"application/json": {"schema": _reference("ErrorReply"), "example": _EXAMPLES["ErrorReply"]}},
        "headers": _REQUEST_ID_HEADER | (_RETRY_HEADER if status in _WITH_RETRY else {}),
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def _shapes() -> dict[str, Any]:
    """Return the JSON schemas of all bodies and replies by name."""
    bodies = [(route.body, "validation") for route in _ROUTES.values() if route.body is not None]
    replies = [(reply, "serialization") for reply in (*REPLIES, *CALL_REPLIES)]
    _, schema = models_json_schema([*bodies, *replies], ref_template="#/components/schemas/{model}")  # type: ignore[list-item]  # the modes are literals
    shapes: dict[str, Any] = schema["$defs"]
    return shapes


def complete(app: FastAPI) -> dict[str, Any]:
    """Return the whole description of an app that `create_app` made."""
    serving: Serving = app.state.serving
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, openapi_version="3.1.0"
    )
    components = document.setdefault("components", {})
    shapes = components.setdefault("schemas", {})
    shapes.update(_shapes())
    for name in ("HTTPValidationError", "ValidationError"):
        shapes.pop(name, None)
    if serving.keys.needed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in iter_route_contexts(app.routes):
        operations = document["paths"].get(getattr(route, "path_format", ""), {})
        for method in getattr(route, "methods", None) or ():
            if operation := operations.get(method.lower()):
                _complete_operation(operation, auth_class_of(route), serving)
    return document


def _complete_operation(operation: dict[str, Any], auth_class: AuthClass | None, serving: Serving) -> None:
    """Add what holds for every route: the statuses of errors, our shape of them, the key."""
    responses = operation["responses"]
    statuses = {405, 500}
    if responses.pop("422", None) is not None:
        statuses.add(400)
    if auth_class not in {AuthClass.PUBLIC, AuthClass.PROBE}:
        statuses |= {401, 403}
    for status in sorted(statuses):
        responses.setdefault(str(status), error_response(status))
    guarded = {AuthClass.INFERENCE, AuthClass.REVIEW, AuthClass.ADMIN}
    if serving.keys.options.metrics == "key":
        guarded.add(AuthClass.METRICS)
    if serving.keys.needed and auth_class in guarded:
        operation["security"] = [{"key": []}]
