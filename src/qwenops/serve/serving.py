"""What every route gets: the one object that says what is served, to whom, and who keeps count.

The routes own the protocols here; admission, keys, lifecycle, metrics and logs satisfy them.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from qwenops.engines.seam import Engine
from qwenops.generation import Messages, Tokens
from qwenops.serve.options import ServeOptions


class Renderer(Protocol):
    """The part of a tokenizer that the routes need."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        ...

    def encode(self, text: str) -> list[int]:
        """Turn text into tokens, special ones included where they are spelt out."""
        ...

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Turn tokens into text."""
        ...

    def render(self, messages: Messages) -> Tokens:
        """Apply the chat template."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """An engine together with the tokenizer of its model."""

    engine: Engine
    tokenizer: Renderer
    created_s: int = 0
    """When it began to serve, in seconds since 1970."""


class Caller(Protocol):
    """Who sent a request."""

    @property
    def key_id(self) -> str:
        """The id of the key, or a word for "no key"; it separates the prefix caches of tenants."""
        ...


class Admission(Protocol):
    """Decides when a request may go to the engine."""

    def admit(
        self, *, key_id: str, prompt_tokens: int, max_tokens: int, deadline_s: float | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """Wait for a place and hold it until the context ends.

        Raises:
            LimitExceededError: The key is over its own limit.
            OverloadedError: The queue is full, or the server is draining.
            DeadlineError: No place came free in time.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Everything that a route needs to answer."""

    model: Callable[[], ServedModel]
    """The model that serves now; raises EngineUnavailableError, with a Retry-After, while it loads."""
    options: Callable[[], ServeOptions]
    """The options in force; a reload changes what this returns."""
    admission: Admission
    authenticate: Callable[[Mapping[str, str], Any], Caller]
    """Headers and the auth class of a route to the caller; raises AuthenticationError or ForbiddenError."""
    translate: Callable[[str, str], str]
    """Language ("zh") and English template to that language's template."""
    generation: Callable[[], int]
    """How many configurations have been in force."""
    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds; durations are measured with it."""
    now: Callable[[], float] = time.time
    """Seconds since 1970, for the timestamps in answers."""
