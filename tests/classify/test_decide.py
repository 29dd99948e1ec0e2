import json

import numpy as np
import pytest

from qwenops.calls.split import Part
from qwenops.classify.answers import Answers
from qwenops.classify.decide import (
    Cut,
    Thresholds,
    _candidates,
    choose_thresholds,
    decide,
    measure,
    thresholds_of,
)
from qwenops.classify.hierarchy import Hierarchy
from qwenops.classify.plain import to_plain
from qwenops.classify.prediction import DecisionKind
from qwenops.errors import ConfigError
from qwenops.statistics import smallest_n
from qwenops.statistics.samples import Array
from tests.classify.simulated import Random, answers, calibrated, even
from tests.statistics.proportions import binomial_interval

TWO = Hierarchy(leaves=("a", "b"))
FOUR = Hierarchy(leaves=("a", "b", "c", "d"), parent_of={"a": "top", "b": "top", "c": "low", "d": "low"})


def cut(threshold: float) -> Cut:
    return Cut(threshold=threshold, coverage=0.5, precision=0.99, precision_low=0.95, num_calls=100)


def thresholds(leaf: float | None, parent: float | None) -> Thresholds:
    return Thresholds(
        leaf=None if leaf is None else cut(leaf),
        parent=None if parent is None else cut(parent),
        target_precision=0.95,
        confidence=0.95,
        num_calls=200,
        num_groups=200,
    )


