"""The gate: how much a compressed classifier may differ, and what is said of one that differs more."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.classify.parity import MOST_SHOWN, TIE, LabelParity, hold, judge, parity_data
from qwenops.crossing import error_of, error_parts
from qwenops.errors import InvalidDataError, ParityError, QwenOpsError
from qwenops.statistics.samples import Array

CLASSES = ("a", "b", "c", "d")
COUNT = 1000


def sure(said: Sequence[int], p: float = 0.9) -> Array:
    """Return probabilities of a classifier that gives these classes this probability."""
    matrix = np.full((len(said), len(CLASSES)), (1 - p) / (len(CLASSES) - 1))
    matrix[np.arange(len(said)), list(said)] = p
    return matrix


def compared(reference: Array, candidate: Array, truth: Sequence[int] | None = None) -> LabelParity:
    right = reference.argmax(axis=1) if truth is None else truth
    return judge(
        reference,
        candidate,
        truth=[CLASSES[each] for each in right],
        classes=CLASSES,
        ids=[f"call-{row}" for row in range(len(reference))],
        names=("bf16", "int8"),
    )


SAID = [row % 4 for row in range(COUNT)]


def flipped(count: int, *, p: float = 0.9) -> Array:
    """Return answers of which the first ones are of the next class."""
    return sure([(each + 1) % 4 if row < count else each for row, each in enumerate(SAID)], p)


def test_who_says_the_same_passes() -> None:
    found = compared(sure(SAID), sure(SAID))
    assert found.agreement == 1.0
    assert found.largest_distance == found.mean_distance == found.f1_loss == 0.0
    assert found.most_different == ()
    hold(found)


def test_one_call_in_two_hundred_may_get_another_class_and_no_more() -> None:
    hold(compared(sure(SAID), flipped(5)), most_f1_loss=0.01)
    with pytest.raises(ParityError, match=r"99\.40%"):
        hold(compared(sure(SAID), flipped(6)), most_f1_loss=0.01)
    hold(compared(sure(SAID), flipped(6)), least_agreement=0.99, most_f1_loss=0.01)


def test_a_rare_class_may_not_be_lost_though_nearly_all_calls_agree() -> None:
    said = [3 if row < 4 else row % 3 for row in range(COUNT)]
    lost = [row % 3 if row < 4 else each for row, each in enumerate(said)]
    found = compared(sure(said), sure(lost))
    assert found.agreement == pytest.approx(0.996)
    assert found.f1_loss > 0.2
    with pytest.raises(ParityError, match="macro-F1"):
        hold(found)


def test_a_candidate_that_is_better_passes() -> None:
    reference = flipped(4)
    found = compared(reference, sure(SAID), SAID)
    assert found.f1_loss < 0
    hold(found)


def test_the_calls_that_differ_most_are_named_the_worst_first() -> None:
    candidate = sure(SAID)
    candidate[700] = [0.02, 0.9, 0.04, 0.04]  # was a: another class
    candidate[40] = [0.1, 0.1, 0.7, 0.1]  # was a: another class, less far
    candidate[7] = [0.3, 0.0, 0.0, 0.7]  # still d
    found = compared(sure(SAID), candidate)
    assert [each.conversation_id for each in found.most_different] == ["call-700", "call-40", "call-7"]
    first = found.most_different[0]
    assert (first.reference, first.candidate) == ("a", "b")
    assert first.distance == pytest.approx(0.88)
    with pytest.raises(ParityError) as caught:
        hold(found, least_agreement=1.0)
    assert "call-700 (b instead of a), call-40 (c instead of a), call-7 (0." in str(caught.value.message)
    assert caught.value.calls == ("call-700", "call-40", "call-7")
    assert "int8" in str(caught.value.message)
    assert caught.value.hint


def test_only_some_are_named() -> None:
    assert len(compared(sure(SAID), flipped(100)).most_different) == MOST_SHOWN


def test_where_the_original_hardly_decides_either_class_is_right() -> None:
    reference = sure(SAID)
    reference[:10] = [0.4 + TIE / 4, 0.4 - TIE / 4, 0.1, 0.1]
    candidate = reference.copy()
    candidate[:10] = [0.39, 0.41, 0.1, 0.1]
    found = compared(reference, candidate)
    assert found.agreement == 1.0
    assert found.num_ties == 10
    reference[:10] = [0.4 + TIE, 0.4 - TIE, 0.1, 0.1]
    assert compared(reference, candidate).agreement == pytest.approx(0.99)


def test_the_refusal_crosses_from_one_process_to_another() -> None:
    with pytest.raises(ParityError) as caught:
        hold(compared(sure(SAID), flipped(50)))
    again = error_of(error_parts(caught.value), QwenOpsError)
    assert isinstance(again, ParityError)
    assert tuple(again.calls) == caught.value.calls
    assert again.message == caught.value.message
    assert (again.exit_code, again.code) == (3, "parity_failed")


def test_numbers_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InvalidDataError):
        compared(sure(SAID), sure(SAID[:-1]))
    with pytest.raises(InvalidDataError):
        compared(sure(SAID), sure(SAID) / 2)
    with pytest.raises(InvalidDataError, match="ids"):
        judge(sure([0, 1]), sure([0, 1]), truth=["a", "b"], classes=CLASSES, ids=["x"], names=("bf16", "int8"))


@given(st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_agreement_counts_the_calls_that_agree(seed: int, noise: float) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 3, (60, 4))
    other = logits + noise * draw.normal(0, 1, logits.shape)
    reference, candidate = (np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (logits, other))
    found = compared(reference, candidate)
    differing = int((reference.argmax(axis=1) != candidate.argmax(axis=1)).sum())
    assert round((1 - found.agreement) * 60) == differing - found.num_ties
    assert 0 <= found.mean_distance <= found.largest_distance <= 1
    assert found.reference_macro_f1 == pytest.approx(1.0)
    assert compared(reference, reference).agreement == 1.0


def test_the_result_is_plain_data() -> None:
    told = parity_data(compared(sure(SAID), flipped(3)))
    assert told["agreement"] == pytest.approx(0.997)
    assert told["f1_loss"] == pytest.approx(told["reference_macro_f1"] - told["candidate_macro_f1"])
    assert told["most_different"][0]["conversation_id"] == "call-0"
