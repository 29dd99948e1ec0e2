import random
from array import array
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from qwenops.engines.openvino.blocks import BLOCK_TOKENS, first_digest, next_digest
from qwenops.engines.openvino.scheduler import Scheduler, SchedulerOptions, Step, Tracked
from qwenops.errors import PromptTooLongError


def scheduler(num_blocks: int = 64, **options: Any) -> Scheduler:
    return Scheduler(SchedulerOptions(num_blocks=num_blocks, **options))


def answer(step: Step) -> dict[str, int]:
    return {piece.sequence.id: 7 for piece in step.pieces if piece.wants_row}


def run_step(a_scheduler: Scheduler) -> Step:
    step = a_scheduler.plan()
    assert step is not None
    a_scheduler.commit(step, answer(step))
    a_scheduler.check()
    return step


def shape(step: Step) -> dict[str, int]:
    return {piece.sequence.id: piece.count for piece in step.pieces}


def numbers(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(1000), k=length)


def test_a_long_prompt_is_cut_into_pieces_that_end_on_a_block() -> None:
    tried = scheduler(max_batched_tokens=100)
    tried.add(Tracked("a", numbers(250)))
    assert [shape(run_step(tried))["a"] for _ in range(3)] == [96, 96, 58]


def test_a_decode_is_in_every_step_while_a_long_prompt_is_read() -> None:
    tried = scheduler(max_batched_tokens=128, max_mixed_tokens=64)
    tried.add(Tracked("talks", numbers(10), max_new_tokens=50))
    run_step(tried)
    tried.add(Tracked("reads", numbers(900, seed=1)))
    for _ in range(10):
        step = run_step(tried)
        assert shape(step)["talks"] == 1
        assert step.num_tokens <= 64


def test_a_short_question_overtakes_a_long_document_without_stopping_it() -> None:
    tried = scheduler(num_blocks=200, max_batched_tokens=256)
    tried.add(Tracked("document", numbers(4000)))
    run_step(tried)
    tried.add(Tracked("question", numbers(60, seed=1)))
    assert shape(run_step(tried)) == {"document": 192, "question": 60}


def test_prompts_of_similar_length_are_read_one_after_the_other() -> None:
    tried = scheduler(max_batched_tokens=512)
    for name in "ab":
        tried.add(Tracked(name, numbers(500, seed=ord(name))))
    assert shape(run_step(tried)) == {"a": 500, "b": 12}


def test_a_second_equal_prompt_takes_the_blocks_of_the_first() -> None:
    tried = scheduler()
    tried.add(Tracked("a", numbers(100)))
    run_step(tried)
    tried.finish("a")
    tried.add(Tracked("b", numbers(100)))
    assert shape(run_step(tried)) == {"b": 4}
    assert tried.sequences["b"].cached_tokens == 96


def test_a_prompt_of_whole_blocks_computes_its_last_block_for_the_logits() -> None:
    tried = scheduler()
    tried.add(Tracked("a", numbers(64)))
    run_step(tried)
    tried.add(Tracked("b", numbers(64)))
    assert shape(run_step(tried))["b"] == 32


def test_equal_prompts_of_one_burst_are_computed_once() -> None:
    tried = scheduler(num_blocks=200, max_batched_tokens=512)
    for name in "abcd":
        tried.add(Tracked(name, [*numbers(640), ord(name)], max_new_tokens=4))
    total = 0
    while any(each.num_generated == 0 for each in tried.sequences.values()):
        total += run_step(tried).num_tokens
    assert total < 640 + 4 * 8


def test_a_burst_goes_on_when_the_one_it_waits_for_is_cancelled() -> None:
    tried = scheduler(max_batched_tokens=64)
    for name in "ab":
        tried.add(Tracked(name, numbers(300)))
    run_step(tried)
    tried.finish("a")
    assert shape(run_step(tried)) == {"b": 64}
    assert tried.sequences["b"].cached_tokens == 64


