"""The graph against transformers, and against what OpenVINO's kernels must recognise in it."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.models.artefact import Artefact, dequantised
from qwenops.models.convert import convert
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import TINY, ModelSpec, Scheme

ARTEFACT = Callable[[Scheme], Artefact]
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
TOKENS = 48


def _tokens(batch: int = 2, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, TINY.vocab_size, (batch, TOKENS))


def _relative(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _request(artefact: Artefact, options: dict[str, Any] = EXACT) -> Any:
    import openvino as ov

    core = ov.Core()
    return core.compile_model(core.read_model(artefact.model_xml), "CPU", options).create_infer_request()


def _step(
    request: Any, tokens: NDArray[np.int64], begin: int, end: int, mask: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    batch = tokens.shape[0]
    seen = np.ones((batch, end), np.int64) if mask is None else mask[:, :end]
    positions = np.maximum(seen.cumsum(axis=1) - 1, 0)[:, begin:]
    inputs = {
        "input_ids": tokens[:, begin:end],
        "attention_mask": seen,
        "position_ids": positions,
        "beam_idx": np.arange(batch, dtype=np.int32),
    }
    logits: NDArray[np.float32] = request.infer(inputs)["logits"].copy()
    return logits


def _kinds(compiled: Any) -> Counter[str]:
    return Counter(node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops())


def _reference(folder: Path, tokens: NDArray[np.int64], weights: Artefact | None = None) -> NDArray[np.float32]:
    """Return transformers' logits in float32, with the weights of an artefact if one is given."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if weights is not None:
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in dequantised(weights)}
        model.load_state_dict(tensors, strict=False)
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.from_numpy(tokens)).logits.numpy()
    return logits


@pytest.mark.reference
@pytest.mark.slow
def test_the_logits_are_those_of_transformers(tiny_checkpoint: Path, tiny_artefact: ARTEFACT) -> None:
    pytest.importorskip("transformers")
    tokens = _tokens()
    found = _step(_request(tiny_artefact(Scheme.F32)), tokens, 0, TOKENS)
    assert _relative(found, _reference(tiny_checkpoint, tokens)) < 1e-5


@pytest.mark.reference
@pytest.mark.slow
def test_a_model_with_a_head_of_its_own_gives_the_logits_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    spec = ModelSpec.from_config(TINY.to_config() | {"tie_word_embeddings": False, "num_key_value_heads": 4})
    write_random_checkpoint(tmp_path / "untied", spec, tokenizer=False)
    artefact = convert(tmp_path / "untied", tmp_path / "artefact", Scheme.F32, lambda _fraction, _what: None)
    tokens = _tokens()
    found = _step(_request(artefact), tokens, 0, TOKENS)
    assert _relative(found, _reference(tmp_path / "untied", tokens)) < 1e-5


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("scheme", [Scheme.BF16, Scheme.INT8, Scheme.INT4])
def test_compressed_weights_are_read_as_they_were_meant(
    tiny_checkpoint: Path, tiny_artefact: ARTEFACT, scheme: Scheme
) -> None:
    pytest.importorskip("transformers")
    tokens, artefact = _tokens(), tiny_artefact(scheme)
    found = _step(_request(artefact), tokens, 0, TOKENS)
    assert _relative(found, _reference(tiny_checkpoint, tokens, artefact)) < 1e-5


def test_a_prompt_in_pieces_gives_the_logits_of_the_whole(tiny_artefact: ARTEFACT) -> None:
    tokens = _tokens()
    whole = _step(_request(tiny_artefact(Scheme.F32)), tokens, 0, TOKENS)
    request = _request(tiny_artefact(Scheme.F32))
    cuts = [0, 20, 21, 40, TOKENS]
    pieces = [_step(request, tokens, begin, end) for begin, end in pairwise(cuts)]
    assert _relative(np.concatenate(pieces, axis=1), whole) < 1e-5


