"""Digits in a script, written or spoken: which of them belong together, and which only count something.

An *atom* is what one look finds: `138`, 幺三八, 三个八, `double five`. A *piece* is atoms of one turn with nothing but
pauses, fillers and misheard digits between them. Amounts, dates, ordinals and public numbers are no pieces, nor are
digits within words (一定, 五一, 三星).
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from qwenops.calls.redact.checks import is_public, shape_of
from qwenops.calls.redact.lexicon import HAN, alternatives, table, words
from qwenops.calls.redact.script import TURN, Script
from qwenops.calls.redact.spans import Kind
from qwenops.calls.schema import Role

SPOKEN = "零〇○幺一二两三四五六七八九洞拐勾"
READ = str.maketrans(SPOKEN, "00011223456789079")
"""Which digit a character is read as."""
ENGLISH_ONES = {
    "zero": "0",
    "nought": "0",
    "naught": "0",
    "oh": "0",
    "o": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
_TIMES = {"两": 2, "俩": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "double": 2, "triple": 3, "treble": 3}
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TWO_DIGITS = {word: str(number) for number, word in enumerate(_TEENS, start=10)}
_FIRST_DIGIT = {word: str(number) for number, word in enumerate(_TENS, start=2)}
_MISHEARD_ENGLISH = {"to": "2", "too": "2", "for": "4", "fore": "4", "won": "1", "ate": "8", "tree": "3"}
_ENGLISH_NUMBERS = (*ENGLISH_ONES, *_TEENS, *_TENS, "hundred", "double", "triple", "treble")
ENGLISH_NUMBER = f"(?:{alternatives(_ENGLISH_NUMBERS)})"
"""A pattern of one English word that a number is read with."""

_COUNTS = "十百千万亿"
_IN_WORDS = "[下个定样直些点起般次会遍边共旦切]"
_NO_COUNT = rf"(?![{_COUNTS}]|个[{SPOKEN}0-9])"
_ATOM = re.compile(
    rf"[0-9{SPOKEN}俩叉艾埃爱ex]"
    r"(?:(?<=[0-9])(?P<written>[0-9]*)"
    rf"|(?<=[两俩二三四五六])(?P<repeated>个[{SPOKEN}0-9](?![{_COUNTS}个块元天月年次定样下直些起般点]))"
    rf"|(?<=[{SPOKEN}])(?<![第周期拜初几点{_COUNTS}].)(?:(?<!一)|(?!{_IN_WORDS})){_NO_COUNT}"
    rf"(?P<spoken>(?:(?!一{_IN_WORDS})[{SPOKEN}]{_NO_COUNT})*)"
    r"|(?P<last>(?<=叉)|(?<=[艾埃爱])克斯|(?:(?<=x)(?<![a-z]x)|(?<=e)(?<![a-z]e)x)(?![a-z0-9])))"
)
"""It begins with a character, not with a question, and so is looked for fast; a group holds what comes after that."""
_ENGLISH_ATOM = re.compile(rf"(?:{alternatives(_ENGLISH_NUMBERS, begins=True)})(?!')")
_ENGLISH_HINT = re.compile(r"[a-z]{2}")
_JOINTS = frozenset({" ", "-"})
_LONGEST_GAP = 12
_LONGEST_AMOUNT = 9
_LONGEST_COUNT = 6
_TAIL = 4
_LEAST_AFTER_PHONE, _LEAST_AFTER_OTHERS = 3, 7
_LOOK_BACK = 24
_ONE_BY_ONE = re.compile(rf"一一(?![嗯呃额啊哦吧对是])[{HAN}]")
_MEASURED_AFTER = re.compile(r"[.:/][0-9]")
_MEASURED_BEFORE = re.compile(r"[0-9][.:/]$")
PAUSE = r"[\s\-\u2010-\u2015\u2212\u00b7,、。()+\u2026~\u200b-\u200d\u2060\ufeff\u00ad]"
"""A character that stands between the groups of a number."""
_ONLY_PAUSES = re.compile(rf"(?:{PAUSE}|[.{TURN}])*+")


class Atom(NamedTuple):
    """Digits that stand together."""

    start: int
    end: int
    digits: str
    style: str
    """`written`, `spoken` (Chinese), `english`, or `last`: the X of an identity card."""


class Piece(NamedTuple):
    """Digits of one turn that are said in one go."""

    digits: str
    marks: tuple[tuple[int, int], ...]
    """Where each digit begins and ends."""
    unsure: frozenset[int]
    """Which digits may be none: misheard ones."""
    spoken: bool
    solid: bool
    """Nothing stands between the digits."""
    turn: int
    role: Role

    @property
    def start(self) -> int:
        """Where the first digit begins."""
        return self.marks[0][0]

    @property
    def end(self) -> int:
        """Where the last digit ends."""
        return self.marks[-1][1]

    @property
    def sure(self) -> str:
        """The digits without those that may be none."""
        if not self.unsure:
            return self.digits
        return "".join(digit for place, digit in enumerate(self.digits) if place not in self.unsure)


def pieces_of(script: Script) -> list[Piece]:
    """Return what may be numbers of people, or parts of them, in their order."""
    found = []
    for group in _groups(script.low, _atoms(script.low)):
        piece = _piece(script, group)
        if not _counts_something(script.low, piece):
            found.append(piece)
    return [
        piece
        for place, piece in enumerate(found)
        if len(piece.digits) > 1
        or _stands_alone(script, piece)
        or _continues(script.low, piece, [*found[max(0, place - 1) : place], *found[place + 1 : place + 2]])
    ]


def _atoms(low: str) -> list[Atom]:
    found = []
    for each in _ATOM.finditer(low):
        style, said = each.lastgroup or "", each[0]
        if style == "repeated":
            said, style = said[-1] * _TIMES[said[0]], "spoken"
        elif style == "last":
            said = "X"
        found.append(Atom(each.start(), each.end(), said.translate(READ), style))
    if _ENGLISH_HINT.search(low):
        english = list(_english_atoms(low))
        if english:
            found = sorted([*found, *english])
    return [atom for atom in found if not _is_amount(low, atom)]


def _english_atoms(low: str) -> Iterator[Atom]:
    found = [(each.start(), each.end(), each[0]) for each in _ENGLISH_ATOM.finditer(low)]
    place = 0
    while place < len(found):
        start, end, word = found[place]
        adjacent = place + 1 < len(found) and low[end : found[place + 1][0]] in _JOINTS
        after = found[place + 1] if adjacent else (end, end, "")
        place += 1
        if word in _TIMES:
            if after[2] in ENGLISH_ONES:
                yield Atom(start, after[1], ENGLISH_ONES[after[2]] * _TIMES[word], "english")
                place += 1
        elif word in _FIRST_DIGIT:
            second = ENGLISH_ONES.get(after[2], "0")
            place += second != "0"
            yield Atom(start, after[1] if second != "0" else end, _FIRST_DIGIT[word] + second, "english")
        elif word == "hundred":
            yield Atom(start, end, "00", "english")
        else:
            yield Atom(start, end, ENGLISH_ONES.get(word) or _TWO_DIGITS[word], "english")


def _is_amount(low: str, atom: Atom) -> bool:
    """Whether a unit follows, or a sign of money stands before."""
    if atom.style == "last" or len(atom.digits) > _LONGEST_AMOUNT:
        return False
    if _hard_unit().match(low, atom.end) is not None:
        return True
    return _before_count().search(low, max(0, atom.start - _LOOK_BACK), atom.start) is not None


def _groups(low: str, atoms: Sequence[Atom]) -> Iterator[list[tuple[Atom, str]]]:
    """Yield atoms that belong together, each with the misheard digits before it."""
    group: list[tuple[Atom, str]] = []
    digits = ""
    for atom in atoms:
        heard = _between(low, group[-1][0], atom) if group else None
        closed = digits.endswith("X") or (heard is not None and _is_whole(low, digits, group[-1][0], atom))
        if atom.style == "last" and (heard is None or closed or len(digits) < 2):  # noqa: PLR2004 -- no number ends so
            continue
        if heard is None or closed:
            if group:
                yield group
            group, digits = [(atom, "")], atom.digits
        else:
            group.append((atom, heard))
            digits += heard + atom.digits
    if group:
        yield group


def _is_whole(low: str, digits: str, last: Atom, atom: Atom) -> bool:
    """Whether the number is complete, so that what follows after a pause is another one."""
    if low[last.end : atom.start] == "" or len(atom.digits) < _LEAST_AFTER_PHONE:
        return False
    shape = shape_of(digits, english=False)
    return shape is not None and (shape.kind is Kind.PHONE or len(atom.digits) >= _LEAST_AFTER_OTHERS)


def _between(low: str, left: Atom, right: Atom) -> str | None:
    """Return the misheard digits between two atoms of one number; None where they are of two."""
    gap = low[left.end : right.start]
    if not gap:
        return ""
    written = "written" in {left.style, right.style}
    if len(gap) > _LONGEST_GAP or TURN in gap or (gap == "." and written):
        return None
    if _light().fullmatch(gap):
        return ""
    found = None if written else _odd().fullmatch(gap)
    if found is None:
        return None
    if found["english"]:
        return _MISHEARD_ENGLISH[found["english"]]
    heard = "".join(_misheard().get(each, "?") for each in found["chinese"])
    return heard if "?" not in heard or min(len(left.digits), len(right.digits)) > 1 else None


def _piece(script: Script, group: Sequence[tuple[Atom, str]]) -> Piece:
    digits: list[str] = []
    marks: list[tuple[int, int]] = []
    unsure: list[int] = []
    for atom, heard in group:
        for digit in heard:
            unsure.append(len(digits))
            digits.append(digit)
            marks.append((marks[-1][1], atom.start))
        digits += atom.digits
        if len(atom.digits) == atom.end - atom.start:
            marks += zip(range(atom.start, atom.end), range(atom.start + 1, atom.end + 1), strict=True)
        else:
            marks += [(atom.start, atom.end)] * len(atom.digits)
    turn = script.turn_at(marks[0][0])
    return Piece(
        digits="".join(digits),
        marks=tuple(marks),
        unsure=frozenset(unsure),
        spoken=any(atom.style != "written" for atom, _ in group),
        solid=len(group) == 1 or all(left[0].end == right[0].start for left, right in pairwise(group)),
        turn=turn,
        role=script.roles[turn],
    )


def _counts_something(low: str, piece: Piece) -> bool:
    """Whether a piece is a date, a time, a count, a tail that names a number, or a long number that everybody knows."""
    num = len(piece.digits)
    if num == 2 and _ONE_BY_ONE.match(low, piece.start):  # noqa: PLR2004 -- two times one
        return True
    if num > _LONGEST_COUNT:
        return is_public(piece.digits)
    if _soft_unit().match(low, piece.end):
        return True
    if _MEASURED_AFTER.match(low, piece.end) or _MEASURED_BEFORE.search(low, max(0, piece.start - 2), piece.start):
        return True
    return num <= _TAIL and _tail().search(low, max(0, piece.start - _LOOK_BACK), piece.start) is not None


def _stands_alone(script: Script, piece: Piece) -> bool:
    """Whether a single digit is all that its turn says."""
    start, end = script.bounds(piece.turn)
    low, light = script.low, _light()
    return light.fullmatch(low, start, piece.start) is not None and light.fullmatch(low, piece.end, end) is not None


def _continues(low: str, piece: Piece, others: Sequence[Piece]) -> bool:
    """Whether a single digit goes on with a number across a turn's end: recognition broke it there."""
    return any(
        len(each.digits) > 2  # noqa: PLR2004 -- two single digits are no number
        and _ONLY_PAUSES.fullmatch(low, min(each.end, piece.end), max(each.start, piece.start)) is not None
        for each in others
    )


