"""The simulated server as a process of its own, so that its work is not the client's."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qwenops.command import PIPE, Spawned, spawn
from qwenops.errors import DeadlineError, EngineUnavailableError
from qwenops.text import say

START_TIMEOUT_S = 30.0


@asynccontextmanager
async def simulated_process(text: str) -> AsyncIterator[str]:
    """Start the simulated server as a process of its own and yield its address.

    Raises:
        EngineUnavailableError: It did not start.
        DeadlineError: It did not start in time.
    """
    with spawn([sys.executable, "-m", "qwenops.bench.simulated", text], stdout=PIPE) as child:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                url = await asyncio.to_thread(_first_line, child)
        except TimeoutError:
            child.kill()
            raise DeadlineError(say("The simulated server did not start.")) from None
        if not url:
            raise EngineUnavailableError(say("The simulated server did not start."))
        yield url


def _first_line(child: Spawned) -> str:
    assert child.stdout is not None  # noqa: S101 -- it was started with a pipe
    return child.stdout.readline().decode().strip()
