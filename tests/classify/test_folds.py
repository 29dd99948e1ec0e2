import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.classify.folds import grouped_folds


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=80), st.integers(2, 6))
def test_a_customer_is_in_one_fold(calls: list[tuple[int, int]], num: int) -> None:
    classes, customers = (np.array(each) for each in zip(*calls, strict=True))
    folds = grouped_folds(classes, customers, num=num, seed=1)
    assert folds.min() >= 0
    assert folds.max() < num
    for customer in np.unique(customers):
        assert np.unique(folds[customers == customer]).size == 1
    assert np.unique(folds).size == min(num, np.unique(customers).size)


def test_classes_are_spread_as_far_as_customers_allow() -> None:
    rng = np.random.default_rng(1)
    classes = np.repeat([0, 1, 2], [400, 50, 10])
    folds = grouped_folds(classes, rng.permutation(460), num=5, seed=1)
    table = np.array([np.bincount(classes[folds == each], minlength=3) for each in range(5)])
    assert table[:, 2].tolist() == [2] * 5
    assert table[:, 1].min() >= 9
    assert table.sum(axis=1) == pytest.approx([92] * 5, abs=3)


def test_the_same_seed_deals_the_same() -> None:
    classes = np.random.default_rng(2).integers(0, 3, 60)
    customers = np.arange(60)
    one, again = (grouped_folds(classes, customers, num=3, seed=4) for _ in range(2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, grouped_folds(classes, customers, num=3, seed=5))
