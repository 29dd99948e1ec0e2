from pathlib import Path

import pytest

from qwenops.classify.codes import LABEL_CODES, assign, code_of
from qwenops.errors import InvalidDataError, UnsupportedModelError
from qwenops.models.tokenizer import Tokenizer, open_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return open_tokenizer(tiny_checkpoint)


def leaves(count: int) -> list[str]:
    return [f"class.{number}" for number in range(count)]


def test_there_are_256_different_codes_and_the_first_are_the_letters() -> None:
    assert len(LABEL_CODES) == len(set(LABEL_CODES)) == 256
    assert "".join(LABEL_CODES[:26]) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_every_code_is_one_token_of_the_true_vocabulary_and_no_two_are_the_same(tokenizer: Tokenizer) -> None:
    found = assign(leaves(256), tokenizer)
    assert len(set(found.values())) == 256
    assert [tokenizer.token_bytes(token).decode() for token in found.values()] == list(LABEL_CODES)


def test_codes_follow_the_order_of_the_leaves_and_more_leaves_change_none(tokenizer: Tokenizer) -> None:
    few, many = assign(leaves(3), tokenizer), assign(leaves(40), tokenizer)
    assert list(few) == leaves(3)
    assert few == {leaf: many[leaf] for leaf in few}


@pytest.mark.parametrize("wrong", [leaves(257), leaves(1), [], ["a", "b", "a"]])
def test_too_many_too_few_or_equal_classes_are_refused(wrong: list[str]) -> None:
    with pytest.raises(InvalidDataError, match="cannot be told apart"):
        code_of(wrong)


def test_a_vocabulary_without_a_code_is_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenops.classify.codes.LABEL_CODES", ("A", "不是一个词"))
    with pytest.raises(UnsupportedModelError, match="不是一个词 of the class b"):
        assign(["a", "b"], tokenizer)
