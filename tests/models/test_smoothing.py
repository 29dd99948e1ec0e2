"""Activations fit into 8 bits after smoothing, and smoothing changes no logit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwenops.models.checkpoint import Checkpoint, open_checkpoint
from qwenops.models.packing import row_slices
from qwenops.models.prefill_graph import LEVELS, PrefillForm, PrefixState, build_prefill_model, linear_inputs
from qwenops.models.prefill_layout import Joined, Joining, Scaling, recipes
from qwenops.models.smoothing import (
    COARSE,
    Plan,
    Seen,
    Statistics,
    column_peaks_of,
    plan,
    readers,
    rounding_error,
    smoothed_prefix,
    smoothing,
)
from qwenops.models.spec import TINY
from tests.models.prefilled import EXACT, logits, prompts, relative

LABEL_ROWS = np.random.default_rng(0).standard_normal((4, TINY.hidden_size), np.float32)
JOININGS = [
    Joining(),
    Joining(attention=False, feed_forward=True),
    Joining(by_place=False),
    Joining(attention=False, by_place=False),
]


@dataclass(slots=True)
class Constants:
    """Gives a graph its tensors as they are read, unpacked."""

    joined: Joined
    nodes: dict[str, Any] = field(default_factory=dict)

    def matrix(self, name: str) -> Any:
        from openvino import opset13 as ops

        if name not in self.nodes:
            self.nodes[name] = ops.constant(self.joined.read(name))
        return self.nodes[name]

    vector = matrix


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint)


def joined(source: Checkpoint, joining: Joining, scaling: Scaling | None = None) -> Joined:
    return Joined(source, recipes(TINY, 4, joining), labels=LABEL_ROWS, scaling=scaling)


def graph(source: Joined, form: PrefillForm) -> Any:
    import openvino as ov

    return ov.Core().compile_model(build_prefill_model(TINY, Constants(source), form), "CPU", EXACT)


def outputs(model: Any, ids: Sequence[int]) -> dict[str, NDArray[Any]]:
    request = model.create_infer_request()
    request.infer({"input_ids": np.array([ids], np.int64), "last": np.array([len(ids) - 1], np.int64)})
    return {each.any_name: np.array(request.get_tensor(each.any_name).data) for each in model.outputs}


def planned(source: Checkpoint, joining: Joining, prefix: PrefixState | None = None, **more: Any) -> Plan:
    """Watch the model on some texts and plan by it."""
    plain = joined(source, joining)
    model = graph(plain, PrefillForm(joining=joining, prefix=prefix, watch=True))
    statistics = Statistics()
    for ids in prompts(4, seed=8):
        statistics.add(outputs(model, ids), len(ids))
    tensors = {tensor.name: tensor for tensor in plain.tensors}
    return plan(
        TINY,
        joining,
        statistics,
        lambda name: column_peaks_of(plain.read, name, list(row_slices(tensors[name]))),
        **more,
    )


@pytest.mark.parametrize("joining", JOININGS)
def test_smoothed_weights_give_the_same_logits(checkpoint: Checkpoint, joining: Joining) -> None:
    found = planned(checkpoint, joining)
    assert found.scaling.rows
    assert found.scaling.columns
    texts = prompts(4, seed=9)
    wanted = logits(graph(joined(checkpoint, joining), PrefillForm(joining=joining)), texts)
    smoothed = graph(joined(checkpoint, joining, found.scaling), PrefillForm(joining=joining))
    assert relative(logits(smoothed, texts), wanted) < 1e-5


@pytest.mark.parametrize("attention", [False, True])
def test_a_prefix_is_smoothed_with_its_model(checkpoint: Checkpoint, *, attention: bool) -> None:
    joining = Joining(attention=attention, by_place=False)
    ids = (151_644, 872, 198)
    found = outputs(graph(joined(checkpoint, joining), PrefillForm(joining=joining, states=True)), ids)
    prefix = PrefixState(
        keys=np.concatenate([found[f"key:{layer}"] for layer in range(TINY.num_layers)]),
        values=np.concatenate([found[f"value:{layer}"] for layer in range(TINY.num_layers)]),
    )
    assert prefix.num_tokens == 3
    texts = prompts(4, seed=10)
    wanted = logits(graph(joined(checkpoint, joining), PrefillForm(joining=joining, prefix=prefix)), texts)
    scaling = planned(checkpoint, joining, prefix).scaling
    smoothed = smoothed_prefix(TINY, joining, prefix, scaling)
    assert not np.array_equal(smoothed.values[0], prefix.values[0])
    source = joined(checkpoint, joining, scaling)
    assert relative(logits(graph(source, PrefillForm(joining=joining, prefix=smoothed)), texts), wanted) < 1e-5
    unsmoothed = logits(graph(source, PrefillForm(joining=joining, prefix=prefix)), texts)
    assert relative(unsmoothed, wanted) > 1e-3, "else this would prove nothing"


@pytest.mark.parametrize("joining", JOININGS)
def test_quantised_activations_cost_little(checkpoint: Checkpoint, joining: Joining) -> None:
    found = planned(checkpoint, joining)
    texts = prompts(6, seed=11)
    wanted = logits(graph(joined(checkpoint, joining), PrefillForm(joining=joining)), texts)
    form = PrefillForm(joining=joining, peaks=found.peaks)
    away = relative(logits(graph(joined(checkpoint, joining, found.scaling), form), texts), wanted)
    assert 1e-4 < away < 0.1
    coarse = PrefillForm(joining=joining, peaks={name: 30 * peak for name, peak in found.peaks.items()})
    far = relative(logits(graph(joined(checkpoint, joining, found.scaling), coarse), texts), wanted)
    assert far > 3 * away, "a wrong range is noticed"


def test_layers_that_are_kept_are_neither_quantised_nor_smoothed(checkpoint: Checkpoint) -> None:
    assert planned(checkpoint, Joining()).kept == ()
    found = planned(checkpoint, Joining(), kept_layers=[0])
    assert found.peaks == {}
    assert found.kept == linear_inputs(TINY)
    assert found.scaling.rows == found.scaling.columns == {}


@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_the_rounding_error_is_known_without_rounding(seed: int, width: float) -> None:
    values = np.random.default_rng(seed).normal(0, width, 20_000)
    peak = np.abs(values).max()
    step = peak / (LEVELS // 2 - 1)
    rounded = np.round(values / step) * step
    measured = np.sqrt(((rounded - values) ** 2).mean() / (values**2).mean())
    assert rounding_error(float(peak), float((values**2).mean())) == pytest.approx(measured, rel=0.03)


def test_nothing_is_rounded_without_error() -> None:
    assert rounding_error(0.0, 0.0) == 0.0


def test_an_outlier_is_shared_between_activation_and_weights() -> None:
    peaks, weights = np.array([1.0, 100.0, 1.0, 0.0]), np.array([0.1, 0.1, 0.1, 0.1])
    numbers = smoothing(peaks, weights, 0.5)
    assert numbers[3] == 1.0
    assert numbers[1] / numbers[0] == pytest.approx(10.0)
    assert np.exp(np.log(numbers[:3]).mean()) == pytest.approx(1.0)
    assert smoothing(peaks, weights, 0.0)[1] == pytest.approx(smoothing(peaks, weights, 0.0)[0])
    everything = smoothing(peaks, weights, 1.0)
    assert everything[1] / everything[0] == pytest.approx(100.0)


def test_what_stays_too_coarse_stays_in_bf16() -> None:
    """One token's outlier in a channel of many small ones: no division by channel helps."""
    statistics = Statistics()
    sizes = {"attention": 64, "output": 256, "feed_forward": 64, "down": 192}
    for name in linear_inputs(TINY):
        size = sizes[name.partition(".")[2]]
        peak, power = np.full(size, 3.0), np.full(size, 1.0)
        if name.endswith("down"):
            peak[5], power[5] = 5000.0, 1.0
        statistics.add({f"peak:{name}": peak, f"power:{name}": power}, 100)
    found = plan(TINY, Joining(), statistics, lambda name: np.ones(sizes[_reader(name)]))
    assert found.kept == ("0.down",)
    assert found.errors["0.down"] > COARSE > found.errors["0.attention"]
    assert not any("down_proj" in name for name in found.scaling.columns)


def _reader(name: str) -> str:
    ends = {"qkv_proj": "attention", "o_proj": "output", "down_proj": "down"}
    return next((kind for end, kind in ends.items() if end in name), "feed_forward")


def test_texts_count_by_their_tokens() -> None:
    statistics = Statistics()
    statistics.add({"peak:a": np.array([1.0, 5.0]), "power:a": np.array([1.0, 4.0])}, 10)
    statistics.add({"peak:a": np.array([2.0, 1.0]), "power:a": np.array([4.0, 1.0]), "logits": np.zeros(1)}, 30)
    seen = statistics.by_name["a"]
    assert isinstance(seen, Seen)
    np.testing.assert_allclose(seen.peak, [2.0, 5.0])
    np.testing.assert_allclose(seen.power, [3.25, 1.75])
    assert seen.num_tokens == 40
    assert list(statistics.by_name) == ["a"]


def test_every_reader_is_a_tensor_of_the_graph(checkpoint: Checkpoint) -> None:
    for joining in JOININGS:
        names = {tensor.name for tensor in joined(checkpoint, joining).tensors}
        for activation in linear_inputs(TINY):
            assert set(readers(activation, joining, 2)) <= names, (joining, activation)
