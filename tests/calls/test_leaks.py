"""Leaks: each kind is found where it was put, and none where none was."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from qwenops.calls.leaks import _association, _kinds, _names, leaks
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.schema import Call, Label, Redaction, Role, Turn
from qwenops.calls.split import KEYS, Key, Splits, split
from qwenops.calls.taxonomy import Taxonomy, load
from tests.calls.spoken import call, garbled, label, many, sentence

CODES = ["a", "b", "c", "d"]


def by_row(calls: Sequence[Call], *, keys: tuple[Key, ...] = KEYS, by_time: bool = False) -> Splits:
    """Divide calls as nobody should: every fifth is for testing, every fifth for validation."""
    ids = [each.conversation_id for each in calls]
    return Splits(
        train=tuple(each for number, each in enumerate(ids) if number % 5 > 1),
        val=tuple(ids[1::5]),
        test=tuple(ids[::5]),
        keys=keys,
        by_time=by_time,
    )


def found(splits: Splits, calls: Sequence[Call], labels: Sequence[Label]) -> list[tuple[str, str, Severity]]:
    return [(each.source, each.field, each.severity) for each in leaks(splits, calls, labels)]


class TestParts:
    @pytest.mark.parametrize("days", [None, 60.0])
    def test_what_split_makes_leaks_nothing(self, days: float | None) -> None:
        calls, labels = many(600, CODES, customers=300, days=days)
        twins = [replace(each, conversation_id=f"t{number}", customer_id="") for number, each in enumerate(calls[::20])]
        told = [*labels, *(label(each.conversation_id, "a") for each in twins)]
        assert leaks(split([*calls, *twins], told), [*calls, *twins], told) == []

    def test_dividing_by_row_is_found_out_customer_by_customer(self) -> None:
        calls, labels = many(100, CODES, customers=20)
        problems = leaks(by_row(calls), calls, labels)
        assert len(problems) > 10
        assert {(each.field, each.severity) for each in problems} == {("customer_id", Severity.ERROR)}

    def test_a_customer_in_two_parts_is_named_with_the_parts(self) -> None:
        calls, labels = many(10, ["a"])
        calls[0] = replace(calls[0], customer_id="h:1")
        calls[2] = replace(calls[2], customer_id="h:1")
        (problem,) = leaks(by_row(calls), calls, labels)
        assert (problem.source, problem.place) == ("train, test", "train, test: customer_id")
        assert problem.what == "The customer h:1 has calls in several parts, for example c0, c2."

    def test_equal_and_nearly_equal_texts_are_told_apart(self) -> None:
        calls, labels = many(10, ["a"])
        text = sentence("twin", 300)
        calls[0] = call("c0", f"c:{text}")
        calls[1] = call("c1", f"c:{text}。")
        problems = leaks(by_row(calls), calls, labels)
        assert [(each.source, each.what.split(";")[0]) for each in problems] == [
            ("val, test", "Equal texts are in several parts")
        ]
        calls[1] = call("c1", f"c:{garbled(text, 1, 100)}")
        problems = leaks(by_row(calls), calls, labels)
        assert [(each.source, each.what) for each in problems] == [
            ("val, test", "Nearly equal texts are in several parts, for example c0, c1.")
        ]

    def test_what_a_split_was_to_ignore_is_only_a_warning(self) -> None:
        calls, labels = many(50, CODES, customers=10)
        calls = [replace(each, agent_id=f"a{number % 5}") for number, each in enumerate(calls)]
        splits = split(calls, labels, keys=(Key.AGENT,))
        assert {each[1:] for each in found(splits, calls, labels)} == {("customer_id", Severity.WARNING)}
        rows = by_row([replace(each, customer_id="") for each in calls], keys=(Key.AGENT,))
        calls[0] = replace(calls[0], agent_id="a1")
        assert ("val, test", "agent_id", Severity.ERROR) in found(rows, calls, labels)

    def test_parts_that_overlap_in_time_though_they_should_not_are_errors(self) -> None:
        calls, labels = many(50, CODES, days=50)
        assert found(by_row(calls, by_time=True), calls, labels) == [
            ("train, val", "started_at", Severity.ERROR),
            ("val, test", "started_at", Severity.ERROR),
        ]
        assert found(by_row(calls), calls, labels) == []

    def test_conversations_that_are_twice_or_nowhere_or_without_a_label_are_errors(self) -> None:
        calls, labels = many(10, ["a"])
        splits = by_row(calls)
        splits = replace(splits, test=(*splits.test, "c2", "gone"))
        problems = leaks(splits, calls, labels[:-1])
        assert [(each.conversation_id, each.source, each.severity) for each in problems] == [
            ("c2", "train, test", Severity.ERROR),
            ("c9", "train", Severity.ERROR),
            ("gone", "test", Severity.ERROR),
        ]

    def test_calls_in_no_part_do_not_count(self) -> None:
        calls, labels = many(10, ["a"], customers=2)
        splits = Splits(train=("c0",), val=(), test=())
        assert leaks(splits, calls, labels) == []


@pytest.fixture(scope="module")
def telecom() -> Taxonomy:
    return load("telecom-cn")


class TestReadBack:
    def heard(self, count: int, says: str, telecom: Taxonomy) -> list[Problem]:
        dice = random.Random(1)
        codes = [code for code in telecom.leaves if code not in {"none.inquiry", "other"}]
        calls, labels = [], []
        for number in range(200):
            code = dice.choice(codes)
            turns = [f"c:{sentence(number, 40)}"]
            if number < count:
                turns.append("a:" + says.format(name=telecom.name_of(code, "zh")))
            calls.append(call(f"c{number}", *turns))
            labels.append(label(f"c{number}", code, taxonomy=telecom.ref))
        return leaks(split(calls, labels), calls, labels, taxonomy=telecom)

    def test_an_agent_who_says_the_class_while_registering_gives_it_away(self, telecom: Taxonomy) -> None:
        (problem,) = self.heard(40, "那我这边给您登记一个{name}的工单您看可以吗", telecom)
        assert problem.severity is Severity.WARNING
        assert problem.field == "turns"
        assert " of 200 calls an agent says the class aloud" in problem.what

    def test_who_only_talks_about_it_gives_nothing_away(self, telecom: Taxonomy) -> None:
        assert self.heard(40, "您说的是{name}对吗", telecom) == []

    def test_a_few_times_are_no_habit(self, telecom: Taxonomy) -> None:
        assert self.heard(3, "给您登记{name}", telecom) == []

    def test_naming_any_class_gives_nothing_away(self, telecom: Taxonomy) -> None:
        assert self.heard(60, "已经登记了骚扰电话与营销短信", telecom) == []

    def test_parts_of_a_name_are_enough_where_they_name_one_class(self, telecom: Taxonomy) -> None:
        names = _names(telecom)
        assert names["资费争议"] == "billing.plan_fee"
        assert names["携号转网"] == "service.porting"
        assert names["dropped calls"] == "network.call_quality"
        assert all(len(piece) > 2 for piece in names)
        assert set(names.values()) >= set(telecom.leaves) - {"none.inquiry", "other"}


class TestAgents:
    def team(self, share: float, count: int) -> list[Problem]:
        calls, labels = many(800, CODES)
        dice = random.Random(4)
        calls = [replace(each, agent_id="star" if n < count else f"a{n % 10}") for n, each in enumerate(calls)]
        labels = [
            replace(each, primary="a" if dice.random() < share else "b") if n < count else each
            for n, each in enumerate(labels)
        ]
        return leaks(split(calls, labels), calls, labels)

    def test_an_agent_of_one_class_only_is_named(self) -> None:
        (problem,) = self.team(1.0, 60)
        assert (problem.severity, problem.field) == (Severity.WARNING, "agent_id")
        assert "Of the 60 calls of the agent star 100% are a" in problem.what

    @pytest.mark.parametrize(("share", "count"), [(1.0, 10), (0.4, 60)])
    def test_too_few_calls_and_mixed_ones_prove_nothing(self, share: float, count: int) -> None:
        assert self.team(share, count) == []

    def test_agents_by_chance_are_seldom_accused(self) -> None:
        calls, _ = many(1000, CODES)
        calls = [replace(each, agent_id=f"a{n % 40}") for n, each in enumerate(calls)]
        for seed in range(20):
            dice = random.Random(seed)
            labels = [label(each.conversation_id, dice.choice(CODES)) for each in calls]
            splits = by_row(calls)
            assert leaks(splits, calls, labels) == []


class TestPlaceholders:
    def asked(self, often: float, seldom: float, kind: str = "ID_CARD") -> list[Problem]:
        calls, labels = many(800, CODES)
        dice = random.Random(9)
        for number, own in enumerate(labels):
            asked = dice.random() < (often if own.primary == "a" else seldom)
            counts = {kind: int(asked), "PHONE": number % 2}
            calls[number] = replace(calls[number], redaction=Redaction(version="zh-1", counts=counts))
        return leaks(split(calls, labels), calls, labels)

    def test_data_that_is_asked_for_in_one_class_only_gives_it_away(self) -> None:
        (problem,) = self.asked(0.8, 0.02)
        assert (problem.severity, problem.field) == (Severity.WARNING, "redaction.counts")
        assert problem.what.startswith("ID_CARD was taken out of ")
        assert " of the calls of a and of " in problem.what

    @pytest.mark.parametrize(("often", "seldom"), [(0.5, 0.5), (0.4, 0.3), (1.0, 1.0), (0.0, 0.0)])
    def test_data_that_is_asked_for_everywhere_does_not(self, often: float, seldom: float) -> None:
        assert self.asked(often, seldom) == []

    def test_placeholders_are_read_where_nobody_counted(self) -> None:
        turns = (
            Turn(role=Role.CUSTOMER, text="我的号是<手机1>不是<手机12>,卡<ID_CARD_2>,<PHONE1>"),
            Turn(role=Role.CUSTOMER, text="3<5 <b> <1> < 手机1>"),
        )
        assert _kinds(Call(conversation_id="c", turns=turns)) == {"手机", "ID_CARD", "PHONE"}
        assert _kinds(call("c", "c:<手机1>", redacted={"PHONE": 1, "NAME": 0})) == {"PHONE"}

    def test_chi_square_agrees_with_the_exact_distribution(self) -> None:
        # 2 degrees: the tail of chi-square is exp(-x / 2).
        totals = np.array([300, 300, 300])
        for present in ([100, 100, 130], [100, 120, 140], [100, 110, 115]):
            share = sum(present) / 900
            expected = 300 * share
            chi2 = sum((each - expected) ** 2 * (1 / expected + 1 / (300 - expected)) for each in present)
            p, strength = _association(np.array(present), totals)
            assert p == pytest.approx(np.exp(-chi2 / 2), rel=0.15)
            assert strength == pytest.approx(np.sqrt(max(0, chi2 / 900 - 2 / 899)))


def test_without_customers_agents_times_or_words_there_is_nothing_to_find() -> None:
    calls = [call(f"c{number}") for number in range(100)]
    labels = [label(each.conversation_id, CODES[number % 4]) for number, each in enumerate(calls)]
    assert leaks(split(calls, labels), calls, labels) == []
