"""Every way in which servers refuse becomes the right type, and their words stay short and hold no prompt."""

import json
from typing import Any

import pytest

from qwenops.engines.refusal import LONGEST_QUOTE, failure_within, refusal_of
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

DATE = {"Date": "Wed, 21 Oct 2026 07:28:00 GMT"}


def refused(status: int, body: Any = "", headers: dict[str, str] | None = None) -> QwenOpsError:
    return refusal_of("http://h/v1", status, headers or {}, body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "no", "code": "invalid_request"}}, InvalidRequestError),
        (400, {"error": {"message": "no", "code": "context_length_exceeded"}}, PromptTooLongError),
        (400, {"error": {"message": "the request exceeds", "type": "exceed_context_size_error"}}, PromptTooLongError),
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 4096 tokens."},
            PromptTooLongError,
        ),
        (400, {"error": "model 'x' not found, try pulling it first"}, ModelNotServedError),
        (404, {"object": "error", "message": "The model `x` does not exist."}, ModelNotServedError),
        (404, {"detail": "Not Found"}, InvalidRequestError),
        (404, {"error": {"message": "File Not Found", "type": "not_found_error"}}, InvalidRequestError),
        (401, {"error": {"message": "no", "code": "invalid_api_key"}}, AuthenticationError),
        (403, "", ForbiddenError),
        (408, "", DeadlineError),
        (413, "", BodyTooLargeError),
        (422, {"detail": [{"loc": ["body", "x"], "msg": "bad"}]}, InvalidRequestError),
        (429, {"error": {"message": "no"}}, LimitExceededError),
        (500, "<html>", EngineError),
        (501, "", EngineError),
        (502, "", EngineCrashedError),
        (
            503,
            {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
            EngineUnavailableError,
        ),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, OverloadedError),
        (503, {"error": {"message": "no", "code": "engine_unavailable"}}, EngineUnavailableError),
        (504, "", DeadlineError),
    ],
    ids=str,
)
def test_a_refusal_has_the_type_that_it_is(status: int, body: Any, kind: type[QwenOpsError]) -> None:
    error = refused(status, body)
    assert type(error) is kind
    assert str(status) in error.message


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"} | DATE, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:27:00 GMT"} | DATE, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
    ],
    ids=str,
)
def test_when_to_come_back_is_seconds_or_a_date_by_the_servers_own_clock(
    headers: dict[str, str], after_s: float | None
) -> None:
    assert refused(429, "", headers).retry_after_s == after_s


def test_a_field_that_is_to_blame_is_kept() -> None:
    error = refused(400, {"error": {"message": "no", "param": "top_k"}})
    assert isinstance(error, InvalidRequestError)
    assert error.param == "top_k"


def test_what_a_validator_repeats_of_the_request_is_not_repeated() -> None:
    details = [{"loc": ["body", "messages", 0], "msg": "Extra inputs are not permitted", "input": "personal"}]
    message = refused(422, {"detail": details}).message
    assert "body.messages.0: Extra inputs are not permitted" in message
    assert "personal" not in message


def test_long_words_are_cut_and_lines_are_joined() -> None:
    message = refused(500, "a\n b" + "c" * 5000).message
    assert "a b" in message
    assert len(message) < LONGEST_QUOTE + 100


@pytest.mark.parametrize("body", ["null", "[]", "7", '{"error": null}', '{"error": []}', "\x00\xff", "{" * 10_000])
def test_no_body_is_too_strange(body: str) -> None:
    assert type(refused(500, body)) is EngineError


@pytest.mark.parametrize("data", [{}, {"error": None}, {"choices": []}, {"error": ""}, {"error": {}}])
def test_what_is_no_failure_is_none(data: dict[str, Any]) -> None:
    assert failure_within("http://h", data) is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"error": {"message": "no", "code": 503}}, OverloadedError),
        ({"error": {"message": "no", "code": "deadline_exceeded"}}, DeadlineError),
        ({"error": "out of memory"}, EngineError),
        ({"error": {"message": "no", "code": 200}}, EngineError),
    ],
    ids=str,
)
def test_a_failure_within_an_answer_has_its_type(data: dict[str, Any], kind: type[QwenOpsError]) -> None:
    assert type(failure_within("http://h", data)) is kind


def test_a_missing_key_is_told_with_the_names_of_its_variables() -> None:
    hint = refused(401, {"error": {"message": "no key"}}).hint
    assert "QWENOPS_ENGINE_API_KEY," in hint
    assert "QWENOPS_ENGINE_API_KEY_FILE" in hint
