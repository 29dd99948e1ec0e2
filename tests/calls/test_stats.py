import json
from dataclasses import replace
from datetime import UTC, datetime

from qwenops.calls.readers import Entry, LabelEntry
from qwenops.calls.schema import Call, Label, Recognition, Redaction, Role, Turn
from qwenops.calls.stats import SCHEMA, sentences, stats
from qwenops.text import Text

AGENT = Turn(role=Role.AGENT, text="您好请讲")
CUSTOMER = Turn(role=Role.CUSTOMER, text="多扣了我十五块", conf=0.5)
CALL = Call(
    conversation_id="c-1",
    customer_id="h:1",
    agent_id="h:a",
    channel="phone",
    turns=(AGENT, CUSTOMER),
    started_at=datetime(2026, 3, 31, tzinfo=UTC),
    duration_s=60.0,
)
LABEL = Label(conversation_id="c-1", taxonomy="test@2", primary="billing.fee", annotator="a")


def test_calls_are_counted_by_what_they_are() -> None:
    english = Call(
        conversation_id="c-2",
        turns=(Turn(role=Role.UNKNOWN, text="you charged me twice"),),
        asr=Recognition(mean_conf=0.9),
        redaction=Redaction(version="zh-1", counts={"PHONE": 2}),
    )
    found = stats([CALL, english, replace(CALL, conversation_id="c-3", lang="mixed")])
    assert found["schema"] == SCHEMA
    assert (found["calls"], found["customers"], found["agents"]) == (3, 1, 1)
    assert found["languages"] == {"en": 1, "mixed": 1, "zh": 1}
    assert found["channels"] == {"phone": 2, "-": 1}
    assert found["months"] == {"-": 1, "2026-03": 2}
    assert found["turns"] == {
        "n": 3,
        "mean": 1.6667,
        "min": 1.0,
        "p5": 1.0,
        "p25": 1.0,
        "p50": 2.0,
        "p75": 2.0,
        "p95": 2.0,
        "p99": 2.0,
        "max": 2.0,
    }
    assert found["characters"]["p50"] == 11.0
    assert found["duration_s"]["n"] == 2
    assert found["roles"] == {
        "agent": {"turns": 2, "characters": 8},
        "customer": {"turns": 2, "characters": 14},
        "unknown": {"turns": 1, "characters": 20},
    }
    assert (found["without_customer"], found["without_agent"], found["redacted"]) == (1, 1, 1)
    assert found["placeholders"] == {"PHONE": 2}
    assert (found["asr_confidence"]["min"], found["asr_confidence"]["max"]) == (0.5, 0.9)
    assert json.loads(json.dumps(found)) == found


def test_labels_are_counted_wherever_they_come_from() -> None:
    entry = Entry(call=CALL, label=LABEL, line=1, further=(replace(LABEL, primary="network", annotator="b"),))
    other = replace(CALL, conversation_id="c-2")
    found = stats([entry, other], [LabelEntry(label=replace(LABEL, conversation_id="c-2"), line=1)])
    assert found["classes"] == {"billing.fee": 2, "network": 1}
    assert (found["labels"], found["labelled"], found["disputed"], found["annotators"]) == (3, 2, 1, 2)
    assert found["taxonomies"] == {"test@2": 3}
    assert found["label_sources"] == {"human": 3}


def test_what_stands_out_is_said_in_sentences_that_can_be_translated() -> None:
    calls = [replace(CALL, conversation_id=f"c-{number}") for number in range(30)]
    calls += [
        Call(conversation_id=f"u-{number}", turns=(Turn(role=Role.UNKNOWN, text="长" * 7000),)) for number in range(10)
    ]
    labels = [replace(LABEL, conversation_id=f"c-{number}") for number in range(30)]
    labels += [
        replace(LABEL, conversation_id="u-1", primary="network"),
        replace(LABEL, primary="network", annotator="b"),
    ]
    told = sentences(stats(calls, labels))
    assert all(isinstance(each, Text) for each in told)
    whole = " ".join(told)
    assert "40 calls, half of them with at most 11 characters and 2 turns" in whole
    assert "31 have a label, of 2 classes; the largest is billing.fee with 30" in whole
    assert "1 classes have fewer than 10 calls" in whole
    assert "Annotators disagree about 1 calls" in whole
    assert "25% have more than 6,000 characters" in whole
    assert "In 25% no turn is known to be the customer's" in whole
    assert "The recognition was unsure" in whole
    assert "40 calls are not redacted" in whole


def test_uneven_classes_are_said() -> None:
    calls = [replace(CALL, conversation_id=f"c-{number}") for number in range(43)]
    labels = [replace(LABEL, conversation_id=f"c-{number}") for number in range(41)]
    labels += [replace(LABEL, conversation_id=f"c-{number}", primary="network") for number in (41, 42)]
    assert any("Judge by macro-F1" in each for each in sentences(stats(calls, labels)))
    assert not any("Judge by macro-F1" in each for each in sentences(stats(calls, labels[1:])))


def test_no_calls_and_no_labels_are_said() -> None:
    assert sentences(stats([])) == ("There are no calls.",)
    assert "None of them has a label." in sentences(stats([CALL]))
