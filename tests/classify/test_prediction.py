import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.problems import FieldProblem
from qwenops.classify.prediction import (
    DecisionKind,
    Prediction,
    dump_prediction,
    parse_prediction,
    prediction_data,
)

SHARES = st.floats(0, 1)
WHOLE = Prediction(
    conversation_id="c-001",
    model="complaints@1.2.0",
    primary="billing.vas_unaware",
    p=0.91,
    decision=DecisionKind.AUTO,
    path=("billing", "billing.vas_unaware"),
    probs={"billing.vas_unaware": 0.91, "billing.plan_fee": 0.09},
    candidates=("billing.vas_unaware",),
    threshold=0.85,
    redaction="zh-1",
    latency_s=0.0123,
    tokens=412,
    at=datetime(2026, 3, 1, 9, 12, 33, tzinfo=UTC),
)


def test_a_line_has_the_keys_that_other_programs_read() -> None:
    line = dump_prediction(WHOLE)
    assert "\n" not in line
    assert json.loads(line) == {
        "schema": "qwenops.prediction/1",
        "conversation_id": "c-001",
        "model": "complaints@1.2.0",
        "primary": "billing.vas_unaware",
        "p": 0.91,
        "decision": "auto",
        "path": ["billing", "billing.vas_unaware"],
        "probs": {"billing.vas_unaware": 0.91, "billing.plan_fee": 0.09},
        "set": ["billing.vas_unaware"],
        "threshold": 0.85,
        "redaction": "zh-1",
        "latency_ms": 12.3,
        "tokens": 412,
        "ts": "2026-03-01T09:12:33Z",
    }


@given(
    st.text(min_size=1, max_size=20),
    SHARES,
    st.sampled_from(DecisionKind),
    st.dictionaries(st.text(max_size=5), SHARES, max_size=4),
    st.one_of(st.none(), st.integers(0, 10_000_000)),
)
def test_a_line_reads_back_as_the_same_prediction(
    name: str, p: float, decision: DecisionKind, probs: dict[str, float], microseconds: int | None
) -> None:
    whole = Prediction(
        conversation_id=name,
        model="m",
        primary="a",
        p=p,
        decision=decision,
        probs=probs,
        latency_s=None if microseconds is None else microseconds / 1000 / 1000,
    )
    read = parse_prediction(dump_prediction(whole))
    assert read.latency_s == (None if microseconds is None else pytest.approx(microseconds / 1e6, abs=1e-9))
    assert (read.conversation_id, read.p, read.decision, read.probs) == (name, p, decision, probs)
    assert parse_prediction(dump_prediction(read)) == read


def test_what_nobody_knows_is_left_out() -> None:
    bare = Prediction(conversation_id="c", model="m", primary="a", p=0.5, decision=DecisionKind.REVIEW)
    assert not {"threshold", "latency_ms", "tokens", "ts"} & set(prediction_data(bare))
    assert parse_prediction(dump_prediction(bare)) == bare


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"p": 1.5}, "p"),
        ({"probs": {"a": -0.1}}, "probs.a"),
        ({"decision": "maybe"}, "decision"),
        ({"set": "billing"}, "set"),
        ({"ts": "yesterday"}, "ts"),
        ({"latency_ms": "slow"}, "latency_ms"),
        ({"surprise": 1}, "surprise"),
        ({"schema": "qwenops.prediction/2"}, "schema"),
    ],
)
def test_a_wrong_field_is_named_as_the_line_has_it(change: dict[str, Any], field: str) -> None:
    line = json.dumps({**prediction_data(WHOLE), **change})
    with pytest.raises(FieldProblem) as refused:
        parse_prediction(line)
    assert [each.field for each in refused.value.problems("x.jsonl", 1)] == [field]


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(FieldProblem):
        parse_prediction('{"p": ')
