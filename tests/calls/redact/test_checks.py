"""What a row of digits can be by its form: dates, check digits, prefixes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.redact.checks import (
    differs_little,
    identity_check,
    is_counting,
    is_date,
    is_old_identity,
    is_public,
    luhn,
    shape_of,
)
from qwenops.calls.redact.spans import Kind
from tests.calls.redact.saying import CARD, IDENTITY, LANDLINE, MOBILE

DIGITS = st.text("0123456789", min_size=1, max_size=25)


def test_the_sample_of_the_standard_has_the_check_it_should() -> None:
    assert identity_check("11010519491231002") == "X"


@pytest.mark.parametrize("digits", [CARD, "5555555555554444", "378282246310005", "0", "18"])
def test_published_card_numbers_satisfy_luhn(digits: str) -> None:
    assert luhn(digits)


@given(DIGITS, st.integers(0, 24), st.integers(1, 9))
def test_no_single_wrong_digit_satisfies_luhn(digits: str, place: int, more: int) -> None:
    place %= len(digits)
    wrong = digits[:place] + str((int(digits[place]) + more) % 10) + digits[place + 1 :]
    assert not (luhn(digits) and luhn(wrong))


@given(st.text("0123456789", min_size=17, max_size=17), st.integers(0, 16), st.integers(1, 9))
def test_no_single_wrong_digit_keeps_an_identity_check(body: str, place: int, more: int) -> None:
    wrong = body[:place] + str((int(body[place]) + more) % 10) + body[place + 1 :]
    assert identity_check(body) != identity_check(wrong)


@pytest.mark.parametrize(
    ("digits", "kind"),
    [
        (MOBILE, Kind.PHONE),
        ("86" + MOBILE, Kind.PHONE),
        ("0086" + MOBILE, Kind.PHONE),
        (LANDLINE, Kind.LANDLINE),
        ("01001234567", Kind.LANDLINE),
        (IDENTITY, Kind.ID_CARD),
        (CARD, Kind.BANK_CARD),
        ("6200000000000000000", Kind.BANK_CARD),
        ("12?00138000", Kind.PHONE),
    ],
)
def test_the_form_says_what_a_number_is(digits: str, kind: Kind) -> None:
    shape = shape_of(digits, english=False)
    assert shape is not None
    assert shape.kind is kind


@pytest.mark.parametrize(
    "digits", ["", "128", "20260312", "10086", "4001234567", "1280013800", "1234567890123456", "X"]
)
def test_a_form_that_says_nothing_is_none(digits: str) -> None:
    assert shape_of(digits, english=False) is None


def test_the_country_is_no_part_of_a_number() -> None:
    shapes = [shape_of(prefix + MOBILE, english=False) for prefix in ("", "86", "0086")]
    assert {shape.value for shape in shapes if shape} == {MOBILE}


def test_a_wrong_check_digit_makes_an_identity_card_less_sure_and_not_nothing() -> None:
    right, wrong = (shape_of(IDENTITY[:-1] + last, english=False) for last in (IDENTITY[-1], "X"))
    assert right is not None
    assert wrong is not None
    assert right.confidence > wrong.confidence
    assert wrong.kind is Kind.ID_CARD


def test_ten_digits_are_a_number_in_english_alone() -> None:
    assert shape_of("2025550143", english=False) is None
    shapes = [shape_of(digits, english=True) for digits in ("2025550143", "12025550143")]
    assert [shape.value for shape in shapes if shape] == ["12025550143"] * 2


@pytest.mark.parametrize(
    ("digits", "date"),
    [("20260312", True), ("202603121530", True), ("20261312", False), ("20260332", False), ("2026031", False)],
)
def test_dates_are_known(digits: str, date: bool) -> None:  # noqa: FBT001 -- the expectation of a table
    assert is_date(digits) is date


@pytest.mark.parametrize("digits", ["10086", "1008610086", "12315", "4001234567", "95588", "10690329013589"])
def test_numbers_that_everybody_knows_are_nobodys(digits: str) -> None:
    assert is_public(digits)
    assert not is_public(MOBILE)


def test_counting_and_old_cards_and_small_differences() -> None:
    assert is_counting("1234567")
    assert is_counting("7654321")
    assert not is_counting("1234568")
    assert is_old_identity("999999900101123")
    assert not is_old_identity("999999901301123")
    assert differs_little("12345", "12355")
    assert not differs_little("12345", "1234")
    assert not differs_little("12345", "54321")