@cache
def _light() -> re.Pattern[str]:
    """Return what pauses within a number are made of."""
    chinese, english = alternatives(words("speech", "fillers_zh")), alternatives(words("speech", "fillers_en"))
    return re.compile(rf"(?:{PAUSE}|[.?!;]|{chinese}|{english})*+")


@cache
def _odd() -> re.Pattern[str]:
    """Return one or two characters, or a word, that may be misheard digits."""
    units = "".join(word for word in words("units", "hard") + words("units", "soft") if len(word) == 1)
    never = re.escape(units) + _COUNTS + "第套钱和到或比"
    english = "|".join(_MISHEARD_ENGLISH)
    return re.compile(rf"{PAUSE}*+(?:(?P<chinese>(?:(?![{never}])[{HAN}]){{1,2}})|(?P<english>{english})){PAUSE}*+")


@cache
def _misheard() -> dict[str, str]:
    return {each: digit for digit, many in table("speech", "misheard").items() for each in many}


@cache
def _hard_unit() -> re.Pattern[str]:
    chinese, english = alternatives(words("units", "hard")), alternatives(words("units", "hard_english"))
    return re.compile(rf"\s?(?:{chinese}|{english})")


@cache
def _soft_unit() -> re.Pattern[str]:
    chinese, english = alternatives(words("units", "soft")), alternatives(words("units", "soft_english"))
    return re.compile(rf"\s?(?:(?!号码)(?:{chinese})|{english})")


@cache
def _before_count() -> re.Pattern[str]:
    return re.compile(rf"(?:{alternatives(words('units', 'before'))})(?:[\s:]|是|is)*+$")


@cache
def _tail() -> re.Pattern[str]:
    said = alternatives(words("cues", "tails"))
    joined = "is|are|was|of|the|my|your|that|card|number|account|phone|digits|social"
    return re.compile(rf"(?:{said})(?:[\s:,.?{TURN}]|[是市事死为哦额的码号]|呢|嗯|呃|那个|多少|{joined})*+$")
