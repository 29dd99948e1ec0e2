"""What every route gets: the one object that says what is served, to whom, and who keeps count."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qwenops.engines.seam import Engine
from qwenops.generation import Messages, Tokens
from qwenops.observe.record import RequestRecord
from qwenops.serve.admission import Admission
from qwenops.serve.auth import KeyRing
from qwenops.serve.options import ServeOptions


class Renderer(Protocol):
    """The part of a tokenizer that the routes need."""

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        ...

    def encode(self, text: str) -> list[int]:
        """Turn text into tokens."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
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
    since_s: float = 0.0
    """When it began to serve, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Everything that a route needs to answer."""

    model: Callable[[], ServedModel]
    """The model that serves now; raises EngineUnavailableError, with a Retry-After, while it loads."""
    options: Callable[[], ServeOptions]
    """The options in force; a reload changes what this returns."""
    keys: KeyRing
    admission: Admission
    finished: Callable[[RequestRecord], None]
    """Gets the record of each inference request at its end: metrics and log."""
    generation: Callable[[], int] = lambda: 1
    """Counts the configurations taken over, from 1."""
    translate: Callable[[str, str], str] = lambda _, template: template
    """Language ("zh") and English template to that language's template."""
    clock: Callable[[], float] = time.monotonic
    """Seconds that never run back; durations are measured with it."""
    now: Callable[[], float] = time.time
    """Seconds since 1970, for timestamps."""
