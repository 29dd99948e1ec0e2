"""What the tests of this folder share."""

from pathlib import Path

import pytest

from qwenops.models.qwen_vocabulary import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the true Qwen tokenizer and our chat template, written once."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder
