"""A classifier's model as a folder: made, opened, damaged, refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.errors import InvalidRequestError, ModelLoadError, QwenOpsError
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.prefill import (
    ROWS,
    SCORER,
    PrefillRequest,
    PrefillScheme,
    convert_prefill_in_child,
    open_prefill,
    write_golden,
)
from qwenops.models.prefill_layout import Joining
from qwenops.models.spec import EMBEDDING, TINY
from tests.models.adapters import write_adapter, write_tensors
from tests.models.prefilled import LABELS, PREFIX, compiled, logits, made, prompts, relative

WATCHED = tuple(prompts(6, seed=20, shortest=10))
BEHIND = tuple((*PREFIX, *ids) for ids in WATCHED)


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the uncompressed model, compiled."""
    return compiled(made(tiny_checkpoint, tmp_path_factory.mktemp("plain") / "made"))


@pytest.mark.parametrize(
    ("scheme", "most"),
    [(PrefillScheme.BF16, 1e-6), (PrefillScheme.INT8, 0.03), (PrefillScheme.W8A8, 0.1)],
)
def test_every_scheme_says_what_the_uncompressed_model_says(
    tiny_checkpoint: Path, plain: Any, tmp_path: Path, scheme: PrefillScheme, most: float
) -> None:
    """The checkpoint is in bf16, so that scheme loses nothing."""
    calibration = WATCHED if scheme is PrefillScheme.W8A8 else ()
    found = made(tiny_checkpoint, tmp_path / "made", scheme, calibration=calibration)
    assert found.scheme is scheme
    assert found.label_ids == LABELS
    texts = prompts(6, seed=21)
    away = relative(logits(compiled(found), texts), logits(plain, texts))
    assert away <= most
    if scheme is not PrefillScheme.BF16:
        assert away > 1e-4


def test_quantised_activations_behind_a_prefix(tiny_checkpoint: Path, plain: Any, tmp_path: Path) -> None:
    found = made(tiny_checkpoint, tmp_path / "made", PrefillScheme.W8A8, prefix=PREFIX, calibration=BEHIND)
    assert found.prefix == PREFIX
    assert found.facts["calibration_texts"] == len(BEHIND)
    texts = prompts(6, seed=22)
    wanted = logits(plain, [(*PREFIX, *ids) for ids in texts])
    assert relative(logits(compiled(found), texts), wanted) < 0.1


def test_what_the_kept_layers_cost_is_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    all_of_it = made(tiny_checkpoint, tmp_path / "a", PrefillScheme.W8A8, calibration=WATCHED)
    none = made(tiny_checkpoint, tmp_path / "b", PrefillScheme.W8A8, calibration=WATCHED, kept_layers=(0,))
    assert all_of_it.facts["kept"] == []
    assert len(none.facts["kept"]) == 4
    assert none.facts["rounding_errors"].keys() == all_of_it.facts["rounding_errors"].keys()
    stored = {each["name"]: each["stored"] for each in none.facts["tensors"]}
    assert stored["model.layers.0.mlp.down_proj.weight"] == "bf16"
    stored = {each["name"]: each["stored"] for each in all_of_it.facts["tensors"]}
    assert stored["model.layers.0.mlp.down_proj.weight"] == "i8"
    assert stored["model.layers.1.mlp.down_proj.weight"] == "bf16", "the last layer is never quantised"


def test_the_folder_has_what_serving_needs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = made(tiny_checkpoint, tmp_path / "made", PrefillScheme.INT8)
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "openvino_model.bin",
        "openvino_model.xml",
        SCORER,
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert replace(found.spec, eos_token_ids=TINY.eos_token_ids) == TINY
    assert found.facts["sources"]["base"] == open_checkpoint(tiny_checkpoint).sha256()
    assert 0 < found.facts["worst_relative_error"] < 0.02
    assert found.memory_bytes(2048) > found.memory_bytes(512) > found.facts["files"]["openvino_model.bin"]["bytes"]


def test_the_hash_names_all_that_a_model_was_made_from(tiny_checkpoint: Path, tmp_path: Path) -> None:
    first = made(tiny_checkpoint, tmp_path / "first")
    again = made(tiny_checkpoint, tmp_path / "again")
    others = [
        made(tiny_checkpoint, tmp_path / "scheme", PrefillScheme.BF16),
        made(tiny_checkpoint, tmp_path / "labels", label_ids=LABELS[:-1]),
        made(tiny_checkpoint, tmp_path / "adapter", adapter=write_adapter(tmp_path / "lora", TINY)),
        made(tiny_checkpoint, tmp_path / "prefix", prefix=PREFIX),
    ]
    assert again.sha256 == first.sha256
    assert len({first.sha256, *(each.sha256 for each in others)}) == 5


