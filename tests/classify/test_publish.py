"""Models for other engines hold the adapter, and say how they are asked."""

import json
from pathlib import Path

import numpy as np
import pytest

from qwenops.classify.publish import Format, publish
from qwenops.errors import ModelLoadError
from qwenops.models.adapter import open_merged
from qwenops.models.checkpoint import open_checkpoint, open_tensors
from qwenops.models.gguf import GgufType
from qwenops.models.spec import HEAD
from tests.classify.adapted import BUDGET, Adapted
from tests.classify.made import TAXONOMY

QUERIES = "model.layers.0.self_attn.q_proj.weight"


def test_a_checkpoint_for_vllm_has_adapter_and_head_in_it(adapted: Adapted, tmp_path: Path) -> None:
    folder = publish(adapted.folder, adapted.base, tmp_path / "out", Format.VLLM)
    written = open_checkpoint(folder)
    wanted = open_merged(adapted.base, adapted.folder).read(QUERIES)
    np.testing.assert_allclose(written.read(QUERIES), wanted, rtol=2**-7, atol=1e-6)
    assert not np.array_equal(written.read(QUERIES), open_checkpoint(adapted.base).read(QUERIES))
    head = json.loads((folder / "head.json").read_text())
    rows = open_tensors(adapted.folder / "head.safetensors").read("rows")
    for token, row in zip(head["token_ids"], rows, strict=True):
        np.testing.assert_allclose(written.read(HEAD, slice(token, token + 1))[0], row, rtol=2**-7, atol=1e-6)
    assert head["leaves"] == list(TAXONOMY.leaves)
    asked = json.loads((folder / "prompt.json").read_text())
    assert asked["budget_tokens"] == BUDGET
    assert asked["instructions"].keys() == asked["questions"].keys() == {"zh", "en"}
    assert (folder / "tokenizer.json").exists()


def test_ollama_gets_a_modelfile_beside_the_weights(adapted: Adapted, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="writing a GGUF file needs the optimize extra")
    from qwenops.models.gguf import facts_of

    kind = GgufType.F16  # not the usual one; what each kind holds is tested where they are written
    folder = publish(adapted.folder, adapted.base, tmp_path / "out", Format.OLLAMA, kind=kind)
    name = f"classifier-{kind.value}.gguf"
    assert {path.name for path in folder.iterdir()} == {name, "Modelfile", "head.json", "taxonomy.yaml", "prompt.json"}
    told = (folder / "Modelfile").read_text()
    assert told.startswith(f"FROM ./{name}\n")
    assert f"PARAMETER num_ctx {BUDGET + 1}\n" in told
    facts = facts_of(folder / name)
    assert facts["fields"]["general.name"] == f"random:tiny {TAXONOMY.ref}"
    assert facts["tensors"]["output.weight"] == kind.value


def test_a_damaged_adapter_is_not_published(adapted: Adapted, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(adapted.folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "head.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelLoadError):
        publish(tmp_path / "adapter", adapted.base, tmp_path / "out", Format.VLLM)
    assert not (tmp_path / "out").exists()
