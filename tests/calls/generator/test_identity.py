"""Numbers come whole, in parts, or wrong first; what is marked is always the number and nothing else."""

import re

import pytest

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.identity import identify, mistaken
from qwenops.calls.generator.options import Difficulty
from qwenops.calls.generator.tongue import Tongue
from qwenops.calls.generator.words import Surface, Utterance
from qwenops.calls.schema import Role
from tests.calls.generator.tongues import tongue

ZH, EN = dict.fromkeys(Role, "zh"), dict.fromkeys(Role, "en")
ALWAYS_SPLIT, NEVER = Difficulty(split=1.0, corrected=0.0), Difficulty(split=0.0, corrected=0.0)
ALWAYS_WRONG = Difficulty(split=0.0, corrected=1.0)
SEEDS = range(40)


def digits_of(talk: list[Utterance], role: Role = Role.CUSTOMER, *, corrected: bool = False) -> str:
    """Return the digits of all that one speaker says of a number."""
    pieces = [piece for each in talk if each.role is role for piece in each.words if piece.mark]
    return "".join(
        char
        for piece in pieces
        if piece.mark and piece.mark.corrected is corrected
        for char in piece.text
        if char.isalnum()
    )


def talk(made: Tongue, kind: str, langs: dict[Role, str], knobs: Difficulty) -> list[Utterance]:
    return identify(made, kind, langs, knobs, f"identity:{kind}")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_number_in_parts_adds_up_to_the_number(seed: int) -> None:
    made = tongue(seed, written=True)
    found = talk(made, "phone", ZH, ALWAYS_SPLIT)
    assert digits_of(found[: _read_back_at(found)]) == made.person.numbers["phone"]
    marks = [piece.mark for each in found if each.role is Role.CUSTOMER for piece in each.words if piece.mark]
    assert {mark.surface for mark in marks} == {Surface.SPLIT}
    assert {mark.value for mark in marks} == {made.person.numbers["phone"]}
    assert sum(each.role is Role.CUSTOMER and any(piece.mark for piece in each.words) for each in found) >= 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("langs", "lang"), [(ZH, "zh"), (EN, "en")])
def test_a_whole_number_stands_in_one_piece(seed: int, langs: dict[Role, str], lang: str) -> None:
    made = tongue(seed, lang=lang, written=True)
    found = talk(made, "bank_card", langs, NEVER)
    (piece,) = [piece for each in found[:2] for piece in each.words if piece.mark]
    assert re.sub(r"\D", "", piece.text) == made.person.numbers["bank_card"]
    assert piece.mark is not None
    assert piece.mark.surface is Surface.DIGITS


@pytest.mark.parametrize("seed", SEEDS)
def test_a_corrected_number_has_wrong_digits_first_and_right_ones_in_the_end(seed: int) -> None:
    made = tongue(seed, written=True)
    number = made.person.numbers["phone"]
    found = talk(made, "phone", ZH, ALWAYS_WRONG)[:2]
    wrong, right = digits_of(found, corrected=True), digits_of(found)
    assert right
    assert number.endswith(right)
    assert not number.startswith(wrong)
    assert any(word in found[1].text for word in ("不对", "说错", "不是"))


def test_digits_are_spoken_where_the_call_writes_them_so() -> None:
    made = tongue(1, written=False)
    found = talk(made, "phone", ZH, NEVER)
    (piece,) = [piece for piece in found[1].words if piece.mark]
    assert not re.search(r"[0-9]", piece.text)
    assert re.fullmatch(r"[零一二三四五六七八九幺洞两拐勾个 ，]+", piece.text)


def test_the_last_four_digits_are_no_personal_data() -> None:
    for seed in range(60):
        made = tongue(seed, written=True)
        for each in talk(made, "phone", ZH, NEVER)[2:]:
            if "尾号" in each.text:
                assert made.person.numbers["phone"][-4:] in each.text
                assert not any(piece.mark for piece in each.words)
                return
    pytest.fail("no agent read the last four digits back")


@pytest.mark.parametrize("kind", ["name", "address", "email"])
def test_what_is_no_number_is_said_in_words(kind: str) -> None:
    made = tongue(2, written=True)
    found = talk(made, kind, ZH, ALWAYS_SPLIT)
    marks = [piece.mark for each in found for piece in each.words if piece.mark]
    assert marks
    assert {mark.surface for mark in marks} == {Surface.WORDS}


@pytest.mark.parametrize("part", ["1", "11", "1234", "5555", "X", "1X"])
def test_a_mistake_is_another_text_of_the_same_length(part: str) -> None:
    for seed in range(20):
        wrong = mistaken(part, Dice(seed))
        assert wrong != part
        assert len(wrong) == len(part)


def _read_back_at(found: list[Utterance]) -> int:
    """Return where the agent begins to read the number back, which customers only answer with a yes."""
    last = max(
        place for place, each in enumerate(found) if each.role is Role.CUSTOMER and any(p.mark for p in each.words)
    )
    return last + 1
