"""The simulated server behind HTTP on loopback, with an OpenAI and an Ollama face."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from qwenops.bench.simulated.model import ServerModel
from qwenops.bench.simulated.options import Faults


@asynccontextmanager
async def serve_simulated(model: ServerModel, *, faults: Faults | None = None, port: int = 0) -> AsyncGenerator[str]:
    """Serve `model` until the block is left, and yield the address, such as `http://127.0.0.1:40000`.

    The model has the truth of every request (`model.truths`); its time 0 is when the block was entered.
    """
    raise NotImplementedError(model, faults, port)
    yield ""
