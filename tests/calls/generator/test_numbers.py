"""Numbers are said as people say them."""

import pytest

from qwenops.calls.generator.numbers import Habit, en_number, spoken, zh_number

PLAIN = Habit(yao=False, radio=False, oh=False, runs=False)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "零"),
        (2, "二"),
        (10, "十"),
        (12, "十二"),
        (20, "二十"),
        (28, "二十八"),
        (100, "一百"),
        (105, "一百零五"),
        (110, "一百一十"),
        (128, "一百二十八"),
        (200, "两百"),
        (360, "三百六十"),
        (1000, "一千"),
        (1005, "一千零五"),
        (1050, "一千零五十"),
        (2200, "两千二百"),
        (9999, "九千九百九十九"),
    ],
)
def test_chinese_numbers(number: int, said: str) -> None:
    assert zh_number(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (20, "twenty"),
        (45, "forty five"),
        (100, "one hundred"),
        (105, "one hundred and five"),
        (1200, "one thousand two hundred"),
        (1005, "one thousand and five"),
    ],
)
def test_english_numbers(number: int, said: str) -> None:
    assert en_number(number) == said


@pytest.mark.parametrize(
    ("value", "lang", "habit", "said"),
    [
        ("1540", "zh", PLAIN, "一五四零"),
        ("1540", "zh", Habit(yao=True, radio=False, oh=False, runs=False), "幺五四零"),
        ("10792", "zh", Habit(yao=True, radio=True, oh=False, runs=False), "幺洞拐勾两"),
        ("18880", "zh", Habit(yao=True, radio=False, oh=False, runs=True), "幺三个八零"),
        ("1188", "zh", Habit(yao=True, radio=False, oh=False, runs=True), "幺幺八八"),
        ("305X", "zh", PLAIN, "三零五X"),
        ("077", "en", PLAIN, "zero seven seven"),
        ("0077", "en", Habit(yao=False, radio=False, oh=True, runs=True), "double oh double seven"),
        ("555", "en", Habit(yao=False, radio=False, oh=True, runs=True), "triple five"),
        ("BB7", "en", PLAIN, "b b seven"),
    ],
)
def test_long_numbers_are_read_out(value: str, lang: str, habit: Habit, said: str) -> None:
    assert spoken(value, lang, habit) == said
