"""Numbers of people in a call: pieces that belong together, over turns and voices, and what they are.

A number is told in parts, with 嗯 and 您说 between them, read back by the agent and corrected (不对 是…). Pieces with
nothing but such talk between them are a *chain*. Its digits are read in every way that makes sense (each part once,
the repeated ones left out, the corrected ones replaced) and the first reading that has the form of a number is what
the chain is; without one, a cue near it says what it is, for speech recognition drops digits and check digits fail.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from qwenops.calls.redact.checks import (
    Shape,
    differs_little,
    is_counting,
    is_date,
    is_old_identity,
    is_public,
    luhn,
    shape_of,
)
from qwenops.calls.redact.cues import About, Cue, about
from qwenops.calls.redact.lexicon import HAN, alternatives, words
from qwenops.calls.redact.numbers import PAUSE, Piece, pieces_of
from qwenops.calls.redact.script import GONE, TURN, Script
from qwenops.calls.redact.spans import Found, Kind
from qwenops.calls.schema import Role

_LONGEST_GAP = 80
_LONGEST_ASIDE, _LONGEST_LATIN, _LONGEST_REST = 12, 36, 6
_LONGEST_LETTERS = 12
_MOST_TURNS = 6
_MOST_PIECES = 20
_MOST_DIGITS = 80
_LEAST = {
    Kind.PHONE: 7,
    Kind.LANDLINE: 7,
    Kind.ID_CARD: 6,
    Kind.BANK_CARD: 8,
    Kind.ACCOUNT: 5,
    Kind.ORDER: 5,
    Kind.PASSPORT: 6,
    Kind.PLATE: 5,
}
"""How many digits a number has at least if a cue is all that speaks for it."""
_LEAST_IN_PARTS = 6
_LEAST_ALONE = 7
_LEAST_REPEATED = 5
_LEAST_RELATED = 3
_LOCAL = range(7, 9)
_ACCOUNT = range(9, 11)
_CARD = range(16, 20)
_MOBILE = 11
_IDENTITY = 18
_OLD_IDENTITY = 15
_LONG = 14
_CODES = frozenset({Kind.ACCOUNT, Kind.ORDER, Kind.PASSPORT})
_LETTERED = _CODES | {Kind.ID_CARD}
_SURE = {Kind.ACCOUNT: 0.96, Kind.ORDER: 0.98, Kind.PASSPORT: 0.98}
"""How sure a form must be to go before a cue of another kind: a phone number may be an account, a card none."""
_CHECKED = frozenset({Kind.ID_CARD, Kind.BANK_CARD})
_TELEPHONES = frozenset({Kind.PHONE, Kind.LANDLINE})
_LETTERS_BEFORE = re.compile(
    rf"(?:(?<![a-z0-9'])(?:[a-z]{{1,8}}[\-_]?|(?:[a-z][\s\-]){{1,4}})|(?<=[{HAN}:])[a-z]{{1,8}}[\-_\s]?)$"
)
_LETTERS = re.compile(r"[a-z]")
_SPELLED = re.compile(r"(?:[a-z]|(?<![a-z0-9'])[a-z] [a-z] )$")
"""Letters that belong to the digits after them, whatever the number is."""
_HAN = re.compile(f"[{HAN}]")
_WORDS_OF_ONE_LETTER = frozenset({"a", "i"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """Pieces that are one number."""

    kind: Kind
    value: str
    pieces: tuple[Piece, ...]
    confidence: float
    first: int = 0
    """Which of the digits is its first; of a number in one piece."""
    last: int | None = None


def numbers_of(script: Script, cues: Sequence[Cue]) -> list[Found]:
    """Return the numbers of people in a call, one place for every piece."""
    pieces = pieces_of(script)
    numbers: list[Number] = []
    for chain in _chains(script, pieces, cues):
        if sum(len(piece.digits) for piece in chain) >= _LEAST_REPEATED:
            numbers += _told(script, chain, about(script, cues, chain[0].start, chain[-1].end))
    numbers = _completed(numbers)
    numbers += _repeated(pieces, numbers)
    return [found for number in numbers for found in _places(script.low, number)]


def _chains(script: Script, pieces: Iterable[Piece], cues: Sequence[Cue]) -> Iterator[list[Piece]]:
    """Yield pieces with nothing but talk about numbers between them, or so little that it is such talk, misheard."""
    chain: list[Piece] = []
    for piece in pieces:
        if chain and len(chain) < _MOST_PIECES and _goes_on(script, chain, piece, cues):
            chain.append(piece)
            continue
        if chain:
            yield chain
        chain = [piece]
    if chain:
        yield chain


def _goes_on(script: Script, chain: Sequence[Piece], piece: Piece, cues: Sequence[Cue]) -> bool:
    """Whether a piece is one of those before it."""
    left = chain[-1]
    if _is_glued(script.low, left.end, piece.start):
        return True
    if not _is_short(script.low[left.end : piece.start]) or _is_asked_between(cues, left.end, piece.start):
        return False
    if len(piece.digits) >= _MOBILE <= len(left.digits):
        return False
    return (_fills(script, left) and _fills(script, piece)) or about(script, cues, chain[0].start, left.end).direct


def _is_short(gap: str) -> bool:
    """Whether what stands between two pieces is too little to be about anything else."""
    return (
        len(gap) <= _LONGEST_GAP
        and gap.count(TURN) <= _MOST_TURNS
        and GONE not in gap
        and all(len(said) <= (_LONGEST_ASIDE if _HAN.search(said) else _LONGEST_LATIN) for said in gap.split(TURN))
    )


def _is_asked_between(cues: Sequence[Cue], start: int, end: int) -> bool:
    """Whether another number is spoken of there."""
    at = bisect_left(cues, start, key=lambda cue: cue.start)
    return at < len(cues) and cues[at].end <= end


def _fills(script: Script, piece: Piece) -> bool:
    """Whether a turn says hardly anything but the digits."""
    start, end = script.bounds(piece.turn)
    return len(piece.digits) > 1 and (end - start) - (piece.end - piece.start) <= _LONGEST_REST


def _is_glued(low: str, start: int, end: int) -> bool:
    return (
        end - start <= _LONGEST_GAP
        and low.count(TURN, start, end) <= _MOST_TURNS
        and _glue().fullmatch(low, start, end) is not None
    )


def _told(script: Script, chain: Sequence[Piece], known: About) -> list[Number]:
    """Return what a chain tells."""
    corrected = [False, *(_corrects(script.low, left, right) for left, right in pairwise(chain))]
    numbers = _recognised(list(zip(chain, corrected, strict=True)), known)
    if _are_accidents(numbers, chain, known):
        numbers = []
    if not numbers:
        personal = [piece for piece in chain if not is_public(piece.digits)]
        number = _by_cue(personal, known) or _by_length(script.low, personal, known)
        return [number] if number else []
    numbers = _same_misheard(numbers)
    taken = {piece.start for number in numbers for piece in number.pieces}
    return [*numbers, *_related(numbers, [piece for piece in chain if piece.start not in taken])]


def _are_accidents(numbers: Sequence[Number], chain: Sequence[Piece], known: About) -> bool:
    """Whether telephone numbers are parts of the longer one that a cue speaks of, of which a digit was lost."""
    return (
        known.direct
        and known.kind in _CHECKED
        and sum(len(piece.sure) for piece in chain) >= _LONG
        and all(number.kind in _TELEPHONES for number in numbers)
    )


def _corrects(low: str, left: Piece, right: Piece) -> bool:
    return _correction().search(low, left.end, right.start) is not None


def _recognised(chain: Sequence[tuple[Piece, bool]], known: About) -> list[Number]:
    """Return the numbers that have the form of one, the longest parts of the chain first."""
    for size in range(len(chain), 0, -1):
        for first in range(len(chain) - size + 1):
            number = _number(chain[first : first + size], known)
            if number is not None:
                before, after = chain[:first], chain[first + size :]
                return [*_recognised(before, known), number, *_recognised(after, known)]
    return []


def _number(part: Sequence[tuple[Piece, bool]], known: About) -> Number | None:
    """Return the number that these pieces are by their form."""
    pieces = tuple(piece for piece, _ in part)
    if not _LEAST_ALONE <= sum(len(piece.digits) for piece in pieces) <= _MOST_DIGITS:
        return None
    alone = {piece.digits for piece in pieces if shape_of(piece.digits, english=known.english)}
    for reading in _readings(part):
        shape = shape_of(reading, english=known.english) or _old_identity(reading, known)
        if shape is None:
            continue
        if len(pieces) > 1 and alone and reading not in alone and shape.kind is not known.kind:
            continue
        return Number(kind=_kind(shape, known), value=shape.value, pieces=pieces, confidence=shape.confidence)
    return _within(pieces[0], known) if len(pieces) == 1 else None


def _old_identity(digits: str, known: About) -> Shape | None:
    if known.kind is Kind.ID_CARD and len(digits) == _OLD_IDENTITY and is_old_identity(digits):
        return Shape(kind=Kind.ID_CARD, value=digits, confidence=0.8)
    return None


def _kind(shape: Shape, known: About) -> Kind:
    """Return what a number is: a code of the user's has no form of its own, so a cue beside it decides."""
    if known.direct and known.kind is not None and shape.confidence < _SURE.get(known.kind, 0.0):
        return known.kind
    return shape.kind


