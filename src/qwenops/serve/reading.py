"""From the bytes of a request to a checked body, or to one clear error.

The body is read piece by piece and dropped as soon as it is over the limit, declared or not. What is wrong with it is
said in one sentence that names the field.
"""

import asyncio
import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import ClientDisconnect

from qwenops.errors import BodyTooLargeError, InvalidRequestError
from qwenops.serve.exchange import ClientGoneError
from qwenops.serve.schemas import IGNORED_FIELDS, REFUSED_FIELDS
from qwenops.text import Text, say

_LONGEST_QUOTE = 128
"""Characters of the caller's own words that an error repeats."""
_MOST_FIELDS = 1024
_MOST_ELEMENTS = 32_768
_Body = TypeVar("_Body", bound=BaseModel)


class Incoming(Protocol):
    """The part of a Starlette request that is read here."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    def stream(self) -> Any:
        """Yield the body piece by piece."""
        ...


class BodyTimeoutError(InvalidRequestError):
    """The body did not arrive in time."""

    http_status = 408
    code = "body_timeout"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is not JSON by its own account."""

    http_status = 415
    code = "unsupported_media_type"


async def read_body(request: Incoming, model: type[_Body], *, max_bytes: int, timeout_s: float) -> _Body:
    """Read, parse and check the body of a request.

    Raises:
        UnsupportedMediaTypeError: The content type is another one than JSON.
        BodyTooLargeError: The body is over the limit; nothing more of it is kept.
        BodyTimeoutError: It takes longer than `timeout_s` to arrive.
        InvalidRequestError: It is not JSON, or not what `model` accepts.
    """
    _check_media_type(request.headers.get("content-type", ""))
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            raw = await _read_bytes(request, max_bytes)
    except TimeoutError:
        if not scope.expired():
            raise
        raise BodyTimeoutError(
            say("The body did not arrive within {timeout_s:g} seconds.", timeout_s=timeout_s),
            hint=say("Send it faster, or raise `serve.limits.body_timeout_s`."),
        ) from None
    return parse(raw, model)


def parse(raw: bytes, model: type[_Body]) -> _Body:
    """Parse and check JSON bytes.

    Raises:
        InvalidRequestError: It is not JSON, or not what `model` accepts.
    """
    try:
        data = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequestError(
            say("The body is not valid JSON: {problem}.", problem=str(error)),
            hint=say("Send one JSON object in UTF-8."),
        ) from None
    if not isinstance(data, dict):
        raise InvalidRequestError(
            say("The body is {what}, not a JSON object.", what=_JSON_NAMES[type(data)]),
            hint=say("Send one JSON object in UTF-8."),
        )
    _refuse_crowds(data)
    while True:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if not _take_whole_numbers(errors, data):
            raise _explained(errors, data, model)


def _refuse_crowds(data: Any) -> None:
    """Refuse bodies of far more fields, objects and arrays than any request has, before each becomes an error.

    What a caller may name freely (metadata, JSON schemas, tokens with a bias) is counted too and far below the limits.
    """
    waiting = [data]
    seen = 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if len(each) > _MOST_FIELDS:
                raise _crowded(say("fields in one object"), len(each), _MOST_FIELDS)
            waiting.extend(value for value in each.values() if isinstance(value, dict | list))
        elif each and isinstance(each[0], dict | list):
            seen += len(each)
            if seen > _MOST_ELEMENTS:
                raise _crowded(say("objects and arrays"), seen, _MOST_ELEMENTS)
            waiting.extend(value for value in each if isinstance(value, dict | list))


def _crowded(what: Text, count: int, most: int) -> InvalidRequestError:
    return InvalidRequestError(
        say("The body has {count} {what}; at most {most} are possible.", count=count, what=what, most=most),
        hint=say("See /openapi.json for what is accepted."),
    )


def _take_whole_numbers(errors: Sequence[ErrorDetails], data: Any) -> bool:
    """Replace 5.0 by 5 where an integer is wanted, as JSON schema sees it; say whether there was any.

    The models are strict and would refuse it; to look here, after a failure, costs those nothing who write 5.
    """
    found = False
    for each in errors:
        if each["type"] != "int_type" or not _is_whole(each["input"]):
            continue
        *steps, last = _path(each["loc"], data, kind="int_type")
        place = data
        for step in steps:
            place = place[step]
        if isinstance(place, list):
            place[:] = [int(value) if _is_whole(value) else value for value in place]
        else:
            place[last] = int(place[last])
        found = True
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


_JSON_NAMES: dict[type, Text] = {
    list: say("an array"),
    str: say("a string"),
    int: say("a number"),
    float: say("a number"),
    bool: say("true or false"),
    type(None): say("null"),
}


def _check_media_type(given: str) -> None:
    kind = given.partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaTypeError(
            say("The content type is {given!r}.", given=given), hint=say("Send `Content-Type: application/json`.")
        )


async def _read_bytes(request: Incoming, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    pieces = bytearray()
    try:
        async for piece in request.stream():
            pieces += piece
            if len(pieces) > max_bytes:
                raise _too_large(max_bytes)
    except ClientDisconnect:
        raise ClientGoneError(say("The client closed the connection before its body was complete.")) from None
    return bytes(pieces)


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        say("The body is larger than {max_bytes} bytes.", max_bytes=max_bytes),
        hint=say("Send less, or raise `serve.limits.max_body_bytes`."),
    )


