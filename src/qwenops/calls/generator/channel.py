"""What speech recognition makes of what was said, character by character, so that nothing loses its place.

Utterances go in, atoms come out: pieces of recognised text, each with the mark of what it was made from. Text is
replaced, dropped and put in, marks are not; where personal data stands afterwards is read off the atoms, exactly.

Errors are those of the language: words that sound alike, near sounds, lost function words, fillers, numbers misheard,
ends of utterances cut off by the other speaker. A noise of 0 changes no word.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.lexicon import Confusions
from qwenops.calls.generator.words import Mark, Piece, Surface, Utterance
from qwenops.calls.schema import Role

MOST_NOISE = 0.3
_SPREAD = 0.6
"""Of the logarithm of the noise of calls."""
_WORD, _CHAR, _DROP, _INSERT, _CUT = 1.6, 0.55, 0.9, 0.1, 0.5
"""How many times the noise each error is: a word, a character, a lost function word, a filler, a lost end."""
_ZH_INSERT = 0.8
"""The same for a filler in Chinese, which comes where one pauses, never within a word."""
_EN_WORD, _EN_ENDING, _EN_DROP = 1.1, 0.5, 1.2
_DIGIT, _NAME = 0.06, 0.5
"""The same within numbers and within names, which recognition treats with more care and with less."""
_DEEPEST_CUT = 5
_SHORTEST_TO_CUT = 10
_PAUSES = frozenset("，、；：,;:")
_STOPS = frozenset("。？！?!…")
_BREAKS = _PAUSES | _STOPS
_QUESTIONS = ("吗", "呢", "么", "怎么样", "多少")
_LONGEST_ANSWER = 3
"""In characters: 嗯呢 is no question."""
_EN_QUESTIONS = frozenset(
    {
        *{"what", "how", "when", "where", "why", "who", "which", "can", "could", "may", "would", "will", "shall"},
        *{"should", "do", "does", "did", "is", "are", "was", "were", "has", "have", "had"},
    }
)
_ZH_UNIT = re.compile(r"[A-Za-z]+|[0-9]+(?:\.[0-9]+)?|[\s\S]")
_ZH_MARKED_UNIT = re.compile(r"[A-Za-z0-9@._+\-]+|[\s\S]")
_EN_UNIT = re.compile(r"[A-Za-z0-9]+(?:[@._'+\-][A-Za-z0-9]+)*|\s+|[\s\S]")
_CURLED = "\u2019"
"""An apostrophe as word processors write it."""
_EN_ENDINGS = ("'s", "ing", "ed", "s")
_EN_HEARD = {"four": "for", "two": "to", "eight": "ate", "oh": "o", "one": "won"}


class Punctuation(StrEnum):
    """How the recognition of a call writes pauses."""

    FULL = "full"
    SPACES = "spaces"
    BARE = "bare"


class Atom(NamedTuple):
    """The smallest piece of recognised text."""

    text: str
    mark: Mark | None = None
    pause: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which conditions a call was recorded and recognised."""

    noise: float
    """Share of words (en) or characters (zh) that are wrong, on average."""
    punctuation: Punctuation
    apostrophes: bool
    told_apart: bool
    """Whether the recognition knows who speaks."""
    swapped: float
    """Share of utterances that it ascribes to the other speaker."""
    chopped: float
    """Share of pauses at which a turn ends."""
    merged: float
    """Share of utterances of one speaker that continue his turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One utterance as it was recognised."""

    role: Role
    atoms: tuple[Atom, ...]
    lang: str
    act: str
    main: bool
    wait_s: float
    errors: int
    """Words (en) or characters (zh) that are wrong, missing or too many."""
    units: int
    """Words or characters that were said."""


