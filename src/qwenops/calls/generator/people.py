"""People who do not exist: for every kind of personal data a value that nobody can have and that still looks right.

    mobile (zh)     eleven digits of a network code that is given to nobody: see `UNASSIGNED_MOBILE`
    mobile (en)     07700 900xxx, which Ofcom keeps for drama, or 555-01xx, which North America keeps for fiction
    landline (zh)   a true area code and a number that begins with 9, which no subscriber's does
    landline (en)   ranges that Ofcom keeps for drama
    ID card (zh)    right check digit (GB 11643, ISO 7064 mod 11-2), but a province that does not exist, or a day of
                    birth that does not
    ID number (en)  like a social security number with area 000 or 666, which are never given out
    bank card       right Luhn digit, but a first digit 0, which no issuer has
    plate           a letter that no town of that province has; in English the year 00, which no plate has
    mail            at the domains that RFC 2606 reserves
    account, order  numbers of no system: they begin with zeros, or are dated in a month above 12

Names and addresses are put together at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwenops.calls.generator.dice import Dice

UNASSIGNED_MOBILE = ("154", "160", "163", "164", "168", "169", "179", "194")
"""Network codes without an owner in MIIT's list of June 2023 (numbers given out until March 2023)."""
NO_PROVINCE = ("16", "19", "25", "28", "39", "47", "49", "55", "59", "66", "69", "72", "76")
"""Of GB/T 2260 no province begins so."""
DOMAINS = ("example.com", "example.net", "example.org")

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_IMPOSSIBLE_DAYS = ("0230", "0231", "0431", "0631", "0931", "1131")
_PLATE_PROVINCES = "宁琼青藏贵吉晋蒙"
_PLATE_TOWNS = "WXYZ"
_PLATE_CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_SYLLABLES = [
    "zhang",
    "wei",
    "li",
    "ming",
    "fang",
    "hua",
    "jun",
    "yan",
    "lei",
    "xin",
    "tao",
    "jing",
    "bo",
    "lan",
    "hai",
    "chen",
    "yu",
    "xiao",
    "feng",
    "qing",
]
_EN_PLATE_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_CARD_LENGTHS = (16, 19)
_EN_LANDLINES = ("0207946", "0161496", "0117496", "0131496")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where somebody lives: text and numbers, because numbers are read out."""

    parts: tuple[str | int, ...]

    @property
    def written(self) -> str:
        """As it stands on a letter."""
        return "".join(str(each) for each in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A customer."""

    lang: str
    surname: str
    name: str
    address: Address
    numbers: Mapping[str, str]
    """By slot: phone, landline, id_card, bank_card, plate, account, order; digits and letters without separators."""
    email: str


def draw_person(dice: Dice, names: Mapping[str, Sequence[str]], codes: Mapping[str, str], lang: str) -> Person:
    """Make somebody up.

    Args:
        dice: Chance; the same dice give the same person.
        names: Lists of surnames, given names, cities, districts, roads, estates, ID regions.
        codes: Area codes by city.
        lang: zh or en.
    """
    surname, given = dice.one_of(names["surnames"]), dice.one_of(names["given"])
    if lang == "en":
        return Person(
            lang=lang,
            surname=surname,
            name=f"{given} {surname}",
            address=_en_address(dice, names),
            numbers={
                "phone": en_phone(dice),
                "landline": dice.one_of(_EN_LANDLINES) + "0" + dice.digits(3),
                "id_card": dice.one_of(("000", "666")) + dice.digits(6),
                "bank_card": fake_card(dice, 16),
                "plate": _en_plate(dice),
                "account": f"BB00{dice.digits(6)}",
                "order": f"ON{dice.between(13, 99)}{dice.digits(6)}",
            },
            email=f"{given}.{surname}{dice.one_of(('', '', str(dice.between(2, 99))))}@{dice.one_of(DOMAINS)}".lower(),
        )
    if dice.happens(0.6):
        given += dice.one_of(names["given"])
    local = "".join(dice.one_of(_SYLLABLES) for _ in range(dice.between(1, 3))) + dice.digits(dice.between(0, 4))
    return Person(
        lang=lang,
        surname=surname,
        name=surname + given,
        address=_zh_address(dice, names),
        numbers={
            "phone": fake_mobile(dice),
            "landline": dice.one_of(list(codes.values())) + "9" + dice.digits(7),
            "id_card": fake_id_card(dice, names["id_regions"]),
            "bank_card": fake_card(dice, dice.one_of(_CARD_LENGTHS)),
            "plate": _zh_plate(dice),
            "account": dice.one_of(("kd", "lan", "ftth", "")) + "00" + dice.digits(8),
            "order": f"2025{dice.between(13, 99)}{dice.digits(8)}",
        },
        email=f"{local}@{dice.one_of(DOMAINS)}",
    )


