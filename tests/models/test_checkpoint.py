import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.errors import ModelLoadError
from qwenops.models.checkpoint import (
    INDEX,
    SINGLE,
    NewTensor,
    open_checkpoint,
    write_safetensors,
)
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import ModelSpec

SMALL = ModelSpec(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    max_context_tokens=128,
    eos_token_ids=(1,),
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    write_random_checkpoint(folder, SMALL, tokenizer=False)
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    write_random_checkpoint(folder, SMALL, tokenizer=False, shard_bytes=60_000)
    return folder


def _header(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def _rewrite(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _refused(folder: Path, said: str) -> ModelLoadError:
    with pytest.raises(ModelLoadError) as caught:
        open_checkpoint(folder)
    assert said in caught.value.message
    assert caught.value.hint
    return caught.value


def test_what_we_write_is_what_the_safetensors_library_reads(small: Path) -> None:
    safe_open = pytest.importorskip("safetensors").safe_open
    checkpoint = open_checkpoint(small)
    with safe_open(small / SINGLE, framework="pt") as theirs:
        assert set(theirs.keys()) == set(checkpoint.entries)
        for name in checkpoint.entries:
            assert np.array_equal(theirs.get_tensor(name).float().numpy(), checkpoint.read(name))


def test_shards_and_one_file_hold_the_same_numbers(small: Path, sharded: Path) -> None:
    one, many = open_checkpoint(small), open_checkpoint(sharded)
    assert one.files == (SINGLE,)
    assert len(many.files) > 2
    for tensor in SMALL.tensors():
        assert np.array_equal(one.read(tensor.name), many.read(tensor.name))


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_every_number_format_is_widened_exactly(tmp_path: Path, dtype: Any) -> None:
    write_random_checkpoint(tmp_path / "made", SMALL, tokenizer=False, dtype=dtype)
    values = open_checkpoint(tmp_path / "made").read("model.embed_tokens.weight")
    assert values.dtype == np.float32
    assert abs(float(values.std()) - 0.02) < 0.001
    assert abs(float(values.mean())) < 0.001


def test_rows_are_read_apart(small: Path) -> None:
    checkpoint = open_checkpoint(small)
    whole = checkpoint.read("model.embed_tokens.weight")
    assert np.array_equal(checkpoint.read("model.embed_tokens.weight", slice(3, 9)), whole[3:9])
    checkpoint.release("model.embed_tokens.weight")
    assert np.array_equal(checkpoint.read("model.embed_tokens.weight"), whole)


def test_a_repeated_tied_head_is_ignored(small: Path) -> None:
    header, data = _header(small / SINGLE)
    size = 64 * 64 * 2
    header["lm_head.weight"] = {"dtype": "BF16", "shape": [64, 64], "data_offsets": [len(data), len(data) + size]}
    _rewrite(small / SINGLE, header, data + bytes(size))
    assert open_checkpoint(small).spec.tie_word_embeddings


def test_a_truncated_shard_is_refused_with_its_name(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 10)
    _refused(sharded, f"{shard.name} is damaged: it has {shard.stat().st_size} bytes")


def test_a_missing_shard_is_refused_with_its_name(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    _refused(sharded, shard.name)


def test_an_index_that_points_to_the_wrong_shard_is_refused(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    first, last = min(index["weight_map"].values()), max(index["weight_map"].values())
    index["weight_map"]["model.embed_tokens.weight"] = last if first != last else first
    (sharded / INDEX).write_text(json.dumps(index))
    _refused(sharded, "the index places model.embed_tokens.weight in it")


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/passwd", "sub/a.safetensors", "model.bin", 7])
def test_an_index_cannot_lead_out_of_the_folder(sharded: Path, shard: object) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.embed_tokens.weight"] = shard
    (sharded / INDEX).write_text(json.dumps(index))
    _refused(sharded, f"it names the file {shard!r}")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "{", "\x00"])
def test_an_index_without_a_map_is_refused(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    _refused(sharded, INDEX)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "weights.pkl"])
def test_a_pickle_beside_the_config_is_refused_as_weights(small: Path, name: str) -> None:
    (small / SINGLE).unlink()
    (small / name).write_bytes(pickle.dumps({"weight": [1.0]}))
    _refused(small, f"{name} is a pickle")


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), b"PK\x03\x04" + bytes(100)])
def test_a_pickle_that_calls_itself_safetensors_is_refused_and_never_run(small: Path, content: bytes) -> None:
    (small / SINGLE).write_bytes(content)
    _refused(small, f"{SINGLE} is a pickle")


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(small: Path, length: int) -> None:
    header, data = _header(small / SINGLE)
    # Names are padded until the length's bytes are those that a pickle starts with.
    text = json.dumps(header, separators=(",", ":")).encode()
    wanted = length + 0x10000 * (1 + (len(text) >> 16))
    (small / SINGLE).write_bytes(struct.pack("<Q", wanted) + text.ljust(wanted) + data)
    assert (small / SINGLE).read_bytes()[:2] == struct.pack("<H", length)
    open_checkpoint(small)


