"""Messages of servers without the prompts that they repeat."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.bench.redacting import GAP, LONGEST_REPEATED, without

SECRET = 'My account number is 4711-0815-42,\nand my "name" is 王小明，电话是 13800138000，请帮我退款。'


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        " ".join(SECRET.split()),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        repr(SECRET),
        SECRET[10:60],
    ],
    ids=["as it is", "folded", "as JSON", "as JSON in UTF-8", "as Python", "a part"],
)
def test_what_a_server_repeats_of_a_prompt_is_left_out(written: str) -> None:
    found = without(f"http://h answered 400: Bad input: {written} is too rude.", [SECRET])
    assert found == without(found, [SECRET])
    assert found.startswith("http://h answered 400: Bad input: ")
    assert found.endswith(" is too rude.")
    assert GAP in found
    assert not any(word in found for word in ("4711", "王小明", "account", "13800138000"))


def test_a_message_of_its_own_stays_as_it_is() -> None:
    said = "http://h answered 400: The field top_k is not known."
    assert without(said, [SECRET, "What is the field of view?", ""]) == said
    assert without(said, []) == said


@given(
    st.text(alphabet="abc ", max_size=60), st.text(alphabet="abc ", max_size=60), st.text(alphabet="abc ", max_size=30)
)
def test_no_run_of_twelve_characters_of_the_prompt_is_left(before: str, prompt: str, after: str) -> None:
    found = without(before + prompt + after, [prompt])
    least = LONGEST_REPEATED + 1
    for part in found.split(GAP):
        assert not any(part[at : at + least] in prompt for at in range(len(part) - least + 1))
