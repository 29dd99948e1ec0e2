"""What every route gets: the one object that says what is served, to whom, and who keeps count."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qwenops.engines.seam import Engine
from qwenops.errors import ModelNotServedError
from qwenops.generation import Messages, Tokens
from qwenops.observe.record import RequestRecord
from qwenops.serve.admission import Admission
from qwenops.serve.auth import KeyRing
from qwenops.serve.options import ServeOptions
from qwenops.text import say


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
    aliases: Mapping[str, str] = field(default_factory=dict)
    """What else callers may ask for, such as the name on the command line, and the name that is meant by it."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Of the models that may serve, by their names; grows as they are prepared."""

    @property
    def names(self) -> tuple[str, ...]:
        """The served model, and the configured one when that is another."""
        info = self.engine.info
        return (info.model, info.fallback_for) if info.fallback_for else (info.model,)

    @property
    def revision(self) -> str:
        """Of the weights that serve now; empty when they have none."""
        info = self.engine.info
        return info.revision or self.revisions.get(info.model, "")

    def is_open_to(self, models: Collection[str]) -> bool:
        """Whether a key that may use these models may use this one; none is no limit."""
        return not models or any(name in models for name in self.names)

    def known_as(self, asked: str) -> str:
        """Return the name of the model that is asked for.

        Raises:
            ModelNotServedError: It is neither the served nor the configured one.
        """
        name = self.aliases.get(asked, asked)
        if name not in self.names:
            raise ModelNotServedError(
                say("The model {asked!r} is not served here.", asked=asked[:128]),
                hint=say("Use one of: {known}.", known=", ".join(self.names)),
                param="model",
            )
        return name


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
