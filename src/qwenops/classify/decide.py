"""What is filed by itself and what a person looks at: `auto`, `parent` or `review`, by thresholds that keep a promise.

A call is filed under its most probable leaf where that is probable enough, else under its most probable parent where
that is, else a person looks at it. Leaves of what fits nowhere always go to a person.

Thresholds are chosen on validation data for a precision: of all calls that are filed at that level, at least so many
are right, and that with some confidence. To look at many thresholds and take the lowest that seems good enough would
break the promise, since one of them seems so by luck. So candidates are gone through from the strictest to the most
generous, and the first that does not prove itself ends it (fixed sequence testing); there are a few starting points,
which share what may go wrong, since the very strictest candidates have too few calls to prove anything. Calls of one
customer are counted as what they are worth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenops.calls.split import Part
from qwenops.classify.answers import Answers, Flags
from qwenops.classify.evaluate.evaluation import SURE, Estimate
from qwenops.classify.evaluate.levels import share
from qwenops.classify.hierarchy import Hierarchy
from qwenops.classify.plain import from_plain
from qwenops.classify.prediction import DecisionKind
from qwenops.errors import ConfigError
from qwenops.statistics.clusters import Codes, independent
from qwenops.statistics.samples import Array, binomial_lower, smallest_n
from qwenops.text import say

_STARTS = 5
_STEP = 1.05
"""Each candidate takes about so many times the calls of the one before."""
_AUTO, _PARENT, _REVIEW = range(3)
_KINDS = (DecisionKind.AUTO, DecisionKind.PARENT, DecisionKind.REVIEW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is done with a call."""

    kind: DecisionKind
    label: str
    """A leaf or, of kind `parent`, a parent; the best guess where a person looks at it."""
    p: float
    """How probable that is."""
    threshold: float | None
    """What `p` had to reach; None where nothing is filed at that level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A threshold, and what it does on the data that it was chosen on."""

    threshold: float
    """Calls that are at least so probable are filed."""
    coverage: float
    """Their share of all calls."""
    precision: float
    """The share of them that are right."""
    precision_low: float
    """What the true precision is at least, with the thresholds' confidence."""
    num_calls: int
    """How many were filed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From which probability on calls are filed."""

    leaf: Cut | None
    """None where no threshold keeps the promise: then no leaf is filed by itself."""
    parent: Cut | None
    target_precision: float
    confidence: float
    num_calls: int
    num_groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filed:
    """What thresholds do with calls whose class is known."""

    auto: float
    """Shares of all calls."""
    parent: float
    review: float
    auto_precision: Estimate | None
    """The share of right ones among those filed under a leaf; None where there is none."""
    parent_precision: Estimate | None
    num_calls: int


def choose_thresholds(
    validation: Answers,
    hierarchy: Hierarchy,
    *,
    target_precision: float,
    confidence: float = SURE,
    part: Part = Part.VAL,
) -> Thresholds:
    """Choose the lowest thresholds that keep a precision.

    Args:
        validation: Calls whose class is known, with calibrated probabilities of leaves.
        hierarchy: The leaves, their parents, and which leaves a person looks at.
        target_precision: The share of filed calls that shall be right at least, between 0 and 1.
        confidence: How sure that shall be, for both levels together.
        part: Which part of the data this is.

    Raises:
        ConfigError: The part is the test's, where thresholds would flatter every figure, or the precision is no share.
    """
    if part is Part.TEST:
        raise ConfigError(
            say("Thresholds are not chosen on test data: the test would no longer say what they are worth."),
            hint=say("Choose them on the validation or the calibration part."),
        )
    if not 0 < target_precision < 1:
        raise ConfigError(
            say("A precision of {precision} cannot be aimed at.", precision=target_precision),
            hint=say("Give a share between 0 and 1, such as 0.95."),
        )
    alpha = (1 - confidence) / 2  # one half for each level
    eligible = _leaf_eligible(validation.said, hierarchy)
    leaf = _lowest_cut(validation, eligible, target=target_precision, alpha=alpha)
    if leaf:
        filed = eligible & (validation.confidence >= leaf.threshold)
    else:
        filed = np.zeros(validation.num_calls, dtype=np.bool_)
    lifted = hierarchy.lifted(validation)
    left = ~filed & _parent_eligible(lifted.said, hierarchy)
    parent = _lowest_cut(lifted, left, target=target_precision, alpha=alpha)
    return Thresholds(
        leaf=leaf,
        parent=parent,
        target_precision=target_precision,
        confidence=confidence,
        num_calls=validation.num_calls,
        num_groups=int(np.unique(validation.groups).size),
    )


def decide(probabilities: Array, hierarchy: Hierarchy, thresholds: Thresholds) -> list[Decision]:
    """Say of each call who files it and where.

    Args:
        probabilities: Calibrated, shape (calls, leaves).
        hierarchy: The leaves, their parents, and which leaves a person looks at.
        thresholds: From which probability on calls are filed.
    """
    kinds, leaves, parents = _decided(probabilities, hierarchy, thresholds)
    summed = hierarchy.summed(probabilities)
    names = hierarchy.parents
    found = []
    for row, kind in enumerate(kinds):
        if kind == _PARENT:
            label, p, cut = names[parents[row]], summed[row, parents[row]], thresholds.parent
        else:
            label, p, cut = hierarchy.leaves[leaves[row]], probabilities[row, leaves[row]], thresholds.leaf
        found.append(
            Decision(
                kind=_KINDS[kind],
                label=label,
                p=min(float(p), 1.0),
                threshold=cut.threshold if cut else None,
            )
        )
    return found


