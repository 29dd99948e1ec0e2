from pathlib import Path

import numpy as np
import pytest

from qwenops.errors import InsufficientDiskError
from qwenops.models.checkpoint import SINGLE, file_sha256, open_checkpoint
from qwenops.models.random import SPECS, write_random_checkpoint
from qwenops.models.spec import TINY
from tests.models.test_checkpoint import SMALL


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_random_checkpoint(tmp_path / name, SMALL, seed=seed, tokenizer=False)
    hashes = [file_sha256(tmp_path / name / SINGLE) for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_tiny_checkpoint_is_a_whole_model(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert checkpoint.spec == TINY == SPECS["tiny"]
    assert (tiny_checkpoint / "tokenizer.json").exists()
    assert (tiny_checkpoint / "chat_template.jinja").exists()
    assert not list(tiny_checkpoint.parent.glob(".*.tmp"))


def test_gains_spread_around_one_and_matrices_keep_the_size_of_what_passes(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    gains = checkpoint.read("model.layers.0.input_layernorm.weight")
    assert 0.05 < float(gains.std()) < 0.15
    assert 0.9 < float(gains.mean()) < 1.1
    matrix = checkpoint.read("model.layers.0.mlp.down_proj.weight")
    x = np.random.default_rng(0).standard_normal(matrix.shape[1], np.float32)
    assert 0.6 < float((matrix @ x).std()) < 1.6


def test_a_full_disk_is_an_error_with_the_bytes_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("qwenops.models.folders.shutil.disk_usage", lambda _path: usage)
    with pytest.raises(InsufficientDiskError) as caught:
        write_random_checkpoint(tmp_path / "made", SMALL, tokenizer=False)
    assert caught.value.available_bytes == 1000 < caught.value.needed_bytes
    assert not list(tmp_path.iterdir())
