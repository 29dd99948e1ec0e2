from pathlib import Path

import pytest

from qwenops.models.qwen_vocabulary import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true Qwen tokenizer, rebuilt from its public vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder
