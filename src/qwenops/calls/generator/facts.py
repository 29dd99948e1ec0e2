"""What fills the slots that are no personal data: amounts, dates, tariffs, places; mostly the same all through a call.

A number is spoken (十五块) or written (15块), as the speech recognition of the call writes numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.numbers import en_number, zh_number

_AMOUNTS = (3, 5, 6, 8, 9, 10, 12, 15, 18, 19, 20, 22, 25, 28, 29, 30, 35, 38, 40, 45, 49, 50, 58, 60, 68, 80, 88, 99)
_LARGE_AMOUNTS = (120, 136, 150, 168, 180, 199, 200, 236, 260, 280, 300, 320, 360, 400, 480, 500, 560, 600, 800, 1200)
_GIGABYTES = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40, 50, 60, 100)
_MEGABITS = (50, 100, 200, 300, 500, 1000)
_HOURS = (24, 48, 72)
_EN_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_EN_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_EN_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_EN_GIGABYTES = ("gigs", "gigs", "gigabytes")
_ZH_PARTS = (("早上", 6, 9), ("上午", 9, 11), ("中午", 11, 12), ("下午", 1, 5), ("晚上", 6, 11))
_EN_PARTS = (("in the morning", 7, 11), ("in the afternoon", 1, 5), ("in the evening", 6, 10))
_LISTS = {"plan": "plans", "vas": "vas", "place": "places", "store": "stores", "app": "apps"}
"""Slots that a list of names fills."""
_STAYS = 0.7
"""How often a slot that comes up again is filled with the same."""
SLOTS = frozenset(
    {"amount", "month", "months", "days", "times", "date", "time", "year", "data", "speed", "hours", *_LISTS}
)


@dataclass(slots=True, kw_only=True)
class Facts:
    """The facts of one call in one language."""

    lang: str
    names: Mapping[str, Sequence[str]]
    written: bool
    """Whether numbers are written with digits."""
    dice: Dice
    _kept: dict[str, str] = field(default_factory=dict)

    def fill(self, slot: str) -> str:
        """Return what stands in a slot."""
        if slot in self._kept and self.dice.happens(_STAYS):
            return self._kept[slot]
        filled = self.dice.one_of(self.names[_LISTS[slot]]) if slot in _LISTS else self._made(slot)
        self._kept.setdefault(slot, filled)
        return filled

    def _made(self, slot: str) -> str:
        return (_EN_MAKERS if self.lang == "en" else _ZH_MAKERS)[slot](self)

    def number(self, number: int) -> str:
        """Return a number as this call writes it."""
        if self.written:
            return str(number)
        return en_number(number) if self.lang == "en" else zh_number(number)


def _counted(facts: Facts, low: int, high: int, zh: str, en: str) -> str:
    number = facts.dice.between(low, high)
    if facts.lang == "en":
        return f"{facts.number(number)} {en}" + ("s" if number > 1 else "")
    return ("两" if number == 2 and not facts.written else facts.number(number)) + zh  # noqa: PLR2004 -- a pair is 两


def _amount(facts: Facts) -> int:
    return facts.dice.one_of(_AMOUNTS if facts.dice.happens(0.75) else _LARGE_AMOUNTS)


def _zh_date(facts: Facts) -> str:
    day, month = facts.number(facts.dice.between(1, 28)), facts.number(facts.dice.between(1, 12))
    week = facts.dice.one_of("一二三四五六日")
    said = (f"上个月{day}号", f"{month}月{day}号", f"这个月{day}号", f"上周{week}", "前天", "大前天", "昨天")
    return facts.dice.one_of(said)


def _zh_time(facts: Facts) -> str:
    part, low, high = facts.dice.one_of(_ZH_PARTS)
    hour = facts.dice.between(low, high)
    said = "两" if hour == 2 and not facts.written else facts.number(hour)  # noqa: PLR2004 -- two o'clock is 两点
    return f"{part}{said}点{facts.dice.one_of(('', '', '半', '多'))}"


def _zh_year(facts: Facts) -> str:
    return facts.dice.one_of(("去年", "前年", "今年年初", "2023年" if facts.written else "二零二三年"))


def _en_date(facts: Facts) -> str:
    ordinal = facts.dice.one_of(_EN_ORDINALS)
    day = facts.dice.one_of(_EN_DAYS)
    month = facts.dice.one_of(_EN_MONTHS)
    # Each of them may follow "on" or "since", and may stand alone.
    return facts.dice.one_of((f"the {ordinal}", f"{month} {ordinal}", day, f"{day} the {ordinal}"))


def _en_time(facts: Facts) -> str:
    part, low, high = facts.dice.one_of(_EN_PARTS)
    hour = facts.dice.between(low, high)
    return facts.dice.one_of((f"{facts.number(hour)} {part}", f"half {facts.number(hour)} {part}"))


_ZH_MAKERS: Mapping[str, Callable[[Facts], str]] = {
    "amount": lambda facts: facts.number(_amount(facts)) + facts.dice.one_of(("块", "块", "块钱", "元")),
    "month": lambda facts: f"{facts.number(facts.dice.between(1, 12))}月{facts.dice.one_of(('份', '份', ''))}",
    "months": lambda facts: _counted(facts, 2, 8, "个月", ""),
    "days": lambda facts: _counted(facts, 2, 15, "天", ""),
    "times": lambda facts: _counted(facts, 2, 9, facts.dice.one_of(("次", "次", "回")), ""),
    "date": _zh_date,
    "time": _zh_time,
    "year": _zh_year,
    "data": lambda facts: facts.number(facts.dice.one_of(_GIGABYTES)) + facts.dice.one_of(("个G", "个G", "G")),
    "speed": lambda facts: facts.number(facts.dice.one_of(_MEGABITS)) + facts.dice.one_of(("兆", "兆", "M")),
    "hours": lambda facts: facts.number(facts.dice.one_of(_HOURS)) + facts.dice.one_of(("小时", "小时", "个小时")),
}

_EN_MAKERS: Mapping[str, Callable[[Facts], str]] = {
    "amount": lambda facts: f"{facts.number(_amount(facts))} {facts.dice.one_of(('dollars', 'dollars', 'bucks'))}",
    "month": lambda facts: facts.dice.one_of(_EN_MONTHS),
    "months": lambda facts: _counted(facts, 2, 8, "", "month"),
    "days": lambda facts: _counted(facts, 2, 12, "", "day"),
    "times": lambda facts: _counted(facts, 2, 9, "", "time"),
    "date": _en_date,
    "time": _en_time,
    "year": lambda facts: facts.dice.one_of(("last year", "the year before last", "at the start of the year")),
    "data": lambda facts: f"{facts.number(facts.dice.one_of(_GIGABYTES))} {facts.dice.one_of(_EN_GIGABYTES)}",
    "speed": lambda facts: f"{facts.number(facts.dice.one_of(_MEGABITS))} {facts.dice.one_of(('meg', 'megabits'))}",
    "hours": lambda facts: f"{facts.number(facts.dice.one_of(_HOURS))} hours",
}
