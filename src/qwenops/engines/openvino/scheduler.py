"""The scheduler decides and never computes.

It knows sequences, blocks and budgets, and nothing of tensors. `plan` says which tokens of which sequences the next
step computes; `commit` takes what came out of it. Between the two, only `finish` may be called.

The rules:

* Sequences are admitted in the order of their arrival, as many as fit `max_running` and the cache; nobody overtakes at
  the door, so nobody starves there.
* Every running sequence that decodes is in every step, so a decode never waits for more than one step. The rest of the
  step's token budget goes to prompts by age, but half of it to a much shorter one, so that a short question need not
  wait behind a long document. While somebody decodes the budget is
  `max_mixed_tokens`, which bounds the pause between two tokens; else it is `max_batched_tokens`.
* A full block becomes shareable the moment it is computed. A sequence whose next block another one is about to compute
  waits for it instead of computing it twice, as long as that other one moves.
* When blocks run out the youngest sequence gives its own back and is computed again later (its tokens stay). The oldest
  never does, and a sequence that could not fit alone was refused at the door: so the oldest always moves.
"""

from array import array
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qwenops.engines.openvino.blocks import BLOCK_TOKENS, BlockPool, blocks_for, first_digest, next_digest
from qwenops.errors import PromptTooLongError
from qwenops.text import say


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerOptions:
    """What the scheduler may use up."""

    num_blocks: int
    max_running: int = 16
    max_batched_tokens: int = 512
    max_mixed_tokens: int = 256
    """Tokens of a step in which somebody decodes."""
    prefix_cache: bool = True


class Tracked:
    """A sequence of tokens on its way: the prompt, what was generated so far, and the blocks that hold their KV.

    Args:
        id: Unique among those in flight.
        prompt: Token ids, at least one.
        max_new_tokens: How many may be appended.
        namespace: Sequences share blocks only within a namespace.
    """

    __slots__ = (
        "arrival",
        "blocks",
        "cached_tokens",
        "digests",
        "id",
        "max_new_tokens",
        "namespace",
        "num_computed",
        "num_preemptions",
        "num_prompt",
        "tokens",
    )

    def __init__(self, id: str, prompt: Iterable[int], *, max_new_tokens: int = 1, namespace: str = "") -> None:  # noqa: A002 -- the word of the seam
        """Start with nothing computed and no blocks."""
        self.id = id
        self.tokens = array("q", prompt)
        self.num_prompt = len(self.tokens)
        self.max_new_tokens = max_new_tokens
        self.namespace = namespace
        self.num_computed = 0
        self.blocks = array("i")
        self.digests: list[bytes] = []
        self.cached_tokens = 0
        self.num_preemptions = 0
        self.arrival = -1

    @property
    def num_left(self) -> int:
        """Tokens that are known and not computed; 1 means that the sequence decodes."""
        return len(self.tokens) - self.num_computed

    @property
    def num_generated(self) -> int:
        """Tokens after the prompt."""
        return len(self.tokens) - self.num_prompt

    def digest(self, index: int) -> bytes:
        """Return the digest of full block `index`, whose tokens must all be known."""
        digests = self.digests
        while len(digests) <= index:
            begin = len(digests) * BLOCK_TOKENS
            previous = digests[-1] if digests else first_digest(self.namespace)
            digests.append(next_digest(previous, self.tokens[begin : begin + BLOCK_TOKENS]))
        return digests[index]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `begin` to `begin + count` of one sequence; `wants_row` when the last of them is the last known one."""

    sequence: Tracked
    begin: int
    count: int
    wants_row: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What is computed together: at least one piece, every sequence at most once."""

    pieces: tuple[Piece, ...]
    num_tokens: int