def test_tenants_never_share() -> None:
    tried = scheduler()
    tried.add(Tracked("a", numbers(100), namespace="one"))
    run_step(tried)
    tried.add(Tracked("b", numbers(100), namespace="two"))
    assert shape(run_step(tried))["b"] == 100
    assert tried.cached_prompt_tokens == 0


def test_without_a_prefix_cache_nothing_is_shared() -> None:
    tried = Scheduler(SchedulerOptions(num_blocks=32, prefix_cache=False))
    for name in "ab":
        tried.add(Tracked(name, numbers(100)))
    assert shape(run_step(tried)) == {"a": 100, "b": 100}


def test_the_digest_chains_over_namespace_previous_block_and_tokens() -> None:
    block = array("q", range(32))
    first = next_digest(first_digest(""), block)
    assert first != next_digest(first_digest("tenant"), block)
    assert first != next_digest(first, block)
    assert first != next_digest(first_digest(""), array("q", range(1, 33)))


def test_the_youngest_gives_way_and_is_recomputed() -> None:
    tried = scheduler(num_blocks=6, max_batched_tokens=512)
    for name in "ab":
        tried.add(Tracked(name, numbers(80, seed=ord(name)), max_new_tokens=100))
    finished = []
    for _ in range(400):
        run_step(tried)
        for each in list(tried.sequences.values()):
            if each.num_generated >= 100:
                finished.append((each.id, len(each.tokens)))
                tried.finish(each.id)
        if not tried.has_work:
            break
    assert finished == [("a", 180), ("b", 180)]
    assert tried.num_preemptions > 0


def test_a_prompt_that_does_not_fit_yet_waits_instead_of_pushing_and_being_pushed() -> None:
    tried = scheduler(num_blocks=10)
    for name in "ab":
        tried.add(Tracked(name, numbers(200, seed=ord(name)), max_new_tokens=10))
    assert shape(run_step(tried)) == {"a": 200}
    assert (tried.num_running, tried.num_waiting, tried.num_preemptions) == (1, 1, 0)
    tried.finish("a")
    assert shape(run_step(tried)) == {"b": 200}


def test_a_prompt_over_the_capacity_is_refused_at_the_door() -> None:
    tried = scheduler(num_blocks=4)
    with pytest.raises(PromptTooLongError, match="128"):
        tried.add(Tracked("a", numbers(125), max_new_tokens=4))
    assert not tried.has_work


def test_a_pinned_prefix_outlives_everything_that_pushes_others_out() -> None:
    tried = scheduler(num_blocks=16)
    prefix = numbers(64)
    assert tried.pin("", prefix) == 64
    tried.add(Tracked("a", [*prefix, 1]))
    run_step(tried)
    tried.finish("a")
    for seed in range(1, 9):
        tried.add(Tracked("x", numbers(400, seed=seed)))
        run_step(tried)
        tried.finish("x")
    tried.add(Tracked("b", [*prefix, 2]))
    assert shape(run_step(tried)) == {"b": 1}
    tried.finish("b")
    tried.unpin("", prefix)
    tried.add(Tracked("x", numbers(510, seed=99)))
    run_step(tried)
    tried.check()
    assert tried.capacity_tokens == 16 * BLOCK_TOKENS


def test_a_pin_that_would_leave_too_little_is_refused() -> None:
    tried = scheduler(num_blocks=16)
    with pytest.raises(PromptTooLongError, match="pinned"):
        tried.pin("", numbers(32 * 5))
    assert tried.capacity_tokens == 16 * BLOCK_TOKENS


