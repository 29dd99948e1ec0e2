from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qwenops.classify.answers import answers_of, group_codes
from qwenops.errors import InvalidDataError

CLASSES = ("a", "b", "c")


def test_answers_are_arrays_of_what_was_said() -> None:
    found = answers_of(["b", "a"], [[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]], CLASSES, groups=["x", "x"])
    assert found.truth.tolist() == [1, 0]
    assert found.said.tolist() == [1, 0]
    assert found.confidence.tolist() == [0.5, 0.6]
    assert found.right.all()
    assert (found.num_calls, found.num_groups) == (2, 1)
    assert found.at(np.array([1])).truth.tolist() == [0]


def test_probabilities_of_half_precision_are_put_right() -> None:
    found = answers_of(["a"], [[0.5, 0.3, 0.205]], CLASSES)
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert found.probabilities[0, 0] == pytest.approx(0.5 / 1.005)
    tiny = answers_of(["a"], [[1.0 + 1e-9, -1e-9, 0.0]], CLASSES)
    assert tiny.probabilities.min() == 0


def test_of_equal_probabilities_the_first_class_is_said() -> None:
    assert answers_of(["c"], [[0.4, 0.4, 0.2]], CLASSES).said.tolist() == [0]


@pytest.mark.parametrize(
    ("truth", "probabilities", "classes", "groups", "told"),
    [
        (["a"], [[0.5, 0.5]], CLASSES, None, "shape 1 x 2"),
        (["a", "b"], [[1, 0, 0]], CLASSES, None, "for 2 calls"),
        ([], np.zeros((0, 3)), CLASSES, None, "no call"),
        (["a"], [[1.0]], ("a",), None, "at least two"),
        (["a"], [[0.5, 0.5]], ("a", "a"), None, "each once"),
        (["d"], [[1, 0, 0]], CLASSES, None, "'d' is none"),
        (["a"], [[0.5, 0.2, 0.1]], CLASSES, None, "sum to 0.8"),
        (["a"], [[1.2, -0.2, 0.0]], CLASSES, None, "lowest is -0.2"),
        (["a"], [[np.nan, 0.5, 0.5]], CLASSES, None, "no probabilities"),
        (["a"], [[np.inf, -np.inf, 0.5]], CLASSES, None, "no probabilities"),
        (["a"], [[1, 0, 0]], CLASSES, ["x", "y"], "2 customers for 1 calls"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_place(
    truth: Sequence[str], probabilities: Any, classes: Sequence[str], groups: Sequence[str] | None, told: str
) -> None:
    with pytest.raises(InvalidDataError, match=told):
        answers_of(truth, probabilities, classes, groups=groups)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidDataError) as refused:
        answers_of(["x", "a", "y"], [[1.0, 0.0, 0.0], [0.3, 0.3, 0.3], [1.0, 0.0, 0.0]], CLASSES)
    assert [each.field for each in refused.value.problems] == ["truth[0]", "truth[2]", "probabilities[1]"]


def test_customers_who_are_not_known_are_somebody_else_each_time() -> None:
    assert group_codes(["x", "", "y", "x", "", "y"], 6).tolist() == [0, 1, 2, 0, 3, 2]
    assert group_codes(None, 3).tolist() == [0, 1, 2]
