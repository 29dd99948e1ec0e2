import json

import numpy as np
import pytest

from qwenops.classify.evaluate import Evaluation, evaluate, notes_of
from qwenops.classify.plain import from_plain, to_plain
from qwenops.errors import InvalidDataError
from tests.classify.simulated import calibrated

CLASSES = ("fees.roaming", "fees.addon", "network.signal", "other")
PARENTS = {"fees.roaming": "fees", "fees.addon": "fees", "network.signal": "network"}


def judged(num: int = 300, seed: int = 1) -> Evaluation:
    found = calibrated(np.random.default_rng(seed), num)
    return evaluate(
        [CLASSES[each] for each in found.truth],
        found.probabilities,
        CLASSES,
        groups=[f"customer {each // 2}" for each in range(num)],
        slices={"lang": ["zh" if each % 3 else "en" for each in range(num)]},
        parents=PARENTS,
        seed=seed,
        resamples=300,
    )


def test_everything_is_judged_at_once() -> None:
    found = judged()
    assert (found.num_calls, found.num_groups, found.seed) == (300, 150, 1)
    assert found.leaves.classes == CLASSES
    assert found.parents is not None
    assert found.parents.classes == ("fees", "network", "other")
    assert found.parents.accuracy.value >= found.leaves.accuracy.value
    assert [each.value for each in found.slices] == ["en", "zh"]
    assert found.leaves.macro_f1.low is not None
    assert found.leaves.macro_f1.high is not None
    assert found.leaves.macro_f1.low < found.leaves.macro_f1.value < found.leaves.macro_f1.high


def test_an_evaluation_is_the_same_after_json_and_of_the_same_seed() -> None:
    found = judged()
    assert from_plain(Evaluation, json.loads(json.dumps(to_plain(found), allow_nan=False))) == found
    assert judged() == found
    assert judged(seed=2) != found


def test_an_evaluation_of_another_kind_is_refused() -> None:
    data = to_plain(judged(60))
    with pytest.raises(ValueError, match="schema"):
        from_plain(Evaluation, {**data, "schema": "qwenops.evaluation/2"})
    with pytest.raises(ValueError, match="surprise"):
        from_plain(Evaluation, {**data, "surprise": 1})


def test_without_parents_customers_and_slices_the_calls_are_judged_alone() -> None:
    found = evaluate(["a", "b"], [[0.9, 0.1], [0.4, 0.6]], ["a", "b"], seed=1, resamples=50)
    assert found.parents is None
    assert found.slices == ()
    assert found.num_groups == 2


def test_what_a_reader_must_know_is_said() -> None:
    truth = ["a"] * 40 + ["b"] * 5
    sure = np.tile([0.97, 0.02, 0.01], (45, 1))
    sure[10:20] = [0.02, 0.97, 0.01]
    found = evaluate(truth, sure, ["a", "b", "c"], seed=1, resamples=50)
    absent, few, off = notes_of(found)
    assert absent.startswith("No call of c ")
    assert few.startswith("b have fewer than 30 calls")
    assert "confidence is off by" in off


def test_many_small_classes_are_counted_instead_of_listed() -> None:
    classes = [f"c{number}" for number in range(9)]
    found = evaluate(classes * 5, np.tile(np.eye(9), (5, 1)), classes, seed=1, resamples=50)
    assert notes_of(found)[0].startswith("9 of 9 classes have fewer than 30 calls each")


def test_a_part_that_does_worse_is_said() -> None:
    truth = ["a", "b"] * 200
    said = [[0.8, 0.2], [0.2, 0.8]] * 100 + [[0.8, 0.2]] * 200
    found = evaluate(truth, said, ["a", "b"], slices={"month": ["1"] * 200 + ["2"] * 200}, seed=1, resamples=50)
    assert any(note.startswith("month = 2: accuracy 50.0%, -50.0 points") for note in notes_of(found))


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidDataError, match="1 values for 2 calls"):
        evaluate(["a", "b"], [[0.9, 0.1], [0.4, 0.6]], ["a", "b"], slices={"x": ["y"]}, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_calls_are_judged_in_time() -> None:
    found = judged(100_000)
    assert found.leaves.macro_f1.low is not None
    assert found.leaves.macro_f1.high is not None
    assert found.leaves.macro_f1.high - found.leaves.macro_f1.low < 0.02
