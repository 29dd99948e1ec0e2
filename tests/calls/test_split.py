"""Splits: what belongs together is not apart, time goes one way, classes have their shares, chance is repeatable."""

import random
from collections import Counter
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.calls.problems import Severity
from qwenops.calls.schema import Call, Label
from qwenops.calls.split import (
    Key,
    Part,
    Shares,
    Splits,
    decided,
    read_splits,
    seconds,
    split,
    write_splits,
)
from qwenops.calls.taxonomy import load
from qwenops.errors import ConfigError, InvalidDataError
from tests.calls.spoken import START, call, garbled, label, many, sentence

CODES = ["common"] * 12 + ["usual"] * 5 + ["rare"] * 2 + ["none"]


def part_of(splits: Splits) -> dict[str, Part]:
    return {each: part for part, ids in splits.parts().items() for each in ids}


def apart(splits: Splits, calls: list[Call]) -> list[str]:
    """Return the customers who are in two parts."""
    where = part_of(splits)
    parts: dict[str, set[Part]] = {}
    for each in calls:
        if each.conversation_id in where:
            parts.setdefault(each.customer_id, set()).add(where[each.conversation_id])
    return [customer for customer, found in parts.items() if customer and len(found) > 1]


class TestAtRandom:
    def test_every_call_is_in_one_part_and_parts_have_their_shares(self) -> None:
        calls, labels = many(1000, CODES, customers=400)
        splits = split(calls, labels, seed=7)
        assert sorted(part_of(splits)) == sorted(each.conversation_id for each in calls)
        assert sum(map(len, splits.parts().values())) == 1000
        assert [len(ids) for ids in splits.parts().values()] == pytest.approx([700, 150, 0, 150], abs=8)
        assert (splits.by_time, splits.aside, splits.problems, splits.seed) == (False, (), (), 7)
        assert apart(splits, calls) == []

    def test_classes_have_their_shares_though_customers_stay_whole(self) -> None:
        calls, labels = many(2000, CODES, customers=700)
        splits = split(calls, labels)
        class_of, where = decided(labels), part_of(splits)
        for code, total in Counter(class_of.values()).items():
            tests = sum(where[each] is Part.TEST for each, own in class_of.items() if own == code)
            assert tests == pytest.approx(0.15 * total, abs=2 + 0.02 * total), code

    def test_texts_that_are_nearly_equal_stay_together(self) -> None:
        calls, labels = many(200, CODES)
        twins = [
            call(f"t{number}", f"c:{garbled(sentence(f'twin {number // 4}', 400), number, 300)}")
            for number in range(80)
        ]
        splits = split(calls + twins, labels + [label(each.conversation_id, "usual") for each in twins])
        where = part_of(splits)
        families = [{where[f"t{family * 4 + child}"] for child in range(4)} for family in range(20)]
        assert all(len(each) == 1 for each in families)
        loose = split(calls + twins, labels + [label(each.conversation_id, "usual") for each in twins], keys=())
        where = part_of(loose)
        assert any(len({where[f"t{family * 4 + child}"] for child in range(4)}) > 1 for family in range(20))

    def test_agents_may_be_what_stays_together(self) -> None:
        calls, labels = many(300, CODES)
        calls = [replace(each, agent_id=f"a{number % 30}") for number, each in enumerate(calls)]
        where = part_of(split(calls, labels, keys=(Key.AGENT,)))
        assert all(len({where[f"c{number}"] for number in range(agent, 300, 30)}) == 1 for agent in range(30))

    def test_the_order_of_the_calls_makes_no_difference_and_the_seed_does(self) -> None:
        calls, labels = many(300, CODES, customers=120)
        shuffled = random.Random(1).sample(calls, len(calls))
        assert part_of(split(calls, labels)) == part_of(split(shuffled, labels[::-1]))
        assert part_of(split(calls, labels)) != part_of(split(calls, labels, seed=1))

    def test_calls_without_customers_and_times_are_each_their_own(self) -> None:
        calls, labels = many(400, CODES)
        splits = split(calls, labels)
        assert [len(each) for each in splits.parts().values()] == pytest.approx([280, 60, 0, 60], abs=2)

    def test_a_class_of_one_call_is_taught_and_not_tested(self) -> None:
        for seed in range(20):
            calls, labels = many(60, ["common"])
            splits = split(calls, [*labels[:-1], label("c59", "single")], seed=seed)
            assert "c59" in splits.train
            assert [each.field for each in splits.problems] == ["val", "test"]
            assert all("single" in each.what and each.severity is Severity.WARNING for each in splits.problems)

    def test_many_small_classes_do_not_all_end_in_training(self) -> None:
        calls, _ = many(100, ["x"])
        labels = [label(each.conversation_id, f"class {number // 2}") for number, each in enumerate(calls)]
        splits = split(calls, labels)
        assert [len(each) for each in splits.parts().values()] == pytest.approx([70, 15, 0, 15], abs=4)

    @given(
        st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abc")), min_size=12, max_size=60),
        st.integers(0, 3),
    )
    def test_whatever_the_groups_all_calls_are_dealt_and_groups_stay_whole_or_it_is_refused(
        self, drawn: list[tuple[int, str]], seed: int
    ) -> None:
        calls = [call(f"c{n}", customer=f"h{who}" if who else "") for n, (who, _code) in enumerate(drawn)]
        labels = [label(f"c{n}", code) for n, (_who, code) in enumerate(drawn)]
        try:
            splits = split(calls, labels, seed=seed)
        except InvalidDataError as error:
            assert "No call is left for" in error.message  # noqa: PT017 -- either answer is right
            return
        assert len(part_of(splits)) == len(calls)
        assert apart(splits, calls) == []


