import gc
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from qwenops.calls.problems import Problem, Severity
from qwenops.calls.readers import Entry, LabelEntry
from qwenops.calls.schema import Call, Label, Role, Turn
from qwenops.calls.taxonomy import load
from qwenops.calls.validate import ValidateOptions, validate
from tests.calls.readers.reading import TAXONOMY

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
AGENT = Turn(role=Role.AGENT, text="您好,请问有什么可以帮您", t0=0.0, t1=2.0)
CUSTOMER = Turn(role=Role.CUSTOMER, text="你们多扣了我两个月彩铃费", t0=2.5, t1=6.0)
CALL = Call(conversation_id="c-1", turns=(AGENT, CUSTOMER), started_at=NOW - timedelta(days=1), duration_s=60.0)
LABEL = Label(conversation_id="c-1", taxonomy="test@2", primary="billing.fee")
ONE_IS_ENOUGH = ValidateOptions(fewest_examples=1)


def judged(
    calls: Sequence[Call | Entry], labels: Sequence[Label | LabelEntry] = (), **told: Any
) -> list[tuple[str, str]]:
    """Return severities and fields."""
    return [(each.severity.value, each.field) for each in problems_of(calls, labels, **told)]


def problems_of(calls: Sequence[Call | Entry], labels: Sequence[Label | LabelEntry] = (), **told: Any) -> list[Problem]:
    usual: dict[str, Any] = {"now": NOW, "options": ONE_IS_ENOUGH}
    return validate(calls, labels, TAXONOMY, **(usual | told))


def test_a_good_call_with_a_good_label_has_no_problem() -> None:
    assert judged([CALL], [LABEL]) == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (replace(CALL, conversation_id=" "), ("error", "conversation_id")),
        (replace(CALL, conversation_id="c\n1"), ("error", "conversation_id")),
        (replace(CALL, turns=()), ("error", "turns")),
        (replace(CALL, turns=(replace(AGENT, text=" "), replace(CUSTOMER, text="\t"))), ("error", "turns")),
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, t0=-1.0))), ("error", "turns[1].t0")),
        (replace(CALL, turns=(replace(AGENT, t0=9.0, t1=9.5), CUSTOMER)), ("error", "turns[1].t0")),
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, t1=1.0))), ("error", "turns[1].t1")),
        (replace(CALL, duration_s=-1.0), ("error", "duration_s")),
        (replace(CALL, turns=(replace(AGENT, i=1), replace(CUSTOMER, i=0))), ("error", "turns[1].i")),
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, conf=87.0))), ("error", "turns[1].conf")),
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, text="a\x00b"))), ("error", "turns[1].text")),
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, text="a\u202eb"))), ("error", "turns[1].text")),
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, text="cafe\u0301"))), ("warning", "turns[1].text")),
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, text="\ufffd多"))), ("warning", "turns[1].text")),
        (replace(CALL, turns=(CUSTOMER,)), ("warning", "turns")),
        (replace(CALL, turns=(replace(CUSTOMER, role=Role.UNKNOWN),)), ("warning", "turns")),
        (replace(CALL, started_at=NOW + timedelta(days=2)), ("warning", "started_at")),
        (replace(CALL, started_at=datetime(2027, 1, 1)), ("warning", "started_at")),  # noqa: DTZ001 -- files have such
        (replace(CALL, turns=(AGENT, replace(CUSTOMER, text="长" * 100_001))), ("warning", "turns")),
    ],
)
def test_each_thing_that_is_wrong_with_a_call_is_said_by_its_field(call: Call, expected: tuple[str, str]) -> None:
    assert expected in judged([call])


def test_a_customer_who_says_nothing_is_an_error_and_one_whom_nobody_knows_is_none() -> None:
    told = {each.what for each in problems_of([replace(CALL, turns=(AGENT, replace(AGENT, role=Role.IVR)))])}
    assert "The customer says nothing." in told
    assert judged([replace(CALL, turns=(AGENT, replace(CUSTOMER, role=Role.UNKNOWN)))]) == []


def test_turns_that_overlap_are_usual() -> None:
    assert judged([replace(CALL, turns=(AGENT, replace(CUSTOMER, t0=1.0)))]) == []


def test_a_call_that_comes_twice_is_an_error_that_names_both_places() -> None:
    calls = [Entry(call=CALL, label=None, line=line, source="a.jsonl") for line in (3, 7)]
    (problem,) = problems_of(calls)
    assert problem.severity is Severity.ERROR
    assert problem.place == "a.jsonl:7: conversation_id"
    assert "a.jsonl:3" in problem.what


@pytest.mark.parametrize(
    ("label", "field", "words"),
    [
        (replace(LABEL, conversation_id="c-9"), "conversation_id", "of a call that is not there"),
        (replace(LABEL, primary="billing.fees"), "primary", "there are for example: billing.fee"),
        (replace(LABEL, primary="billing"), "primary", "no leaf of test@2"),
        (replace(LABEL, secondary=("network", "weather")), "secondary[1]", "'weather' is no leaf"),
        (replace(LABEL, taxonomy="test@1"), "taxonomy", "No migration leads from test@1 to test@2"),
        (replace(LABEL, weight=0.0), "weight", "above 0 and at most 1"),
        (replace(LABEL, weight=1.5), "weight", "above 0 and at most 1"),
    ],
)
def test_each_thing_that_is_wrong_with_a_label_is_said_by_file_line_and_field(
    label: Label, field: str, words: str
) -> None:
    (problem,) = problems_of([CALL], [LabelEntry(label=label, line=5, source="labels.jsonl")])
    assert problem.severity is Severity.ERROR
    assert problem.place == f"labels.jsonl:5: {field}"
    assert words in problem.what


