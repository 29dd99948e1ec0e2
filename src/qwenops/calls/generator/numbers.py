"""Numbers as people say them: amounts as words, long numbers digit by digit, in Chinese and in English."""

from dataclasses import dataclass
from itertools import groupby

from qwenops.calls.generator.dice import Dice

_ZH_DIGITS = "零一二三四五六七八九"
_ZH_UNITS = ((1000, "千"), (100, "百"), (10, "十"), (1, ""))
_ZH_RADIO = {"0": "洞", "1": "幺", "2": "两", "7": "拐", "9": "勾"}
_EN_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_EN_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_EN_TIMES = {2: "double", 3: "triple"}
_SHORTEST_ZH_RUN = 3
_HUNDRED, _THOUSAND, _TWENTY, _TEN = 100, 1000, 20, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """How one person reads long numbers out."""

    yao: bool
    """Says 幺 for a one."""
    radio: bool
    """Says 洞幺两三四五六拐八勾, as soldiers and taxi drivers do."""
    oh: bool
    """Says oh for a zero."""
    runs: bool
    """Says 三个八, or double five."""


def draw_habit(dice: Dice) -> Habit:
    """Draw how somebody reads numbers out."""
    return Habit(yao=dice.happens(0.8), radio=dice.happens(0.04), oh=dice.happens(0.5), runs=dice.happens(0.35))


def zh_number(number: int) -> str:
    """Return a whole number below 10,000 as one says it: 一百零五, 十二, 两百."""
    if number == 0:
        return _ZH_DIGITS[0]
    text, gap, left = "", False, number
    for unit, name in _ZH_UNITS:
        digit, left = divmod(left, unit)
        if digit:
            text += ("零" if gap else "") + _ZH_DIGITS[digit] + name
        gap = bool(text) and not digit and unit > 1
    if text.startswith("一十"):
        text = text[1:]
    return f"两{text[1:]}" if text.startswith(("二百", "二千")) else text


def en_number(number: int) -> str:
    """Return a whole number below 10,000 as one says it: a hundred and five is `one hundred and five`."""
    if number < _TWENTY:
        return _EN_SMALL[number]
    if number < _HUNDRED:
        tens, ones = divmod(number, _TEN)
        return _EN_TENS[tens] + (f" {_EN_SMALL[ones]}" if ones else "")
    unit, name = (_HUNDRED, "hundred") if number < _THOUSAND else (_THOUSAND, "thousand")
    high, low = divmod(number, unit)
    between = " and " if low < _HUNDRED else " "
    return f"{en_number(high)} {name}" + (between + en_number(low) if low else "")


def spoken(value: str, lang: str, habit: Habit) -> str:
    """Return a long number, or letters and digits, as somebody reads them out; letters stay what they are."""
    return _spoken_en(value, habit) if lang == "en" else _spoken_zh(value, habit)


def _spoken_zh(value: str, habit: Habit) -> str:
    text = ""
    for each, run in groupby(value):
        length = len(list(run))
        said = _zh_digit(each, habit)
        if habit.runs and length >= _SHORTEST_ZH_RUN and each.isdigit():
            text += f"{zh_number(length)}个{said}"
        else:
            text += said * length
    return text


def _zh_digit(each: str, habit: Habit) -> str:
    if habit.radio and each in _ZH_RADIO:
        return _ZH_RADIO[each]
    if each == "1" and habit.yao:
        return "幺"
    return _ZH_DIGITS[int(each)] if each.isdigit() else each


def _spoken_en(value: str, habit: Habit) -> str:
    words: list[str] = []
    for each, run in groupby(value.lower()):
        length = len(list(run))
        said = ("oh" if habit.oh else "zero") if each == "0" else _EN_SMALL[int(each)] if each.isdigit() else each
        if habit.runs and length in _EN_TIMES and each.isdigit():
            words.append(f"{_EN_TIMES[length]} {said}")
        else:
            words.extend([said] * length)
    return " ".join(words)