class Scheduler:
    """Decides what the next step computes."""

    def __init__(self, options: SchedulerOptions) -> None:
        """Start with nobody there."""
        self.options = options
        self.pool = BlockPool(options.num_blocks, cache=options.prefix_cache)
        self.num_preemptions = 0
        self.cached_prompt_tokens = 0
        self._arrivals = 0
        self._waiting: list[Tracked] = []
        self._running: list[Tracked] = []
        self._by_id: dict[str, Tracked] = {}
        self._promised: dict[bytes, Tracked] = {}

    @property
    def num_running(self) -> int:
        """Sequences that are being computed."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that have not started or were sent back."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether anybody is there."""
        return bool(self._by_id)

    @property
    def sequences(self) -> Mapping[str, Tracked]:
        """Everybody in flight."""
        return self._by_id

    @property
    def capacity_tokens(self) -> int:
        """Longest sequence, prompt and answer, that fits when it is alone."""
        return (self.pool.num_blocks - self.pool.num_pinned) * BLOCK_TOKENS

    def add(self, sequence: Tracked) -> None:
        """Queue a sequence.

        Raises:
            PromptTooLongError: It could not fit even alone.
        """
        total = sequence.num_prompt + sequence.max_new_tokens
        if total > self.capacity_tokens:
            raise PromptTooLongError(
                say(
                    "The prompt has {prompt} tokens and asks for {new} more; the KV cache holds {capacity}.",
                    prompt=sequence.num_prompt,
                    new=sequence.max_new_tokens,
                    capacity=self.capacity_tokens,
                ),
                hint=say("Shorten the prompt, ask for fewer tokens, or give the KV cache more memory."),
                param="prompt",
            )
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._by_id[sequence.id] = sequence
        self._waiting.append(sequence)

    def finish(self, id: str) -> None:  # noqa: A002 -- the word of the seam
        """Let go of a sequence, at any point of its life, with all it held. An unknown one is none of our business."""
        sequence = self._by_id.pop(id, None)
        if sequence is None:
            return
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._let_go(sequence)

    def pin(self, namespace: str, tokens: Iterable[int]) -> int:
        """Keep the full blocks of this beginning once they are computed; return how many tokens that covers.

        Raises:
            PromptTooLongError: With it pinned, somebody in flight or a quarter of the cache would not fit any more.
        """
        digests = _digests(namespace, tokens)
        after = self.pool.num_blocks - self.pool.num_pinned - len(digests)
        needed = max((self._most_blocks(each) for each in self._by_id.values()), default=0)
        if after < max(needed, self.pool.num_blocks - self.pool.num_blocks // 4):
            raise PromptTooLongError(
                say("A prefix of {num} blocks cannot be pinned into a cache of {all}.", num=len(digests), all=after),
                hint=say("Pin shorter prefixes, or give the KV cache more memory."),
            )
        self.pool.pin(digests)
        return len(digests) * BLOCK_TOKENS

    def unpin(self, namespace: str, tokens: Iterable[int]) -> None:
        """Let a pinned beginning be forgotten like any other."""
        self.pool.unpin(_digests(namespace, tokens))

    def plan(self) -> Step | None:
        """Decide the next step; None when there is nothing to do."""
        self._admit()
        pieces: list[Piece] = []
        for sequence in tuple(self._running):
            if sequence.num_left == 1 and sequence.num_computed and sequence in self._running:
                self._extend(sequence, 1, pieces)
        self._plan_prompts(pieces)
        # A sequence planned early may have been sent back for an older one.
        alive = [piece for piece in pieces if piece.sequence.blocks]
        if not alive:
            return None
        return Step(pieces=tuple(alive), num_tokens=sum(piece.count for piece in alive))

    def commit(self, step: Step, chosen: Mapping[str, int]) -> None:
        """Take note that `step` was computed; `chosen` has the next token of each sequence that goes on."""
        for piece in step.pieces:
            sequence = piece.sequence
            if sequence.id not in self._by_id:
                continue
            before = sequence.num_computed // BLOCK_TOKENS
            sequence.num_computed = piece.begin + piece.count
            if self.options.prefix_cache:
                for index in range(before, sequence.num_computed // BLOCK_TOKENS):
                    digest = sequence.digest(index)
                    self.pool.remember(sequence.blocks[index], digest)
                    self._unpromise(digest, sequence)
            if sequence.id in chosen:
                sequence.tokens.append(chosen[sequence.id])

    def check(self) -> None:
        """Assert that every rule about who holds what is kept; for tests and for finding bugs."""
        self.pool.check(each.blocks for each in self._by_id.values())
        for each in self._waiting:
            assert not each.blocks, "a waiting sequence holds blocks"  # noqa: S101 -- this is what it is for
        for each in self._running:
            assert len(each.blocks) >= blocks_for(each.num_computed), "computed tokens without a block"  # noqa: S101 -- as above
        assert {*self._promised.values()} <= {*self._running}, "a promise of nobody"  # noqa: S101 -- as above
        assert len(self._running) <= self.options.max_running, "too many run"  # noqa: S101 -- as above

    # -- planning ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        outstanding = sum(blocks_for(len(each.tokens) + 1) - len(each.blocks) for each in self._running)
        while self._waiting and len(self._running) < self.options.max_running:
            sequence = self._waiting[0]
            needed = blocks_for(len(sequence.tokens) + 1) - self._num_shared(sequence)
            if self._running and needed > self.pool.num_free - max(outstanding, 0):
                return
            self._waiting.pop(0)
            insort(self._running, sequence, key=lambda each: each.arrival)
            outstanding += needed
            if self.options.prefix_cache:
                self._attach(sequence)
                for index in range(sequence.num_computed // BLOCK_TOKENS, len(sequence.tokens) // BLOCK_TOKENS):
                    self._promised.setdefault(sequence.digest(index), sequence)

    def _plan_prompts(self, pieces: list[Piece]) -> None:
        budget = self.options.max_mixed_tokens if pieces else self.options.max_batched_tokens
        budget = max(budget - len(pieces), BLOCK_TOKENS)
        planned = {piece.sequence.id for piece in pieces}
        prompts = [each for each in self._running if each.id not in planned]
        if not prompts:
            return
        held_up: list[Tracked] = []
        ready: list[Tracked] = []
        for sequence in prompts:
            (held_up if self._awaits_other(sequence) else ready).append(sequence)
        for sequence, share in _shares(ready, budget):
            budget -= self._extend(sequence, min(share, budget), pieces)
        moving = {piece.sequence.id for piece in pieces}
        for sequence in held_up:
            owner = self._promised.get(sequence.digest(sequence.num_computed // BLOCK_TOKENS))
            if budget > 0 and (owner is None or owner.id not in moving):
                budget -= self._extend(sequence, budget, pieces)

    def _awaits_other(self, sequence: Tracked) -> bool:
        if not self.options.prefix_cache:
            return False
        self._attach(sequence)
        if sequence.num_computed % BLOCK_TOKENS or sequence.num_left <= BLOCK_TOKENS:
            return False
        owner = self._promised.setdefault(sequence.digest(sequence.num_computed // BLOCK_TOKENS), sequence)
        return owner is not sequence

    def _extend(self, sequence: Tracked, budget: int, pieces: list[Piece]) -> int:
        """Plan up to `budget` tokens of `sequence` and give it the blocks for them; return how many."""
        if budget <= 0 or sequence not in self._running:
            return 0
        begin, count = sequence.num_computed, min(sequence.num_left, budget)
        if count < sequence.num_left:
            # Ends on a block's border, so that no block is written by two steps.
            count = max(count - (begin + count) % BLOCK_TOKENS, min(count, BLOCK_TOKENS - begin % BLOCK_TOKENS))
        while blocks_for(begin + count) - len(sequence.blocks) > self.pool.num_free:
            if self._send_back_youngest(after=sequence):
                continue
            count = (len(sequence.blocks) + self.pool.num_free) * BLOCK_TOKENS - begin
            break
        if count <= 0:
            return 0
        while len(sequence.blocks) * BLOCK_TOKENS < begin + count:
            sequence.blocks.append(self.pool.take())
        pieces.append(Piece(sequence, begin, count, begin + count == len(sequence.tokens)))
        return count

    def _send_back_youngest(self, *, after: Tracked) -> bool:
        """Take the blocks of the youngest sequence that is younger than `after`; say whether there was one."""
        for sequence in reversed(self._running):
            if sequence.arrival <= after.arrival:
                return False
            if sequence.blocks:
                self._running.remove(sequence)
                self._let_go(sequence)
                sequence.num_preemptions += 1
                self.num_preemptions += 1
                insort(self._waiting, sequence, key=lambda each: each.arrival)
                return True
        return False

    # -- sharing -------------------------------------------------------------------------------------------------

    def _attach(self, sequence: Tracked) -> None:
        """Take over every computed block that continues `sequence`, but leave at least one token to compute."""
        last = (len(sequence.tokens) - 1) // BLOCK_TOKENS
        while sequence.num_computed == len(sequence.blocks) * BLOCK_TOKENS and len(sequence.blocks) < last:
            digest = sequence.digest(len(sequence.blocks))
            block = self.pool.find(digest)
            if block is None:
                return
            self.pool.share(block)
            sequence.blocks.append(block)
            sequence.num_computed += BLOCK_TOKENS
            self._unpromise(digest, sequence)
            if not sequence.num_preemptions:
                sequence.cached_tokens += BLOCK_TOKENS
                self.cached_prompt_tokens += BLOCK_TOKENS

    def _num_shared(self, sequence: Tracked) -> int:
        """Count the blocks of `sequence` that cost nothing because somebody running has or will have them."""
        if not self.options.prefix_cache:
            return 0
        for index in range((len(sequence.tokens) - 1) // BLOCK_TOKENS):
            digest = sequence.digest(index)
            block = self.pool.find(digest)
            if not (digest in self._promised or (block is not None and self.pool.is_used(block))):
                return index
        return (len(sequence.tokens) - 1) // BLOCK_TOKENS

    def _unpromise(self, digest: bytes, sequence: Tracked) -> None:
        if self._promised.get(digest) is sequence:
            del self._promised[digest]

    def _let_go(self, sequence: Tracked) -> None:
        self.pool.give_back(sequence.blocks)
        sequence.blocks = array("i")
        sequence.num_computed = 0
        for digest in sequence.digests:
            self._unpromise(digest, sequence)

    def _most_blocks(self, sequence: Tracked) -> int:
        return blocks_for(sequence.num_prompt + sequence.max_new_tokens)


def _shares(ready: Sequence[Tracked], budget: int) -> list[tuple[Tracked, int]]:
    """Say in which order prompts get how much of the budget, at most.

    `ready` is ordered by age, and age decides. Only where somebody has less than half of what the oldest has left, the
    one with least left gets up to half of the budget first.
    """
    if not ready:
        return []
    oldest, others = ready[0], ready[1:]
    shortest = min(others, key=lambda each: each.num_left, default=oldest)
    if 2 * shortest.num_left > oldest.num_left:
        return [(each, budget) for each in ready]
    first = max(budget // 2, budget - shortest.num_left)
    rest = [each for each in others if each is not shortest]
    return [(oldest, first), *((each, budget) for each in (shortest, *rest))]


def _digests(namespace: str, tokens: Iterable[int]) -> list[bytes]:
    counted = Tracked("", tokens, namespace=namespace)
    return [counted.digest(index) for index in range(counted.num_prompt // BLOCK_TOKENS)]
