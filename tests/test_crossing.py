"""Sentences and errors are the same after the way through plain data."""

import json
from typing import Any

import pytest

from qwenops.crossing import error_of, error_parts, plain, text_of
from qwenops.errors import (
    ConversionError,
    EngineError,
    InsufficientDiskError,
    LimitExceededError,
    ModelNotFoundError,
    QwenOpsError,
)
from qwenops.text import Text, say


def crossed(value: Any) -> Any:
    """Go through JSON, in which a list of its own mark stands for a sentence."""
    data = json.dumps(plain(value, lambda parts: {"said": parts}))
    return json.loads(data, object_hook=lambda found: text_of(found["said"]) if "said" in found else found)


def test_a_sentence_in_a_sentence_can_still_be_translated() -> None:
    said = say("{what} broke {count} times", what=say("The {thing}", thing="disk"), count=3)
    arrived = crossed([{"why": said}])[0]["why"]
    assert isinstance(arrived, Text)
    assert arrived == said == "The disk broke 3 times"
    assert arrived.translated(lambda template: f"<{template}>") == "<<The disk> broke 3 times>"


@pytest.mark.parametrize(
    "error",
    [
        ConversionError(say("The tensor {name} is wrong.", name="w"), hint=say("Try again.")),
        InsufficientDiskError("full", needed_bytes=7, available_bytes=3, hint="h"),
        LimitExceededError("slower", retry_after_s=2.5),
        ModelNotFoundError("none"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_class_its_words_and_its_own_fields(error: QwenOpsError) -> None:
    back = error_of(crossed(error_parts(error)), EngineError)
    assert type(back) is type(error)
    assert vars(back) == vars(error)
    assert type(back.message) is type(error.message)


def test_an_error_of_a_class_that_is_not_known_here_keeps_its_words() -> None:
    back = error_of(["NewerError", "said", "do", 3.0, {"more": 1}], EngineError)
    assert (type(back), back.message, back.hint, back.retry_after_s) == (EngineError, "said", "do", 3.0)


@pytest.mark.parametrize("parts", [["a", "b"], ["a", 1, {}], ["a", "b", []], [1, "b", {}]])
def test_parts_that_are_no_sentence_are_refused(parts: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        text_of(parts)
