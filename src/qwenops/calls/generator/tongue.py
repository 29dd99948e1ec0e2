"""How one call is worded: lines of its author's packs, never the same twice while others are left, slots filled.

Personal data is worded here: whole, with digits or as words, as the speech recognition of the call writes numbers and
as this customer reads them out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.facts import Facts
from qwenops.calls.generator.line import Line, expand
from qwenops.calls.generator.numbers import Habit, spoken
from qwenops.calls.generator.pack import PERSONAL_SLOTS, Exchange, Pack
from qwenops.calls.generator.people import Address, Person
from qwenops.calls.generator.words import Mark, Piece, Surface, Words

_Line = TypeVar("_Line", Line, Exchange)
KINDS = {
    "phone": "PHONE",
    "landline": "LANDLINE",
    "id_card": "ID_CARD",
    "bank_card": "BANK_CARD",
    "plate": "PLATE",
    "account": "ACCOUNT",
    "order": "ORDER",
    "name": "NAME",
    "surname": "SURNAME",
    "address": "ADDRESS",
    "email": "EMAIL",
}
"""Kinds of personal data by slot."""
_GROUPS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "phone": ((3, 4, 4), (3, 4, 4), (3, 3, 5), (4, 4, 3)),
    "landline": ((3, 4, 4), (4, 4, 4), (4, 3, 4)),
    "id_card": ((6, 8, 4), (3, 3, 4, 4, 4), (6, 4, 4, 4)),
    "bank_card": ((4, 4, 4, 4, 4), (4, 4, 4, 7)),
    "account": ((4, 4, 4), (6, 6)),
    "order": ((4, 4, 4, 4), (4, 2, 4, 4)),
    "plate": ((2, 6),),
}
"""Into how many digits each long number falls when it is read out; what is left over belongs to the last part."""
_EN_PHONES: Mapping[int, tuple[tuple[int, ...], ...]] = {10: ((3, 3, 4),), 11: ((5, 3, 3), (5, 6))}
"""How telephone numbers of ten (North America) and eleven digits (Britain) fall into parts in English."""
LONG = frozenset(_GROUPS)
_READ_BY_DIGITS = 100
_EN_SEPARATORS = ("", " ", " ", "-")
_ZH_SEPARATORS = ("", "", "", " ", "，")
_ZH_AT, _ZH_DOT = ("艾特", "圈a", "at"), "点"


@dataclass(slots=True, kw_only=True)
class Tongue:
    """The words of one call."""

    packs: Mapping[str, Pack]
    """Of its author, by language."""
    phrases: Mapping[str, Mapping[str, tuple[Line, ...]]]
    facts: Mapping[str, Facts]
    person: Person
    habit: Habit
    written: bool
    """Whether long numbers are written with digits."""
    dice: Dice
    used: list[str] = field(default_factory=list)
    """Lines that were said, by source, in order."""

    def speak(self, line: Line, lang: str, extra: Mapping[str, Words] | None = None) -> Words:
        """Return a line with its choices made and its slots filled; `extra` has those of the generator's own lines."""
        self.used.append(line.source)

        def fill(slot: str) -> Piece | Words:
            if extra and slot in extra:
                return extra[slot]
            if slot in PERSONAL_SLOTS:
                return self.personal(slot, lang)
            return Piece(self.facts[lang].fill(slot))

        return expand(line, self.dice, fill)

    def fresh(self, lines: Sequence[_Line], without: tuple[str, ...] = ()) -> _Line | None:
        """Return a line that was not said yet, if there is one; None if there is none without certain words."""
        fitting = [each for each in lines if not each.has(without)] if without else list(lines)
        if not fitting:
            return None
        said = set(self.used)
        unsaid = [each for each in fitting if source_of(each) not in said]
        return self.dice.one_of(unsaid or fitting)

    def phrase(self, purpose: str, lang: str, extra: Mapping[str, Words] | None = None) -> Words:
        """Return a sentence of the generator's own."""
        return self.speak(self.dice.one_of(self.phrases[lang][purpose]), lang, extra)

    def framed(self, part: str, lang: str, extra: Mapping[str, Words] | None = None) -> Words:
        """Return a line of the frame."""
        line = self.fresh(self.packs[lang].frame[part])
        return self.speak(line, lang, extra) if line else ()

    def personal(self, slot: str, lang: str) -> Piece:
        """Return a piece of personal data, whole."""
        kind = KINDS[slot]
        if slot in LONG:
            value = self.person.numbers[slot]
            surface = Surface.DIGITS if self.written else Surface.SPOKEN
            return Piece(self.numeral(slot, value, lang), Mark(kind=kind, value=value, surface=surface))
        text, value = self._named(slot, lang)
        return Piece(text, Mark(kind=kind, value=value, surface=Surface.WORDS))

    def numeral(self, slot: str, value: str, lang: str) -> str:
        """Return a long number in one go."""
        if slot == "plate" and not self.written:
            return spoken(value, lang, self.habit)
        separator = self.dice.one_of(_EN_SEPARATORS if lang == "en" else _ZH_SEPARATORS)
        if lang == "en" and not self.written:
            separator = " "
        if slot in {"plate", "account", "order"} and self.written:
            separator = ""
        return separator.join(self.chunk(part, lang) for part in self.parts(slot, value))

    def parts(self, slot: str, value: str) -> list[str]:
        """Return a long number in the parts in which it is read out."""
        left = value
        found: list[str] = []
        groups = _EN_PHONES[len(value)] if slot == "phone" and self.person.lang == "en" else _GROUPS[slot]
        for length in self.dice.one_of(groups):
            found.append(left[:length])
            left = left[length:]
        found[-1] += left
        return [each for each in found if each]

    def chunk(self, part: str, lang: str) -> str:
        """Return a part of a long number, as digits or in words."""
        return part if self.written else spoken(part, lang, self.habit)

    def _named(self, slot: str, lang: str) -> tuple[str, str]:
        match slot:
            case "surname":
                return self.person.surname, self.person.surname
            case "address":
                return self._address(self.person.address, lang), self.person.address.written
            case "email":
                return self._email(lang), self.person.email
            case _:
                return self.person.name, self.person.name

    def _address(self, address: Address, lang: str) -> str:
        return "".join(each if isinstance(each, str) else self._house(each, lang) for each in address.parts)

    def _house(self, number: int, lang: str) -> str:
        """Return the number of a house or a room, which nobody reads out as an amount: 二零四, two oh four."""
        if self.written or number < _READ_BY_DIGITS:
            return self.facts[lang].number(number)
        return spoken(str(number), lang, self.habit)

    def _email(self, lang: str) -> str:
        local, _at, domain = self.person.email.partition("@")
        if self.written:
            return self.person.email
        host, _dot, top = domain.partition(".")
        if lang == "en":
            name = " ".join(spoken(each, "en", self.habit) if each.isdigit() else each for each in _runs(local))
            return f"{name} at {host} dot {top}".replace(" . ", " dot ")
        name = "".join(spoken(each, "zh", self.habit) if each.isdigit() else each for each in _runs(local))
        return f"{name}{self.dice.one_of(_ZH_AT)}{host}{_ZH_DOT}{top}"


def source_of(line: Line | Exchange) -> str:
    """Return where a line, or the first of two, was written."""
    return line.source if isinstance(line, Line) else line.first.source


def _runs(text: str) -> list[str]:
    """Return a text in runs of letters, single digits and single other characters."""
    runs: list[str] = []
    for char in text:
        if runs and char.isalpha() and runs[-1].isalpha():
            runs[-1] += char
        else:
            runs.append(char)
    return runs
