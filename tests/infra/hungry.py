"""A stepper that takes all the memory its options give the cache at the first step, and a program that serves with it.

The program is a server in small: the process that answers and the engine's process under it, in one control group.
"""

import asyncio
import json
import os
import sys
from dataclasses import replace
from typing import Any

from qwenops.engines.options import EngineOptions
from qwenops.engines.resilient import Candidate, RecoveryPolicy, ResilientEngine
from qwenops.engines.seam import Engine
from qwenops.engines.steploop import Scores
from qwenops.engines.worker import RestartPolicy, WorkerEngine
from qwenops.errors import EngineUnavailableError, QwenOpsError
from qwenops.generation import Chunk, GenerationRequest, SamplingParams, Tokens
from qwenops.text import Report
from tests.engines.steppers import Counting

PAGE_BYTES = 4096


class Hungry(Counting):
    """Writes to each page of its cache before it answers."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self._cache = bytearray()

    def step(self) -> list[tuple[str, Chunk | Scores | QwenOpsError]]:
        self.fill()
        return super().step()

    def fill(self) -> None:
        if not self._cache:
            self._cache = bytearray(self._options.kv_cache_bytes)
            self._cache[::PAGE_BYTES] = b"x" * len(range(0, len(self._cache), PAGE_BYTES))


def open_hungry(options: EngineOptions, _report: Report) -> Hungry:
    """Open at once, or fill the memory while loading when the model's name says so."""
    stepper = Hungry(options)
    if options.model_name == "hungry at load":
        stepper.fill()
    return stepper


async def _open(options: EngineOptions) -> Engine:
    engine = WorkerEngine(
        "tests.infra.hungry:open_hungry", options, name="hungry", policy=RestartPolicy(first_delay_s=0.01)
    )
    engine.start()
    return engine


async def _answer(engine: Engine) -> str:
    request = GenerationRequest(id="a", prompt=Tokens(ids=(0,)), sampling=SamplingParams(max_tokens=3))
    return "".join([chunk.text async for chunk in engine.generate(request)])


async def serve(name: str, cache_bytes: int) -> dict[str, Any]:
    """Ask until there is an answer; return what happened on the way."""
    options = replace(EngineOptions(), model_name=name, kv_cache_bytes=cache_bytes)
    engine = ResilientEngine(
        Candidate(name="hungry", open=_open, options=options), policy=RecoveryPolicy(look_every_s=0.05)
    )
    engine.start()
    errors: list[dict[str, str]] = []
    answer = ""
    async with asyncio.timeout(60):
        while not answer:
            await engine.ready()
            try:
                answer = await _answer(engine)
            except EngineUnavailableError:
                await asyncio.sleep(0.05)  # the engine was not reopened yet
            except QwenOpsError as error:
                cause = type(error.__cause__).__name__
                errors.append({"kind": type(error).__name__, "cause": cause, "said": error.message, "hint": error.hint})
    reason = engine.info.health.reason
    await engine.aclose()
    return {"answer": answer, "errors": errors, "reason": reason, "pid": os.getpid()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(serve(sys.argv[1], int(sys.argv[2])))))
