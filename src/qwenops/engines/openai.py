"""Any server that speaks OpenAI's API, as an engine: conversations go to chat, tokens to completions.

Nothing is tried again: what a server answers is what the caller gets.
"""

from collections.abc import AsyncIterator, Callable
from typing import Literal

from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import EngineInfo
from qwenops.generation import Chunk, GenerationRequest

Moment = Literal["connected", "first_byte"]


class OpenAIEngine:
    """An `Engine` that is a server elsewhere.

    Args:
        url: Its address, with or without `/v1`.
        model: Name of the model in every request.
        api_key: Sent as a bearer; in no message, log or `repr`.
        num_connections: Most connections at the same time; 0 takes as many as there are streams.
        silence_s: A server that sends nothing for so long counts as frozen.
    """

    def __init__(
        self, url: str, model: str, *, api_key: str = "", num_connections: int = 0, silence_s: float = 600.0
    ) -> None:
        """Keep what it needs; nothing is connected yet."""

    @property
    def info(self) -> EngineInfo:
        """What is known about the server."""
        raise NotImplementedError

    def listen_moments(self, hook: Callable[[str, Moment], None] | None) -> None:
        """Tell `hook` the id of a request when its new connection stands and when the head of its answer is there."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Yield the answer as it arrives; closing the iterator closes the connection."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close every connection."""


async def open_engine(options: EngineOptions) -> OpenAIEngine:
    """Open the server at `options.url`; without `options.model_name` it is asked for its models."""
    return OpenAIEngine(options.url, options.model_name, api_key=options.api_key)
