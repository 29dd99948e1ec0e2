"""What all tests share."""

from pathlib import Path

import pytest

from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import TINY


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Qwen3 with random weights and the true tokenizer; do not write into it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random_checkpoint(folder, TINY)
    return folder
