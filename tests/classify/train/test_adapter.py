import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapters need the train extra")
pytest.importorskip("peft", reason="adapters need the train extra")

from qwenops.classify.codes import assign  # noqa: E402 -- after the skip
from qwenops.classify.golden import golden_prompts  # noqa: E402 -- after the skip
from qwenops.classify.train import adapter as adapters  # noqa: E402 -- after the skip
from qwenops.classify.train.adapter import (  # noqa: E402 -- after the skip
    AdapterFolder,
    open_adapter,
    read_golden,
    save_adapter,
    verify_adapter,
)
from qwenops.classify.train.options import TrainOptions  # noqa: E402 -- after the skip
from qwenops.classify.train.tensors import write_tensors  # noqa: E402 -- after the skip
from qwenops.errors import ModelLoadError  # noqa: E402 -- after the skip
from qwenops.models.tokenizer import Tokenizer  # noqa: E402 -- after the skip
from tests.classify.made import SOURCE, TAXONOMY  # noqa: E402 -- after the skip
from tests.classify.train.loaded import body_of, label_head, with_lora  # noqa: E402 -- after the skip

pytestmark = [pytest.mark.reference, pytest.mark.slow]
Make = Callable[..., TrainOptions]


@pytest.fixture
def save(tiny_checkpoint: Path, tokenizer: Tokenizer, options: Make, tmp_path: Path) -> Callable[[], AdapterFolder]:
    body = body_of(tiny_checkpoint)
    lora, head = with_lora(body, options()), label_head(body, tokenizer)

    def act() -> AdapterFolder:
        return save_adapter(
            tmp_path / "adapter",
            lora=lora,
            body=body,
            head=head,
            leaves=assign(TAXONOMY.leaves, tokenizer),
            taxonomy=SOURCE,
            golden=golden_prompts(tokenizer, budget_tokens=192),
            manifest={"base": {"name": "random:tiny", "sha256": {}}},
        )

    return act


def test_what_is_saved_is_whole_and_says_what_it_is(save: Callable[[], AdapterFolder], tokenizer: Tokenizer) -> None:
    adapter = save()
    verify_adapter(adapter)
    assert adapter.leaves == TAXONOMY.leaves
    assert [tokenizer.token_bytes(token) for token in adapter.token_ids] == [b"A", b"B", b"C", b"D"]
    assert (adapter.folder / "taxonomy.yaml").read_bytes() == SOURCE.read_bytes()
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (16, 32, "random:tiny")
    golden = read_golden(adapter)
    assert len(golden) == 8
    assert all(len(logits) == 4 and np.isfinite(logits).all() for _, logits in golden)
    assert np.array([logits for _, logits in golden]).std() > 0


def test_an_adapter_that_does_not_read_back_as_it_was_is_not_kept(
    save: Callable[[], AdapterFolder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = save()
    real = write_tensors

    def lossy(path: Path, tensors: dict[str, Any]) -> None:
        real(path, {name: each + 1e-4 for name, each in tensors.items()})

    monkeypatch.setattr(adapters, "write_tensors", lossy)
    with pytest.raises(ModelLoadError, match="other logits"):
        save()
    verify_adapter(open_adapter(first.folder))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".adapter")] == []


def test_one_changed_byte_is_found(save: Callable[[], AdapterFolder]) -> None:
    adapter = save()
    path = adapter.folder / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelLoadError, match=r"adapter_model\.safetensors is not what was written"):
        verify_adapter(open_adapter(adapter.folder))


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest", "another version", "half a manifest"])
def test_a_damaged_adapter_is_refused_when_it_is_opened(save: Callable[[], AdapterFolder], damage: str) -> None:
    adapter = save()
    golden, manifest = adapter.folder / "golden.jsonl", adapter.folder / "manifest.json"
    told = json.loads(manifest.read_text())
    match damage:
        case "truncated":
            golden.write_bytes(golden.read_bytes()[:-1])
        case "missing":
            golden.unlink()
        case "no manifest":
            manifest.unlink()
        case "another version":
            manifest.write_text(json.dumps({**told, "schema": "qwenops.adapter/99"}))
        case _:
            del told["head"]
            manifest.write_text(json.dumps(told))
    with pytest.raises(ModelLoadError):
        open_adapter(adapter.folder)