def test_a_folder_without_config_or_weights_says_what_is_missing(small: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _refused(tmp_path / "empty", "has no config.json")
    (small / SINGLE).unlink()
    _refused(small, "holds no weights")


def test_a_config_for_another_architecture_is_refused(small: Path) -> None:
    _edit_config(small, model_type="mistral")
    _refused(small, "architecture 'mistral'")


def test_a_config_that_is_not_json_is_refused(small: Path) -> None:
    (small / "config.json").write_text("{not json")
    _refused(small, "config.json is damaged")


def test_a_config_of_another_size_is_refused_with_the_first_wrong_tensor(small: Path) -> None:
    _edit_config(small, vocab_size=128)
    _refused(small, "model.embed_tokens.weight has the shape (64, 64), and config.json asks for (128, 64)")


def test_missing_and_unknown_tensors_are_counted_and_named(small: Path) -> None:
    _edit_config(small, num_hidden_layers=3)
    _refused(small, "lack 11 tensors that config.json asks for, the first is model.layers.2.input_layernorm.weight")
    _edit_config(small, num_hidden_layers=1)
    _refused(small, "hold 11 tensors that this architecture does not have, the first is model.layers.1.")


def test_an_untied_model_without_a_head_is_refused(small: Path) -> None:
    _edit_config(small, tie_word_embeddings=False)
    _refused(small, "lack 1 tensors that config.json asks for, the first is lm_head.weight")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"dtype": "F8_E4M3"}, "as F8_E4M3; known are BF16, F16, F32", id="float8"),
        pytest.param({"shape": [63, 64]}, "does not fit its shape", id="small shape"),
        pytest.param({"shape": [-1, 64]}, "impossible numbers", id="negative shape"),
        pytest.param({"shape": ["64", 64]}, "impossible numbers", id="text in the shape"),
        pytest.param({"data_offsets": [0]}, "incomplete", id="one offset"),
        pytest.param({"data_offsets": [8192, 0]}, "does not fit its shape", id="backwards"),
        pytest.param({"dtype": None}, "as None", id="no format"),
        pytest.param({"shape": None}, "incomplete", id="no shape"),
        pytest.param({"data_offsets": [2, 8194]}, "overlaps another or leaves a gap", id="shifted"),
    ],
)
def test_an_impossible_header_entry_is_refused(small: Path, changes: dict[str, Any], said: str) -> None:
    header, data = _header(small / SINGLE)
    header["model.embed_tokens.weight"].update(changes)
    _rewrite(small / SINGLE, header, data)
    _refused(small, said)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"{]}\xff",
    ],
)
def test_a_file_without_a_header_is_refused(small: Path, content: bytes) -> None:
    (small / SINGLE).write_bytes(content)
    _refused(small, f"{SINGLE} is damaged")


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    name = next(each for each in _header(first)[0] if each != "__metadata__")
    header, data = _header(second)
    entry = _header(first)[0][name]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    header[name] = entry | {"data_offsets": [len(data), len(data) + size]}
    _rewrite(second, header, data + bytes(size))
    _refused(sharded, f"it repeats the tensor {name}")


def test_hashes_name_every_file_that_matters(sharded: Path) -> None:
    before = open_checkpoint(sharded).sha256()
    assert set(before) == {"config.json", *(path.name for path in sharded.glob("*.safetensors"))}
    copy = sharded.parent / "copy"
    shutil.copytree(sharded, copy)
    assert open_checkpoint(copy).sha256() == before


def test_a_writer_whose_chunks_are_too_short_fails(tmp_path: Path) -> None:
    short = NewTensor(name="a", dtype="F32", shape=(4,), chunks=lambda: [bytes(12)])
    with pytest.raises(AssertionError):
        write_safetensors(tmp_path / "a.safetensors", [short])