class TestInTime:
    def test_parts_follow_one_another_where_all_calls_have_times(self) -> None:
        calls, labels = many(500, CODES, days=100)
        splits = split(random.Random(2).sample(calls, 500), labels)
        assert splits.by_time
        numbers = [[int(each[1:]) for each in part] for part in splits.parts().values()]
        assert sorted(numbers[0]) == list(range(350))
        assert sorted(numbers[1]) == list(range(350, 425))
        assert numbers[2] == []
        assert sorted(numbers[3]) == list(range(425, 500))

    def test_calibration_lies_between_validation_and_test(self) -> None:
        calls, labels = many(100, ["x"], days=10)
        splits = split(calls, labels, shares=Shares(train=0.5, val=0.2, calibration=0.1, test=0.2))
        assert splits.calibration == tuple(f"c{number}" for number in range(70, 80))

    def test_customers_who_call_again_are_where_they_call_most_and_their_other_calls_set_aside(self) -> None:
        calls, labels = many(100, ["x", "y"], days=100)
        calls = [
            replace(each, customer_id={10: "early", 20: "early", 90: "early", 30: "even", 95: "even"}.get(number, ""))
            for number, each in enumerate(calls)
        ]
        splits = split(calls, labels)
        assert sorted(splits.aside) == ["c30", "c90"]
        assert {"c10", "c20"} <= set(splits.train)
        assert "c95" in splits.test
        assert [each.what for each in splits.problems] == [
            "2 of 100 calls are set aside: others of their group lie mostly in another part of the time."
        ]

    @given(st.integers(0, 50))
    def test_no_customer_and_no_moment_is_in_two_parts(self, seed: int) -> None:
        dice = random.Random(seed)
        calls = [call(f"c{n}", customer=f"h{dice.randrange(60)}", day=dice.randrange(30)) for n in range(200)]
        splits = split(calls, [label(f"c{n}", "x") for n in range(200)])
        assert apart(splits, calls) == []
        where = part_of(splits)
        days: dict[Part, list[datetime | None]] = {part: [] for part in Part}
        for each in calls:
            if each.conversation_id in where:
                days[where[each.conversation_id]].append(each.started_at)
        known = [[day for day in found if day] for found in days.values()]
        spans = [(min(found), max(found)) for found in known if found]
        if splits.by_time:
            assert all(end < begin for (_, end), (begin, _) in pairwise(spans))
        assert len(where) + len(splits.aside) == 200

    def test_without_all_times_parts_are_mixed_and_that_is_said(self) -> None:
        calls, labels = many(200, CODES, days=10)
        calls[17] = replace(calls[17], started_at=None)
        splits = split(calls, labels)
        assert not splits.by_time
        assert "1 of 200 calls have no time, for example c17" in splits.problems[0].what
        with pytest.raises(InvalidDataError, match="cannot be divided by time: 1 of 200 calls have no time"):
            split(calls, labels, by_time=True)

    def test_calls_of_one_moment_cannot_follow_one_another(self) -> None:
        calls, labels = many(200, CODES, days=0)
        splits = split(calls, labels)
        assert not splits.by_time
        assert "times leave a part without calls" in splits.problems[0].what
        with pytest.raises(InvalidDataError, match="without calls"):
            split(calls, labels, by_time=True)

    def test_times_may_be_left_out_of_account(self) -> None:
        calls, labels = many(200, ["x", "y"], days=10)
        splits = split(calls, labels, by_time=False)
        assert (splits.by_time, splits.problems) == (False, ())
        assert min(int(each[1:]) for each in splits.test) < 100

    def test_times_with_and_without_a_zone_are_compared(self) -> None:
        assert seconds(START) == seconds(START.replace(tzinfo=None)) == 1767225600.0
        calls, labels = many(100, ["x"], days=10)
        calls = [
            replace(each, started_at=each.started_at.replace(tzinfo=None)) if each.started_at and n % 2 else each
            for n, each in enumerate(calls)
        ]
        assert split(calls, labels).train == tuple(f"c{n}" for n in range(70))

    def test_a_crowd_of_equal_calls_is_in_one_part_only(self) -> None:
        calls, labels = many(300, CODES, days=30)
        silent = [call(f"s{n}", "a:您好请问有什么可以帮您", "c:嗯", day=n / 10) for n in range(300)]
        splits = split(calls + silent, labels + [label(each.conversation_id, "none") for each in silent])
        assert splits.by_time
        assert {part for each, part in part_of(splits).items() if each[0] == "s"} == {Part.TRAIN}
        assert all(each[0] == "s" for each in splits.aside)
        assert len(splits.val) > 30


