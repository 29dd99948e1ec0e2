import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from pydantic import BaseModel

from qwenops.generation import ToolCall
from qwenops.serve.reasoning import Speech
from qwenops.serve.toolcalls import Call, ToolCallFinder, call_schema, read_call

ONE = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def find(pieces: list[str], *, bare: bool = False) -> tuple[str, list[ToolCall]]:
    ids = (f"id-{number}" for number in itertools.count())
    finder = ToolCallFinder(lambda: next(ids), bare=bare)
    parts = [part for piece in pieces for part in finder.push(piece)] + finder.finish()
    calls = [part for part in parts if isinstance(part, Call)]
    assert [part.index for part in calls] == list(range(finder.num_calls))
    return "".join(part.text for part in parts if isinstance(part, Speech)), [part.call for part in calls]


@pytest.mark.parametrize(
    ("text", "said", "names"),
    [
        ("no call", "no call", []),
        (ONE, "", ["f"]),
        (f"Wait.\n{ONE}", "Wait.", ["f"]),
        (f"{ONE}\n{ONE}", "", ["f", "f"]),
        (f"{ONE}\nThat was it.", "That was it.", ["f"]),
        (ONE.removesuffix("</tool_call>"), "", ["f"]),
        ("<tool_call>not json</tool_call>", "<tool_call>not json</tool_call>", []),
        ('<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
        ("<tool_call>never", "<tool_call>never", []),
        ("<tool_ca", "<tool_ca", []),
        ("trailing \n", "trailing \n", []),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "<tool_call>" + "[" * 100_000 + "</tool_call>", []),
    ],
)
def test_calls_are_found_and_nothing_is_lost(text: str, said: str, names: list[str]) -> None:
    found_text, calls = find([text])
    assert found_text == said
    assert [call.name for call in calls] == names


def test_arguments_stay_json_text_however_they_were_written() -> None:
    ids = iter("abc")
    as_object = read_call('{"name": "f", "arguments": {"城": "北京"}}', lambda: next(ids))
    as_text = read_call('{"name": "f", "arguments": "{\\"a\\": 1}"}', lambda: next(ids))
    without = read_call('{"name": "f"}', lambda: next(ids))
    assert as_object == ToolCall(id="a", name="f", arguments='{"城": "北京"}')
    assert as_text == ToolCall(id="b", name="f", arguments='{"a": 1}')
    assert without == ToolCall(id="c", name="f", arguments="{}")


def test_a_bare_answer_is_one_call_or_text() -> None:
    assert find(['{"name": ', '"f", "arguments": {}}'], bare=True)[1][0].name == "f"
    assert find(['{"name": "f", "argum'], bare=True) == ('{"name": "f", "argum', [])


def test_text_before_a_call_is_not_held_back() -> None:
    finder = ToolCallFinder(str)
    assert finder.push("One ") == [Speech("One")]
    assert finder.push("moment <t") == [Speech(" moment")]
    assert finder.push("ake it>") == [Speech(" <take it>")]


@given(st.lists(st.sampled_from([ONE, "<tool_call>", "</tool_call>", "<tool", "a", " ", "\n", "<"]), max_size=8))
def test_the_cut_makes_no_difference(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert find([text]) == find(list(text)) == find(pieces)


def test_the_schema_of_a_call_names_the_functions_and_holds_their_parameters() -> None:
    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}}
    one = json.loads(call_schema([{"name": "f", "parameters": parameters}]))
    assert one["properties"] == {"name": {"const": "f"}, "arguments": parameters}
    assert one["required"] == ["name", "arguments"]
    two = json.loads(call_schema([{"name": "f", "parameters": None}, {"name": "g"}]))
    assert [each["properties"]["name"]["const"] for each in two["anyOf"]] == ["f", "g"]
    assert two["anyOf"][0]["properties"]["arguments"] == {"type": "object"}


class Place(BaseModel):
    city: str


class Trip(BaseModel):
    start: Place
    stops: "list[Trip]" = []


OTHER = {
    "$id": "https://example.org/other",
    "type": "object",
    "properties": {"x": {"$ref": "#/$defs/Place"}, "again": {"$ref": "#"}, "$ref": {"const": {"$ref": "#/kept"}}},
    "$defs": {"Place": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}
TRIP = '{"name": "trip", "arguments": {"start": {"city": "x"}, "stops": [{"start": {"city": "y"}, "stops": []}]}}'
NESTED = [{"name": "trip", "parameters": Trip.model_json_schema()}, {"name": "other", "parameters": OTHER}]


@pytest.mark.parametrize("functions", [NESTED, NESTED[:1], NESTED[1:]])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TRIP, "trip"),
        (TRIP.replace('"y"', "5"), ""),
        ('{"name": "other", "arguments": {"x": 5}}', "other"),
        ('{"name": "other", "arguments": {"x": 5, "again": {"x": 6}}}', "other"),
        ('{"name": "other", "arguments": {"x": "no"}}', ""),
        ('{"name": "other", "arguments": {"x": 5, "$ref": {"$ref": "#/kept"}}}', "other"),
    ],
)
def test_the_definitions_of_a_nested_schema_are_found_where_its_call_holds_them(
    functions: list[dict[str, object]], text: str, name: str
) -> None:
    """The judge is what holds answers to a schema; two tools may give the same name to different definitions."""
    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_json_schema(call_schema(functions)))
    accepted = matcher.try_consume_tokens(list(text.encode())) == len(text.encode())
    assert not matcher.get_error()
    assert accepted == (name in {each["name"] for each in functions})
