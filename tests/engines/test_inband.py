"""What a server sends apart stands in the text as Qwen writes it, so that our own parsers find all of it again."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qwenops.engines.inband import InBand
from qwenops.serve.reasoning import ReasoningSplitter, Thought
from qwenops.serve.toolcalls import Call, ToolCallFinder

_WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text
)
_CALL = st.tuples(_WORDS, st.dictionaries(_WORDS, _WORDS, max_size=2))


@given(st.lists(_WORDS, max_size=3), st.lists(_WORDS, max_size=3), st.lists(_CALL, max_size=3), st.integers(1, 9))
def test_thoughts_speech_and_calls_are_found_again(
    thoughts: list[str], speech: list[str], calls: list[tuple[str, dict[str, Any]]], step: int
) -> None:
    band = InBand()
    text = "".join(band.thought(each) for each in thoughts) + "".join(band.speech(each) for each in speech)
    for number, (name, arguments) in enumerate(calls):
        written = json.dumps(arguments, ensure_ascii=False)
        text += band.call(number, name, "")
        text += "".join(band.call(number, "", written[at : at + step]) for at in range(0, len(written), step))
    text += band.finish(cut=False)
    splitter, finder = ReasoningSplitter(), ToolCallFinder(lambda: "id")
    parts = splitter.push(text) + splitter.finish()
    assert "".join(part.text for part in parts if isinstance(part, Thought)) == "".join(thoughts)
    rest = "".join(part.text for part in parts if not isinstance(part, Thought))
    found = finder.push(rest) + finder.finish()
    assert [(each.call.name, json.loads(each.call.arguments)) for each in found if isinstance(each, Call)] == calls
    assert "".join(each.text for each in found if not isinstance(each, Call)) == "".join(speech)


def test_plain_speech_goes_through_as_it_is() -> None:
    band = InBand()
    assert band.is_plain
    assert band.speech("a\n") + band.speech("") + band.speech(" b") + band.finish(cut=False) == "a\n b"


def test_a_call_begins_on_a_line_of_its_own() -> None:
    band = InBand()
    assert band.speech("a\n") + band.call(0, "f", "{}") == 'a\n<tool_call>\n{"name": "f", "arguments": {}'


def test_what_its_length_cut_stays_open() -> None:
    band = InBand()
    assert band.call(0, "f", '{"a') + band.finish(cut=True) == '<tool_call>\n{"name": "f", "arguments": {"a'
