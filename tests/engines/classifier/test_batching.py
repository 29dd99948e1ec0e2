"""Batches fit their budget, waste little, and leave nobody waiting."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.engines.classifier.batching import MOST_PADDING, choose, padded, plan

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=60)
BUDGETS = st.integers(64, 8192)


def check(batch: Sequence[int], lengths: Sequence[int], budget: int) -> None:
    """A batch is within its budget and mostly no padding, or one prompt that is longer than the budget."""
    longest = padded(max(lengths[each] for each in batch))
    size = longest * len(batch)
    assert size <= budget or len(batch) == 1
    assert sum(padded(lengths[each]) for each in batch) >= (1 - MOST_PADDING) * size


@given(LENGTHS, BUDGETS)
def test_a_plan_has_every_prompt_once_in_sound_batches(lengths: list[int], budget: int) -> None:
    batches = plan(lengths, budget)
    assert sorted(each for batch in batches for each in batch) == list(range(len(lengths)))
    for batch in batches:
        check(batch, lengths, budget)
    longest = [max(lengths[each] for each in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True), "the end of a job is made of small pieces"


@given(LENGTHS, BUDGETS)
def test_the_one_who_waits_longest_is_always_next(lengths: list[int], budget: int) -> None:
    waiting = list(range(len(lengths)))
    rounds = 0
    while waiting:
        chosen = choose([lengths[each] for each in waiting], budget)
        assert 0 in chosen
        assert len(set(chosen)) == len(chosen)
        check([waiting[each] for each in chosen], lengths, budget)
        waiting = [each for at, each in enumerate(waiting) if at not in set(chosen)]
        rounds += 1
    assert rounds <= len(lengths)


def test_neighbours_in_length_are_computed_together() -> None:
    lengths = [500, 1400, 505, 20, 498, 510, 1390, 25]
    assert sorted(choose(lengths, 2048)) == [0, 2, 4, 5]
    assert sorted(choose(lengths, 1024)) == [0, 4]


def test_nobody_waits_for_nothing() -> None:
    assert choose([], 2048) == []
    assert plan([], 2048) == []


def test_a_long_and_a_short_prompt_are_not_padded_to_one_another() -> None:
    assert [len(batch) for batch in plan([1500, 200], 8192)] == [1, 1]
    assert [len(batch) for batch in plan([1500, 1450], 8192)] == [2]


@given(st.integers(1, 5000))
def test_padding_is_small_and_lengths_are_few(length: int) -> None:
    found = padded(length)
    assert found >= length
    assert padded(found) == found
    assert found - length < max(16, 0.13 * length)


def test_there_are_few_lengths_to_prepare_kernels_for() -> None:
    assert len({padded(length) for length in range(1, 2049)}) <= 60


@pytest.mark.parametrize("count", [1000])
def test_thousands_of_waiting_prompts_are_no_burden(count: int) -> None:
    """Choosing is done between two batches, each of which takes a tenth of a second at least."""
    import time

    lengths = [200 + 37 * each % 1300 for each in range(count)]
    begun_s = time.perf_counter()
    choose(lengths, 2048)
    assert time.perf_counter() - begun_s < 0.1