@dataclass(slots=True)
class _Ear:
    """What was heard of one utterance so far."""

    confusions: Confusions
    noise: float
    dice: Dice
    atoms: list[Atom] = field(default_factory=list)
    errors: int = 0
    units: int = 0

    def hear(self, text: str, mark: Mark | None, said: int, errors: int) -> None:
        """Write down what so many units were heard as."""
        self.units += said
        self.errors += errors
        if text:
            self.atoms.append(Atom(text, mark))

    def happens(self, times: float) -> bool:
        """Say whether an error happens that comes so many times as often as the noise says."""
        return self.dice.happens(min(0.9, self.noise * times))


def draw_conditions(dice: Dice, noise: float, swapped: float, unknown_roles: float) -> Conditions:
    """Draw how well a call was recognised: log-normal around a mean noise."""
    drawn = noise * math.exp(_SPREAD * dice.normal() - _SPREAD**2 / 2)
    return Conditions(
        noise=min(drawn, MOST_NOISE),
        punctuation=dice.by_weight({Punctuation.FULL: 5.0, Punctuation.SPACES: 2.0, Punctuation.BARE: 3.0}),
        apostrophes=dice.happens(0.7),
        told_apart=not dice.happens(unknown_roles),
        swapped=swapped if noise else 0.0,
        chopped=dice.one_of((0.0, 0.05, 0.15, 0.3)),
        merged=dice.one_of((0.2, 0.6, 0.95)),
    )


def hear(
    utterances: Sequence[Utterance], conditions: Conditions, confusions: Mapping[str, Confusions], dice: Dice
) -> Iterator[Heard]:
    """Yield what each utterance was recognised as; one of which nothing is left is left out."""
    for utterance in utterances:
        ear = _Ear(confusions[utterance.lang], conditions.noise, dice)
        for piece in utterance.words:
            if utterance.lang == "en":
                _hear_english(ear, piece)
            else:
                _hear_chinese(ear, piece)
        _cut_off(ear)
        atoms = _punctuated(ear.atoms, utterance, conditions)
        if not any(atom.text.strip() for atom in atoms):
            continue
        yield Heard(
            role=_ascribed(utterance.role, conditions, dice),
            atoms=tuple(atoms),
            lang=utterance.lang,
            act=utterance.act,
            main=utterance.main,
            wait_s=utterance.wait_s,
            errors=ear.errors,
            units=ear.units,
        )


def hear_again(
    heard: Sequence[Heard], confusions: Mapping[str, Confusions], dice: Dice, share: float
) -> Iterator[Heard]:
    """Yield a recognised call as a second pass writes it down: a few characters in a thousand differ."""
    for each in heard:
        chars, fillers = confusions[each.lang].chars, confusions[each.lang].fillers
        if each.lang == "zh":
            fillers = tuple(filler for filler in fillers if len(filler) == 1)
        atoms: list[Atom] = []
        for atom in each.atoms:
            if atom.mark is not None or not dice.happens(share):
                atoms.append(atom)
            elif atom.text in chars:
                atoms.append(atom._replace(text=dice.one_of(chars[atom.text])))
            elif not atom.pause:
                atoms.extend([atom, Atom(dice.one_of(fillers))])
        yield replace(each, atoms=tuple(_spaced(atoms) if each.lang == "en" else atoms))


def _hear_chinese(ear: _Ear, piece: Piece) -> None:
    text, mark, place = piece.text, piece.mark, 0
    unit_of = _ZH_UNIT if mark is None else _ZH_MARKED_UNIT
    if mark is None and not ear.atoms:
        _hesitate(ear)
    while place < len(text):
        word = ear.confusions.word_at(text, place) if mark is None else ""
        found = unit_of.match(text, place)
        unit = word or (found[0] if found else text[place])
        place += len(unit)
        if unit in _BREAKS:
            ear.atoms.append(Atom(unit, mark, pause=True))
            if mark is None:
                _hesitate(ear)
        elif mark is not None:
            _hear_personal(ear, unit, mark)
        else:
            _hear_chinese_unit(ear, unit, word)


