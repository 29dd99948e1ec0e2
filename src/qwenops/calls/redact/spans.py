"""What is found: which characters of which turn are personal data, of what kind, and how sure that is.

A value is kept only while a call is being worked on, and never shows in a log: `repr` leaves it out.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a piece of personal data is."""

    PHONE = "PHONE"
    """A mobile number, or one of which nothing more is known."""
    LANDLINE = "LANDLINE"
    ID_CARD = "ID_CARD"
    """The number of an identity card, or what serves as one elsewhere."""
    BANK_CARD = "BANK_CARD"
    PLATE = "PLATE"
    """Of a car."""
    EMAIL = "EMAIL"
    ADDRESS = "ADDRESS"
    NAME = "NAME"
    ACCOUNT = "ACCOUNT"
    """Of a broadband line, a messenger, a customer."""
    PASSPORT = "PASSPORT"
    ORDER = "ORDER"
    """An order, a ticket, a parcel."""
    NUMBER = "NUMBER"
    """Any other number; only where redaction is strict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters `start` to `end` of a turn's text."""

    kind: Kind
    turn: int
    start: int
    end: int
    value: str = field(repr=False)
    """What they mean, however it was said: the digits of a number, a name in small letters."""
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Characters `start` to `end` of a `Script`."""

    kind: Kind
    start: int
    end: int
    value: str = field(repr=False)
    confidence: float