def _within(piece: Piece, known: About) -> Number | None:
    """Return a mobile number with one or two digits too many around it: those of a word, or of a slip."""
    extra = len(piece.digits) - _MOBILE
    if not piece.spoken or not 0 < extra <= 2 or known.kind in _CODES:  # noqa: PLR2004 -- more is no slip
        return None
    for first in (0, extra, 1):
        shape = shape_of(piece.digits[first : first + _MOBILE], english=False)
        if shape is not None and shape.kind is Kind.PHONE:
            last = first + _MOBILE
            return Number(kind=Kind.PHONE, value=shape.value, pieces=(piece,), confidence=0.7, first=first, last=last)
    return None


def _readings(part: Sequence[tuple[Piece, bool]]) -> Iterator[str]:
    """Yield the numbers that pieces may tell together, each once."""
    seen: set[str] = set()
    unsure = any(piece.unsure for piece, _ in part)
    for only_sure in (False, True) if unsure else (False,):
        told = [(piece, piece.sure if only_sure else piece.digits, corrects) for piece, corrects in part]
        for reading in (
            "".join(digits for _, digits, _ in told),
            *_without_repeats(told, by_voice=True),
            *_without_repeats(told, by_voice=False),
        ):
            half = len(reading) // 2
            for each in (reading, reading[:half] if reading[:half] == reading[half:] else ""):
                if each and each not in seen:
                    seen.add(each)
                    yield each


