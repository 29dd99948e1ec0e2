"""What number formats do to a model whose weights mean something: measured, kept, and held to a floor."""

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from qwenops.engines import open_engine
from qwenops.engines.openvino.paged import (
    CompileOptions,
    compile_form,
    has_bf16,
    read_paged_model,
)
from qwenops.engines.openvino.teacher import Teacher
from qwenops.engines.options import EngineOptions
from qwenops.engines.parity import Logits, Parity, compare, hold, write_parity
from qwenops.engines.transformers import load_model, teacher_forced_logits
from qwenops.generation import GenerationRequest, Message, Messages, SamplingParams
from qwenops.models.artefact import Artefact, dequantised, open_artefact
from qwenops.models.spec import KvPrecision, Precision, Scheme
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from tests.engines import trained

pytestmark = [pytest.mark.slow, pytest.mark.reference, pytest.mark.timeout(900)]

FLOOR = 0.98


@pytest.fixture(scope="session")
def tokenizer(trained_checkpoint: Path) -> Tokenizer:
    return open_tokenizer(trained_checkpoint)


@pytest.fixture(scope="session")
def texts(tokenizer: Tokenizer) -> list[list[int]]:
    """Texts of the kind that was trained, in an order that training never saw."""
    return trained.sequences(tokenizer, seed=1234, count=16)


@pytest.fixture(scope="session")
def reference(trained_checkpoint: Path) -> Logits:
    """The original checkpoint in float32 by transformers; each text is computed once."""
    model = load_model(trained_checkpoint)
    known = cache(lambda token_ids: teacher_forced_logits(model, token_ids))
    return lambda token_ids: known(tuple(token_ids))


def judged(artefact: Artefact, arithmetic: Precision, kv: KvPrecision, *, dynamic: bool = True) -> Teacher:
    """Return our engine's logits in one combination of number formats."""
    options = CompileOptions(model_xml=artefact.model_xml, threads=2, kv_precision=kv, dynamic_quantization=dynamic)
    return Teacher(compile_form(read_paged_model(artefact.model_xml), arithmetic, options), context_tokens=128)


def measured(
    artefact: Artefact, reference: Logits, texts: list[list[int]], arithmetic: Precision, kv: KvPrecision
) -> Parity:
    """Compare one combination with the reference, and write what was found into the manifest."""
    if arithmetic == "bf16" and not has_bf16():
        pytest.skip("this processor has no bf16 arithmetic")
    name = f"{artefact.scheme.value} weights, {arithmetic} arithmetic, {kv} KV cache"
    found = compare(reference, judged(artefact, arithmetic, kv), texts, names=("float32", name))
    write_parity(open_artefact(artefact.folder), {name: found})
    kept = json.loads((artefact.folder / "manifest.json").read_text())["parity"]
    assert kept[name] == asdict(found)
    return found


def test_training_worked(reference: Logits, texts: list[list[int]]) -> None:
    pairs = [
        (int(row.argmax()), following)
        for text in texts
        for row, following in zip(reference(text), text[1:], strict=False)
    ]
    assert sum(guess == following for guess, following in pairs) / len(pairs) > 0.85


def test_the_exact_form_computes_what_transformers_computes(
    trained_artefact: Callable[[Scheme], Artefact], reference: Logits, texts: list[list[int]]
) -> None:
    exact = judged(trained_artefact(Scheme.F32), "f32", "f32", dynamic=False)
    found = compare(reference, exact, texts[:4], names=("transformers in float32", "our graph in float32"))
    hold(found, top1_agreement=1.0, relative_error=1e-3)


@pytest.mark.parametrize(
    ("scheme", "arithmetic", "kv"),
    [
        (Scheme.BF16, "f32", "u8"),
        (Scheme.BF16, "bf16", "bf16"),
        (Scheme.BF16, "bf16", "u8"),
        (Scheme.INT8, "f32", "u8"),
        (Scheme.INT8, "bf16", "u8"),
    ],
)
def test_eight_bits_and_more_keep_the_floor(
    trained_artefact: Callable[[Scheme], Artefact],
    reference: Logits,
    texts: list[list[int]],
    scheme: Scheme,
    arithmetic: Precision,
    kv: KvPrecision,
) -> None:
    found = measured(trained_artefact(scheme), reference, texts, arithmetic, kv)
    hold(found, top1_agreement=FLOOR)
    assert found.kl_mean < 0.01


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT4])
def test_quantised_weights_mean_what_the_artefact_says_they_mean(
    trained_checkpoint: Path, trained_artefact: Callable[[Scheme], Artefact], texts: list[list[int]], scheme: Scheme
) -> None:
    artefact = trained_artefact(scheme)
    model = load_model(trained_checkpoint, dequantised(artefact))
    found = compare(
        lambda token_ids: teacher_forced_logits(model, token_ids),
        judged(artefact, "f32", "f32", dynamic=False),
        texts[:4],
        names=("transformers with the dequantised weights", "our graph in float32"),
    )
    hold(found, top1_agreement=1.0, relative_error=1e-3)


@pytest.mark.parametrize("arithmetic", ["f32", "bf16"])
def test_four_bits_are_measured(
    trained_artefact: Callable[[Scheme], Artefact], reference: Logits, texts: list[list[int]], arithmetic: Precision
) -> None:
    found = measured(trained_artefact(Scheme.INT4), reference, texts, arithmetic, "u8")
    assert found.top1_agreement > 0.9
    assert found.kl_mean < 0.1


@pytest.mark.parametrize("name", ["openvino", "transformers"])
async def test_it_answers_as_it_was_taught_and_stops_by_itself(
    name: str, trained_checkpoint: Path, trained_artefact: Callable[[Scheme], Artefact], tokenizer: Tokenizer
) -> None:
    folder = trained_artefact(Scheme.INT8).folder if name == "openvino" else trained_checkpoint
    engine = await open_engine(name, EngineOptions(model_dir=folder, model_name="taught", context_tokens=256))
    taught = itertools.islice(trained.ANSWERS.items(), 6)
    try:
        await engine.ready()  # type: ignore[attr-defined] # these engines load in the background
        for question, expected in [*taught, trained.read_back("7285")]:
            prompt = tokenizer.render(Messages(messages=(Message(role="user", content=question),)))
            sampling = SamplingParams(temperature=0.0, max_tokens=60)
            request = GenerationRequest(id="a", prompt=prompt, sampling=sampling)
            chunks = [chunk async for chunk in engine.generate(request)]
            assert "".join(chunk.text for chunk in chunks) == expected
            assert chunks[-1].finish_reason == "stop"
    finally:
        await engine.aclose()
