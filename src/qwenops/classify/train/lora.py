"""What is trained: two thin matrices beside each of a layer's seven linear ones, made and named by peft.

Whatever reads peft's adapters reads these. They are float32 whatever the model computes in; with bf16, autocast turns
them into it for each product, so nothing is cast twice and the way back ends in float32.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwenops.classify.train.body import Body
from qwenops.classify.train.memory import trained_layers
from qwenops.classify.train.options import TrainOptions
from qwenops.errors import UnsupportedModelError
from qwenops.text import say

if TYPE_CHECKING:
    import torch

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTER = "default"
_MATRICES = 2
"""A and B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Trainable matrices inside a body."""

    model: Any
    """peft's model around the body's."""
    parameters: "Mapping[str, torch.nn.Parameter]"
    """By the names that they have in `adapter_model.safetensors`."""
    first_layer: int
    """The layers below it are frozen."""


def attach(body: Body, options: TrainOptions) -> Lora:
    """Put new matrices into a body; until they are trained it computes what it did. Random numbers come from torch's.

    Raises:
        UnsupportedModelError: The model does not have the matrices that a Qwen3 has.
    """
    # peft imports bitsandbytes where it is there, which misses an optional package of kernels aloud.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import peft
    import torch

    first = body.spec.num_layers - trained_layers(body.spec, options.top_layers)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        bias="none",
        target_modules=list(TARGETS),
        layers_to_transform=list(range(first, body.spec.num_layers)),
        layers_pattern="layers",
    )
    with warnings.catch_warnings():
        # peft looks at a name that transformers is about to give up; whoever trains can do nothing about that.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model = peft.get_peft_model(body.model, config)
    for module in model.modules():
        if body.precision == "bf16" and hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    found = {file_name(name): each for name, each in model.named_parameters() if each.requires_grad}
    wanted = _MATRICES * len(TARGETS) * (body.spec.num_layers - first)
    if len(found) != wanted or any(each.dtype != torch.float32 for each in found.values()):
        raise UnsupportedModelError(
            say(
                "The model has {found} places for LoRA matrices; {wanted} were expected.",
                found=len(found),
                wanted=wanted,
            ),
            hint=say("Use a model of the Qwen3 family."),
        )
    body.drop(on=False)
    return Lora(model=model, parameters=found, first_layer=first)


def file_name(name: str) -> str:
    """Return what a parameter is called in a file: the name of the adapter is left out."""
    return name.replace(f".{_ADAPTER}.", ".")


def config_data(lora: Lora, *, base: str) -> dict[str, Any]:
    """Return `adapter_config.json`, as peft reads it; `base` is what the model is called."""
    data: dict[str, Any] = lora.model.peft_config[_ADAPTER].to_dict()
    plain = {name: sorted(value) if isinstance(value, set | frozenset) else value for name, value in data.items()}
    kinds = {"peft_type": "LORA", "task_type": "CAUSAL_LM"}
    return {**plain, **kinds, "base_model_name_or_path": base or None, "inference_mode": True}


def load_into(lora: Lora, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Give the matrices the values of a file, by peft's own way of loading.

    Raises:
        UnsupportedModelError: The file has other matrices.
    """
    import peft

    strange = set(tensors) ^ set(lora.parameters)
    if not strange:
        result = peft.set_peft_model_state_dict(lora.model, dict(tensors), adapter_name=_ADAPTER)
        strange = set(result.unexpected_keys)
    if strange:
        raise UnsupportedModelError(
            say(
                "The adapter has other matrices than this model: {name} and {more} more.",
                name=min(strange),
                more=len(strange) - 1,
            ),
            hint=say("Use the model and the number of layers that it was trained with."),
        )