def measure(test: Answers, hierarchy: Hierarchy, thresholds: Thresholds, *, confidence: float = SURE) -> Filed:
    """Return what thresholds do with calls that they were not chosen on.

    Args:
        test: Calls whose class is known, with calibrated probabilities of leaves.
        hierarchy: The leaves, their parents, and which leaves a person looks at.
        thresholds: From which probability on calls are filed.
        confidence: Of the intervals.
    """
    kinds, _, parents = _decided(test.probabilities, hierarchy, thresholds)
    auto, parent = kinds == _AUTO, kinds == _PARENT
    right_parent: Flags = parents == hierarchy.places[test.truth]
    return Filed(
        auto=float(auto.mean()),
        parent=float(parent.mean()),
        review=float((kinds == _REVIEW).mean()),
        auto_precision=share(test.right[auto], test.groups[auto], confidence) if auto.any() else None,
        parent_precision=share(right_parent[parent], test.groups[parent], confidence) if parent.any() else None,
        num_calls=test.num_calls,
    )


def thresholds_of(data: Mapping[str, Any]) -> Thresholds:
    """Read thresholds that `plain.to_plain` wrote.

    Raises:
        ValueError: They are no such thing.
    """
    return from_plain(Thresholds, data)


def _decided(probabilities: Array, hierarchy: Hierarchy, thresholds: Thresholds) -> tuple[Codes, Codes, Codes]:
    """Return for each call the kind of decision, its most probable leaf and its most probable parent."""
    leaves = probabilities.argmax(axis=1).astype(np.int64)
    summed = hierarchy.summed(probabilities)
    parents = summed.argmax(axis=1).astype(np.int64)
    kinds = np.full(leaves.size, _REVIEW, dtype=np.int64)
    if thresholds.parent:
        sure = summed.max(axis=1) >= thresholds.parent.threshold
        kinds[sure & _parent_eligible(parents, hierarchy)] = _PARENT
    if thresholds.leaf:
        sure = probabilities.max(axis=1) >= thresholds.leaf.threshold
        kinds[sure & _leaf_eligible(leaves, hierarchy)] = _AUTO
    return kinds, leaves, parents


def _leaf_eligible(leaves: Codes, hierarchy: Hierarchy) -> Flags:
    allowed = np.array([leaf not in hierarchy.review for leaf in hierarchy.leaves], dtype=np.bool_)
    return allowed[leaves]


def _parent_eligible(parents: Codes, hierarchy: Hierarchy) -> Flags:
    """Say which calls may be filed under their parent: one with several leaves, not all of them for a person."""
    num = len(hierarchy.parents)
    open_leaf = np.array([leaf not in hierarchy.review for leaf in hierarchy.leaves], dtype=np.bool_)
    several = np.bincount(hierarchy.places, minlength=num) > 1
    some_open = np.bincount(hierarchy.places[open_leaf], minlength=num) > 0
    return (several & some_open)[parents]


def _lowest_cut(answers: Answers, eligible: Flags, *, target: float, alpha: float) -> Cut | None:
    """Return the lowest threshold that surely keeps a precision among the eligible calls; None where none does."""
    some = answers.at(np.flatnonzero(eligible))
    order = np.argsort(-some.confidence, kind="stable")
    ordered, hits, customers = some.confidence[order], some.right[order], some.groups[order]
    candidates = _candidates(ordered, _worth_at_least(customers, smallest_n(target, 1, 1 - alpha / _STARTS)))
    if not candidates.size:
        return None
    lows: dict[int, float] = {}

    def low_of(each: int) -> float:
        if each not in lows:
            taken = int(candidates[each])
            num, hit = independent(int(hits[:taken].sum()), np.bincount(customers[:taken]))
            lows[each] = binomial_lower(int(hit + 1e-9), num, alpha / _STARTS)
        return lows[each]

    best: int | None = None
    for start in np.unique(np.linspace(0, candidates.size - 1, _STARTS).round().astype(np.int64)):
        each = int(start)
        while each < candidates.size and low_of(each) >= target:
            best = each if best is None else max(best, each)
            each += 1
    if best is None:
        return None
    taken = int(candidates[best])
    return Cut(
        threshold=float(ordered[taken - 1]),
        coverage=taken / answers.num_calls,
        precision=float(hits[:taken].mean()),
        precision_low=low_of(best),
        num_calls=taken,
    )


def _worth_at_least(customers: Codes, fewest: int) -> int:
    """Return how many calls from the first on are worth so many of customers of their own; one too many if none are."""
    order = np.argsort(customers, kind="stable")
    first = np.searchsorted(customers[order], customers[order])
    before = np.empty(order.size, dtype=np.int64)  # calls of the same customer before each
    before[order] = np.arange(order.size) - first
    taken = np.arange(1, order.size + 1, dtype=np.float64)
    enough = taken**2 / np.cumsum(2 * before + 1) >= fewest
    return int(enough.argmax()) + 1 if enough.any() else order.size + 1


def _candidates(ordered: Array, fewest: int) -> Codes:
    """Return how many calls candidates take, ascending; calls of equal confidence are taken together.

    Which they are depends on confidences alone, never on what turned out right.
    """
    if ordered.size < fewest:
        return np.empty(0, dtype=np.int64)
    steps = int(np.ceil(np.log(ordered.size / fewest) / np.log(_STEP))) + 1
    wanted = np.minimum(np.geomspace(fewest, ordered.size, steps).round().astype(np.int64), ordered.size)
    ends = np.searchsorted(-ordered, -ordered[wanted - 1], side="right")
    return np.unique(ends).astype(np.int64)
