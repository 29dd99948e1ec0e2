"""Adapters made up for tests, as PEFT writes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenops.models.checkpoint import NewTensor, write_safetensors
from qwenops.models.spec import ModelSpec

RANK, ALPHA = 4, 8
TARGETS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": 0.05,
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "use_rslora": False,
    "init_lora_weights": True,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_modules": [each.rpartition(".")[2] for each in TARGETS],
}


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write float32 tensors."""
    wanted = [
        NewTensor(
            name=name,
            dtype="F32",
            shape=values.shape,
            chunks=lambda values=values: [np.ascontiguousarray(values).data.cast("B")],  # type: ignore[misc] # bound now
        )
        for name, values in tensors.items()
    ]
    write_safetensors(path, wanted)


def factors(
    spec: ModelSpec, *, seed: int = 0, size: float = 0.1, targets: Sequence[str] = TARGETS
) -> dict[str, NDArray[np.float32]]:
    """Return random factors for matrices of all layers, by their names in a file."""
    draw = np.random.default_rng(seed)
    shapes = {tensor.name: tensor.shape for tensor in spec.tensors()}
    found: dict[str, NDArray[np.float32]] = {}
    for layer in range(spec.num_layers):
        for target in targets:
            rows, columns = shapes[f"model.layers.{layer}.{target}.weight"]
            name = f"base_model.model.model.layers.{layer}.{target}"
            found[f"{name}.lora_A.weight"] = draw.normal(0, size, (RANK, columns)).astype(np.float32)
            found[f"{name}.lora_B.weight"] = draw.normal(0, size, (rows, RANK)).astype(np.float32)
    return found


def write_adapter(
    folder: Path,
    spec: ModelSpec,
    *,
    seed: int = 0,
    size: float = 0.1,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write an adapter of random factors, or of these; `config` says otherwise than usual."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    found = factors(spec, seed=seed, size=size) if tensors is None else tensors
    write_tensors(folder / "adapter_model.safetensors", found)
    return folder