def _explained(errors: Sequence[ErrorDetails], data: Any, model: type[BaseModel]) -> InvalidRequestError:
    """Choose the error that says most and put it into words.

    A value that fits no branch of a union gives one error for each branch: the deepest one, and of these the furthest
    to the right, belongs to the branch that was meant.
    """
    located = [(_path(each["loc"], data, kind=each["type"]), each) for each in errors]
    unknown = [path for path, each in located if each["type"] == "extra_forbidden"]
    if unknown and not any(each["type"] == "literal_error" for each in errors):
        return _unknown_field(unknown[0], model)
    located = [pair for pair in located if pair[1]["type"] != "extra_forbidden"]
    path, _ = max(located, key=lambda pair: (len(pair[0]), _as_number(pair[0])))
    same = [each for other, each in located if other == path]
    precise = [each for each in same if each["type"] not in _TYPES]
    param = _dotted(path)
    if precise:
        message = _worded(param, precise[0])
    else:
        wanted = list(dict.fromkeys(_TYPES[each["type"]] for each in same))
        message = say("{param} must be {wanted}.", param=param, wanted=_either(wanted))
    return InvalidRequestError(message, param=param, hint=say("See /openapi.json for what is accepted."))


def _as_number(path: tuple[str | int, ...]) -> int:
    return path[-1] if path and isinstance(path[-1], int) else -1


def _unknown_field(path: tuple[str | int, ...], model: type[BaseModel]) -> InvalidRequestError:
    name = str(path[-1])
    param = _dotted(path)
    if len(path) == 1 and name in REFUSED_FIELDS:
        return InvalidRequestError(
            say("{param} is not supported.", param=param), hint=REFUSED_FIELDS[name], param=param
        )
    known = _known_fields(model) if len(path) == 1 else _all_fields(model)
    near = difflib.get_close_matches(name[:_LONGEST_QUOTE], known, n=1, cutoff=0.6)
    hint = (
        say("Did you mean {near!r}?", near=near[0])
        if near
        else say("Known fields: {known}.", known=", ".join(sorted(set(known) - set(IGNORED_FIELDS))))
    )
    return InvalidRequestError(say("The field {param} is not known.", param=param), hint=hint, param=param)


def _known_fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


@cache
def _all_fields(model: type[BaseModel]) -> list[str]:
    """Return the names of the fields of a model and of all models inside it."""
    schema = model.model_json_schema()
    inner = schema.get("$defs", {}).values()
    return sorted({name for each in inner for name in each.get("properties", {})})


def _path(location: tuple[int | str, ...], data: Any, *, kind: str) -> tuple[str | int, ...]:
    """Drop the names of union branches from an error's location: they are not steps into the data."""
    path: list[str | int] = []
    for place, step in enumerate(location):
        last = place == len(location) - 1
        if (isinstance(data, Mapping) and step in data) or (
            isinstance(data, list) and isinstance(step, int) and step < len(data)
        ):
            path.append(step)
            data = data[step]  # type: ignore[index]  # either of the two above
        elif last and kind == "missing":
            path.append(step)
    return tuple(path)


def _dotted(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")[:_LONGEST_QUOTE]


_TYPES: dict[str, Text] = {
    "string_type": say("a string"),
    "int_type": say("an integer"),
    "int_from_float": say("an integer"),
    "float_type": say("a number"),
    "bool_type": say("true or false"),
    "list_type": say("an array"),
    "dict_type": say("an object"),
    "model_type": say("an object"),
    "model_attributes_type": say("an object"),
    "none_required": say("null"),
}


def _either(wanted: Sequence[Text]) -> Text:
    said = wanted[0]
    for each in wanted[1:]:
        said = say("{one} or {other}", one=said, other=each)
    return said


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


_Words = Callable[[str, Mapping[str, Any]], Text]

_WORDS: dict[str, _Words] = {
    "missing": lambda param, _: say("{param} is missing.", param=param),
    "greater_than_equal": lambda param, ctx: say(
        "{param} must be at least {bound}.", param=param, bound=_number(ctx["ge"])
    ),
    "less_than_equal": lambda param, ctx: say(
        "{param} must be at most {bound}.", param=param, bound=_number(ctx["le"])
    ),
    "too_short": lambda param, ctx: say(
        "{param} must have at least {bound} elements.", param=param, bound=ctx["min_length"]
    ),
    "too_long": lambda param, ctx: say(
        "{param} has {count} elements; at most {bound} are possible.",
        param=param,
        count=ctx["actual_length"],
        bound=ctx["max_length"],
    ),
    "string_too_short": lambda param, ctx: say(
        "{param} must have at least {bound} characters.", param=param, bound=ctx["min_length"]
    ),
    "string_too_long": lambda param, ctx: say(
        "{param} must have at most {bound} characters.", param=param, bound=ctx["max_length"]
    ),
    "literal_error": lambda param, ctx: say("{param} must be one of: {choices}.", param=param, choices=ctx["expected"]),
    "union_tag_invalid": lambda param, ctx: say(
        "{param} has the {field} {given!r}; possible are: {choices}.",
        param=param,
        field=ctx["discriminator"].strip("'"),
        given=ctx["tag"][:_LONGEST_QUOTE],
        choices=ctx["expected_tags"],
    ),
    "union_tag_not_found": lambda param, ctx: say(
        "{param} has no {field}.", param=param, field=ctx["discriminator"].strip("'")
    ),
    "string_pattern_mismatch": lambda param, ctx: say(
        "{param} does not match {pattern}.", param=param, pattern=ctx["pattern"]
    ),
    "finite_number": lambda param, _: say("{param} must be a finite number.", param=param),
}


def _worded(param: str, error: ErrorDetails) -> Text:
    words = _WORDS.get(error["type"])
    if words is not None:
        return words(param, error.get("ctx", {}))
    return say("{param} is not valid: {problem}.", param=param, problem=error["msg"])
