"""The rebuilt tokenizer is the true one, and says what is missing when it cannot be rebuilt."""

import base64
import json
from pathlib import Path

import pytest

from qwenops.errors import MissingPartError, ModelLoadError
from qwenops.models import qwen_vocabulary
from qwenops.models.qwen_vocabulary import byte_alphabet, find_vocabulary, merges_of, read_ranks, write_tokenizer


def test_the_added_tokens_have_the_ids_of_qwen3(tokenizer_folder: Path) -> None:
    added = json.loads((tokenizer_folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    assert len(ids) == 26
    assert ids["<|endoftext|>"] == 151643
    assert ids["<|im_start|>"] == 151644
    assert ids["<|im_end|>"] == 151645
    assert ids["<tool_call>"] == 151657
    assert ids["<think>"] == 151667
    assert ids["</think>"] == 151668


def test_every_string_of_more_than_one_byte_is_one_merge_of_two_parts_that_come_before_it(
    tokenizer_folder: Path,
) -> None:
    model = json.loads((tokenizer_folder / "tokenizer.json").read_text("utf-8"))["model"]
    vocabulary = model["vocab"]
    assert len(vocabulary) == 151_643
    assert len(model["merges"]) == 151_643 - 256
    for number, merge in enumerate(model["merges"]):
        left, right = merge.split(" ")
        merged = vocabulary[left + right]
        assert merged == number + 256
        assert max(vocabulary[left], vocabulary[right]) < merged


def test_a_string_that_can_be_cut_in_two_ways_is_cut_as_bpe_would() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"bc": 4, b"abc": 5}
    assert list(merges_of(ranks)) == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c")]


def test_a_vocabulary_that_bpe_cannot_have_made_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="not the merge of two others"):
        list(merges_of({b"a": 0, b"b": 1, b"c": 2, b"abc": 3}))


def test_the_byte_alphabet_has_one_printable_character_for_each_byte() -> None:
    alphabet = byte_alphabet()
    assert len(set(alphabet)) == 256
    assert all(character.isprintable() and not character.isspace() for character in alphabet)
    assert (alphabet[ord("a")], alphabet[ord(" ")], alphabet[ord("\n")]) == ("a", "Ġ", "Ċ")


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.tiktoken"
    path.write_bytes(base64.b64encode(b"a") + b" 0\n")
    with pytest.raises(ModelLoadError, match="has 1 ranks"):
        read_ranks(path)


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.tiktoken"
    path.write_text("?? what\n")
    with pytest.raises(ModelLoadError, match="not a tiktoken vocabulary"):
        read_ranks(path)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(qwen_vocabulary, "find_spec", lambda _name: None)
    with pytest.raises(MissingPartError) as caught:
        write_tokenizer(tmp_path)
    assert "pip install 'qwenops[demo]'" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_is_found_without_importing_the_package() -> None:
    import sys

    before = set(sys.modules)
    assert find_vocabulary().name == "qwen.tiktoken"
    assert "dashscope" not in set(sys.modules) - before