class TestRefusals:
    def test_a_customer_with_all_the_data_is_named(self) -> None:
        calls, labels = many(200, CODES)
        calls = [replace(each, customer_id="h:unknown") for each in calls]
        with pytest.raises(InvalidDataError) as caught:
            split(calls, labels)
        assert "No call is left for val, test: 200 calls make 1 groups, the largest of 200" in caught.value.message
        assert "'h:unknown'" in caught.value.message
        assert "leave it empty" in caught.value.hint

    def test_a_customer_with_most_of_the_data_is_taught_and_the_rest_said_to_be_small(self) -> None:
        calls, labels = many(200, ["x"])
        calls = [replace(each, customer_id="big") if n < 190 else each for n, each in enumerate(calls)]
        splits = split(calls, labels)
        assert {f"c{n}" for n in range(190)} <= set(splits.train)
        assert [each.field for each in splits.problems] == ["val", "test"]

    @pytest.mark.parametrize(
        "shares",
        [
            Shares(train=0.5),
            Shares(train=1.2, val=-0.2, test=0.0),
            Shares(train=float("nan")),
            Shares(train=0.85, test=0.0),
            Shares(train=0.0, val=0.85),
        ],
    )
    def test_shares_that_are_none_are_refused(self, shares: Shares) -> None:
        calls, labels = many(10, ["x"])
        with pytest.raises(ConfigError):
            split(calls, labels, shares=shares)

    def test_ids_that_stand_there_twice_are_all_named(self) -> None:
        calls, labels = many(10, ["x"])
        with pytest.raises(InvalidDataError) as caught:
            split([*calls, calls[3], calls[5]], labels)
        assert [each.conversation_id for each in caught.value.problems] == ["c3", "c5"]

    def test_calls_without_labels_are_named_and_not_divided(self) -> None:
        calls, labels = many(100, ["x"])
        splits = split([call("later", "c:喂"), *calls], labels)
        assert splits.unlabelled == ("later",)
        assert "later" not in part_of(splits)
        with pytest.raises(InvalidDataError, match="None of 100 calls has a label"):
            split(calls, [])