def test_trained_rows_take_the_place_of_the_models_own(tiny_checkpoint: Path, plain: Any, tmp_path: Path) -> None:
    rows = np.stack([open_checkpoint(tiny_checkpoint).read(EMBEDDING, slice(each, each + 1))[0] for each in LABELS])
    write_tensors(tmp_path / "head.safetensors", {ROWS: rows})
    texts = prompts(4, seed=23)
    same = made(tiny_checkpoint, tmp_path / "same", rows=tmp_path / "head.safetensors")
    np.testing.assert_array_equal(logits(compiled(same), texts), logits(plain, texts))
    rows[1] *= 2
    write_tensors(tmp_path / "head.safetensors", {ROWS: rows})
    other = logits(compiled(made(tiny_checkpoint, tmp_path / "other", rows=tmp_path / "head.safetensors")), texts)
    np.testing.assert_allclose(other[:, 1], 2 * logits(plain, texts)[:, 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(other[:, 0], logits(plain, texts)[:, 0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"label_ids": (5,)},
        {"label_ids": (5, 5)},
        {"label_ids": (5, TINY.vocab_size)},
        {"scheme": PrefillScheme.W8A8},
        {"scheme": PrefillScheme.W8A8, "prefix": PREFIX, "calibration": WATCHED},
        {"scheme": PrefillScheme.W8A8, "prefix": PREFIX, "calibration": (PREFIX,)},
        {"prefix": PREFIX, "joining": Joining()},
    ],
    ids=str,
)
def test_a_request_that_contradicts_itself_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be made"):
        made(tiny_checkpoint, tmp_path / "made", **wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(4, TINY.hidden_size), (5, TINY.hidden_size - 1)])
def test_rows_that_do_not_fit_are_refused(tiny_checkpoint: Path, tmp_path: Path, shape: tuple[int, int]) -> None:
    write_tensors(tmp_path / "head.safetensors", {ROWS: np.ones(shape, np.float32)})
    with pytest.raises(InvalidRequestError, match="rows"):
        made(tiny_checkpoint, tmp_path / "made", rows=tmp_path / "head.safetensors")
    write_tensors(tmp_path / "head.safetensors", {"other": np.ones((5, TINY.hidden_size), np.float32)})
    with pytest.raises(InvalidRequestError, match="no tensor rows"):
        made(tiny_checkpoint, tmp_path / "made", rows=tmp_path / "head.safetensors")


def test_golden_prompts_stay_with_the_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = made(tiny_checkpoint, tmp_path / "made")
    assert found.golden == ()
    texts, rows = prompts(2, seed=24), [(0.1, 0.2, 0.3, 0.2, 0.2), (0.5, 0.1, 0.1, 0.1, 0.2)]
    kept = write_golden(found, texts, rows)
    assert kept.golden == open_prefill(found.folder).golden == tuple(zip(texts, rows, strict=True))
    assert open_prefill(found.folder).sha256 == found.sha256


def spoil(name: str) -> Callable[[Path], object]:
    """Return what damages a folder."""

    def facts(folder: Path, **changed: Any) -> None:
        told = json.loads((folder / SCORER).read_text())
        told.update(changed)
        (folder / SCORER).write_text(json.dumps({key: value for key, value in told.items() if value is not None}))

    ways: dict[str, Callable[[Path], object]] = {
        "no facts": lambda folder: (folder / SCORER).unlink(),
        "other version": lambda folder: facts(folder, format=99),
        "no labels": lambda folder: facts(folder, label_ids=None),
        "unknown scheme": lambda folder: facts(folder, scheme="int3"),
        "no json": lambda folder: (folder / SCORER).write_text("{"),
        "truncated": lambda folder: (folder / "openvino_model.bin").write_bytes(b"1234"),
        "missing": lambda folder: (folder / "openvino_model.xml").unlink(),
    }
    return ways[name]


@pytest.mark.parametrize(
    "name", ["no facts", "other version", "no labels", "unknown scheme", "no json", "truncated", "missing"]
)
def test_a_damaged_folder_is_refused(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    found = made(tiny_checkpoint, tmp_path / "made", PrefillScheme.INT8)
    spoil(name)(found.folder)
    with pytest.raises(ModelLoadError):
        open_prefill(found.folder)


@pytest.mark.slow
def test_a_process_of_its_own_makes_the_same(tiny_checkpoint: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", TINY)
    request = PrefillRequest(
        source=tiny_checkpoint,
        label_ids=LABELS,
        adapter=adapter,
        scheme=PrefillScheme.W8A8,
        prefix=PREFIX,
        calibration=BEHIND,
        joining=Joining(by_place=False),
    )
    told: list[float] = []
    there = convert_prefill_in_child(request, tmp_path / "child", lambda fraction, _doing: told.append(fraction))
    here = made(
        tiny_checkpoint,
        tmp_path / "here",
        PrefillScheme.W8A8,
        adapter=adapter,
        prefix=PREFIX,
        calibration=BEHIND,
        joining=Joining(by_place=False),
    )
    assert there.sha256 == here.sha256
    assert there.facts["files"]["openvino_model.bin"] == here.facts["files"]["openvino_model.bin"]
    assert told == sorted(told)
    assert told[-1] == 1.0
    with pytest.raises(QwenOpsError, match="cannot be made"):
        convert_prefill_in_child(replace(request, label_ids=(1,)), tmp_path / "no", lambda _fraction, _doing: None)
