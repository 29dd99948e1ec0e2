"""A server that classifies and does not write: what stands where the engine of conversations would stand.

Probes, metrics and the waiting line ask an engine how it is doing. Here they are told how the classifier is doing, and
whoever wants a text is told that there is none to be had.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Never

from qwenops.engines.seam import EngineInfo
from qwenops.errors import InvalidRequestError
from qwenops.generation import Chunk, GenerationRequest, Messages, Tokens
from qwenops.serve.champion import Champion
from qwenops.text import say

SLOTS = 2
"""Requests that are judged together: one is turned into prompts while another is computed."""


class ClassifiesOnly:
    """An engine and a tokenizer that both refuse."""

    vocab_size = 0

    def __init__(self, champion: Champion) -> None:
        """Speak for a classifier."""
        self._champion = champion

    @property
    def info(self) -> EngineInfo:
        """What serves, and how it is doing."""
        about = self._champion.about
        return EngineInfo(
            engine="classifier",
            model=self._champion.name,
            accepts="tokens",
            context_tokens=about.budget_tokens if about else 0,
            revision=about.ref if about else "",
            max_running=SLOTS,
            health=self._champion.health,
        )

    def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        """Refuse.

        Raises:
            InvalidRequestError: Always.
        """
        del request
        raise _refusal()

    async def aclose(self) -> None:
        """Close the classifier."""
        await self._champion.aclose()

    def encode(self, text: str) -> list[int]:
        """Refuse, as `generate` does."""
        del text
        self._refuse()

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Refuse, as `generate` does."""
        del ids, skip_special
        self._refuse()

    def render(self, messages: Messages) -> Tokens:
        """Refuse, as `generate` does."""
        del messages
        self._refuse()

    def _refuse(self) -> Never:
        raise _refusal()


def _refusal() -> InvalidRequestError:
    return InvalidRequestError(
        say("This server classifies calls and writes no texts."),
        hint=say("Ask /v1/classify, or start a server with a model: `qwenops serve qwen3:0.6b --classifier NAME`."),
    )
