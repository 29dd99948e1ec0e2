"""`qwenops serve --classifier`: a real server with a real engine, while other processes promote and roll back."""

import json
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwenops.classify.codes import assign
from qwenops.classify.registry import Registry
from qwenops.models.prefill import PrefillScheme
from qwenops.models.tokenizer import open_tokenizer
from tests.classify.artefacts import write_artefact
from tests.classify.made import TAXONOMY
from tests.cli.test_serving import PROGRAM, environment, serving, until
from tests.models.prefilled import made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SAID = {"input": "客服：您好。\n客户：你们多扣了我的钱，还断网。", "review": False}
CLIENTS, MOVES = 3, 4


@pytest.fixture
def home(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """Return a home whose registry has two versions of a classifier; the first is the champion."""
    folder, registry = tmp_path / "home", Registry(root=tmp_path / "home" / "registry")
    folder.mkdir()
    label_ids = tuple(assign(TAXONOMY.leaves, open_tokenizer(tiny_checkpoint)).values())
    artefact = tmp_path / "artefact"
    made(tiny_checkpoint, artefact, PrefillScheme.BF16, label_ids=label_ids)
    for version in ("first", "second"):
        registry.register("complaints", write_artefact(artefact, note=version), by="test")
    registry.promote("complaints@1", by="test")
    return folder


@pytest.fixture
def url(home: Path) -> Iterator[str]:
    """Start a server that classifies only; at the end it must stop in peace."""
    with serving(home, "--classifier", "complaints") as (process, address):
        until(lambda: asked(address)[0] == 200, 90.0)
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def asked(address: str) -> tuple[int, dict[str, Any]]:
    """Let a call be classified; 0 where nobody answers."""
    body, headers = json.dumps(SAID).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/classify", body, headers)  # noqa: S310 -- our own server
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 -- our own server on loopback
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, {}


def typed(home: Path, *words: str, code: int = 0) -> str:
    ended = subprocess.run(
        [*PROGRAM, "registry", *words], env=environment(home), capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr


def test_requests_in_flight_are_answered_while_versions_are_promoted_and_rolled_back(home: Path, url: str) -> None:
    answers: list[tuple[int, str]] = []
    is_over = threading.Event()

    def client() -> None:
        while not is_over.is_set():
            status, told = asked(url)
            answers.append((status, told.get("model", "")))

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    try:
        for move in range(MOVES):
            words, version = (("rollback", "complaints"), 1) if move % 2 else (("promote", "complaints@2"), 2)
            typed(home, *words)
            begin = len(answers)
            until(lambda v=version, b=begin: any(f"@{v}-" in model for _, model in answers[b:]), 60.0)
    finally:
        is_over.set()
        for each in clients:
            each.join(60)
    assert {status for status, _ in answers} == {200}
    assert len(answers) > CLIENTS * MOVES
    models = {model for _, model in answers}
    assert {model.partition("-")[0] for model in models} == {"complaints@1", "complaints@2"}


def test_one_changed_byte_is_refused_and_the_server_serves_on(home: Path, url: str) -> None:
    registry = Registry(root=home / "registry")
    weights = registry.find("complaints@2").folder / "openvino_model.bin"
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(raw)
    assert "openvino_model.bin is not what was registered" in typed(home, "promote", "complaints@2", code=1)
    status, told = asked(url)
    assert status == 200
    assert told["model"].startswith("complaints@1-")
    (result,) = told["results"]
    assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert result["label"] in {*TAXONOMY.classes}