def _hear_chinese_unit(ear: _Ear, unit: str, word: str) -> None:
    dice, length = ear.dice, len(unit)
    if word and ear.happens(_WORD):
        heard = dice.one_of(ear.confusions.words[word])
        wrong = sum(one != other for one, other in zip(word, heard, strict=False)) + abs(len(word) - len(heard))
        ear.hear(heard, None, length, wrong)
    elif unit in ear.confusions.droppable and ear.happens(_DROP):
        ear.hear("", None, length, length)
    elif unit in ear.confusions.chars and ear.happens(_CHAR):
        ear.hear(dice.one_of(ear.confusions.chars[unit]), None, length, 1)
    else:
        for char in unit if not unit.isascii() else (unit,):
            ear.hear(char, None, len(char), 0)


def _hesitate(ear: _Ear) -> None:
    """Hear a filler where nobody said one."""
    if ear.happens(_ZH_INSERT):
        for char in ear.dice.one_of(ear.confusions.fillers):
            ear.hear(char, None, 0, 1)


def _hear_personal(ear: _Ear, unit: str, mark: Mark) -> None:
    """Hear a part of personal data: digits are rarely wrong, names often."""
    dice, chars = ear.dice, ear.confusions.chars
    if mark.surface is Surface.WORDS:
        wrong = unit in chars and ear.happens(_NAME)
        ear.hear(dice.one_of(chars[unit]) if wrong else unit, mark, len(unit), int(wrong))
    elif unit.isascii():
        heard, errors = _hear_digits(ear, unit)
        ear.hear(heard, mark, len(unit), errors)
    else:
        wrong = unit in chars and ear.happens(_DIGIT)
        ear.hear(dice.one_of(chars[unit]) if wrong else unit, mark, len(unit), int(wrong))


def _hear_digits(ear: _Ear, text: str) -> tuple[str, int]:
    """Return a run of digits as it was heard, and how many of them are wrong."""
    heard, errors = "", 0
    for char in text:
        if not char.isdigit() or not ear.happens(_DIGIT):
            heard += char
            continue
        errors += 1
        heard += "" if ear.dice.happens(0.4) else str((int(char) + ear.dice.between(1, 9)) % 10)
    return heard, errors


def _hear_english(ear: _Ear, piece: Piece) -> None:
    units, mark, place = _EN_UNIT.findall(piece.text.replace(_CURLED, "'")), piece.mark, 0
    while place < len(units):
        unit = units[place]
        place += 1
        if unit.isspace():
            ear.atoms.append(Atom(" ", mark))
        elif unit in _BREAKS or unit == ".":
            ear.atoms.append(Atom(unit, mark, pause=True))
        elif mark is not None:
            _hear_english_personal(ear, unit, mark)
        else:
            pair = "".join(units[place - 1 : place + 2]).lower()
            if pair in ear.confusions.words and ear.happens(_EN_WORD):
                ear.hear(ear.dice.one_of(ear.confusions.words[pair]), None, 2, 2)
                place += 2
            else:
                _hear_english_word(ear, unit)


def _hear_english_word(ear: _Ear, unit: str) -> None:
    dice, word = ear.dice, unit.lower()
    if word in ear.confusions.words and ear.happens(_EN_WORD):
        heard = dice.one_of(ear.confusions.words[word])
        ear.hear(heard, None, 1, max(1, len(heard.split())))
    elif word in ear.confusions.droppable and ear.happens(_EN_DROP):
        ear.hear("", None, 1, 1)
    elif len(word) > _DEEPEST_CUT and word.endswith(_EN_ENDINGS) and ear.happens(_EN_ENDING):
        ending = next(each for each in _EN_ENDINGS if word.endswith(each))
        ear.hear(unit[: -len(ending)], None, 1, 1)
    else:
        ear.hear(unit, None, 1, 0)
    if ear.happens(_INSERT):
        filler = dice.one_of(ear.confusions.fillers)
        ear.atoms.append(Atom(" "))
        ear.hear(filler, None, 0, len(filler.split()))


