"""The blocks of the paged KV cache by number: which are free, who shares them, and what they hold.

A block holds the keys and values of `BLOCK_TOKENS` tokens in a row. Its content depends on all tokens before it, so it
is known by a digest that chains over them (and over the tenant's namespace). Only full blocks get one, and a full block
is never written again: sharing needs no copies. Blocks that nobody uses but that hold something known stay findable
until they are the least recently used ones when a blank block is wanted.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from qwenops.errors import EngineError
from qwenops.models.spec import KV_BLOCK_TOKENS
from qwenops.text import say

BLOCK_TOKENS = KV_BLOCK_TOKENS
"""Tokens per block; the paged attention kernels of OpenVINO's CPU plugin fix it."""


def blocks_for(num_tokens: int) -> int:
    """Return how many blocks `num_tokens` tokens take."""
    return -(-num_tokens // BLOCK_TOKENS)


def first_digest(namespace: str) -> bytes:
    """Return where the chain of a tenant begins."""
    return hashlib.sha256(namespace.encode("utf-8", "surrogatepass")).digest()


def next_digest(previous: bytes, tokens: "array[int]") -> bytes:
    """Chain one full block of token ids onto `previous`."""
    return hashlib.sha256(previous + tokens.tobytes()).digest()


class BlockPool:
    """Blocks 0 to `num_blocks` - 1, each blank, in use (by one or more), idle (unused, content known) or kept (pinned).

    Args:
        num_blocks: How many there are.
        cache: Whether content is remembered after use.
    """

    def __init__(self, num_blocks: int, *, cache: bool = True) -> None:
        """Start with every block blank."""
        self.num_blocks = num_blocks
        self._cache = cache
        self._users = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._kept: set[int] = set()
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._pinned: set[bytes] = set()

    @property
    def num_free(self) -> int:
        """Blocks that can be taken: blank ones, and idle ones whose content is then forgotten."""
        return len(self._blank) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks that somebody uses."""
        return self.num_blocks - self.num_free - len(self._kept)

    @property
    def num_pinned(self) -> int:
        """Blocks that pins may hold back, whether or not their content has been computed yet."""
        return len(self._pinned)

    def take(self) -> int:
        """Hand out one block to write, for one user; forgets the least recently used idle one if none is blank.

        Raises:
            EngineError: None is free; whoever asks has looked at `num_free` before.
        """
        if self._blank:
            block = self._blank.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        else:
            raise EngineError(say("The KV cache has no free block of its {num}.", num=self.num_blocks))
        self._users[block] = 1
        return block

    def find(self, digest: bytes) -> int | None:
        """Return the block that holds this content, without taking it."""
        return self._block_of.get(digest)

    def is_used(self, block: int) -> bool:
        """Say whether anybody uses `block`."""
        return self._users[block] > 0

    def share(self, block: int) -> None:
        """Add a user to a block that `find` returned."""
        if self._users[block] == 0:
            self._idle.pop(block, None)
            self._kept.discard(block)
        self._users[block] += 1

    def remember(self, block: int, digest: bytes) -> None:
        """Note what a used block now holds; an equal block that is known already stays the known one."""
        if self._cache and digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def give_back(self, blocks: Sequence[int]) -> None:
        """Remove one user from each of `blocks`, which are in the order of their tokens.

        The last ones become the first to be forgotten: a beginning is worth more than an end.
        """
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._rest(block)

    def pin(self, digests: Iterable[bytes]) -> None:
        """Keep the blocks that hold (or will hold) these contents, even when nobody uses them."""
        for digest in digests:
            self._pinned.add(digest)
            block = self._block_of.get(digest)
            if block is not None and block in self._idle:
                del self._idle[block]
                self._kept.add(block)

    def unpin(self, digests: Iterable[bytes]) -> None:
        """Let pinned contents be forgotten again."""
        for digest in digests:
            self._pinned.discard(digest)
            block = self._block_of.get(digest)
            if block is not None and block in self._kept:
                self._kept.discard(block)
                self._idle[block] = None

    def check(self, held: Iterable[Sequence[int]]) -> None:
        """Assert that the books agree with the blocks that sequences hold; for tests and for finding bugs."""
        users = [0] * self.num_blocks
        for blocks in held:
            for block in blocks:
                users[block] += 1
        problems = {
            "users": users != self._users,
            "blank and idle": bool(set(self._blank) & set(self._idle)),
            "blank twice": len(set(self._blank)) != len(self._blank),
            "free yet used": any(self._users[block] for block in (*self._blank, *self._idle, *self._kept)),
            "lost": sum(1 for count in users if count) + self.num_free + len(self._kept) != self.num_blocks,
            "blank yet known": any(block in self._digest_of for block in self._blank),
            "idle yet unknown": any(block not in self._digest_of for block in self._idle),
            "known one way only": {block: digest for digest, block in self._block_of.items()} != self._digest_of,
            "kept yet not pinned": any(self._digest_of.get(block) not in self._pinned for block in self._kept),
        }
        wrong = [name for name, is_wrong in problems.items() if is_wrong]
        if wrong:
            raise AssertionError(", ".join(wrong))

    def _rest(self, block: int) -> None:
        digest = self._digest_of.get(block)
        if digest is None:
            self._blank.append(block)
        elif digest in self._pinned:
            self._kept.add(block)
        else:
            self._idle[block] = None
