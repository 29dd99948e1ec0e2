"""Chance that depends on nothing but the names it is given: the same seed and path give the same draws anywhere.

Each stage of a call has its own path (`seed, 17, "plan"`), so more noise never changes what was said. Everything is
made of `random()`, whose sequence for a seed is what Python promises to keep.
"""

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TypeVar

_Item = TypeVar("_Item")
_TINY = 1e-12


class Dice:
    """Draws for one stage of one call."""

    __slots__ = ("share",)
    share: Callable[[], float]
    """Returns a number from 0 to below 1."""

    def __init__(self, seed: int, *path: int | str) -> None:
        """Begin at a seed and the names below it."""
        named = hashlib.sha256(repr((seed, *path)).encode()).digest()
        self.share = random.Random(int.from_bytes(named, "big")).random  # noqa: S311 -- made-up calls, no secret

    def happens(self, probability: float) -> bool:
        """Say whether something of that probability happens."""
        return self.share() < probability

    def between(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return low + math.floor(self.share() * (high - low + 1))

    def one_of(self, items: Sequence[_Item]) -> _Item:
        """Return one of several, each as likely as the others."""
        return items[math.floor(self.share() * len(items))]

    def by_weight(self, weights: Mapping[_Item, float]) -> _Item:
        """Return one of several, each as likely as its weight says; weights of nothing but zeros count as equal."""
        names = list(weights)
        total = sum(weights.values())
        if total <= 0:
            return self.one_of(names)
        left = self.share() * total
        for name in names:
            left -= weights[name]
            if left < 0:
                return name
        return next(name for name in reversed(names) if weights[name] > 0)

    def shuffled(self, items: Sequence[_Item]) -> list[_Item]:
        """Return all of them in another order."""
        keyed = sorted((self.share(), place) for place in range(len(items)))
        return [items[place] for _key, place in keyed]

    def normal(self) -> float:
        """Return a number of the standard normal distribution."""
        return NormalDist().inv_cdf(min(max(self.share(), _TINY), 1 - _TINY))

    def count(self, mean: float, most: int) -> int:
        """Return how many of `most` chances come true that together have this mean."""
        return sum(self.happens(mean / most) for _ in range(most)) if most else 0

    def digits(self, length: int) -> str:
        """Return so many digits."""
        return "".join(str(self.between(0, 9)) for _ in range(length))
