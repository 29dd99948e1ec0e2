import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.statistics.agreement import agreement, paired


def test_kappa_is_the_textbooks() -> None:
    # Two doctors, 50 patients: both yes 20, both no 15, 5 and 10 otherwise: kappa 0.4.
    said = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    found = agreement({("a", "b"): said})
    assert found is not None
    assert found.num == 50
    assert found.observed == pytest.approx(0.7)
    assert found.expected == pytest.approx(0.5)
    assert found.kappa == pytest.approx(0.4)
    interval = found.interval()
    assert interval is not None
    half = 1.959964 * math.sqrt(0.7 * 0.3 / 50) / 0.5
    assert interval.low == pytest.approx(0.4 - half, abs=1e-5)
    assert interval.high == pytest.approx(0.4 + half, abs=1e-5)


def test_who_always_say_the_same_agree_perfectly_and_who_know_one_class_only_prove_nothing() -> None:
    perfect = agreement({("a", "b"): [("x", "x"), ("y", "y")]})
    assert perfect is not None
    assert perfect.kappa == pytest.approx(1.0)
    constant = agreement({("a", "b"): [("x", "x")] * 9})
    assert constant is not None
    assert constant.kappa is None
    assert constant.interval() is None
    assert agreement({}) is None


def test_pairs_of_people_are_pooled_as_strata() -> None:
    # Each pair agrees by chance only within itself; thrown together their habits would look like agreement.
    one, other = [("x", "x")] * 8, [("y", "y")] * 8
    pooled = agreement({("a", "b"): one, ("c", "d"): other})
    assert pooled is not None
    assert pooled.expected == pytest.approx(1.0)
    assert pooled.kappa is None


def test_everything_that_two_people_labelled_is_paired_once() -> None:
    votes = [{"b": "x", "a": "y"}, {"a": "x", "b": "x", "c": "z"}, {"a": "x"}]
    assert paired(votes) == {
        ("a", "b"): [("y", "x"), ("x", "x")],
        ("a", "c"): [("x", "z")],
        ("b", "c"): [("x", "z")],
    }


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz")), min_size=1, max_size=40))
def test_kappa_is_never_above_one_and_its_interval_holds_it(said: list[tuple[str, str]]) -> None:
    found = agreement({("a", "b"): said})
    assert found is not None
    if found.kappa is not None:
        interval = found.interval()
        assert interval is not None
        assert found.kappa <= 1 + 1e-9
        assert interval.low - 1e-9 <= found.kappa <= interval.high + 1e-9
