"""Arithmetic is chosen with a reason, and nonsense is noticed."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.engines.classifier.compiled import (
    GROUP,
    PER_TOKEN,
    CompileOptions,
    Graph,
    choose_group,
    choose_precision,
    compile_graph,
    golden_difference,
    probabilities,
)
from qwenops.errors import EngineError, ModelLoadError
from qwenops.models.prefill import Prefill, PrefillScheme
from tests.models.prefilled import LABELS, compiled, logits, prompts

EXACT = CompileOptions(precision="f32", threads=1)
MODELS = Callable[..., Prefill]


class Saying:
    """Stands for OpenVINO's request: says what it was told to."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows = rows

    def set_tensor(self, _name: str, _tensor: Any) -> None: ...

    def infer(self) -> None: ...

    def get_tensor(self, _name: str) -> Any:
        class Tensor:
            data = self.rows

        return Tensor


def test_a_graph_gives_what_openvino_gives(models: MODELS) -> None:
    prefill = models(PrefillScheme.F32)
    graph = compile_graph(prefill, EXACT)
    texts = prompts(5)
    found = graph.logits(texts)
    assert found.shape == (5, len(LABELS))
    np.testing.assert_allclose(found, logits(compiled(prefill), texts), rtol=1e-4, atol=1e-5)
    again = graph.logits(texts[:2])
    np.testing.assert_allclose(again, found[:2], rtol=1e-4, atol=1e-5)
    assert not np.shares_memory(found, again)


def test_a_profile_names_every_operation(models: MODELS) -> None:
    graph = compile_graph(models(PrefillScheme.F32), EXACT, PERF_COUNT=True)
    graph.logits(prompts(2))
    found = graph.profile()
    assert any(kind.startswith("FullyConnected") for _, kind, _, _ in found)
    assert sum(seconds for *_, seconds in found) > 0


def test_a_model_that_openvino_cannot_read_is_refused(models: MODELS, tmp_path: Any) -> None:
    prefill = replace(models(PrefillScheme.F32), folder=tmp_path)
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    with pytest.raises(ModelLoadError, match="OpenVINO"):
        compile_graph(prefill, EXACT)


def test_logits_that_are_no_numbers_are_an_error(models: MODELS) -> None:
    graph = Graph(models(PrefillScheme.F32), Saying(np.array([[0, np.nan, 0, 0, 0]], np.float32)), EXACT)
    with pytest.raises(EngineError, match="not finite"):
        graph.logits([(1, 2)])


@pytest.mark.parametrize(
    ("scheme", "wanted", "has_bf16", "chosen"),
    [
        (PrefillScheme.INT8, "auto", True, "bf16"),
        (PrefillScheme.INT8, "auto", False, "f32"),
        (PrefillScheme.F32, "auto", True, "f32"),
        (PrefillScheme.F32, "bf16", True, "bf16"),
        (PrefillScheme.W8A8, "f32", True, "f32"),
    ],
)
def test_arithmetic_follows_processor_and_options(
    models: MODELS, scheme: PrefillScheme, wanted: Literal["auto", "bf16", "f32"], *, has_bf16: bool, chosen: str
) -> None:
    prefill = replace(models(PrefillScheme.F32), scheme=scheme)
    found = choose_precision(prefill, wanted, has_bf16=has_bf16)
    assert found.value == chosen
    assert str(found.reason)


def test_activations_are_quantised_on_the_fly_beside_int8_weights_only(models: MODELS) -> None:
    plain = models(PrefillScheme.F32)
    of = {scheme: replace(plain, scheme=scheme) for scheme in PrefillScheme}
    assert choose_group(of[PrefillScheme.INT8], allowed=True, has_amx=True) == PER_TOKEN
    assert choose_group(of[PrefillScheme.INT8], allowed=True, has_amx=False) == GROUP
    assert choose_group(of[PrefillScheme.INT8], allowed=False, has_amx=True) == 0
    assert choose_group(of[PrefillScheme.W8A8], allowed=True, has_amx=True) == 0
    assert choose_group(of[PrefillScheme.BF16], allowed=True, has_amx=True) == 0


def test_probabilities_are_a_softmax_that_survives_any_size() -> None:
    rows = np.array([[0.0, math.log(3)], [-2000.0, 2000.0], [5.0, 5.0]], np.float32)
    np.testing.assert_allclose(probabilities(rows), [[0.25, 0.75], [0.0, 1.0], [0.5, 0.5]], rtol=1e-6)


def test_golden_prompts_tell_a_broken_graph(models: MODELS) -> None:
    plain = models(PrefillScheme.F32, prefixed=True)
    assert golden_difference(compile_graph(plain, EXACT)) == 0.0, "there are none"
    texts = prompts(3, seed=1)
    right = probabilities(compile_graph(plain, EXACT).logits(texts))
    kept = [
        {"ids": [*plain.prefix, *ids], "probabilities": row.tolist()} for ids, row in zip(texts, right, strict=True)
    ]
    known = replace(plain, facts={**plain.facts, "golden": kept})
    assert golden_difference(compile_graph(known, EXACT)) < 1e-5
    swapped = Graph(known, Saying(np.log(right[:, ::-1]).astype(np.float32)), EXACT)
    assert golden_difference(swapped) == pytest.approx(np.abs(right - right[:, ::-1]).max(), abs=1e-6)
    nonsense = Graph(known, Saying(np.full(right.shape, np.inf, np.float32)), EXACT)
    assert golden_difference(nonsense) == math.inf
