"""The classifier behind its door: in a process of its own, which may die, and never imported here."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qwenops.engines.classifier import Scorer, open_scorer
from qwenops.engines.classifier.compiled import CompileOptions, compile_graph, probabilities
from qwenops.engines.options import EngineOptions
from qwenops.errors import EngineCrashedError, InvalidRequestError, ModelLoadError
from qwenops.generation import Tokens
from qwenops.models.prefill import Prefill, PrefillScheme
from tests.models.prefilled import LABELS, centred, prompts, relative

pytestmark = pytest.mark.slow
EXACT = EngineOptions(context_tokens=512, max_batched_tokens=256, prefill_precision="f32", threads=1)
MODELS = Callable[..., Prefill]


async def test_scores_come_in_the_order_of_the_prompts(models: MODELS) -> None:
    prefill = models(PrefillScheme.F32)
    many = prompts(40, seed=5, longest=200)
    wanted = probabilities(compile_graph(prefill, CompileOptions(precision="f32", threads=1)).logits(many))
    async with await open_scorer(prefill.folder, EXACT) as scorer:
        found = await scorer.score([Tokens(ids=ids) for ids in many], LABELS)
        assert await scorer.score([], LABELS) == []
        assert scorer.info.quantization == "f32"
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


async def test_several_callers_are_answered_at_once(models: MODELS) -> None:
    many = prompts(12, seed=6)
    async with await open_scorer(models(PrefillScheme.INT8).folder, EXACT) as scorer:
        together = await asyncio.gather(*(scorer.score([Tokens(ids=ids)], LABELS) for ids in many))
        alone = await scorer.score([Tokens(ids=ids) for ids in many], LABELS)
    assert relative(centred(np.array([rows[0] for rows in together])), centred(np.array(alone))) < 0.05


async def test_a_wrong_label_is_refused_and_the_scorer_goes_on(models: MODELS) -> None:
    async with await open_scorer(models(PrefillScheme.F32).folder, EXACT) as scorer:
        with pytest.raises(InvalidRequestError, match="labels"):
            await scorer.score([Tokens(ids=(1, 2))], [LABELS[0], 3])
        assert len(await scorer.score([Tokens(ids=(1, 2))], LABELS)) == 1


async def test_killed_it_fails_what_it_worked_on_and_comes_back(models: MODELS) -> None:
    async with await open_scorer(models(PrefillScheme.F32).folder, EXACT) as scorer:
        expected = await scorer.score([Tokens(ids=(1, 2, 3))], LABELS)
        busy = asyncio.ensure_future(
            scorer.score([Tokens(ids=ids) for ids in prompts(600, seed=7, shortest=200, longest=250)], LABELS)
        )
        await asyncio.sleep(0.2)
        os.kill(scorer.engine.pid, signal.SIGKILL)
        with pytest.raises(EngineCrashedError):
            await busy
        await scorer.engine.ready()
        assert await scorer.score([Tokens(ids=(1, 2, 3))], LABELS) == expected


async def test_a_folder_that_is_no_model_is_a_typed_failure(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no classifier's model"):
        await open_scorer(tmp_path, EXACT)


def test_the_door_imports_no_engine() -> None:
    """Who serves must not load OpenVINO into its own process."""
    code = "import sys, qwenops.engines.classifier as c; assert c.REQUIRES; print('openvino' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False"


def test_closing_twice_is_closing_once(models: MODELS) -> None:
    async def twice() -> Scorer:
        scorer = await open_scorer(models(PrefillScheme.F32).folder, EXACT)
        await scorer.aclose()
        await scorer.aclose()
        return scorer

    asyncio.run(twice())
