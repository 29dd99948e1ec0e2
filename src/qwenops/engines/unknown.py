"""Which fields of its requests a server turned out not to know, so that later ones go without.

What a refusal names is left out. One that names nothing takes away every field that can be done without and that the
server never took; once it took them all, a refusal is about something else.
"""

import re
from collections.abc import Mapping
from typing import Any

from qwenops.engines.openai_body import DISPENSABLE
from qwenops.errors import InvalidRequestError

_UNKNOWN = re.compile(
    r"unknown|not known|unrecogni[sz]ed|unexpected|unsupported|extra"
    r"|not (supported|permitted|allowed)|does not (know|support)",
    re.IGNORECASE,
)


class UnknownFields:
    """What was learned about one server."""

    def __init__(self) -> None:
        """Begin with a server that knows everything."""
        self.left_out: frozenset[str] = frozenset()
        self._taken: set[str] = set()

    def without(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a body without what the server does not know."""
        if not self.left_out:
            return body
        return {name: value for name, value in body.items() if name not in self.left_out}

    def took(self, body: Mapping[str, Any]) -> None:
        """Take note that the server accepted a body."""
        self._taken |= body.keys()

    def learn(self, body: Mapping[str, Any], error: InvalidRequestError) -> bool:
        """Learn from the refusal of `body` which of its fields the server does not know; say whether there are any."""
        if type(error) is not InvalidRequestError or not _UNKNOWN.search(error.message):
            return False
        unknown = (_named(body, error) or body.keys() - self._taken) & set(DISPENSABLE)
        self.left_out |= unknown
        return bool(unknown)


def _named(body: Mapping[str, Any], error: InvalidRequestError) -> set[str]:
    """Return the fields of a body that a refusal names."""
    words = re.split(r"\bexpected\b", error.message)[0]  # what follows are the fields that the server knows
    quoted = {name for name in body if error.param == name or re.search(rf"(?:['\"`\[{{]|body\.){name}\b", words)}
    return quoted or {name for name in DISPENSABLE if name in body and re.search(rf"\b{name}\b", words)}