def test_labels_that_come_with_calls_are_looked_at_too() -> None:
    entry = Entry(
        call=CALL, label=replace(LABEL, primary="x"), line=2, source="a.csv", further=(replace(LABEL, annotator="b"),)
    )
    (problem,) = problems_of([entry])
    assert problem.place == "a.csv:2: primary"


def test_without_a_taxonomy_classes_are_not_looked_at() -> None:
    label = replace(LABEL, taxonomy="other@1", primary="x")
    assert validate([CALL], [label], None, now=NOW, options=ONE_IS_ENOUGH) == []


def test_two_labels_by_one_annotator_are_an_error_and_by_two_are_none() -> None:
    labels = [replace(LABEL, annotator=each) for each in ("a", "b", "a")]
    assert judged([CALL], labels) == [("error", "conversation_id")]


def test_one_text_with_two_classes_is_a_warning() -> None:
    same = replace(CUSTOMER, text="你们多扣了我,两个月 彩铃费!")
    calls = [CALL, replace(CALL, conversation_id="c-2", turns=(AGENT, same)), replace(CALL, conversation_id="c-3")]
    labels = [LABEL, replace(LABEL, conversation_id="c-2", primary="network"), replace(LABEL, conversation_id="c-3")]
    first, second = problems_of(calls, labels)
    assert {first.severity, second.severity} == {Severity.WARNING}
    assert (first.conversation_id, first.field) == ("c-2", "primary")
    assert "billing.fee in the call c-1" in first.what
    assert second.conversation_id == "c-3"
    assert judged([CALL], [LABEL, replace(LABEL, annotator="b", primary="network")]) == []


def test_small_classes_are_a_warning_and_single_examples_an_error_for_training() -> None:
    calls = [
        replace(CALL, conversation_id=f"c-{number}", turns=(AGENT, replace(CUSTOMER, text=f"{number}")))
        for number in range(15)
    ]
    labels = [replace(LABEL, conversation_id=f"c-{number}") for number in range(10)]
    labels += [replace(LABEL, conversation_id=f"c-{number}", primary="network") for number in range(10, 14)]
    labels += [replace(LABEL, conversation_id="c-14", primary="billing.refund")]
    for training, severity in ((False, Severity.WARNING), (True, Severity.ERROR)):
        problems = problems_of(calls, labels, options=ValidateOptions(training=training))
        assert [each.severity for each in problems] == [severity, Severity.WARNING]
        assert "billing.refund has a single example" in problems[0].what
        assert "network has 4 examples" in problems[1].what


@dataclass(frozen=True)
class Span:
    kind: str
    turn: int


def found(turns: Sequence[Turn]) -> list[Span]:
    """Find what stands in square brackets."""
    return [Span(kind="PHONE", turn=number) for number, turn in enumerate(turns) for _ in range(turn.text.count("["))]


def test_personal_data_is_counted_and_never_shown() -> None:
    secret = "[12000000001]"
    call = replace(
        CALL,
        turns=(AGENT, replace(CUSTOMER, text=f"我的号码{secret},还有{secret}")),
        customer_id=secret,
        meta={"note": secret, "n": 5},
    )
    problems = problems_of([call], find=found)
    assert [each.field for each in problems] == ["turns[1].text", "customer_id", "meta.note"]
    assert [each.severity for each in problems] == [Severity.WARNING] * 3
    assert "PHONE 2" in problems[0].what
    assert not any("12000000001" in each.what for each in problems)


def test_times_with_and_without_zone_in_one_set_are_a_warning() -> None:
    bare = replace(CALL, conversation_id="c-2", started_at=datetime(2026, 3, 1))  # noqa: DTZ001 -- files have such
    assert judged([CALL, bare]) == [("warning", "started_at")]
    assert judged([bare]) == []


def test_calls_are_not_kept() -> None:
    text = "话费" * 5_000

    def calls(number: int) -> Iterator[Call]:
        return (
            replace(CALL, conversation_id=f"c-{each}", turns=(AGENT, replace(CUSTOMER, text=f"{each}{text}")))
            for each in range(number)
        )

    def peak(number: int) -> int:
        gc.collect()
        tracemalloc.start()
        assert validate(calls(number), (), TAXONOMY, now=NOW) == []
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(400) - peak(20) < 380 * 2_000


def test_labels_of_an_older_version_are_followed_and_what_was_split_is_named() -> None:
    taxonomy = load("telecom-cn")
    labels = [
        replace(LABEL, taxonomy="telecom-cn@1", primary="billing.package"),
        replace(LABEL, taxonomy="telecom-cn@1", primary="service.marketing", annotator="li"),
    ]
    found = validate([CALL], labels, taxonomy, now=NOW)
    assert [(each.field, each.severity) for each in found] == [
        ("primary", Severity.ERROR),
        ("primary", Severity.WARNING),
    ]
    assert "was split" in found[0].what
    assert "billing.plan_fee has a single example" in found[1].what
