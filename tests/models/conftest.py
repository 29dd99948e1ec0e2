"""What the tests of this folder share."""

import socket
from pathlib import Path
from typing import Any

import pytest

from qwenops.models.qwen_vocabulary import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the true Qwen tokenizer and our chat template, written once."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture
def unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let names under `.invalid` not resolve, at once and whatever the resolver of this machine says."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
