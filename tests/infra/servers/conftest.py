"""Servers that we did not write, started for a test and ended with it."""

import os
import select
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwenops.command import PIPE, STDOUT, Spawned, spawn
from qwenops.models.adapter import open_merged
from qwenops.models.gguf import GgufType, write_gguf

START_S = 60.0
SLOTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A server that runs."""

    name: str
    url: str
    model: str
    process_id: int


@pytest.fixture(scope="session")
def tiny_gguf(tiny_checkpoint: Path) -> Path:
    """Return the tiny model as a GGUF file."""
    pytest.importorskip("gguf", reason="writing a GGUF file needs the package gguf")
    file = tiny_checkpoint.parent / "tiny.gguf"
    if not file.exists():
        write_gguf(open_merged(tiny_checkpoint), file, GgufType.F16, name="tiny")
    return file


@pytest.fixture(scope="session")
def llama_server(tiny_gguf: Path) -> Iterator[Foreign]:
    """Run llama.cpp's server with four slots."""
    pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with the package xllamacpp")
    with serving(tiny_gguf) as server:
        yield server


@contextmanager
def serving(file: Path) -> Iterator[Foreign]:
    """Run llama.cpp's server on a GGUF file."""
    argv: list[str | Path] = [sys.executable, "-m", "tests.infra.servers.llama_server", file, str(SLOTS)]
    with file.with_suffix(".log").open("wb") as log, spawn(argv, stdin=PIPE, stdout=PIPE, stderr=log) as child:
        yield Foreign(name="llama-server", url=_first_line(child), model="tiny", process_id=child.pid)


@pytest.fixture(scope="session")
def transformers_server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    """Run `transformers serve`, which answers one request after the other."""
    pytest.importorskip("accelerate", reason="`transformers serve` needs the package accelerate")
    program = Path(sys.executable).with_name("transformers")
    if not program.exists():
        pytest.skip("`transformers serve` needs the program transformers")
    cache = tmp_path_factory.mktemp("hub")
    (cache / "hub").mkdir()
    port = _free_port()
    argv: list[str | Path] = [
        program,
        "serve",
        tiny_checkpoint,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    env = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    log_file = cache / "serve.log"
    with log_file.open("wb") as log, spawn(argv, env=env, stdout=log, stderr=STDOUT) as child:
        url = f"http://127.0.0.1:{port}"
        _until_healthy(child, f"{url}/health", log_file)
        yield Foreign(name="transformers serve", url=url, model=str(tiny_checkpoint), process_id=child.pid)


@pytest.fixture(params=["llama_server", "transformers_server"])
def foreign(request: pytest.FixtureRequest) -> Foreign:
    """Return each of them."""
    server: Foreign = request.getfixturevalue(request.param)
    return server


def _first_line(child: Spawned) -> str:
    assert child.stdout is not None
    found = b""
    until_s = time.monotonic() + START_S
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([child.stdout], [], [], max(until_s - time.monotonic(), 0.0))
        piece = os.read(child.stdout.fileno(), 4096) if ready else b""
        assert piece, "the server did not start in time"
        found += piece
    return found.decode().strip()


def _until_healthy(child: Spawned, url: str, log: Path) -> None:
    until_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 -- an address of this machine
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        running = child.poll() is None and time.monotonic() < until_s
        assert running, f"the server did not start: {log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.1)


def _free_port() -> int:
    import socket

    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port
