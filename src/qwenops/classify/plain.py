"""Results as plain data that JSON can hold, and back: evaluations, verdicts, calibrations, thresholds, sets.

Each is a frozen dataclass of numbers, texts and others of its kind; what comes back equals what went.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter

_Result = TypeVar("_Result")


def to_plain(result: Any) -> dict[str, Any]:
    """Return a result as plain data."""
    told: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return told


def from_plain(kind: type[_Result], data: Mapping[str, Any]) -> _Result:
    """Read what `to_plain` made of a result of some kind.

    Raises:
        ValueError: It is no such thing; all that is wrong is named.
    """
    found: _Result = TypeAdapter(kind).validate_python(data)
    return found


def of_schema(data: Any, schema: str) -> Mapping[str, Any]:
    """Return the content of a file of ours.

    Raises:
        ValueError: It is of another schema.
        KeyError: It does not say of which.
        TypeError: It is no mapping.
    """
    if data["schema"] != schema:
        raise ValueError(data["schema"])
    found: Mapping[str, Any] = data
    return found
