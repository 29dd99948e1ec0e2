import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="LoRA needs the train extra")
peft = pytest.importorskip("peft", reason="LoRA needs the train extra")

from qwenops.classify.train.body import Body, padded  # noqa: E402 -- after the skip
from qwenops.classify.train.lora import attach, config_data, load_into  # noqa: E402 -- after the skip
from qwenops.classify.train.memory import num_trained  # noqa: E402 -- after the skip
from qwenops.classify.train.options import TrainOptions  # noqa: E402 -- after the skip
from qwenops.classify.train.tensors import write_tensors  # noqa: E402 -- after the skip
from qwenops.engines.transformers import load_model  # noqa: E402 -- after the skip
from qwenops.errors import UnsupportedModelError  # noqa: E402 -- after the skip
from qwenops.models.spec import TINY  # noqa: E402 -- after the skip
from tests.classify.train.loaded import body_of, random_prompts, with_lora  # noqa: E402 -- after the skip

pytestmark = [pytest.mark.reference, pytest.mark.slow]
Make = Callable[..., TrainOptions]


def last_state(folder: Path, body: Body | None = None) -> Any:
    made = body or body_of(folder)
    ids, lengths = padded([np.array(random_prompts([40])[0], dtype=np.int32)], made.device)
    with torch.no_grad():
        return made.states(made.through(made.embedded(ids), 0), lengths)


def test_new_matrices_change_nothing_trained_ones_do(tiny_checkpoint: Path, options: Make) -> None:
    plain = last_state(tiny_checkpoint)
    body = body_of(tiny_checkpoint)
    attach(body, options())
    assert torch.equal(last_state(tiny_checkpoint, body), plain)
    other = body_of(tiny_checkpoint)
    with_lora(other, options())
    assert not torch.allclose(last_state(tiny_checkpoint, other), plain, atol=1e-2)


@pytest.mark.parametrize(("top", "layers"), [(0, 2), (1, 1), (5, 2)])
def test_all_seven_matrices_of_the_wanted_layers_are_trained(
    tiny_checkpoint: Path, options: Make, top: int, layers: int
) -> None:
    lora = attach(body_of(tiny_checkpoint), options(top_layers=top))
    assert lora.first_layer == TINY.num_layers - layers
    assert len(lora.parameters) == 14 * layers
    assert sum(each.numel() for each in lora.parameters.values()) == num_trained(TINY, layers, 16)
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in lora.parameters
    assert all(f".layers.{number}." in name for name in lora.parameters for number in [name.split(".")[4]])
    assert min(int(name.split(".")[4]) for name in lora.parameters) == lora.first_layer


def test_the_matrices_are_float32_also_when_the_model_computes_in_bf16(tiny_checkpoint: Path, options: Make) -> None:
    body = body_of(tiny_checkpoint, precision="bf16")
    lora = with_lora(body, options())
    assert {each.dtype for each in lora.parameters.values()} == {torch.float32}
    ids, lengths = padded([np.array(random_prompts([30])[0], dtype=np.int32)], body.device)
    hidden = body.through(body.embedded(ids), 0)
    assert hidden.dtype == torch.bfloat16
    torch.autograd.backward([body.states(hidden, lengths).sum()])
    for each in lora.parameters.values():
        assert each.grad is not None
        assert each.grad.dtype == torch.float32
        assert torch.isfinite(each.grad).all()
        assert each.grad.abs().sum() > 0


def test_equal_seeds_give_equal_matrices(tiny_checkpoint: Path, options: Make) -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(attach(body_of(tiny_checkpoint), options()).parameters)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0][name], found[2][name])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's, about transformers
def test_peft_reads_what_is_written_onto_an_ordinary_model(
    tiny_checkpoint: Path, options: Make, tmp_path: Path
) -> None:
    body = body_of(tiny_checkpoint)
    lora = with_lora(body, options(dropout=0.0))
    write_tensors(tmp_path / "adapter_model.safetensors", lora.parameters)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config_data(lora, base="random:tiny")))
    theirs = peft.PeftModel.from_pretrained(load_model(tiny_checkpoint), tmp_path).merge_and_unload()
    ids, lengths = padded([np.array(random_prompts([40])[0], dtype=np.int32)], body.device)
    with torch.no_grad():
        ours = body.states(body.through(body.embedded(ids), 0), lengths)[0]
        assert torch.allclose(theirs.model(ids).last_hidden_state[0, -1], ours, atol=1e-4)


def test_an_adapter_of_other_layers_is_refused(tiny_checkpoint: Path, options: Make) -> None:
    few = attach(body_of(tiny_checkpoint), options(top_layers=1))
    all_of_them = attach(body_of(tiny_checkpoint), options())
    with pytest.raises(UnsupportedModelError, match="13 more"):
        load_into(all_of_them, few.parameters)


def test_dropout_is_off_until_it_is_switched_on(tiny_checkpoint: Path, options: Make) -> None:
    body = body_of(tiny_checkpoint)
    with_lora(body, options(dropout=0.5))
    assert torch.equal(last_state(tiny_checkpoint, body), last_state(tiny_checkpoint, body))
    body.drop(on=True)
    assert not torch.equal(last_state(tiny_checkpoint, body), last_state(tiny_checkpoint, body))
    body.drop(on=False)
    assert torch.equal(last_state(tiny_checkpoint, body), last_state(tiny_checkpoint, body))
