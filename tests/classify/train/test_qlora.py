from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="four bits need the train extra")
pytest.importorskip("peft", reason="four bits need the train extra")

from qwenops.classify.dataset import TrainData  # noqa: E402 -- after the skip
from qwenops.classify.train import qlora  # noqa: E402 -- after the skip
from qwenops.classify.train.options import TrainOptions  # noqa: E402 -- after the skip
from qwenops.classify.train.reload import reload  # noqa: E402 -- after the skip
from qwenops.classify.train.scoring import figures, logits_of  # noqa: E402 -- after the skip
from qwenops.classify.train.states import source_of  # noqa: E402 -- after the skip
from qwenops.classify.train.training import train  # noqa: E402 -- after the skip
from qwenops.classify.train.world import World  # noqa: E402 -- after the skip
from qwenops.errors import MissingPartError  # noqa: E402 -- after the skip
from qwenops.models.tokenizer import Tokenizer  # noqa: E402 -- after the skip
from tests.classify.train.conftest import SILENT, now  # noqa: E402 -- after the skip
from tests.classify.train.loaded import body_of, encoded, label_head, random_prompts  # noqa: E402 -- after the skip

pytestmark = [pytest.mark.reference, pytest.mark.slow, pytest.mark.timeout(600)]
Make = Callable[..., TrainOptions]
INSTALLED = pytest.mark.skipif(not qlora.is_installed(), reason="bitsandbytes, of the qlora extra, is not installed")


@INSTALLED
def test_four_bits_are_near_the_model_and_smaller(tiny_checkpoint: Path, tokenizer: Tokenizer) -> None:
    calls = encoded(random_prompts([30, 60]))
    found = {}
    for four_bit in (False, True):
        body = body_of(tiny_checkpoint, four_bit=four_bit)
        source = source_of(calls, body, first_layer=0)
        found[four_bit] = logits_of(source, label_head(body, tokenizer), micro_tokens=512, world=World())
        held = body.model.model.layers[0].mlp.up_proj.weight
        assert (held.dtype == torch.uint8) is four_bit
    error = np.linalg.norm(found[True] - found[False]) / np.linalg.norm(found[False])
    assert 0 < error < 0.5


@INSTALLED
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_it_learns_on_this_processor_and_the_adapter_is_an_ordinary_one(
    options: Make, data: TrainData, precision: str
) -> None:
    made = options(epochs=10, patience=10, learning_rate=5e-3, four_bit="always", precision=precision)
    adapter = train(made, data, report=SILENT, now=now)
    assert adapter.manifest["decided"]["four_bit"] is True
    metrics = adapter.manifest["metrics"]
    assert metrics["macro_f1"] > metrics["history"][0]["macro_f1"] + 0.2
    again = reload(adapter, made.model_dir)  # onto the original weights
    assert figures(again.logits(data.val), data.val.labels).macro_f1 > metrics["history"][0]["macro_f1"] + 0.15


def test_who_asks_for_four_bits_without_the_part_hears_what_to_install(
    options: Make, data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlora, "is_installed", lambda: False)
    with pytest.raises(MissingPartError) as caught:
        train(options(four_bit="always"), data, report=SILENT, now=now)
    assert "qlora" in caught.value.hint