class TestDecided:
    def test_the_labels_that_weigh_most_together_decide(self) -> None:
        labels = [label("c", "a", weight=0.9), label("c", "b", weight=0.5), label("c", "b", weight=0.5)]
        assert decided(labels) == {"c": "b"}
        assert decided([label("c", "b"), label("c", "a")]) == {"c": "a"}

    def test_labels_of_two_versions_are_refused(self) -> None:
        labels: list[Label] = [label("c", "a"), label("d", "a", taxonomy="t@2")]
        with pytest.raises(InvalidDataError, match="t@1, t@2") as caught:
            decided(labels)
        assert "--taxonomy" in caught.value.hint

    def test_with_a_taxonomy_older_labels_follow_its_migrations_or_are_all_named(self) -> None:
        telecom = load("telecom-cn")
        old = [
            label("c", "billing.package", taxonomy="telecom-cn@1"),
            label("c", "other", weight=0.6, taxonomy=telecom.ref),
            label("d", "network.signal", taxonomy="telecom-cn@1"),
        ]
        assert decided(old, telecom) == {"c": "billing.plan_fee", "d": "network.coverage"}
        lost = [
            label("e", "service.marketing", taxonomy="telecom-cn@1"),
            label("f", "other", taxonomy="telecom-cn@9"),
        ]
        with pytest.raises(InvalidDataError) as caught:
            decided([*old, *lost], telecom)
        assert [(each.conversation_id, each.field) for each in caught.value.problems] == [
            ("e", "primary"),
            ("f", "taxonomy"),
        ]
        assert "choose among service.mis_selling, service.harassment" in caught.value.message
        assert "name the file of telecom-cn@9" in caught.value.message


class TestFile:
    def test_what_is_written_reads_back(self, tmp_path: Path) -> None:
        calls, labels = many(100, CODES, customers=60, days=10)
        shares = Shares(train=0.6, val=0.2, calibration=0.1, test=0.1)
        splits = split([call("later"), *calls], labels, seed=5, keys=(Key.CUSTOMER,), shares=shares)
        assert splits.aside
        assert splits.by_time
        write_splits(tmp_path / "splits.json", splits)
        assert read_splits(tmp_path / "splits.json") == splits

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"schema": "qwenops.splits/2"}', '{"schema": "qwenops.splits/1"}']
    )
    def test_another_file_is_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "splits.json"
        path.write_text(text, "utf-8")
        with pytest.raises(InvalidDataError, match="holds no splits"):
            read_splits(path)

    def test_a_list_of_something_else_is_refused(self, tmp_path: Path) -> None:
        calls, labels = many(20, ["x"])
        write_splits(tmp_path / "splits.json", split(calls, labels))
        text = (tmp_path / "splits.json").read_text("utf-8").replace('"c3"', "3")
        (tmp_path / "splits.json").write_text(text, "utf-8")
        with pytest.raises(InvalidDataError, match="holds no splits"):
            read_splits(tmp_path / "splits.json")


@pytest.mark.slow
def test_many_customers_of_every_size_are_divided_well_and_soon() -> None:
    dice = np.random.default_rng(3)
    customers = dice.zipf(1.8, 20_000) % 5_000
    codes = dice.choice(25, 20_000, p=np.arange(1, 26) / 325)
    calls = [call(f"c{n}", customer=f"h{customer}") for n, customer in enumerate(customers)]
    splits = split(calls, [label(f"c{n}", f"k{code:02}") for n, code in enumerate(codes)])
    assert apart(splits, calls) == []
    where = part_of(splits)
    for code in range(25):
        own = [where[f"c{n}"] for n in np.flatnonzero(codes == code)]
        assert own.count(Part.TEST) / len(own) == pytest.approx(0.15, abs=0.04)
