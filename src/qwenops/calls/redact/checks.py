"""What a row of digits can be by its form alone: prefixes, lengths, dates and check digits. Pure.

A `?` is a digit that was not understood, an `X` the last place of an identity card.
Sources: GB 11643 (identity card, mod 11-2), ISO/IEC 7812 (cards, Luhn), the numbering plans of China and North America.
"""

import re
from dataclasses import dataclass

from qwenops.calls.redact.spans import Kind

_MOBILE = re.compile(r"(?:(?:00)?86)?(1[2-9][0-9?]{9})")
_LANDLINE = re.compile(r"(?:0?0?86)?(0[1-9?][0-9?]{8,10})")
_AMERICAN = re.compile(r"1?([0-9?]{10})")
_BRITISH = re.compile(r"(?:0|44)([0-9?]{9,10})")
_IDENTITY = re.compile(
    r"[1-9?][0-9?]{5}(?:19|20|1[?]|2[?]|[?][09?])[0-9?]{2}(?:[0?][0-9?]|[1?][0-2?])(?:[0-2?][0-9?]|[3?][01?])[0-9?]{3}[0-9X?]"
)
_OLD_IDENTITY = re.compile(r"[1-9][0-9]{5}[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}")
_DATE = re.compile(
    r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:(?:[01][0-9]|2[0-3])[0-5][0-9](?:[0-5][0-9])?)?"
)
_PUBLIC = re.compile(
    r"(?:10086|10010|10000|12315|12300|12345|12321|12381|110|114|119|120|122)+"
    r"|1008611|1001011|1[0-2][0-9]{3}|9[56][0-9]{3,4}|[48]00[0-9]{7}|106[0-9]{5,12}"
)
_CARD_LENGTHS = range(16, 20)
_ID_LENGTH = 18
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"
_COUNTING = ("01234567890123456789", "98765432109876543210")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What digits are by their form."""

    kind: Kind
    value: str
    """The digits that count: without a country's code."""
    confidence: float


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others, as on payment cards."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)  # noqa: PLR2004 -- two digits become their sum
    return total % 10 == 0


def identity_check(body: str) -> str:
    """Return the last place of an identity card's number from the 17 digits before it."""
    return _CHECKS[sum(int(digit) * weight for digit, weight in zip(body, _WEIGHTS, strict=True)) % 11]


def is_date(digits: str) -> bool:
    """Whether eight, twelve or fourteen digits are a day, or a moment: 20260312."""
    return _DATE.fullmatch(digits) is not None


def is_public(digits: str) -> bool:
    """Whether the number is one of an institution, known to everybody: 12315, or one that begins with 400."""
    return _PUBLIC.fullmatch(digits) is not None


def is_counting(digits: str) -> bool:
    """Whether somebody counts: 1234567."""
    return any(digits in each for each in _COUNTING)


def shape_of(digits: str, *, english: bool) -> Shape | None:
    """Return what digits are if their form says it; None where nothing but a cue could."""
    identity = _identity(digits)
    if identity is not None or not digits or "X" in digits or is_public(digits):
        return identity
    if english and (number := _AMERICAN.fullmatch(digits) or _BRITISH.fullmatch(digits)):
        return Shape(kind=Kind.PHONE, value=f"1{number[1]}", confidence=0.85)
    if mobile := _MOBILE.fullmatch(digits):
        return Shape(kind=Kind.PHONE, value=mobile[1], confidence=0.7 if "?" in digits else 0.95)
    if len(digits) in _CARD_LENGTHS and "?" not in digits and (luhn(digits) or digits.startswith("62")):
        return Shape(kind=Kind.BANK_CARD, value=digits, confidence=0.97 if luhn(digits) else 0.8)
    if number := _LANDLINE.fullmatch(digits):
        return Shape(kind=Kind.LANDLINE, value=number[1], confidence=0.85)
    return None


def _identity(digits: str) -> Shape | None:
    if len(digits) != _ID_LENGTH or _IDENTITY.fullmatch(digits) is None:
        return None
    if "?" in digits:
        return Shape(kind=Kind.ID_CARD, value=digits, confidence=0.7)
    checked = identity_check(digits[:-1]) == digits[-1]
    if not checked and digits.isdigit() and luhn(digits):
        return None
    return Shape(kind=Kind.ID_CARD, value=digits, confidence=0.99 if checked else 0.85)


def is_old_identity(digits: str) -> bool:
    """Whether fifteen digits are an identity card of the last century."""
    return _OLD_IDENTITY.fullmatch(digits) is not None


def differs_little(one: str, other: str, most: int = 2) -> bool:
    """Whether two rows of digits are of one length and differ in few places: one number, misheard once."""
    return len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) <= most