class Life(RuleBasedStateMachine):
    """Sequences come, are computed, sent back, cancelled and finished, while a shadow of every block is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = Scheduler(
            SchedulerOptions(num_blocks=12, max_running=4, max_batched_tokens=96, max_mixed_tokens=64)
        )
        self.shadow: dict[int, list[tuple[str, int] | None]] = {block: [None] * 32 for block in range(12)}
        self.count = 0
        self.in_step: Step | None = None

    @rule(
        prefix=st.sampled_from([0, 31, 32, 33, 64, 96, 200]),
        own=st.integers(1, 70),
        new=st.integers(1, 60),
        tenant=st.sampled_from(["", "other"]),
    )
    def arrive(self, prefix: int, own: int, new: int, tenant: str) -> None:
        self.count += 1
        name = str(self.count)
        tokens = [*range(prefix), *([5000 + self.count % 3] * own)]
        self.tried.add(Tracked(name, tokens, max_new_tokens=new, namespace=tenant))

    @precondition(lambda self: self.in_step is None)
    @rule()
    def plan(self) -> None:
        self.in_step = self.tried.plan()
        assert (self.in_step is None) == (not self.tried.has_work)
        if self.in_step is not None:
            names = [piece.sequence.id for piece in self.in_step.pieces]
            assert len(set(names)) == len(names)
            assert self.in_step.num_tokens <= 96 + 4
            self.oldest_moves(names)

    @precondition(lambda self: self.in_step is not None)
    @rule()
    def compute(self) -> None:
        step, self.in_step = self.in_step, None
        assert step is not None
        alive = [piece for piece in step.pieces if piece.sequence.id in self.tried.sequences]
        for piece in alive:
            self.write(piece.sequence, range(piece.begin, piece.begin + piece.count))
        for piece in alive:
            self.read(piece.sequence, piece.begin + piece.count)
        self.tried.commit(step, {p.sequence.id: 9000 + p.sequence.num_generated for p in alive if p.wants_row})
        for piece in alive:
            if piece.sequence.num_generated >= piece.sequence.max_new_tokens:
                self.tried.finish(piece.sequence.id)

    @precondition(lambda self: self.tried.has_work)
    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: random.Random) -> None:
        self.tried.finish(pick.choice(sorted(self.tried.sequences)))

    def oldest_moves(self, names: list[str]) -> None:
        oldest = min(self.tried.sequences.values(), key=lambda each: each.arrival)
        if oldest.id not in names:
            owner = self.tried._promised[oldest.digest(oldest.num_computed // 32)]
            assert owner.id in names, "the oldest neither moves nor waits for one that moves"

    def write(self, sequence: Tracked, positions: Iterable[int]) -> None:
        for position in positions:
            block = sequence.blocks[position // 32]
            before = self.shadow[block][position % 32]
            mark = self.mark(sequence, position)
            shared = sum(block in other.blocks for other in self.tried.sequences.values()) > 1
            assert not shared or before == mark, "a shared block was overwritten"
            self.shadow[block][position % 32] = mark

    def read(self, sequence: Tracked, end: int) -> None:
        for position in range(end):
            found = self.shadow[sequence.blocks[position // 32]][position % 32]
            assert found == self.mark(sequence, position), "a block holds something else"

    @staticmethod
    def mark(sequence: Tracked, position: int) -> tuple[str, int]:
        return sequence.namespace, hash(sequence.tokens[: position + 1].tobytes())

    @invariant()
    def books_agree(self) -> None:
        self.tried.check()
        if not self.tried.has_work:
            assert self.tried.pool.num_used == 0

    def teardown(self) -> None:
        if self.in_step is not None:
            self.compute()
        for _ in range(5000):
            if not self.tried.has_work:
                break
            self.plan()
            assert self.in_step is not None, "somebody starves"
            self.compute()
            self.books_agree()
        assert not self.tried.has_work, "somebody starves"
        assert self.tried.pool.num_used == 0


def calm(examples: int) -> settings:
    slow = [HealthCheck.too_slow]
    return settings(max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=slow)


def test_no_block_is_lost_none_is_shared_wrongly_and_nobody_starves() -> None:
    run_state_machine_as_test(Life, settings=calm(20))


@pytest.mark.slow
def test_the_same_over_many_more_lives() -> None:
    run_state_machine_as_test(Life, settings=calm(300))
