"""Sentences and errors as plain data, so that they can go from one process to another and arrive as what they were.

How the data is written is the road's own affair: msgpack between the API process and an engine (`engines/wire.py`),
lines of JSON from a process that works on a model (`models/child.py`). A sentence keeps its template and arguments, so
that the process in which the door is can say it in the reader's language.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwenops.errors import QwenOpsError, error_classes
from qwenops.text import Text

_SHOWN = frozenset({"message", "hint", "retry_after_s"})
"""What every error has; anything else is its class's own."""


def plain(value: Any, written: Callable[[list[Any]], Any]) -> Any:
    """Return a value as plain data: each `Text` in it as what `written` makes of its parts.

    The parts are the English sentence, its template and its arguments (plain already); `text_of` reads them.
    """
    match value:
        case Text():
            return written([str(value), value.template, plain(value.arguments, written)])
        case list() | tuple():
            return [plain(each, written) for each in value]
        case Mapping():
            return {name: plain(each, written) for name, each in value.items()}
        case _:
            return value


def text_of(parts: Sequence[Any]) -> Text:
    """Put a sentence together again.

    Raises:
        TypeError: These are not the parts of one.
        ValueError: They are too few or too many.
    """
    said, template, arguments = parts
    if not isinstance(said, str) or not isinstance(template, str) or not isinstance(arguments, dict):
        raise TypeError(template)
    text = Text(said)
    text.template = template
    text.arguments = arguments
    return text


def error_parts(error: QwenOpsError) -> list[Any]:
    """Return what an error is made of: class, message, hint, seconds until a retry, its class's own fields."""
    own = {name: value for name, value in vars(error).items() if name not in _SHOWN}
    return [type(error).__name__, error.message, error.hint, error.retry_after_s, own]


def error_of(parts: Sequence[Any], unknown: type[QwenOpsError]) -> QwenOpsError:
    """Put an error together again; one of a class that is not known here becomes `unknown`, with its words.

    Raises:
        TypeError: These are not the parts of one.
        ValueError: They are too few or too many.
    """
    name, message, hint, retry_after_s, own = parts
    known: type[Any] | None = error_classes().get(name)
    error: QwenOpsError = known(message, hint=hint, **own) if known else unknown(message, hint=hint)
    error.retry_after_s = retry_after_s
    return error
