"""Adapters are merged exactly, or refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.errors import ModelLoadError, UnsupportedModelError
from qwenops.models.adapter import open_adapter, open_merged, write_merged
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.compress import to_bf16
from qwenops.models.spec import EMBEDDING, HEAD, TINY
from tests.models.adapters import ALPHA, RANK, factors, write_adapter

QUERIES = "model.layers.0.self_attn.q_proj.weight"
UNTOUCHED = "model.layers.1.mlp.gate_proj.weight"


def silent(_fraction: float, _doing: str) -> None:
    """Tell nobody."""


def product(name: str, *, seed: int = 0) -> Any:
    """Return B A of a matrix of the checkpoint."""
    found = factors(TINY, seed=seed)
    inner = f"base_model.model.{name.removesuffix('.weight')}"
    return found[f"{inner}.lora_B.weight"] @ found[f"{inner}.lora_A.weight"]


def test_a_merged_matrix_is_the_base_and_the_scaled_product(tiny_checkpoint: Path, tmp_path: Path) -> None:
    merged = open_merged(tiny_checkpoint, write_adapter(tmp_path, TINY))
    base = open_checkpoint(tiny_checkpoint)
    wanted = base.read(QUERIES) + ALPHA / RANK * product(QUERIES)
    np.testing.assert_allclose(merged.read(QUERIES), wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(merged.read(QUERIES, slice(5, 9)), merged.read(QUERIES)[5:9])
    np.testing.assert_array_equal(merged.read(UNTOUCHED), base.read(UNTOUCHED))


def test_a_rank_stabilised_adapter_has_its_own_scale(tiny_checkpoint: Path, tmp_path: Path) -> None:
    merged = open_merged(tiny_checkpoint, write_adapter(tmp_path, TINY, config={"use_rslora": True}))
    wanted = open_checkpoint(tiny_checkpoint).read(QUERIES) + ALPHA / math.sqrt(RANK) * product(QUERIES)
    np.testing.assert_allclose(merged.read(QUERIES), wanted, rtol=0, atol=1e-6)


def test_an_adapter_of_the_bare_body_names_the_same_matrices(tiny_checkpoint: Path, tmp_path: Path) -> None:
    short = {name.replace("model.model.", "model."): values for name, values in factors(TINY).items()}
    bare = open_merged(tiny_checkpoint, write_adapter(tmp_path / "bare", TINY, tensors=short))
    whole = open_merged(tiny_checkpoint, write_adapter(tmp_path / "whole", TINY))
    np.testing.assert_array_equal(bare.read(QUERIES), whole.read(QUERIES))


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"peft_type": "LOHA"},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 2}},
        {"init_lora_weights": "pissa"},
    ],
)
def test_what_cannot_be_merged_exactly_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=next(iter(config))):
        open_adapter(write_adapter(tmp_path, TINY, config=config), TINY)


def damaged(name: str) -> dict[str, Any]:
    """Return factors with something wrong about them."""
    found = factors(TINY)
    first = next(iter(found))
    match name:
        case "one factor":
            del found[first]
        case "unknown matrix":
            found["base_model.model.model.layers.0.self_attn.x_proj.lora_A.weight"] = found[first]
        case "a layer too many":
            found[first.replace("layers.0", "layers.9")] = found[first]
        case "wrong shape":
            found[first] = found[first][:, :-1]
        case "a vector's":
            found["base_model.model.model.layers.0.input_layernorm.lora_A.weight"] = found[first]
        case _:
            found = {}
    return found


@pytest.mark.parametrize(
    "name", ["one factor", "unknown matrix", "a layer too many", "wrong shape", "a vector's", "nothing"]
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelLoadError, match="does not fit"):
        open_adapter(write_adapter(tmp_path, TINY, tensors=damaged(name)), TINY)


def test_an_adapter_without_weights_or_rank_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, TINY)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8}))
    with pytest.raises(ModelLoadError, match="r = None"):
        open_adapter(folder, TINY)
    write_adapter(tmp_path, TINY)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"adapter_model\.safetensors"):
        open_adapter(folder, TINY)


def test_trained_rows_of_the_head_untie_it_and_leave_the_embedding_alone(tiny_checkpoint: Path) -> None:
    row = np.full(TINY.hidden_size, 0.5, np.float32)
    merged = open_merged(tiny_checkpoint, head_rows={7: row})
    base = open_checkpoint(tiny_checkpoint)
    assert not merged.spec.tie_word_embeddings
    assert merged.spec.num_parameters == TINY.num_parameters + TINY.vocab_size * TINY.hidden_size
    part = merged.read(HEAD, slice(5, 10))
    np.testing.assert_array_equal(part[2], row)
    np.testing.assert_array_equal(np.delete(part, 2, axis=0), np.delete(base.read(EMBEDDING, slice(5, 10)), 2, axis=0))
    np.testing.assert_array_equal(merged.read(EMBEDDING, slice(7, 8)), base.read(EMBEDDING, slice(7, 8)))
    np.testing.assert_array_equal(merged.read(HEAD, slice(8, 10)), base.read(EMBEDDING, slice(8, 10)))


@pytest.mark.parametrize("trained", [False, True])
def test_a_merged_checkpoint_is_one_as_published(tiny_checkpoint: Path, tmp_path: Path, *, trained: bool) -> None:
    rows = {7: np.full(TINY.hidden_size, 0.25, np.float32)} if trained else {}
    merged = open_merged(tiny_checkpoint, write_adapter(tmp_path / "adapter", TINY), head_rows=rows)
    write_merged(merged, tmp_path / "merged", silent, shard_bytes=10_000_000)
    written = open_checkpoint(tmp_path / "merged")
    assert written.spec == merged.spec
    assert len(written.files) > 1
    wanted = to_bf16(merged.read(QUERIES)).astype(np.uint32) << 16
    np.testing.assert_array_equal(written.read(QUERIES).view(np.uint32), wanted)
    if trained:
        np.testing.assert_array_equal(written.read(HEAD, slice(7, 8))[0], rows[7])
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "merged" / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_merging_gives_what_peft_gives(tiny_checkpoint: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM

    adapter = write_adapter(tmp_path / "adapter", TINY)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    merged = open_merged(tiny_checkpoint, adapter)
    for tensor in TINY.tensors():
        np.testing.assert_allclose(merged.read(tensor.name), theirs[tensor.name].numpy(), rtol=0, atol=1e-6)
