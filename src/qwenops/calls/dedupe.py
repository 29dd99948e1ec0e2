"""Which calls are nearly the same text: exported twice, written down twice, or a menu that nobody answered.

Two texts are as alike as the share of runs of five characters that they have in common (Jaccard's index). MinHash
estimates it: of each text 128 numbers are kept, and two texts have as many of them in common, give or take
sqrt(j (1 - j) / 128), which is 3.5 points at 0.8. Texts that share one of 16 bands of 8 numbers are compared; at 0.9
none in ten thousand is missed, at 0.8 one in twenty.

Calls are clusters when a chain of such pairs joins them. Whether two calls are a pair depends on nothing but their
texts, so calls that are apart in a set are apart in each part of it: a split that keeps clusters whole cannot be found
leaking later. Memory is 512 bytes for each text that differs; the calls themselves are not kept.

Case, width, blanks and punctuation make no difference, nor does who said it; recorded voices do not count.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from qwenops.calls.schema import Call, Role

PERMUTATIONS = 128
SHINGLE = 5
"""Characters in a run."""
BANDS, ROWS = 16, 8
THRESHOLD = 0.8

Indexes = npt.NDArray[np.int64]
Signature = npt.NDArray[np.uint32]

_NO_WORD = re.compile(r"[\W_]+")
_AT_ONCE = 2048
"""Shingles that are hashed together: the table of their hashes stays in the cache."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NOTHING_SAID = -1


class Forest:
    """Which of `count` things belong together: what was joined, and all that follows from it."""

    def __init__(self, count: int) -> None:
        """Begin with each thing by itself."""
        self._above: Indexes = np.arange(count, dtype=np.int64)

    def roots(self, members: Indexes) -> Indexes:
        """Return for each member one that stands for all that it belongs with."""
        found: Indexes = self._above[members]
        while True:
            above: Indexes = self._above[found]
            if np.array_equal(above, found):
                return found
            found = above

    def join(self, members: Indexes) -> None:
        """Put members, and all that they belong with, together."""
        if members.size:
            roots = self.roots(members)
            lowest = roots.min()
            self._above[roots] = lowest
            self._above[members] = lowest

    def all_roots(self) -> Indexes:
        """Return the roots of all things, in their order."""
        return self.roots(np.arange(self._above.size, dtype=np.int64))


@dataclass(slots=True)
class Texts:
    """The texts of calls that were added one by one, of each what tells how alike it is to others."""

    text_of: list[int] = field(default_factory=list)
    """For each call the number of its text; equal texts have one number, and -1 says that nothing was said."""
    _signatures: bytearray = field(default_factory=bytearray)
    """Of the texts that differ, one after the other."""
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, call: Call) -> None:
        """Take a call in."""
        text = plain_text(call)
        if not text:
            self.text_of.append(_NOTHING_SAID)
            return
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        new = len(self._known)
        number = self._known.setdefault(digest, new)
        if number == new:
            self._signatures += signature(text).tobytes()
        self.text_of.append(number)

    def clusters(self, threshold: float = THRESHOLD) -> list[list[int]]:
        """Return the calls that have others like them, by their places from 0: each cluster and all of them in turn."""
        if not self._signatures:
            return []
        text_of = np.array(self.text_of, dtype=np.int64)
        said = np.flatnonzero(text_of != _NOTHING_SAID)
        signatures = np.frombuffer(self._signatures, dtype=np.uint32).reshape(-1, PERMUTATIONS)
        roots = _linked(signatures, threshold)[text_of[said]]
        members: dict[int, list[int]] = {}
        for place, root in zip(said.tolist(), roots.tolist(), strict=True):
            members.setdefault(root, []).append(place)
        return [each for each in members.values() if len(each) > 1]


def clusters(calls: Iterable[Call], *, threshold: float = THRESHOLD) -> list[list[str]]:
    """Return the conversations that have others nearly like them, cluster by cluster, in the order of the calls."""
    texts = Texts()
    ids: list[str] = []
    for call in calls:
        texts.add(call)
        ids.append(call.conversation_id)
    return [[ids[place] for place in cluster] for cluster in texts.clusters(threshold)]


def plain_text(call: Call) -> str:
    """Return what is said in a call as it counts here: letters and digits only, of one width and case."""
    spoken = "\n".join(turn.text for turn in call.turns if turn.role is not Role.IVR)
    return _NO_WORD.sub("", unicodedata.normalize("NFKC", spoken).casefold())


def signature(text: str) -> Signature:
    """Return the 128 numbers of a text that is not empty.

    Raises:
        ValueError: It is empty.
    """
    shingles = _shingles(text)
    if not shingles.size:
        raise ValueError("an empty text is like no other")
    factors, offsets = _permutations()
    lowest: Signature = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, dtype=np.uint32)
    for first in range(0, shingles.size, _AT_ONCE):
        permuted = factors[:, None] * shingles[None, first : first + _AT_ONCE] + offsets[:, None]
        np.minimum(lowest, permuted.min(axis=1), out=lowest)
    return lowest


def likeness(one: Signature, other: Signature) -> float:
    """Return the estimate of Jaccard's index of two texts."""
    return float((one == other).mean())


def _shingles(text: str) -> npt.NDArray[np.uint32]:
    """Return the hashes of the runs of characters in a text, each once; a text shorter than a run is one."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    width = min(SHINGLE, codes.size)
    hashed = np.zeros(codes.size - width + 1 if width else 0, dtype=np.uint64)
    for place in range(width):
        hashed = hashed * _GOLDEN + codes[place : place + hashed.size]
    return np.unique((_mixed(hashed) >> np.uint64(32)).astype(np.uint32))


@cache
def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Return factors (odd) and offsets of the permutations of 32-bit numbers; the same in every process."""
    drawn = (_mixed(np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64) * _GOLDEN) >> np.uint64(32)).astype(np.uint32)
    return drawn[:PERMUTATIONS] | np.uint32(1), drawn[PERMUTATIONS:]


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread values over all 64 bits: the end of Steele's splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _linked(signatures: npt.NDArray[np.uint32], threshold: float) -> Indexes:
    """Return the roots of texts that chains of near-duplicates join."""
    forest = Forest(len(signatures))
    needed = int(np.ceil(threshold * PERMUTATIONS - 1e-9))
    for first in range(0, BANDS * ROWS, ROWS):
        for members in _buckets(signatures[:, first : first + ROWS]):
            _link(members, signatures, forest, needed)
    return forest.all_roots()


def _buckets(band: npt.NDArray[np.uint32]) -> Iterator[Indexes]:
    """Yield the texts that have a band in common, where there are several."""
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = _mixed(keys * _GOLDEN + column.astype(np.uint64))
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(order))
    for number in np.flatnonzero(ends - starts > 1):
        yield order[starts[number] : ends[number]]


def _link(members: Indexes, signatures: npt.NDArray[np.uint32], forest: Forest, needed: int) -> None:
    """Join all near-duplicates among the members.

    Two that belong together already need no comparing, so it is enough that each member outside the largest group is
    compared with all: of any two groups that are left, one has been. A cluster of 50,000 takes few comparisons.
    """
    compared = np.zeros(members.size, dtype=np.bool_)
    own = signatures[members]
    while True:
        _roots, group_of, sizes = np.unique(forest.roots(members), return_inverse=True, return_counts=True)
        waiting = np.flatnonzero((group_of != sizes.argmax()) & ~compared)
        if not waiting.size:
            return
        one = waiting[0]
        compared[one] = True
        forest.join(members[(own == own[one]).sum(axis=1) >= needed])
