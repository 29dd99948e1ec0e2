import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.serve.reasoning import ReasoningSplitter, Speech, Thought


def split(pieces: list[str], *, inside: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(inside=inside)
    parts = [part for piece in pieces for part in splitter.push(piece)] + splitter.finish()
    assert all(part.text for part in parts)
    kinds = [isinstance(part, Speech) for part in parts]
    assert kinds == sorted(kinds), "no thought comes after the answer has begun"
    return (
        "".join(part.text for part in parts if isinstance(part, Thought)),
        "".join(part.text for part in parts if isinstance(part, Speech)),
    )


@pytest.mark.parametrize(
    ("text", "thought", "said"),
    [
        ("<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        ("<think>\n\n</think>\n\nyes", "", "yes"),
        ("\n<think>a</think>b", "a", "b"),
        ("yes", "", "yes"),
        ("a <think> is a tag", "", "a <think> is a tag"),
        ("<thin", "", "<thin"),
        ("<think>never ends", "never ends", ""),
        ("<think>a < b </thin> c</think>d", "a < b </thin> c", "d"),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
        ("", "", ""),
        ("  leading", "", "  leading"),
    ],
)
def test_thoughts_and_answer_are_told_apart(text: str, thought: str, said: str) -> None:
    assert split([text]) == (thought, said)
    assert split(list(text)) == (thought, said)


def test_an_answer_may_start_within_the_thoughts() -> None:
    assert split(["hm", "</think>", "\nyes"], inside=True) == ("hm", "yes")


def test_what_is_clear_is_not_held_back() -> None:
    splitter = ReasoningSplitter()
    assert splitter.push("<think>") == []
    assert splitter.push("I see") == [Thought("I see")]
    assert splitter.push(" that <") == [Thought(" that")]
    assert splitter.push(" 3") == [Thought(" < 3")]
    assert splitter.push("</think>yes") == [Speech("yes")]
    assert splitter.push(" and no") == [Speech(" and no")]


def test_thinking_lasts_until_the_answer_begins() -> None:
    splitter = ReasoningSplitter()
    splitter.push("<think>a</think>")
    assert splitter.is_thinking
    splitter.push("b")
    assert not splitter.is_thinking


@given(st.lists(st.sampled_from(["<think>", "</think>", "<th", "ink>", "\n", " ", "a", "電", "</", "<"]), max_size=12))
def test_the_cut_makes_no_difference(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert split([text]) == split(list(text)) == split(pieces)
