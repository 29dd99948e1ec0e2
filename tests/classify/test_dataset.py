from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenops.classify.dataset import (
    EncodedCalls,
    encode,
    epoch_batches,
    micro_batches,
    num_batches,
    padded_tokens,
    shared,
)
from qwenops.errors import InvalidDataError
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from tests.classify.made import TAXONOMY, Pair, pairs


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return open_tokenizer(tiny_checkpoint)


def made(lengths: list[int]) -> EncodedCalls:
    """Calls of these lengths, with nothing in them."""
    count = len(lengths)
    return EncodedCalls(
        ids=tuple(f"c-{number}" for number in range(count)),
        tokens=np.zeros(sum(lengths), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.zeros(count, dtype=np.int64),
        weights=np.ones(count, dtype=np.float32),
    )


def turned(calls: EncodedCalls, order: list[int]) -> EncodedCalls:
    """The same calls in another order of the file."""
    lengths = [int(calls.lengths[place]) for place in order]
    return replace(
        calls,
        ids=tuple(calls.ids[place] for place in order),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


LENGTHS = [int(each) for each in np.random.default_rng(0).integers(20, 900, size=403)]


def test_calls_become_tokens_classes_and_weights(tokenizer: Tokenizer) -> None:
    items = pairs(6, seed=1)
    encoded = encode(items, taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=256)
    assert encoded.ids == tuple(call.conversation_id for call, _ in items)
    assert [TAXONOMY.leaves[place] for place in encoded.labels] == [label.primary for _, label in items]
    assert encoded.weights.tolist() == [label.weight for _, label in items]
    assert encoded.lengths.sum() == len(encoded.tokens)
    assert items[3][0].turns[1].text in tokenizer.decode(encoded.prompt(3).tolist())


def test_everything_that_is_wrong_is_named_at_once(tokenizer: Tokenizer) -> None:
    first, second, third, fourth, fifth = pairs(5, seed=1)

    def items() -> Iterator[Pair]:
        yield first
        yield second[0], replace(second[1], primary="billing")
        yield third[0], replace(third[1], taxonomy="other@1")
        yield replace(fourth[0], turns=()), fourth[1]
        yield fifth[0], replace(fifth[1], weight=0.0)
        yield first

    with pytest.raises(InvalidDataError) as caught:
        encode(items(), taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=256)
    told = str(caught.value)
    for part in ("billing is no class", "about other@1", "Nobody says anything", "weight is 0", "stands there twice"):
        assert part in told
    assert "5 problems" in told


def test_a_label_of_another_call_is_refused(tokenizer: Tokenizer) -> None:
    (call, label), (other, _) = pairs(2, seed=1)
    with pytest.raises(InvalidDataError, match=f"label of {call.conversation_id} came with"):
        encode([(other, label)], taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=256)


def test_an_epoch_has_every_call_once() -> None:
    batches = epoch_batches(made(LENGTHS), batch_calls=16, seed=3, epoch=0)
    assert Counter(place for batch in batches for place in batch) == Counter(range(len(LENGTHS)))
    assert len(batches) == num_batches(len(LENGTHS), 16) == 26
    assert sum(len(batch) < 16 for batch in batches) == 1


def test_the_same_seed_gives_the_same_order_whatever_the_order_of_the_file() -> None:
    calls = made(LENGTHS)
    order = list(np.random.default_rng(1).permutation(len(LENGTHS)))
    other = turned(calls, [int(place) for place in order])
    named = [[calls.ids[place] for place in batch] for batch in epoch_batches(calls, batch_calls=8, seed=5, epoch=2)]
    again = [[other.ids[place] for place in batch] for batch in epoch_batches(other, batch_calls=8, seed=5, epoch=2)]
    assert [sorted(batch) for batch in named] == [sorted(batch) for batch in again]


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 1}])
def test_another_seed_or_epoch_gives_another_order(change: dict[str, int]) -> None:
    calls = made(LENGTHS)
    usual = {"seed": 3, "epoch": 0}
    assert epoch_batches(calls, batch_calls=16, **usual) != epoch_batches(calls, batch_calls=16, **(usual | change))


def test_length_buckets_save_most_of_the_padding_and_batches_still_come_in_a_mixed_order() -> None:
    calls = made(LENGTHS)
    lengths = calls.lengths
    batches = epoch_batches(calls, batch_calls=16, seed=3, epoch=0)
    by_chance = [tuple(range(start, min(start + 16, len(LENGTHS)))) for start in range(0, len(LENGTHS), 16)]
    assert padded_tokens(batches, lengths) < 1.1 * lengths.sum()
    assert padded_tokens(by_chance, lengths) > 1.5 * lengths.sum()
    longest = [int(lengths[batch[0]]) for batch in batches]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


@given(
    lengths=st.lists(st.integers(1, 700), min_size=1, max_size=40),
    budget=st.integers(1, 2000),
    size=st.integers(1, 5),
)
def test_pieces_hold_every_call_of_a_share_once_and_keep_the_budget(lengths: list[int], budget: int, size: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    seen: list[int] = []
    for rank in range(size):
        for piece in micro_batches(shared(range(len(lengths)), rank, size), array, budget):
            assert len(piece) == 1 or padded_tokens([piece], array) <= budget
            assert [lengths[place] for place in piece] == sorted((lengths[place] for place in piece), reverse=True)
            seen += piece
    assert sorted(seen) == list(range(len(lengths)))


def test_equal_prompts_have_equal_digests_and_the_whole_has_a_hash_of_everything(tokenizer: Tokenizer) -> None:
    items = pairs(3, seed=1)
    same = replace(items[1][0], turns=items[0][0].turns), items[1][1]
    encoded = encode([items[0], same, items[2]], taxonomy=TAXONOMY, tokenizer=tokenizer, budget_tokens=256)
    assert encoded.digest(0) == encoded.digest(1) != encoded.digest(2)
    assert encoded.sha256() == replace(encoded).sha256()
    for change in (
        {"ids": ("x", *encoded.ids[1:])},
        {"labels": encoded.labels + 1},
        {"weights": encoded.weights / 2},
        {"tokens": encoded.tokens + 1},
    ):
        assert replace(encoded, **change).sha256() != encoded.sha256()
