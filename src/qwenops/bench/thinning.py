"""How much of a long run is read at once: each k-th request, and samples put together. Pure.

A day of requests does not fit into memory as records. What is drawn of them, or looked through for causes, needs no
more than some ten thousand; figures are computed from all of them, one by one (`soak.summarise_journal`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_AVERAGED = ("_ratio", "_per_s", "_cores")
"""Ends of the names of what a sample says about the time since the one before; other figures are of its moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is read at most."""

    requests: int = 20_000
    bytes: int = 32 * 2**20
    """Of lines about requests: long answers have long ones."""
    samples: int = 5_000


def step(number: int, size_bytes: int, bounds: Bounds) -> int:
    """Return of how many requests one is read: 1 where all of them may be."""
    return max(1, math.ceil(number / bounds.requests), math.ceil(size_bytes / bounds.bytes))


def joined(samples: Iterable[Mapping[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """Yield one sample for each `size` of them: over their whole time, with the mean of what is about a time."""
    group: list[Mapping[str, Any]] = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield _one(group)
            group = []
    if group:
        yield _one(group)


def _one(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sample in group:
        found |= sample
    for name in found:
        values = [each[name] for each in group if isinstance(each.get(name), int | float)]
        if len(values) > 1 and name.endswith(_AVERAGED):
            found[name] = sum(values) / len(values)
        elif values and name == "interval_s":
            found[name] = sum(values)
    return found