def _without_repeats(told: Sequence[tuple[Piece, str, bool]], *, by_voice: bool) -> Iterator[str]:
    """Yield the digits with what repeats them left out, and with what corrects them in its place."""
    number = ""
    voice: Role | None = None
    for piece, digits, corrects in told:
        other = not by_voice or piece.role is not voice
        if number and other and len(digits) > 1 and number.endswith(digits):
            continue
        if number and other and len(digits) > len(number) > 1 and digits.startswith(number):
            number = digits
        elif corrects:
            number = _corrected(number, digits)
        else:
            number += digits
        voice = piece.role
    yield number
    if told[-1][2]:
        yield told[-1][1]


def _corrected(number: str, digits: str) -> str:
    """Return a number of which a part was said anew: from where the new digits begin like the old ones."""
    if len(digits) >= _MOBILE:
        return digits
    at = number.rfind(digits[:2])
    return (number[:at] if at >= 0 else number[: -len(digits)]) + digits


def _by_cue(chain: Sequence[Piece], known: About) -> Number | None:
    """Return the number that a cue speaks of, however many digits were lost or heard in addition."""
    if known.kind is None or not known.near:
        return None
    digits = "".join(piece.sure for piece in chain)
    least = _LEAST_ALONE if known.kind in _CODES and not known.direct else _LEAST[known.kind]
    if known.kind is Kind.PHONE and len(chain) > 1 and digits.startswith("1"):
        least = _LEAST_IN_PARTS
    if len(digits) < least or (known.kind is not Kind.ID_CARD and is_date(digits) and not known.direct):
        return None
    if len(chain) > 1 and not known.direct and not any(piece.spoken for piece in chain) and len(digits) < _MOBILE:
        return None
    confidence = 0.7 if known.direct else 0.6
    return Number(kind=known.kind, value=_value(chain), pieces=tuple(chain), confidence=confidence)


def _by_length(low: str, chain: Sequence[Piece], known: About) -> Number | None:
    """Return a number that nothing speaks for but its length: what is so long identifies somebody."""
    digits = "".join(piece.sure for piece in chain)
    num, spoken = len(digits), any(piece.spoken for piece in chain)
    if num < _LEAST_ALONE or is_date(digits) or is_counting(digits):
        return None
    one = len(chain) == 1 and (chain[0].solid or spoken or known.english)
    if spoken and digits[0] == "1" and abs(num - _MOBILE) == 1:
        kind = Kind.PHONE
    elif abs(num - _IDENTITY) <= 1 and is_date(digits[6:14]):
        kind = Kind.ID_CARD
    elif (
        (one and not _is_in_a_word(low, chain[0]) and not (not spoken and digits.endswith("000")))
        or num >= _LONG
        or (spoken and num >= min(_ACCOUNT))
    ):
        kind = _by_number_of_digits(digits, english=known.english)
    else:
        return None
    return Number(kind=kind, value=_value(chain), pieces=tuple(chain), confidence=0.4)


