"""A value that travels with the sentence that explains it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

Value_co = TypeVar("Value_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoned(Generic[Value_co]):
    """A derived value and why it is what it is."""

    value: Value_co
    reason: str
    """Made with `qwenops.text.say`, so that a door can translate it."""
