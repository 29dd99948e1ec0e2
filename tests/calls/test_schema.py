"""Calls and labels: a line reads back as it was written, and a line that is none says every field that is wrong."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.problems import FieldProblem
from qwenops.calls.schema import (
    Call,
    Evidence,
    Label,
    LabelSource,
    Recognition,
    Redaction,
    Role,
    Turn,
    dump,
    parse_call,
    parse_label,
)

AT = datetime(2026, 3, 1, 9, 12, tzinfo=UTC)
PLAIN: dict[str, Any] = {"conversation_id": "a", "turns": [{"role": "customer", "text": "多扣了钱"}]}
WHOLE = Call(
    conversation_id="c-1",
    turns=(
        Turn(role=Role.AGENT, text="您好", i=0, t0=0.0, t1=1.5, conf=0.93),
        Turn(role=Role.CUSTOMER, text="", i=1, t0=1.5, t1=3.0),
    ),
    customer_id="h:1",
    agent_id="h:2",
    channel="phone",
    lang="zh",
    started_at=AT,
    duration_s=3.0,
    asr=Recognition(engine="paraformer", version="2", mean_conf=0.9),
    redaction=Redaction(version="zh-1", counts={"PHONE": 1}),
    meta={"queue": "a", "deep": {"list": [1, None]}},
)


def wrong(line: str) -> dict[str, str]:
    """Return by field what is wrong with a line that is no call."""
    with pytest.raises(FieldProblem) as caught:
        parse_call(line)
    return {each.field: str(each.what) for each in caught.value.problems("calls.jsonl", 7)}


def test_a_call_reads_back_as_it_was_written() -> None:
    assert parse_call(dump(WHOLE)) == WHOLE
    assert parse_call(dump(WHOLE).encode()) == WHOLE
    assert dump(WHOLE).startswith('{"schema":"qwenops.call/1","conversation_id":"c-1"')


def test_what_is_empty_is_left_out() -> None:
    assert json.loads(dump(parse_call(json.dumps(PLAIN)))) == {"schema": "qwenops.call/1", **PLAIN}
    assert json.loads(dump(Call(conversation_id="a", turns=())))["turns"] == []
    nameless = Call(conversation_id="", turns=())
    assert parse_call(dump(nameless)) == nameless


def test_a_label_reads_back_as_it_was_written() -> None:
    label = Label(
        conversation_id="c-1",
        taxonomy="telecom-cn@2",
        primary="billing.fee",
        secondary=("network",),
        axes={"urgency": "high"},
        source=LabelSource.WRAPUP_CODE,
        annotator="wang",
        weight=0.8,
        evidence=(Evidence(turn=1, start=2, end=5),),
        decided_at=AT,
        predicted="network",
        note="x",
    )
    assert parse_label(dump(label)) == label


@given(
    st.lists(st.tuples(st.sampled_from(Role), st.text(st.characters(exclude_categories=["Cs"])))),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.booleans() | st.integers(-9, 9)),
)
def test_whatever_is_said_reads_back(turns: list[tuple[Role, str]], meta: dict[str, Any]) -> None:
    call = Call(conversation_id="a", turns=tuple(Turn(role=role, text=text) for role, text in turns), meta=meta)
    line = dump(call)
    assert "\n" not in line
    assert parse_call(line) == call


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"conversation_id": 5}, "conversation_id", "A text belongs here."),
        ({"turns": "x"}, "turns", "A list belongs here."),
        ({"turns": [5]}, "turns[0]", "A JSON object belongs here."),
        ({"turns": [{"text": "x"}]}, "turns[0].role", "The field is missing."),
        ({"turns": [{"role": "boss", "text": "x"}]}, "turns[0].role", "Possible are only: 'agent', 'customer', "),
        ({"turns": [{"role": "ivr", "text": "x", "t0": "late"}]}, "turns[0].t0", "A number belongs here."),
        ({"turns": [{"role": "ivr", "text": "x", "i": 1.5}]}, "turns[0].i", "A whole number belongs here."),
        ({"duration_s": 1e999}, "duration_s", "A finite number belongs here."),
        ({"started_at": "yesterday"}, "started_at", "A moment belongs here"),
        ({"meta": [1]}, "meta", "A JSON object belongs here."),
        ({"meta": {"p": float("nan")}}, "", "NaN is no number"),
        ({"Turns": []}, "Turns", "There is no such field."),
        ({"schema": "qwenops.call/2"}, "schema", "Possible are only: 'qwenops.call/1'."),
    ],
)
def test_a_field_that_is_wrong_is_named_in_our_words(fields: dict[str, Any], where: str, said: str) -> None:
    found = wrong(json.dumps(PLAIN | fields))
    assert list(found) == [where]
    assert said in found[where]


def test_a_text_that_only_speaks_of_nan_is_a_text() -> None:
    assert parse_call(json.dumps({"conversation_id": "NaN", "turns": []})).conversation_id == "NaN"


def test_all_fields_that_are_wrong_are_named_at_once() -> None:
    line = json.dumps({"turns": [{"role": "boss", "text": 3}], "lang": None})
    assert set(wrong(line)) == {"conversation_id", "turns[0].role", "turns[0].text", "lang"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "breaks off"),
        (json.dumps(PLAIN)[:-3], "breaks off"),
        ("no json", "This is no JSON: expected ident, at character 2."),
        ("[]", "A JSON object belongs here."),
    ],
)
def test_a_line_that_is_no_object_says_so(line: str, said: str) -> None:
    assert said in wrong(line)[""]


@given(st.text() | st.binary())
def test_no_line_brings_it_down(line: str | bytes) -> None:
    with pytest.raises(FieldProblem):
        parse_call(line)