def test_padding_on_the_left_changes_nothing(tiny_artefact: ARTEFACT) -> None:
    tokens = _tokens(batch=1)
    alone = _step(_request(tiny_artefact(Scheme.F32)), tokens[:, 8:], 0, TOKENS - 8)
    mask = np.ones_like(tokens)
    mask[:, :8] = 0
    padded = _step(_request(tiny_artefact(Scheme.F32)), tokens, 0, TOKENS, mask)
    assert _relative(padded[:, 8:], alone) < 1e-5


def test_a_later_token_never_changes_an_earlier_logit(tiny_artefact: ARTEFACT) -> None:
    tokens = _tokens(batch=1)
    other = tokens.copy()
    other[:, -1] += 1
    first = _step(_request(tiny_artefact(Scheme.F32)), tokens, 0, TOKENS)
    second = _step(_request(tiny_artefact(Scheme.F32)), other, 0, TOKENS)
    assert np.array_equal(first[:, :-1], second[:, :-1])
    assert not np.allclose(first[:, -1], second[:, -1])


@pytest.mark.parametrize("scheme", list(Scheme))
def test_openvino_recognises_every_pattern_in_the_paged_form(tiny_artefact: ARTEFACT, scheme: Scheme) -> None:
    import openvino as ov
    from openvino._offline_transformations import paged_attention_transformation

    core = ov.Core()
    model = core.read_model(tiny_artefact(scheme).model_xml)
    paged_attention_transformation(model)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "u8"})
    kinds, layers = _kinds(compiled), TINY.num_layers
    assert kinds["PagedAttention"] == layers
    assert kinds["RoPE"] == 2 * layers
    assert kinds["RMS"] == 4 * layers + 1
    assert kinds["FullyConnected"] == 7 * layers + 1
    for needless in ("Transpose", "Broadcast", "MatMul", "Softmax", "StridedSlice"):
        assert kinds[needless] == 0, needless
    # The weights themselves go into the kernels: no constant is as large as an unpacked embedding or head.
    if scheme is not Scheme.F32:
        constants = [
            node
            for node in compiled.get_runtime_model().get_ops()
            if node.get_rt_info()["layerType"].astype(str) == "Const"
        ]
        wide = [node for node in constants if node.get_output_element_type(0) == ov.Type.f32]
        assert max(int(np.prod(node.get_output_shape(0))) for node in wide) <= TINY.vocab_size


def test_openvino_recognises_every_pattern_in_the_stateful_form(tiny_artefact: ARTEFACT) -> None:
    import openvino as ov

    compiled = ov.Core().compile_model(tiny_artefact(Scheme.INT8).model_xml, "CPU", {})
    kinds, layers = _kinds(compiled), TINY.num_layers
    assert kinds["ScaledDotProductAttention"] == layers
    assert kinds["RoPE"] == 2 * layers
    assert kinds["RMS"] == 4 * layers + 1
    assert kinds["FullyConnected"] == 7 * layers + 1
    assert kinds["Softmax"] == 0


@pytest.mark.slow
def test_the_yardstick_loads_the_folder_and_agrees(tiny_artefact: ARTEFACT) -> None:
    genai = pytest.importorskip("openvino_genai")
    import openvino as ov

    artefact, tokens = tiny_artefact(Scheme.F32), _tokens(batch=1)
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = 16
    pipeline = genai.ContinuousBatchingPipeline(str(artefact.folder), scheduler, "CPU", EXACT)
    config = genai.GenerationConfig()
    config.ignore_eos, config.do_sample, config.max_new_tokens = True, False, 12
    answered = list(pipeline.generate([ov.Tensor(tokens)], [config])[0].m_generation_ids[0])
    request, grown = _request(artefact), tokens
    ours: list[int] = []
    begin = 0
    while len(ours) < 12:
        logits = _step(request, grown, begin, grown.shape[1])
        begin = grown.shape[1]
        ours.append(int(logits[0, -1].argmax()))
        grown = np.concatenate([grown, np.array([[ours[-1]]])], axis=1)
    assert answered == ours
    assert len(set(ours)) > 6  # an answer that repeats itself would prove little