def _by_number_of_digits(digits: str, *, english: bool) -> Kind:
    num = len(digits)
    if num in _LOCAL:
        return Kind.PHONE if english else Kind.LANDLINE
    if num in _ACCOUNT:
        return Kind.ACCOUNT
    known_card = num in _CARD and digits.isdigit() and (luhn(digits) or digits.startswith(("62", "4", "5")))
    return Kind.BANK_CARD if known_card else Kind.ORDER


def _is_in_a_word(low: str, piece: Piece) -> bool:
    """Whether letters stand beside the digits, as in the name of a model or in a sum."""
    return any(_LETTERS.match(low, place) is not None for place in (piece.start - 1, piece.end) if place >= 0)


def _value(chain: Sequence[Piece]) -> str:
    """Return what equal numbers have in common: the longest piece, or all of them without the repeated ones."""
    longest = max((piece.sure for piece in chain), key=len)
    joined = next(_without_repeats([(piece, piece.sure, False) for piece in chain], by_voice=False))
    return longest if len(longest) >= _MOBILE else joined


def _same_misheard(numbers: Sequence[Number]) -> list[Number]:
    """Return the numbers with those that are one, misheard once, under one value."""
    known: list[Number] = []
    for number in numbers:
        same = next(
            (each for each in known if each.kind is number.kind and differs_little(each.value, number.value)), None
        )
        known.append(replace(number, value=same.value) if same else number)
    return known


def _completed(numbers: Sequence[Number]) -> list[Number]:
    """Return the numbers with those that are a part of another under its value."""
    found = []
    for number in numbers:
        longer = (each for each in numbers if len(each.value) > len(number.value))
        whole = next((each for each in longer if number.value in each.value), None)
        found.append(replace(number, kind=whole.kind, value=whole.value) if whole else number)
    return found


def _related(numbers: Sequence[Number], pieces: Iterable[Piece]) -> Iterator[Number]:
    """Yield the rest of a chain as parts of its numbers: slips, halves, repeated ends."""
    for piece in pieces:
        nearest = min(numbers, key=lambda number: abs(number.pieces[0].start - piece.start))
        related = len(piece.digits) >= _LEAST_RELATED and not is_public(piece.digits)
        if related or piece.digits in nearest.value:
            yield Number(kind=nearest.kind, value=nearest.value, pieces=(piece,), confidence=0.6)


def _repeated(pieces: Iterable[Piece], numbers: Sequence[Number]) -> Iterator[Number]:
    """Yield pieces that repeat a part of a number that was told elsewhere in the call."""
    known = {piece.start for number in numbers for piece in number.pieces}
    for piece in pieces:
        if piece.start in known or len(piece.digits) < _LEAST_REPEATED or is_public(piece.digits):
            continue
        whole = next((number for number in numbers if piece.digits in number.value), None)
        if whole is not None:
            yield Number(kind=whole.kind, value=whole.value, pieces=(piece,), confidence=0.6)


def _places(low: str, number: Number) -> Iterator[Found]:
    """Yield where the pieces of a number stand; a code has the letters that it begins with."""
    for piece in number.pieces:
        marks = piece.marks[number.first : number.last]
        start = marks[0][0]
        if number.kind in _LETTERED or _SPELLED.search(low, max(0, start - _LONGEST_LETTERS), start):
            start = _with_letters(low, start)
        elif number.kind in _TELEPHONES and start and low[start - 1] == "+":
            start -= 1
        yield Found(kind=number.kind, start=start, end=marks[-1][1], value=number.value, confidence=number.confidence)


def _with_letters(low: str, start: int) -> int:
    """Return where a code begins whose digits begin at `start`."""
    found = _LETTERS_BEFORE.search(low, max(0, start - _LONGEST_LETTERS), start)
    if found is None or found[0].strip(" -_") in _WORDS_OF_ONE_LETTER:
        return start
    return found.start()


@cache
def _glue() -> re.Pattern[str]:
    """Return what may stand between the parts of one number."""
    chinese = alternatives(words("speech", "glue_zh") + words("speech", "fillers_zh"))
    english = alternatives(words("speech", "glue_en") + words("speech", "fillers_en"))
    return re.compile(rf"(?:{PAUSE}|[.?!;:{TURN}]|{chinese}|{english})*+")


@cache
def _correction() -> re.Pattern[str]:
    """Return what says that the digits before were wrong; 对不对 and 是不是 only ask."""
    return re.compile(rf"(?<![a-z对是])(?:{alternatives(words('speech', 'corrections'))})")
