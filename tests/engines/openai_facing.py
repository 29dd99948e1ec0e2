"""What the tests of the engine for OpenAI's API share: requests, and an engine that faces a scripted server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from qwenops.engines.openai import Listed, OpenAIEngine, api_url, open_server
from qwenops.engines.remote import Remote
from qwenops.generation import (
    Chunk,
    GenerationRequest,
    Message,
    Messages,
    Prompt,
    SamplingParams,
)
from tests.engines.scripted import Reply, Scripted, delta, events, scripted, usage

HELLO = Messages(messages=(Message(role="user", content="Hello"),))
THINKING = replace(HELLO, enable_thinking=True)
GREEDY = SamplingParams(max_tokens=8, temperature=0.0)
KEY = "sk-do-not-show-this-key"
MODELS = {"/v1/models": {"object": "list", "data": [{"id": "m", "owned_by": "someone", "max_model_len": 4096}]}}
FINE: list[bytes | float] = [
    *events(delta(role="assistant", content=""), delta(content="Hi"), delta(reason="stop"), usage(3, 1), "[DONE]")
]


def asked(prompt: Prompt = HELLO, name: str = "a", **sampling: Any) -> GenerationRequest:
    return GenerationRequest(id=name, prompt=prompt, sampling=replace(GREEDY, **sampling))


async def answer(engine: OpenAIEngine, request: GenerationRequest | None = None) -> list[Chunk]:
    return [chunk async for chunk in engine.generate(request or asked())]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@asynccontextmanager
async def opened(url: str, **remote: Any) -> AsyncIterator[OpenAIEngine]:
    engine = await open_server(Remote(api_url(url), **remote), "m")
    try:
        yield engine
    finally:
        await engine.aclose()


@asynccontextmanager
async def facing(*pieces: bytes | float, **reply: Any) -> AsyncIterator[tuple[OpenAIEngine, Scripted]]:
    """Open an engine at a server that always answers the same."""
    async with (
        scripted(lambda _: Reply(pieces=pieces or FINE, **reply), gets=MODELS) as server,
        opened(server.url, api_key=KEY) as engine,
    ):
        yield engine, server


def listed(name: str) -> Listed:
    """Return a model as a server lists it."""
    return Listed(name=name)
