"""Nobody can have what synthetic customers have, and it looks right all the same."""

import re
from collections.abc import Iterator
from datetime import date
from functools import cache

import pytest

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.lexicon import Lexicon, load_lexicon
from qwenops.calls.generator.people import (
    NO_PROVINCE,
    UNASSIGNED_MOBILE,
    Person,
    draw_person,
    fake_card,
    id_check_digit,
    luhn_digit,
)

PROVINCES = {
    *range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83, 91
}  # fmt: skip
ASSIGNED_MOBILE = {
    *range(130, 140), *range(145, 154), *range(155, 160), 162, 165, 166, 167, *range(170, 179), *range(180, 194),
    *range(195, 200),
}  # fmt: skip


@cache
def lexicon() -> Lexicon:
    return load_lexicon()


def people(lang: str, count: int = 400) -> Iterator[Person]:
    words = lexicon()
    for number in range(count):
        yield draw_person(Dice(5, number), words.names[lang], words.area_codes, lang)


def test_check_digits_are_those_of_the_standards() -> None:
    # The worked example of GB 11643, and the number that card schemes publish for tests.
    assert id_check_digit("11010519491231002") == "X"
    assert luhn_digit("411111111111111") == "1"


def test_mobile_numbers_are_of_codes_that_nobody_has() -> None:
    assert not {int(code) for code in UNASSIGNED_MOBILE} & ASSIGNED_MOBILE
    numbers = [each.numbers["phone"] for each in people("zh")]
    assert all(re.fullmatch(r"1[3-9]\d{9}", each) and each.startswith(UNASSIGNED_MOBILE) for each in numbers)


def test_english_numbers_are_kept_for_fiction() -> None:
    for each in people("en"):
        assert re.fullmatch(r"07700900\d{3}|\d{3}55501\d{2}", each.numbers["phone"])
        assert re.fullmatch(r"(0207946|0161496|0117496|0131496)0\d{3}", each.numbers["landline"])
        assert each.numbers["id_card"][:3] in {"000", "666"}


def test_id_cards_have_a_right_check_digit_and_an_impossible_owner() -> None:
    impossible_day = 0
    for each in people("zh"):
        number = each.numbers["id_card"]
        assert len(number) == 18
        assert id_check_digit(number[:17]) == number[17]
        if int(number[:2]) in PROVINCES:
            impossible_day += 1
            with pytest.raises(ValueError, match="day"):
                date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    assert 100 < impossible_day < 300
    assert not {int(each) for each in NO_PROVINCE} & PROVINCES


def test_cards_pass_the_check_and_belong_to_no_issuer() -> None:
    for each in (fake_card(Dice(1, length, number), length) for length in (16, 19) for number in range(50)):
        assert luhn_digit(each[:-1]) == each[-1]
        assert each[0] == "0"
        assert len(each) in {16, 19}


def test_landlines_begin_with_a_digit_that_no_subscriber_has() -> None:
    codes = tuple(lexicon().area_codes.values())
    for each in people("zh"):
        code = next(code for code in codes if each.numbers["landline"].startswith(f"{code}9"))
        assert len(each.numbers["landline"]) == len(code) + 8


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_mail_goes_to_reserved_domains_only(lang: str) -> None:
    assert all(re.fullmatch(r"[a-z0-9.]+@example\.(com|net|org)", each.email) for each in people(lang))


def test_plates_look_right_and_name_no_town() -> None:
    assert all(
        re.fullmatch(r"[宁琼青藏贵吉晋蒙][WXYZ][A-HJ-NP-Z0-9]{5,6}", each.numbers["plate"]) for each in people("zh")
    )
    assert all(re.fullmatch(r"Q[A-Z]00[A-Z]{3}", each.numbers["plate"]) for each in people("en"))


def test_two_customers_are_two_people_and_one_stays_the_same() -> None:
    assert len({each.numbers["phone"] for each in people("zh")}) == 400
    assert next(people("zh")) == next(people("zh"))