def fake_mobile(dice: Dice) -> str:
    """Return eleven digits that look like a Chinese mobile number and belong to nobody."""
    return dice.one_of(UNASSIGNED_MOBILE) + dice.digits(8)


def en_phone(dice: Dice) -> str:
    """Return a telephone number of a range for drama or fiction."""
    if dice.happens(0.5):
        return f"07700900{dice.digits(3)}"
    return f"{dice.one_of(('212', '312', '415', '617'))}55501{dice.digits(2)}"


def fake_id_card(dice: Dice, regions: Sequence[str]) -> str:
    """Return an ID card's number with a right check digit, of a province or a day that does not exist."""
    year = str(dice.between(1950, 2006))
    if dice.happens(0.5):
        day = f"{dice.between(1, 12):02d}{dice.between(1, 28):02d}"
        body = dice.one_of(NO_PROVINCE) + dice.digits(4) + year + day
    else:
        body = dice.one_of(regions) + year + dice.one_of(_IMPOSSIBLE_DAYS)
    body += dice.digits(3)
    return body + id_check_digit(body)


def id_check_digit(body: str) -> str:
    """Return the last character of an ID card's number, from the seventeen digits before it (ISO 7064 mod 11-2)."""
    total = sum(int(digit) * weight for digit, weight in zip(body, _ID_WEIGHTS, strict=True))
    return _ID_CHECKS[total % len(_ID_CHECKS)]


def fake_card(dice: Dice, length: int) -> str:
    """Return a bank card's number with a right check digit that begins with 0, as no card does."""
    body = "0" + dice.digits(length - 2)
    return body + luhn_digit(body)


def luhn_digit(body: str) -> str:
    """Return the digit that makes a card's number right (ISO/IEC 7812)."""
    doubled = [int(digit) * 2 if place % 2 == 0 else int(digit) for place, digit in enumerate(reversed(body))]
    return str(-sum(each // 10 + each % 10 for each in doubled) % 10)


def _en_plate(dice: Dice) -> str:
    return f"Q{dice.one_of(_EN_PLATE_LETTERS)}00" + "".join(dice.one_of(_EN_PLATE_LETTERS) for _ in range(3))


def _zh_plate(dice: Dice) -> str:
    province, town = dice.one_of(_PLATE_PROVINCES), dice.one_of(_PLATE_TOWNS)
    if dice.happens(0.3):
        return province + town + dice.one_of("DF") + dice.digits(5)
    return province + town + "".join(dice.one_of(_PLATE_CHARACTERS) for _ in range(5))


def _zh_address(dice: Dice, names: Mapping[str, Sequence[str]]) -> Address:
    city = dice.one_of(names["cities"])
    town: tuple[str | int, ...] = (f"{city}市" if dice.happens(0.7) else city, dice.one_of(names["districts"]))
    road: tuple[str | int, ...] = (dice.one_of(names["roads"]), dice.between(1, 399), "号")
    room = dice.between(1, 30) * 100 + dice.between(1, 8)
    estate: tuple[str | int, ...] = (
        dice.one_of(names["estates"]),
        dice.between(1, 40),
        dice.one_of(("栋", "号楼", "幢")),
        *((dice.between(1, 4), "单元") if dice.happens(0.6) else ()),
        room,
        *(("室",) if dice.happens(0.5) else ()),
    )
    match dice.between(0, 3):
        case 0:
            return Address(parts=(*town, *road))
        case 1:
            return Address(parts=(*town, *estate))
        case 2:
            return Address(parts=(*road, *estate))
        case _:
            return Address(parts=(*town, *road, *estate))


def _en_address(dice: Dice, names: Mapping[str, Sequence[str]]) -> Address:
    flat: tuple[str | int, ...] = ("flat ", dice.between(1, 40), ", ") if dice.happens(0.3) else ()
    street: tuple[str | int, ...] = (dice.between(1, 399), f" {dice.one_of(names['roads'])}")
    city: tuple[str | int, ...] = (f", {dice.one_of(names['cities'])}",) if dice.happens(0.7) else ()
    return Address(parts=(*flat, *street, *city))
