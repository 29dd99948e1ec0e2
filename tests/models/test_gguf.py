"""GGUF files hold the checkpoint, its tokenizer and its template; llama.cpp itself reads them in `tests/infra`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.errors import ConversionError, InsufficientDiskError, MissingPartError, ModelLoadError
from qwenops.models.adapter import Merged, open_merged
from qwenops.models.gguf import (
    OLLAMA_TEMPLATE,
    GgufType,
    check_installed,
    facts_of,
    modelfile,
    write_gguf,
    write_ollama,
)
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import TINY, TensorKind
from qwenops.models.tokenizer import open_tokenizer
from tests.models.adapters import write_adapter

gguf = pytest.importorskip("gguf", reason="writing a GGUF file needs the optimize extra")


def written(merged: Merged, target: Path, kind: GgufType = GgufType.F16) -> Path:
    write_gguf(merged, target, kind, name="a tiny one")
    return target


def tensors(reader: Any) -> dict[str, NDArray[Any]]:
    """Return every tensor of a file as float32, by llama.cpp's names."""
    return {each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in reader.tensors}


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of the tiny model as it is; do not write into it."""
    return written(open_merged(tiny_checkpoint), tmp_path_factory.mktemp("plain") / "model.gguf", GgufType.Q8_0)


@pytest.fixture(scope="module")
def plain_reader(plain: Path) -> Any:
    """Read that file once: its hundred thousands of texts take seconds."""
    return gguf.GGUFReader(plain)


@pytest.mark.parametrize(("kind", "most"), [(GgufType.F16, 1e-3), (GgufType.Q8_0, 0.01), (GgufType.Q4_0, 0.2)])
def test_the_tensors_are_those_of_the_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path, kind: GgufType, most: float
) -> None:
    merged = open_merged(tiny_checkpoint, write_adapter(tmp_path / "adapter", TINY))
    path = written(merged, tmp_path / "model.gguf", kind)
    reader = gguf.GGUFReader(path)
    found = tensors(reader)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, TINY.num_layers)
    assert len(found) == len(list(TINY.tensors()))
    for tensor in TINY.tensors():
        values = found[names.get_name(tensor.name, try_suffixes=(".weight",))]
        wanted = merged.read(tensor.name)
        assert values.shape == wanted.shape
        if tensor.kind is TensorKind.NORM:
            np.testing.assert_array_equal(values, wanted)
        else:
            away = np.linalg.norm(values - wanted) / np.linalg.norm(wanted)
            assert away < most, tensor.name
    types = {each.name: each.tensor_type.name.lower() for each in reader.tensors}
    assert types["token_embd.weight"] == kind.value
    assert types["output_norm.weight"] == "f32"
    assert path.stat().st_mode & 0o444


def test_the_file_says_what_the_model_is(tiny_checkpoint: Path, plain: Path) -> None:
    facts = facts_of(plain)
    fields = facts["fields"]
    wanted = {
        "general.architecture": "qwen3",
        "general.name": "a tiny one",
        "qwen3.block_count": TINY.num_layers,
        "qwen3.context_length": TINY.max_context_tokens,
        "qwen3.embedding_length": TINY.hidden_size,
        "qwen3.feed_forward_length": TINY.intermediate_size,
        "qwen3.attention.head_count": TINY.num_heads,
        "qwen3.attention.head_count_kv": TINY.num_kv_heads,
        "qwen3.attention.key_length": TINY.head_dim,
        "qwen3.attention.value_length": TINY.head_dim,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": 151_645,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: fields[name] for name in wanted} == wanted
    assert fields["qwen3.rope.freq_base"] == pytest.approx(TINY.rope_theta)
    assert fields["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(TINY.rms_eps)
    assert facts["tensors"]["token_embd.weight"] == "q8_0"
    assert fields["tokenizer.chat_template"] == (tiny_checkpoint / "chat_template.jinja").read_text()


def test_every_token_has_its_text_and_its_kind(tiny_checkpoint: Path, plain_reader: Any) -> None:
    fields = plain_reader.fields
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert len(tokens) == len(kinds) == TINY.vocab_size
    tokenizer = open_tokenizer(tiny_checkpoint)
    start = tokenizer.encode("<|im_start|>", control=True)[0]
    assert (tokens[start], kinds[start]) == ("<|im_start|>", gguf.TokenType.CONTROL)
    think = tokenizer.encode("<think>", control=True)
    if len(think) == 1:
        assert kinds[think[0]] == gguf.TokenType.USER_DEFINED
    letter = tokenizer.encode("A", control=False)[0]
    assert (tokens[letter], kinds[letter]) == ("A", gguf.TokenType.NORMAL)
    assert kinds[-1] == gguf.TokenType.UNUSED
    assert len(set(tokens)) == len(tokens)
    told = json.loads((tiny_checkpoint / "tokenizer.json").read_text())
    assert len(fields["tokenizer.ggml.merges"].contents()) == len(told["model"]["merges"])


def test_a_trained_head_is_a_tensor_of_its_own(tiny_checkpoint: Path, tmp_path: Path, plain_reader: Any) -> None:
    row = np.linspace(-1, 1, TINY.hidden_size, dtype=np.float32)
    merged = open_merged(tiny_checkpoint, head_rows={99: row})
    found = tensors(gguf.GGUFReader(written(merged, tmp_path / "model.gguf")))
    np.testing.assert_allclose(found["output.weight"][99], row, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found["output.weight"][100], found["token_embd.weight"][100])
    assert "output.weight" not in {each.name for each in plain_reader.tensors}


def test_a_weight_beyond_half_precision_is_refused_and_nothing_is_left(tiny_checkpoint: Path, tmp_path: Path) -> None:
    huge = np.full(TINY.hidden_size, 1e5, np.float32)
    merged = open_merged(tiny_checkpoint, head_rows={5: huge})
    with pytest.raises(ConversionError, match=r"lm_head\.weight"):
        written(merged, tmp_path / "model.gguf", GgufType.F16)
    assert list(tmp_path.iterdir()) == []
    written(merged, tmp_path / "model.gguf", GgufType.Q8_0)
    before = (tmp_path / "model.gguf").read_bytes()
    broken = open_merged(tiny_checkpoint, head_rows={5: np.full_like(huge, np.nan)})
    with pytest.raises(ModelLoadError, match="not finite"):
        written(broken, tmp_path / "model.gguf", GgufType.Q8_0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert (tmp_path / "model.gguf").read_bytes() == before, "the file that was there is whole"


def test_rows_that_cannot_be_cut_into_blocks_are_refused(tmp_path: Path) -> None:
    spec = replace(TINY, intermediate_size=200)
    write_random_checkpoint(tmp_path / "model", spec)
    with pytest.raises(ModelLoadError, match="200"):
        written(open_merged(tmp_path / "model"), tmp_path / "model.gguf", GgufType.Q8_0)
    written(open_merged(tmp_path / "model"), tmp_path / "model.gguf", GgufType.F16)


def test_a_full_disk_is_noticed_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr("qwenops.models.folders.shutil.disk_usage", lambda _path: usage)
    with pytest.raises(InsufficientDiskError):
        written(open_merged(tiny_checkpoint), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["no tokenizer", "other tokenizer", "too many tokens"])
def test_a_model_without_its_tokenizer_is_refused(tiny_checkpoint: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    told = json.loads((folder / "tokenizer.json").read_text())
    match damage:
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
        case "other tokenizer":
            del told["model"]["merges"]
            (folder / "tokenizer.json").write_text(json.dumps(told))
        case _:
            told["added_tokens"][0]["id"] = TINY.vocab_size
            (folder / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ModelLoadError):
        written(open_merged(folder), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"safetensors" * 10)
    with pytest.raises(ModelLoadError, match=r"model\.gguf"):
        facts_of(tmp_path / "model.gguf")


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenops.models.gguf.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingPartError) as caught:
        check_installed()
    assert "qwenops[optimize]" in caught.value.hint


def test_progress_ends_at_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    told: list[float] = []
    write_gguf(
        open_merged(tiny_checkpoint),
        tmp_path / "model.gguf",
        GgufType.Q8_0,
        name="told",
        report=lambda fraction, _doing: told.append(fraction),
    )
    assert told == sorted(told)
    assert told[-1] == 1.0


# -- Ollama ------------------------------------------------------------------------------------------------------------


def test_a_modelfile_for_a_classifier_answers_with_one_token(tmp_path: Path) -> None:
    path = write_ollama(tmp_path, tmp_path / "model.gguf", context_tokens=1025, num_labels=20)
    lines = path.read_text().splitlines()
    assert path.name == "Modelfile"
    assert lines[0] == "FROM ./model.gguf"
    assert "PARAMETER num_ctx 1025" in lines
    assert {"PARAMETER temperature 0", "PARAMETER num_predict 1"} <= set(lines)
    assert "num_predict" not in modelfile("model.gguf", context_tokens=4096)


def test_ollamas_template_makes_the_prompt_that_the_model_was_taught(tiny_checkpoint: Path) -> None:
    """Go's templates are not at hand, so the one loop of it is unrolled by text."""
    from qwenops.generation import Message, Messages

    spoken = [("system", "Be brief."), ("user", "您好"), ("assistant", "Hello."), ("user", "Why?")]
    before, _, rest = OLLAMA_TEMPLATE.partition("{{ range .Messages }}")
    body, _, after = rest.partition("{{ end }}")
    assert before == ""
    text = "".join(body.replace("{{ .Role }}", role).replace("{{ .Content }}", said) for role, said in spoken) + after
    tokenizer = open_tokenizer(tiny_checkpoint)
    messages = tuple(Message(role=role, content=said) for role, said in spoken)  # type: ignore[arg-type] # one of its roles
    wanted = tokenizer.render(Messages(messages=messages, enable_thinking=False)).ids
    assert tuple(tokenizer.encode(text, control=True)) == tuple(wanted)
