import contextlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from qwenops.errors import ConversionError, DeadlineError, InsufficientDiskError, ModelLoadError
from qwenops.models import compress
from qwenops.models.artefact import Artefact, open_artefact, verify_artefact
from qwenops.models.checkpoint import SINGLE, file_sha256, open_checkpoint
from qwenops.models.convert import convert, convert_in_child, source_sha256
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import ModelSpec, Scheme
from qwenops.text import Text

SMALL = ModelSpec(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    max_context_tokens=128,
    eos_token_ids=(1,),
)


def _quiet(_fraction: float, _what: str) -> None: ...


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    write_random_checkpoint(folder, SMALL, tokenizer=False)
    return folder


def _listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_progress_only_grows_and_ends_at_one(small: Path, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    convert(small, tmp_path / "made", Scheme.INT8, lambda fraction, what: told.append((fraction, what)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(set(fractions)) > 10
    assert all(isinstance(what, Text) for _, what in told)


def test_equal_sources_give_equal_files(small: Path, tmp_path: Path) -> None:
    hashes = [
        convert(small, tmp_path / name, Scheme.INT4, _quiet, threads=threads).manifest["files"]
        for name, threads in (("a", 1), ("b", 2))
    ]
    assert hashes[0]["openvino_model.bin"] == hashes[1]["openvino_model.bin"]


def test_shards_are_named_by_one_hash_over_theirs(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "shards", SMALL, tokenizer=False, shard_bytes=100_000)
    artefact = convert(tmp_path / "shards", tmp_path / "made", Scheme.BF16, _quiet)
    hashes = open_checkpoint(tmp_path / "shards").sha256()
    assert artefact.manifest["source"]["files"] == hashes
    assert artefact.sha256 == source_sha256(hashes)
    changed = {name: digest[::-1] for name, digest in hashes.items()}
    assert artefact.sha256 != source_sha256(changed)


def test_an_artefact_that_exists_is_replaced_when_the_new_one_is_whole(small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "made", Scheme.INT8, _quiet)
    assert convert(small, tmp_path / "made", Scheme.INT4, _quiet).scheme is Scheme.INT4
    assert _listing(tmp_path) == ["made", "small"]
    verify_artefact(open_artefact(tmp_path / "made"))


def test_a_tensor_with_a_number_that_is_not_finite_is_refused_and_leaves_what_was_there(
    small: Path, tmp_path: Path
) -> None:
    before = convert(small, tmp_path / "made", Scheme.INT8, _quiet)
    entry = open_checkpoint(small).entries["model.layers.1.mlp.up_proj.weight"]
    with (small / SINGLE).open("r+b") as file:
        file.seek(entry.begin + 64)
        file.write(b"\x80\x7f")  # infinity
    with pytest.raises(ModelLoadError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds numbers"):
        convert(small, tmp_path / "made", Scheme.INT8, _quiet)
    assert open_artefact(tmp_path / "made").manifest == before.manifest
    assert _listing(tmp_path) == ["made", "small"]


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT4, Scheme.BF16])
def test_a_tensor_that_comes_out_wrong_stops_the_conversion(
    small: Path, tmp_path: Path, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = compress._pack
    calls = itertools.count()

    def wrong_once(source: NDArray[np.float32], layout: compress.Layout) -> object:
        data, scales = pack(source, layout)
        if next(calls) == 3 and data.ndim == 2:
            data = np.roll(data, 1, axis=1)
        return data, scales

    monkeypatch.setattr(compress, "_pack", wrong_once)
    with pytest.raises(ConversionError, match="differs from its source"):
        convert(small, tmp_path / "made", scheme, _quiet, threads=1)
    assert _listing(tmp_path) == ["small"]


def test_a_disk_without_room_is_known_before_the_work_begins(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("qwenops.models.folders.shutil.disk_usage", lambda _path: usage)
    told: list[float] = []
    with pytest.raises(InsufficientDiskError) as caught:
        convert(small, tmp_path / "made", Scheme.INT8, lambda fraction, _what: told.append(fraction))
    assert caught.value.needed_bytes > 1_000_000
    assert not told
    assert _listing(tmp_path) == ["small"]


def test_a_disk_that_runs_full_in_the_middle_loses_nothing(small: Path, tmp_path: Path) -> None:
    before = convert(small, tmp_path / "made", Scheme.INT8, _quiet)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(InsufficientDiskError):
            convert(small, tmp_path / "made", Scheme.F32, _quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert open_artefact(tmp_path / "made").manifest == before.manifest
    assert _listing(tmp_path) == ["made", "small"]


@pytest.mark.slow
def test_a_child_converts_and_tells_its_progress(small: Path, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    artefact = convert_in_child(
        small, tmp_path / "made", Scheme.INT8, lambda fraction, what: told.append((fraction, what)), timeout_s=60
    )
    verify_artefact(artefact)
    here = convert(small, tmp_path / "here", Scheme.INT8, _quiet)
    assert artefact.manifest["files"]["openvino_model.bin"] == here.manifest["files"]["openvino_model.bin"]
    assert told[-1][0] == 1.0
    assert isinstance(told[-1][1], Text)
    assert told[5][1].template.startswith("Packing the weights as {scheme}")  # type: ignore[attr-defined]  # a Text


@pytest.mark.slow
def test_what_the_child_fails_with_arrives_with_its_hint(small: Path, tmp_path: Path) -> None:
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(ModelLoadError, match="architecture 'llama'") as caught:
        convert_in_child(small, tmp_path / "made", Scheme.INT8, _quiet, timeout_s=60)
    assert isinstance(caught.value.message, Text)
    assert "Qwen3-0.6B" in caught.value.hint


@pytest.mark.slow
def test_a_child_that_takes_too_long_is_ended(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DeadlineError):
        convert_in_child(small, tmp_path / "made", Scheme.INT8, _quiet, timeout_s=0.05)
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_a_conversion_killed_in_the_middle_loses_nothing_and_leaves_nothing(
    tiny_checkpoint: Path, tiny_artefact: Callable[[Scheme], Artefact], tmp_path: Path
) -> None:
    target = tmp_path / "made"
    shutil.copytree(tiny_artefact(Scheme.INT8).folder, target)
    before = file_sha256(target / "openvino_model.bin")
    argv = [sys.executable, "-m", "qwenops.models.convert", str(tiny_checkpoint), str(target), "f32"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
    assert file_sha256(target / "openvino_model.bin") == before
    verify_artefact(open_artefact(target))
    assert len(_listing(tmp_path)) == 2  # what the killed one left
    convert(tiny_checkpoint, target, Scheme.INT8, _quiet)
    assert _listing(tmp_path) == ["made"]


@pytest.mark.slow
def test_a_child_that_is_killed_is_a_typed_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def kill(_fraction: float, _what: str) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # killed already, and told more before
                if "qwenops.models.convert" in child.cmdline():
                    child.kill()

    with pytest.raises(ConversionError, match=r"died with status -9") as caught:
        convert_in_child(tiny_checkpoint, tmp_path / "made", Scheme.F32, kill, timeout_s=30)
    assert "memory ran out" in caught.value.hint
    assert not (tmp_path / "made").exists()
