"""Recognition errs as much as it was told to, and never loses where personal data is."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.generator.channel import (
    Conditions,
    Heard,
    Punctuation,
    draw_conditions,
    hear,
    hear_again,
)
from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.lexicon import Lexicon, load_lexicon
from qwenops.calls.generator.words import Mark, Piece, Surface, Utterance
from qwenops.calls.schema import Role

CLEAN = Conditions(
    noise=0.0,
    punctuation=Punctuation.FULL,
    apostrophes=True,
    told_apart=True,
    swapped=0.0,
    chopped=0.0,
    merged=0.0,
)
ZH = "我每个月的套餐资费都不一样，流量也用得很快，你们帮我查一下账单是怎么回事，我这个宽带也是断断续续的"
EN = "I was charged twice on my bill this month, and the engineer never showed up for the broadband installation"


@cache
def lexicon() -> Lexicon:
    return load_lexicon()


def utterance(*pieces: Piece | str, lang: str = "zh") -> Utterance:
    words = tuple(Piece(each) if isinstance(each, str) else each for each in pieces)
    return Utterance(role=Role.CUSTOMER, words=words, lang=lang, act="state")


def heard(said: Sequence[Utterance], conditions: Conditions, seed: int = 0) -> list[Heard]:
    return list(hear(said, conditions, lexicon().confusions, Dice(seed)))


def text_of(each: Heard) -> str:
    return "".join(atom.text for atom in each.atoms)


def marked(each: Heard) -> list[tuple[str, Mark]]:
    found: list[tuple[str, Mark]] = []
    for atom in each.atoms:
        if atom.mark is None:
            continue
        if found and found[-1][1] is atom.mark:
            found[-1] = (found[-1][0] + atom.text, atom.mark)
        else:
            found.append((atom.text, atom.mark))
    return found


@pytest.mark.parametrize(
    ("said", "lang", "punctuation", "written"),
    [
        ("套餐不对,帮我查查", "zh", Punctuation.FULL, "套餐不对，帮我查查。"),
        ("套餐不对吗", "zh", Punctuation.FULL, "套餐不对吗？"),
        ("套餐不对,帮我查查", "zh", Punctuation.SPACES, "套餐不对 帮我查查"),
        ("套餐不对,帮我查查。", "zh", Punctuation.BARE, "套餐不对帮我查查"),
        ("买了20个G,5.5块", "zh", Punctuation.BARE, "买了20个G5.5块"),
        ("Well, I don't know", "en", Punctuation.FULL, "Well, I don't know."),
        ("What is it", "en", Punctuation.FULL, "What is it?"),
        ("Well, I don't know. Sorry", "en", Punctuation.BARE, "well i don't know sorry"),
        ("It\u2019s gone", "en", Punctuation.FULL, "It's gone."),
    ],
)
def test_without_noise_every_word_is_as_it_was_said(
    said: str, lang: str, punctuation: Punctuation, written: str
) -> None:
    (each,) = heard([utterance(said, lang=lang)], replace(CLEAN, punctuation=punctuation))
    assert text_of(each).strip() == written
    assert each.errors == 0


@pytest.mark.parametrize(("text", "lang", "units"), [(ZH, "zh", 46), (EN, "en", 19)])
def test_what_was_said_is_counted(text: str, lang: str, units: int) -> None:
    (each,) = heard([utterance(text, lang=lang)], CLEAN)
    assert each.units == units


@pytest.mark.parametrize(("text", "lang"), [(ZH, "zh"), (EN, "en")])
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_the_error_rate_is_about_what_was_asked_for(text: str, lang: str, noise: float) -> None:
    said = [utterance(text, lang=lang)] * 400
    several = heard(said, replace(CLEAN, noise=noise))
    rate = sum(each.errors for each in several) / sum(each.units for each in several)
    assert rate == pytest.approx(noise, rel=0.4)


def test_calls_differ_in_noise_around_the_mean() -> None:
    drawn = [draw_conditions(Dice(1, number), 0.08, 0.02, 0.04).noise for number in range(3000)]
    assert fmean(drawn) == pytest.approx(0.08, rel=0.1)
    assert max(drawn) <= 0.3
    assert min(drawn) < 0.03
    assert draw_conditions(Dice(1), 0.0, 0.02, 0.04).noise == 0.0


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("punctuation", list(Punctuation))
@given(seed=st.integers(0, 10_000))
def test_personal_data_keeps_its_place_in_any_noise(lang: str, punctuation: Punctuation, seed: int) -> None:
    number = Mark(kind="PHONE", value="15412345678", surface=Surface.DIGITS)
    name = Mark(kind="NAME", value="王伟", surface=Surface.WORDS)
    between = "，那个我的名字是" if lang == "zh" else ", and my name is "
    pieces = (Piece("154 1234 5678", number), Piece(between), Piece("王伟" if lang == "zh" else "John Smith", name))
    conditions = replace(CLEAN, noise=0.3, punctuation=punctuation)
    (each,) = heard([utterance("我的号码是" if lang == "zh" else "It is ", *pieces, lang=lang)], conditions, seed)
    found = marked(each)
    assert [mark for _text, mark in found] == [number, name]
    digits = "".join(char for char in found[0][0] if char.isdigit())
    assert 8 <= len(digits) <= 11
    assert not any(char.isdigit() for text, _mark in found[1:] for char in text)


def test_numbers_are_mostly_heard_right() -> None:
    mark = Mark(kind="PHONE", value="15412345678", surface=Surface.DIGITS)
    said = [utterance("号码", Piece("15412345678", mark))] * 1000
    right = [marked(each)[0][0] == "15412345678" for each in heard(said, replace(CLEAN, noise=0.1))]
    assert 0.85 < fmean(right) < 0.99


def test_homophones_take_the_place_of_words() -> None:
    several = heard([utterance("套餐")] * 500, replace(CLEAN, noise=0.3, punctuation=Punctuation.BARE))
    texts = {text_of(each) for each in several}
    assert texts & {"套参", "讨餐", "套残"}
    assert "套餐" in texts


def test_roles_are_swapped_or_unknown_as_often_as_was_asked() -> None:
    said = [utterance("你好")] * 2000
    swapped = [each.role is Role.AGENT for each in heard(said, replace(CLEAN, swapped=0.1))]
    assert fmean(swapped) == pytest.approx(0.1, abs=0.03)
    assert {each.role for each in heard(said, replace(CLEAN, told_apart=False))} == {Role.UNKNOWN}


def test_a_second_pass_differs_a_little() -> None:
    first = heard([utterance(ZH)] * 50, CLEAN)
    again = list(hear_again(first, lexicon().confusions, Dice(1), 0.01))
    differing = sum(text_of(one) != text_of(other) for one, other in zip(first, again, strict=True))
    assert 3 < differing < 40
    assert [text_of(each) for each in hear_again(first, lexicon().confusions, Dice(1), 0.0)] == [
        text_of(each) for each in first
    ]


def test_a_word_of_latin_letters_is_not_cut() -> None:
    confusions = lexicon().confusions["zh"]
    assert confusions.word_at("VIP", 0) == "VIP"
    assert confusions.word_at("VIP", 1) == ""
    assert confusions.word_at("20个G", 2) == "个G"
    assert confusions.word_at("服务态度差", 0) == "服务态度"