def within_parents(rng: Random, num: int) -> Answers:
    """Return calibrated answers of four leaves that know the parent better than the leaf.

    A call's parent has a probability that is uniform from 0.5 to 1, and its likelier leaf has 0.7 of that.
    """
    sure = rng.uniform(0.5, 1, num)
    parent, leaf = rng.integers(0, 2, num), rng.integers(0, 2, num)
    probabilities = np.empty((num, 4))
    rows = np.arange(num)
    for which, mass in ((parent, sure), (1 - parent, 1 - sure)):
        probabilities[rows, 2 * which + leaf] = 0.7 * mass
        probabilities[rows, 2 * which + 1 - leaf] = 0.3 * mass
    truth = (rng.random((num, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return answers(np.minimum(truth, 3), probabilities)


@pytest.mark.parametrize("customers", [1, 3])
def test_thresholds_keep_their_precision_on_fresh_data(customers: int) -> None:
    # Of the calls at a confidence of at least t, (1 + t) / 2 are right, so 0.9 is kept from t = 0.8 on.
    runs, broken, coverages = 300, 0, []
    for each in range(runs):
        single = even(np.random.default_rng(each), 1200)
        rows = np.repeat(np.arange(single.num_calls), customers)
        found = choose_thresholds(single.at(rows), TWO, target_precision=0.9)
        if found.leaf:
            broken += (1 + found.leaf.threshold) / 2 < 0.9
            coverages.append(found.leaf.coverage)
            assert found.leaf.precision >= found.leaf.precision_low >= 0.9
        assert found.parent is None, "there is nothing above"
    assert binomial_interval(broken, runs, 0.99).low <= 0.05
    # 0.4 of all calls could be filed if all were known; 1,200 customers prove it for a good part of them.
    assert np.median(coverages) > 0.12
    assert len(coverages) > 0.8 * runs


def test_the_lowest_threshold_that_seems_good_enough_would_break_the_promise() -> None:
    # What the procedure is for: the naive choice is wrong about every other time.
    broken = 0
    for each in range(200):
        single = even(np.random.default_rng(each), 1200)
        order = np.argsort(-single.confidence)
        precision = np.cumsum(single.right[order]) / np.arange(1, 1201)
        last = int(np.flatnonzero(precision >= 0.9)[-1])
        broken += (1 + single.confidence[order][last]) / 2 < 0.9
    assert broken > 60


def test_parents_keep_their_precision_too_and_file_what_leaves_do_not() -> None:
    runs, broken, filed = 150, 0, 0
    fresh = within_parents(np.random.default_rng(999), 200_000)
    for each in range(runs):
        found = choose_thresholds(within_parents(np.random.default_rng(each), 1500), FOUR, target_precision=0.9)
        assert found.leaf is None, "no leaf is ever more probable than 0.7"
        if found.parent:
            told = measure(fresh, FOUR, found)
            assert told.parent_precision is not None
            broken += told.parent_precision.value < 0.9
            filed += told.parent > 0.1
            assert told.auto == 0
    assert binomial_interval(broken, runs, 0.99).low <= 0.05
    assert filed > 0.8 * runs


def test_calls_are_filed_under_a_leaf_a_parent_or_by_a_person() -> None:
    tree = Hierarchy(
        leaves=("a", "b", "alone", "other"), parent_of={"a": "top", "b": "top"}, review=frozenset({"other"})
    )
    probabilities = np.array(
        [
            [0.9, 0.05, 0.05, 0.0],
            [0.5, 0.45, 0.05, 0.0],
            [0.4, 0.2, 0.4, 0.0],
            [0.0, 0.0, 0.03, 0.97],
            [0.1, 0.05, 0.85, 0.0],
            [0.05, 0.05, 0.6, 0.3],
        ]
    )
    found = decide(probabilities, tree, thresholds(0.8, 0.9))
    assert [(each.kind.value, each.label) for each in found] == [
        ("auto", "a"),
        ("parent", "top"),
        ("review", "a"),
        ("review", "other"),
        ("auto", "alone"),
        ("review", "alone"),
    ]
    assert [each.p for each in found] == pytest.approx([0.9, 0.95, 0.4, 0.97, 0.85, 0.6])
    assert [each.threshold for each in found] == [0.8, 0.9, 0.8, 0.8, 0.8, 0.8]


def test_a_leaf_that_stands_alone_is_not_filed_as_its_own_parent() -> None:
    found = decide(np.array([[0.75, 0.25]]), TWO, thresholds(0.8, 0.6))
    assert found[0].kind is DecisionKind.REVIEW


def test_without_thresholds_a_person_looks_at_everything() -> None:
    found = decide(np.array([[1.0, 0.0, 0.0, 0.0]]), FOUR, thresholds(None, None))
    assert (found[0].kind, found[0].label, found[0].threshold) == (DecisionKind.REVIEW, "a", None)
    assert decide(np.empty((0, 4)), FOUR, thresholds(0.5, 0.5)) == []


def test_a_threshold_is_reached_by_what_equals_it() -> None:
    found = decide(np.array([[0.8, 0.2], [0.79, 0.21]]), TWO, thresholds(0.8, None))
    assert [each.kind.value for each in found] == ["auto", "review"]


def test_too_few_calls_prove_nothing() -> None:
    perfect = answers([0] * 40, np.tile([0.99, 0.01], (40, 1)))
    assert choose_thresholds(perfect, TWO, target_precision=0.95).leaf is None
    need = smallest_n(0.95, 1, 1 - 0.025 / 5)
    enough = answers([0] * need, np.tile([0.99, 0.01], (need, 1)))
    found = choose_thresholds(enough, TWO, target_precision=0.95)
    assert found.leaf is not None
    assert (found.leaf.threshold, found.leaf.coverage) == (0.99, 1.0)
    one = Answers(
        classes=enough.classes,
        truth=enough.truth,
        probabilities=enough.probabilities,
        groups=np.zeros(need, dtype=np.int64),
    )
    assert choose_thresholds(one, TWO, target_precision=0.95).leaf is None, "one customer is one witness"


def test_leaves_for_a_person_are_never_filed_and_prove_nothing() -> None:
    told = np.tile([0.01, 0.99], (400, 1))
    tree = Hierarchy(leaves=("a", "other"), review=frozenset({"other"}))
    assert choose_thresholds(answers([1] * 400, told), tree, target_precision=0.9).leaf is None
    assert choose_thresholds(answers([1] * 400, told), TWO, target_precision=0.9).leaf is not None


def test_calls_of_equal_confidence_are_filed_together() -> None:
    ordered: Array = np.repeat([0.9, 0.8, 0.7], [100, 100, 100])
    assert set(_candidates(ordered, 60).tolist()) == {100, 200, 300}
    assert _candidates(ordered, 301).size == 0
    assert _candidates(ordered, 300).tolist() == [300]


def test_thresholds_are_never_chosen_on_the_test_nor_for_what_is_no_share() -> None:
    given = calibrated(np.random.default_rng(1), 100)
    with pytest.raises(ConfigError, match="test data"):
        choose_thresholds(given, FOUR, target_precision=0.9, part=Part.TEST)
    for precision in (0, 1, 95):
        with pytest.raises(ConfigError, match="cannot be aimed at"):
            choose_thresholds(given, FOUR, target_precision=precision)


def test_what_thresholds_do_is_measured_with_intervals() -> None:
    truth = [0] * 80 + [1] * 20 + [2] * 100
    told = np.array([[0.9, 0.1, 0.0, 0.0]] * 100 + [[0.0, 0.0, 0.5, 0.5]] * 60 + [[0.4, 0.1, 0.4, 0.1]] * 40)
    found = measure(answers(truth, told), FOUR, thresholds(0.8, 0.9))
    assert (found.auto, found.parent, found.review) == (0.5, 0.3, 0.2)
    assert found.auto_precision is not None
    assert found.auto_precision.value == 0.8
    assert found.auto_precision.low is not None
    assert 0.69 < found.auto_precision.low < 0.8
    assert found.parent_precision is not None
    assert found.parent_precision.value == 1
    nothing = measure(answers(truth, told), FOUR, thresholds(None, None))
    assert (nothing.review, nothing.auto_precision) == (1, None)


def test_thresholds_are_the_same_after_json() -> None:
    for found in (
        thresholds(0.8, None),
        choose_thresholds(even(np.random.default_rng(1), 800), TWO, target_precision=0.8),
    ):
        assert thresholds_of(json.loads(json.dumps(to_plain(found)))) == found
