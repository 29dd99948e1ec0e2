"""How far two people who label the same things agree beyond chance: Cohen's kappa, over one pair of people or several.

Pairs of people are pooled as strata: what they agree on, and what they would agree on by chance given how often each of
them uses each class, are added up over all things that both have labelled.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qwenops.statistics.samples import CONFIDENCE, Interval
from qwenops.statistics.special import normal_quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far people agree."""

    num: int
    """Things that two people have labelled."""
    observed: float
    """The share on which they agree."""
    expected: float
    """The share on which they would by chance."""

    @property
    def kappa(self) -> float | None:
        """1 is perfect, 0 is chance; None where chance alone would make them agree on everything."""
        return (self.observed - self.expected) / (1 - self.expected) if self.expected < 1 else None

    def interval(self, confidence: float = CONFIDENCE) -> Interval | None:
        """Return where kappa lies, by the usual large-sample error; None where there is no kappa."""
        kappa = self.kappa
        if kappa is None:
            return None
        error = math.sqrt(self.observed * (1 - self.observed) / self.num) / (1 - self.expected)
        half = normal_quantile((1 + confidence) / 2) * error
        return Interval(low=max(-1.0, kappa - half), high=min(1.0, kappa + half), confidence=confidence)


def agreement(pairs: Mapping[tuple[str, str], Sequence[tuple[str, str]]]) -> Agreement | None:
    """Return how far people agree; None where nothing was labelled by two.

    Args:
        pairs: By the names of two people, what the first and what the second said about each thing.
    """
    num = sum(len(said) for said in pairs.values())
    if not num:
        return None
    agreed = sum(one == other for said in pairs.values() for one, other in said)
    by_chance = sum(_by_chance(said) for said in pairs.values())
    return Agreement(num=num, observed=agreed / num, expected=by_chance / num)


def paired(votes: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return what each two people said about the same thing, out of what everybody said about each."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for each in votes:
        people = sorted(each)
        for place, one in enumerate(people):
            for other in people[place + 1 :]:
                found.setdefault((one, other), []).append((each[one], each[other]))
    return found


def _by_chance(said: Sequence[tuple[str, str]]) -> float:
    """Return on how many things two people would agree by chance."""
    first = Counter(one for one, _ in said)
    second = Counter(other for _, other in said)
    return sum(count * second[code] for code, count in first.items()) / len(said)