def _hear_english_personal(ear: _Ear, unit: str, mark: Mark) -> None:
    if any(char.isdigit() for char in unit):
        heard, errors = _hear_digits(ear, unit)
        ear.hear(heard, mark, 1, min(1, errors))
    elif unit in _EN_HEARD and mark.surface is not Surface.WORDS and ear.happens(_DIGIT):
        ear.hear(_EN_HEARD[unit], mark, 1, 1)
    else:
        ear.hear(unit, mark, 1, 0)


def _cut_off(ear: _Ear) -> None:
    """Lose the end of an utterance to the other speaker."""
    if len(ear.atoms) < _SHORTEST_TO_CUT or not ear.happens(_CUT):
        return
    for _ in range(ear.dice.between(1, _DEEPEST_CUT)):
        if ear.atoms[-1].mark is not None:
            break
        lost = ear.atoms.pop()
        ear.errors += 0 if lost.pause or lost.text.isspace() else 1


def _punctuated(atoms: Sequence[Atom], utterance: Utterance, conditions: Conditions) -> list[Atom]:
    """Write pauses as the recognition does, and the end of the utterance."""
    while atoms and atoms[-1].pause and atoms[-1].mark is None:
        atoms = atoms[:-1]
    english = utterance.lang == "en"
    written = [_pause(atom, conditions, english=english) if atom.pause else atom for atom in atoms]
    if english:
        written = [_english(atom, conditions) for atom in written]
    if conditions.punctuation is Punctuation.FULL:
        said = utterance.text.rstrip("。？！?!., ")
        asks = said.endswith(_QUESTIONS) and len(said) > _LONGEST_ANSWER
        if english:
            asks = utterance.text.lower().split(" ", 1)[0] in _EN_QUESTIONS
        written.append(Atom(("?" if english else "？") if asks else ("." if english else "。"), None, pause=True))
    return _spaced(written) if english else written


def _pause(atom: Atom, conditions: Conditions, *, english: bool) -> Atom:
    """Return a pause as the recognition writes it; one that is nothing keeps its place all the same."""
    if conditions.punctuation is Punctuation.FULL:
        stop = atom.text in _STOPS or atom.text == "."
        if english:
            return atom._replace(text="." if stop and atom.text not in "?!" else "," if not stop else atom.text)
        return atom._replace(text="，" if not stop else "？" if atom.text in "?？" else "。")
    return atom._replace(text=" " if conditions.punctuation is Punctuation.SPACES and not english else "")


def _english(atom: Atom, conditions: Conditions) -> Atom:
    text = atom.text if conditions.punctuation is Punctuation.FULL else atom.text.lower()
    return atom._replace(text=text if conditions.apostrophes or atom.mark else text.replace("'", ""))


def _spaced(atoms: Sequence[Atom]) -> list[Atom]:
    """Return the atoms of an English text with one space between words, none at its ends and before pauses."""
    kept: list[Atom] = []
    for atom in atoms:
        space = atom.text.isspace()
        if space and (not kept or kept[-1].text.isspace()):
            continue
        if atom.pause and atom.text and kept and kept[-1].text.isspace():
            kept.pop()
        if not space and not atom.pause and kept and _needs_space(kept[-1], atom):
            kept.append(Atom(" "))
        kept.append(atom)
    while kept and kept[-1].text.isspace():
        kept.pop()
    return kept


def _needs_space(before: Atom, after: Atom) -> bool:
    """Say whether two words would run into one, as a filler that was put in between would."""
    unmarked = before.mark is None and after.mark is None
    return unmarked and before.text[-1:].isalnum() and after.text[:1].isalnum()


def _ascribed(role: Role, conditions: Conditions, dice: Dice) -> Role:
    if not conditions.told_apart:
        return Role.UNKNOWN
    if role in {Role.AGENT, Role.CUSTOMER} and dice.happens(conditions.swapped):
        return Role.CUSTOMER if role is Role.AGENT else Role.AGENT
    return role
