"""Lines say what their authors meant, in every choice."""

import pytest

from qwenops.calls.generator.dice import Dice
from qwenops.calls.generator.line import LineError, expand, parse_line
from qwenops.calls.generator.words import Mark, Piece, Surface, plain


def said(text: str, seed: int = 0) -> str:
    return plain(expand(parse_line(text, "here"), Dice(seed), lambda slot: Piece(f"<{slot}>")))


def test_slots_are_filled_and_choices_made() -> None:
    assert said("多扣了{amount}啊") == "多扣了<amount>啊"
    assert {said("[我|咱]说{amount}[|吧]", seed) for seed in range(60)} == {
        "我说<amount>",
        "咱说<amount>",
        "我说<amount>吧",
        "咱说<amount>吧",
    }
    assert {said("[{plan}|{vas}费]", seed) for seed in range(30)} == {"<plan>", "<vas>费"}


def test_what_is_marked_stays_a_piece_of_its_own() -> None:
    mark = Mark(kind="PHONE", value="1", surface=Surface.DIGITS)
    words = expand(parse_line("号码[是|]{phone},记一下", "here"), Dice(0), lambda _slot: Piece("154", mark))
    assert [piece.mark for piece in words] == [None, mark, None]
    assert words[1] == Piece("154", mark)


@pytest.mark.parametrize(
    "text", ["", "[]", "{amount", "amount}", "[我|咱", "我|咱", "[a[b]c]", "{Amount}", "{{amount}}"]
)
def test_lines_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(LineError):
        parse_line(text, "here")


def test_a_line_knows_its_slots_and_words() -> None:
    line = parse_line("我的[Signal|网]在{place}[|{time}]", "here")
    assert line.slots == {"place", "time"}
    assert line.has(("signal",))
    assert not line.has(("短信",))
