"""A trained adapter in its model again: for judging it, and as the reference for whatever it is exported to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwenops.classify.dataset import EncodedCalls
from qwenops.classify.head import LabelHead, head_of
from qwenops.classify.train.adapter import AdapterFolder, golden_logits, read_golden
from qwenops.classify.train.body import Body, load_body
from qwenops.classify.train.lora import Lora, attach, load_into
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.scoring import logits_of
from qwenops.classify.train.states import source_of
from qwenops.classify.train.world import World
from qwenops.errors import ModelLoadError
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.spec import Precision
from qwenops.text import Report, say

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """A model with its adapter and its head."""

    body: Body
    lora: Lora
    head: LabelHead
    adapter: AdapterFolder

    def logits(self, calls: EncodedCalls, *, micro_tokens: int = 2048) -> "NDArray[np.float32]":
        """Return the logits of calls, [calls, classes]."""
        source = source_of(calls, self.body, first_layer=0)
        return logits_of(source, self.head, micro_tokens=micro_tokens, world=World())

    def golden_error(self) -> float:
        """Return how far the golden calls' logits are from those when it was saved, as a part of their size."""
        import numpy as np

        known = read_golden(self.adapter)
        found = golden_logits(self.body, self.lora, self.head, [prompt for prompt, _ in known])
        wanted = np.array([logits for _, logits in known], dtype=np.float32)
        return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))


def reload(
    adapter: AdapterFolder,
    model_dir: Path,
    *,
    precision: Precision = "f32",
    device: "torch.device | None" = None,
    report: Report = lambda _fraction, _doing: None,
) -> Reloaded:
    """Load the base model and put the adapter into it.

    Raises:
        ModelLoadError: The base model is not the one that the adapter was trained on.
        UnsupportedModelError: The adapter's matrices do not fit.
    """
    import torch

    base = open_checkpoint(model_dir)
    if base.sha256() != adapter.manifest["base"]["sha256"]:
        raise ModelLoadError(
            say("{folder} is not the model that the adapter was trained on.", folder=str(model_dir)),
            hint=say("It was {name}.", name=adapter.manifest["base"]["name"]),
        )
    shape = adapter.manifest["lora"]
    body = load_body(base, precision=precision, device=device or torch.device("cpu"), report=report)
    options = TrainOptions(rank=shape["rank"], alpha=shape["alpha"], dropout=0.0, top_layers=shape["layers"])
    lora = attach(body, options)
    load_into(lora, adapter.weights())
    head = (
        LabelHead(adapter.head_rows().to(body.device))
        if adapter.head_trained
        else head_of(body.table, adapter.token_ids)
    )
    return Reloaded(body=body, lora=lora, head=head, adapter=adapter)
