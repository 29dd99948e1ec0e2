"""Texts: an English sentence that remembers how it was made, and the language in which it is said."""

import pytest

from qwenops.text import choose_language, clause, say, translator


@pytest.mark.parametrize(
    ("asked", "environ", "language"),
    [
        ("", {}, "en"),
        ("", {"LANG": "zh_CN.UTF-8"}, "zh"),
        ("", {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ("", {"LC_ALL": "C", "QWENOPS_LANG": "zh"}, "zh"),
        ("", {"LC_MESSAGES": "zh_TW", "LANG": "en_US.UTF-8"}, "zh"),
        ("en", {"QWENOPS_LANG": "zh"}, "en"),
        ("zh", {"LANG": "de_DE"}, "zh"),
    ],
)
def test_the_flag_goes_before_the_variable_and_that_before_the_locale(
    asked: str, environ: dict[str, str], language: str
) -> None:
    assert choose_language(asked, environ) == language


def test_a_text_is_its_english_sentence_and_can_be_said_again_in_another_language() -> None:
    inner = say("the store")
    text = say("No {name} in {place}.", name="x", place=inner)
    words = {"No {name} in {place}.": "{place}里没有 {name}。", "the store": "模型库"}
    assert text == "No x in the store."
    assert text.translated(words.__getitem__) == "模型库里没有 x。"


def test_a_sentence_within_another_loses_its_stop_in_every_language() -> None:
    inner = say("{name} is gone.", name="It")
    text = say("Not now: {why}.", why=clause(inner))
    assert text == "Not now: It is gone."
    words = {"Not now: {why}.": "现在不行：{why}。", "{name} is gone.": "{name} 没了。"}
    assert text.translated(words.__getitem__) == "现在不行：It 没了。"
    assert inner == "It is gone."
    assert say("Not now: {why}.", why=clause("it hangs")) == "Not now: it hangs."
    assert clause("It hangs.") == "It hangs"


def test_an_unknown_sentence_stays_english() -> None:
    assert translator("zh")("A sentence that nobody wrote.") == "A sentence that nobody wrote."
    assert translator("zh")("") == ""
