"""The comparison of learning: nothing of the test is learnt from, by whichever way."""

import json
from pathlib import Path

import pytest

from benchmarks import learning, recording
from benchmarks.learning import SPLITS, TEST_AUTHOR, parts_of
from qwenops.calls.generator.generate import generate
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.truth import Synthetic


@pytest.fixture(scope="module")
def calls() -> list[Synthetic]:
    return list(generate(GeneratorOptions(calls=400, seed=5)))


@pytest.mark.parametrize("name", SPLITS)
def test_customers_are_never_on_both_sides(calls: list[Synthetic], name: str) -> None:
    parts = parts_of(calls, name)
    customers = [{each.call.customer_id for each in part} for part in (parts.train, parts.val, parts.test)]
    assert all(customers)
    assert not customers[0] & customers[1]
    assert not (customers[0] | customers[1]) & customers[2]


def test_the_author_of_the_test_is_learnt_from_by_nobody(calls: list[Synthetic]) -> None:
    parts = parts_of(calls, "author")
    assert {each.truth.author for each in parts.test} == {TEST_AUTHOR}
    assert TEST_AUTHOR not in {each.truth.author for each in (*parts.train, *parts.val)}


def test_the_months_of_the_test_come_after_all_others(calls: list[Synthetic]) -> None:
    parts = parts_of(calls, "months")
    learnt = max(each.truth.month for each in (*parts.train, *parts.val))
    assert learnt < min(each.truth.month for each in parts.test)


@pytest.mark.slow
@pytest.mark.reference
def test_a_few_calls_go_through_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    arguments = ["--calls", "240", "--base-calls", "32", "--epochs", "1", "--splits", "author"]
    assert learning.main(arguments) == 0
    found = json.loads((tmp_path / "learning.json").read_text("utf-8"))["results"]["author"]
    assert set(found["macro_f1"]) == {learning.TINY, learning.LABELS_ALONE, learning.EQUAL}
    assert (tmp_path / "learning.md").read_text("utf-8").count("| author |") == 2
