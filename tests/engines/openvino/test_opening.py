"""The real engine behind its door: in a process of its own, killed, damaged, and never imported here."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from qwenops.engines import open_engine
from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import EngineState
from qwenops.engines.worker import WorkerEngine
from qwenops.errors import EngineCrashedError, ModelLoadError
from qwenops.generation import GenerationRequest, SamplingParams, Tokens
from qwenops.models.artefact import Artefact
from qwenops.models.spec import Scheme

pytestmark = pytest.mark.slow


def asked(name: str, max_tokens: int) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return GenerationRequest(id=name, prompt=Tokens(ids=(9707, 11, 1879, 0)), sampling=sampling)


async def read(engine: WorkerEngine, request: GenerationRequest) -> list[int]:
    return [token async for chunk in engine.generate(request) for token in chunk.token_ids]


async def opened(folder: Path) -> WorkerEngine:
    # Arithmetic that is chosen by timing may be another one after a restart, and so may the tokens of random weights.
    options = EngineOptions(
        model_dir=folder,
        model_name="tiny",
        context_tokens=2048,
        max_running=4,
        prefill_precision="f32",
        decode_precision="f32",
    )
    engine = await open_engine("openvino", options)
    assert isinstance(engine, WorkerEngine)
    return engine


@pytest.mark.proves("E1")
async def test_killed_in_mid_stream_it_fails_all_requests_typed_and_comes_back_by_itself(
    tiny_artefact: Callable[[Scheme], Artefact],
) -> None:
    engine = await opened(tiny_artefact(Scheme.INT8).folder)
    try:
        await engine.ready()
        expected = await read(engine, asked("before", 20))
        answers = [asyncio.ensure_future(read(engine, asked(name, 1900))) for name in "abcdef"]
        first = engine.generate(asked("first", 1900))
        await anext(first)
        os.kill(engine.pid, signal.SIGKILL)
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert {type(result) for result in results} == {EngineCrashedError}
        assert engine.info.health.state is EngineState.RESTARTING
        await engine.ready()
        assert await read(engine, asked("after", 20)) == expected
        assert engine.info.health.restarts == 1
    finally:
        await engine.aclose()


async def test_a_damaged_model_is_a_typed_failure_with_its_reason(
    tiny_artefact: Callable[[Scheme], Artefact], tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    await asyncio.to_thread(shutil.copytree, tiny_artefact(Scheme.INT8).folder, folder)
    await asyncio.to_thread(os.truncate, folder / "openvino_model.bin", 1000)
    engine = await opened(folder)
    with pytest.raises(ModelLoadError, match=r"openvino_model\.bin has 1000 of"):
        await engine.ready()
    assert engine.info.health.state is EngineState.FAILED
    await engine.aclose()


ASK = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from qwenops.engines import open_engine
    from qwenops.engines.options import EngineOptions
    from qwenops.generation import GenerationRequest, SamplingParams, Tokens

    async def main():
        engine = await open_engine("openvino", EngineOptions(model_dir=Path(sys.argv[1]), context_tokens=512))
        await engine.ready()
        request = GenerationRequest(id="a", prompt=Tokens(ids=(1, 2, 3)), sampling=SamplingParams(max_tokens=5))
        count = sum([len(chunk.token_ids) async for chunk in engine.generate(request)])
        await engine.aclose()
        heavy = {"openvino", "torch", "numpy", "transformers", "tokenizers", "llguidance"} & set(sys.modules)
        print(count, *heavy)

    asyncio.run(main())
""")


def test_the_process_that_asks_imports_nothing_heavy(tiny_artefact: Callable[[Scheme], Artefact]) -> None:
    folder = tiny_artefact(Scheme.INT8).folder
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(folder)], capture_output=True, text=True, timeout=120, check=True
    )
    assert 1 <= int(done.stdout) <= 5


async def test_prompts_of_ever_new_lengths_do_not_let_its_memory_grow(
    tiny_artefact: Callable[[Scheme], Artefact],
) -> None:
    async def ask(lengths: range) -> int:
        for length in lengths:
            prompt = Tokens(ids=tuple(1000 + (length * 7919 + place) % 9000 for place in range(length)))
            sampling = SamplingParams(max_tokens=1)
            async for _ in engine.generate(GenerationRequest(id=f"{length}", prompt=prompt, sampling=sampling)):
                pass
        return psutil.Process(engine.pid).memory_info().rss

    engine = await opened(tiny_artefact(Scheme.INT8).folder)
    try:
        await engine.ready()
        before = await ask(range(100, 200))
        after = await ask(range(200, 400))
    finally:
        await engine.aclose()
    assert after - before < 8 * 2**20
