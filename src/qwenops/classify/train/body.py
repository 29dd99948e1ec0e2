"""The model below the head, frozen, and computed layer by layer: so lower layers can be left out once they are known.

    embedded(ids) ──> through(first, last) ──> states(at the last positions)

Prompts are padded on the right and read causally, so a real position never sees a padded one: no mask is needed, and
attention takes its fast way. Logits exist at one position of each prompt only.

The weights come straight from the checkpoint, tensor by tensor, in the arithmetic that was chosen; in four bits, the
full matrices never lie in memory together. The modules are those of transformers, which peft knows.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qwenops.classify.dataset import Tokens
from qwenops.classify.train.precision import torch_dtype
from qwenops.classify.train.qlora import four_bit_linear
from qwenops.models.checkpoint import Checkpoint
from qwenops.models.spec import ModelSpec, Precision, TensorKind
from qwenops.text import Report, say

if TYPE_CHECKING:
    import torch

_VIEWS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A loaded model whose weights do not change."""

    model: Any
    """Qwen3ForCausalLM of transformers; peft puts its matrices into it."""
    spec: ModelSpec
    precision: Precision
    device: "torch.device"
    four_bit: bool = False

    @property
    def table(self) -> "torch.Tensor":
        """The rows of the model's own head: [vocabulary, hidden]."""
        found: torch.Tensor = self.model.lm_head.weight
        return found

    def embedded(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Return what the first layer reads, [prompts, tokens, hidden], of token ids [prompts, tokens]."""
        found: torch.Tensor = self.model.model.embed_tokens(ids)
        return found

    def through(
        self, hidden: "torch.Tensor", first: int, last: int | None = None, *, recompute: bool = False
    ) -> "torch.Tensor":
        """Return what layer `last` - 1 gives when layer `first` reads `hidden`.

        Args:
            hidden: Shape [prompts, tokens, hidden].
            first: The first layer, from 0.
            last: The layer before which it ends; None for all.
            recompute: Keep only what each layer reads, and compute it again on the way back.
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        inner = self.model.model
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            turned = inner.rotary_emb(hidden, positions)
            known = {"attention_mask": None, "position_ids": positions, "position_embeddings": turned}
            for layer in inner.layers[first:last]:
                hidden = (
                    checkpoint(layer, hidden, use_reentrant=False, **known) if recompute else layer(hidden, **known)
                )
        return hidden

    def states(self, hidden: "torch.Tensor", lengths: "torch.Tensor") -> "torch.Tensor":
        """Return the normed state at the last position of each prompt, in float32: [prompts, hidden]."""
        import torch

        rows = hidden[torch.arange(hidden.shape[0], device=hidden.device), lengths - 1].float()
        found: torch.Tensor = self.model.model.norm(rows)
        return found.float()

    def drop(self, *, on: bool) -> None:
        """Switch dropout on or off; nothing else here depends on whether the model is trained."""
        import torch

        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.train(on)


def load_body(
    checkpoint: Checkpoint,
    *,
    precision: Precision,
    device: "torch.device",
    four_bit: bool = False,
    report: Report = lambda _fraction, _doing: None,
) -> Body:
    """Load a checkpoint's weights.

    Raises:
        MissingPartError: Four bits are wanted, and what makes them is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    spec = checkpoint.spec
    config = transformers.Qwen3Config(**checkpoint.config)
    config._attn_implementation = "sdpa"  # noqa: SLF001 -- transformers has no other name for it
    with torch.device("meta"):
        model = transformers.Qwen3ForCausalLM(config)
    # What it holds is computed, not loaded, and must not stay on `meta`.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    dtype = torch_dtype(precision)
    done = 0
    for tensor in spec.tensors():
        weight = read_tensor(checkpoint, tensor.name).to(device=device, dtype=dtype)
        checkpoint.release(tensor.name)
        path = tensor.name.removesuffix(".weight")
        if four_bit and tensor.kind is TensorKind.LINEAR:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, four_bit_linear(weight, dtype))
        else:
            model.get_submodule(path).weight = torch.nn.Parameter(weight, requires_grad=False)
        done += tensor.num_elements
        report(done / spec.num_parameters, say("Loading the model"))
    if spec.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.is_loaded_in_4bit = four_bit  # where peft looks
    body = Body(model=model, spec=spec, precision=precision, device=device, four_bit=four_bit)
    model.train()
    body.drop(on=False)
    return body


def read_tensor(checkpoint: Checkpoint, name: str) -> "torch.Tensor":
    """Return a tensor of a checkpoint in its own format, copied."""
    import torch

    raw = np.array(checkpoint.raw(name))
    whole = raw.view(np.int16 if raw.itemsize == 2 else np.int32)  # noqa: PLR2004 -- two bytes
    return torch.from_numpy(whole).view(getattr(torch, _VIEWS[checkpoint.entries[name].dtype]))


def padded(prompts: Sequence[Tokens], device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor]":
    """Return prompts as one tensor [prompts, longest], padded on the right with token 0, and their lengths."""
    import torch

    lengths = [len(prompt) for prompt in prompts]
    ids = np.zeros((len(prompts), max(lengths)), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    return torch.from_numpy(ids).to(device), torch.tensor(lengths, device=device)
