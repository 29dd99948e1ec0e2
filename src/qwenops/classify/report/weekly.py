"""What calls were about week by week: counts, shares with intervals, and what surely rose or fell.

A share is compared with that of the (at most four) weeks before, by Fisher's exact test; all comparisons of a page are
corrected together by Holm, so that on a page on which nothing changed a mark is as rare as 1 in 20. Weeks of another
model are not compared: a new model files differently, and that is no trend. Calls of one customer are counted as what
they are worth. Which comparisons are made depends on totals alone, on which Fisher's test conditions.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from qwenops.classify.answers import Flags, group_codes
from qwenops.classify.evaluate.evaluation import FEW, SURE, Estimate
from qwenops.classify.prediction import DecisionKind
from qwenops.classify.report.told import Told
from qwenops.statistics.clusters import Codes, independent, share_interval, worth
from qwenops.statistics.hypotheses import fisher_p, holm
from qwenops.statistics.samples import Array
from qwenops.statistics.special import t_quantile

BEFORE = 4
"""Weeks that a week is compared with."""
FEWEST_HITS = 10
"""With fewer calls of a category in all compared weeks no change could be proven."""
_WEEK = timedelta(days=7)
_FEWEST = 2.0
"""A single call says nothing about how much calls differ."""


class Move(StrEnum):
    """Whether a share surely changed."""

    RISE = "rise"
    FALL = "fall"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Some of the calls of a week."""

    count: int
    share: Estimate
    before: float | None = None
    """The share in the weeks that it is compared with; None where it cannot be compared."""
    p: float | None = None
    """Of there being no change, corrected for all comparisons; None where there is none."""

    @property
    def move(self) -> Move:
        """Whether it surely changed, and how."""
        if self.p is None or self.before is None or self.p >= 1 - SURE:
            return Move.NONE
        return Move.RISE if self.share.value > self.before else Move.FALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """The calls of one week, from Monday on."""

    begins: date
    num_calls: int
    models: tuple[str, ...] = ()
    portions: Mapping[str, Portion]
    """By category; one that has no call in this week is in it with 0. Empty without calls."""
    review: Portion | None
    """Calls that a person looks at; None without calls."""
    confidence: Estimate | None
    """The mean probability of what calls were filed under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trends:
    """All weeks from the first to the last, those without calls included."""

    weeks: tuple[Week, ...]
    categories: tuple[str, ...]
    """The most frequent first."""
    num_calls: int
    num_comparisons: int

    @property
    def changes_of_model(self) -> tuple[tuple[Week, Week], ...]:
        """The weeks at which the model changed, each with the week before."""
        known = [each for each in self.weeks if each.num_calls]
        return tuple((one, other) for one, other in pairwise(known) if one.models != other.models)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Columns:
    """The predictions as arrays, one place for each call."""

    weeks: Codes
    categories: Codes
    groups: Codes
    review: Flags
    p: Array


def week_of(at: datetime) -> date:
    """Return the Monday of a week, by the clock of the time itself."""
    day = at.date()
    return day - timedelta(days=day.weekday())


def trends_of(told: Sequence[Told]) -> Trends:
    """Count predictions by week and category, and test what changed.

    Args:
        told: At least one; each call once.

    Raises:
        ValueError: There is none.
    """
    if not told:
        raise ValueError("no predictions")
    begins = [week_of(each.at) for each in told]
    first, last = min(begins), max(begins)
    num_weeks = (last - first).days // 7 + 1
    categories = [code for code, _ in sorted(Counter(each.category for each in told).items(), key=_frequent_first)]
    place = {code: number for number, code in enumerate(categories)}
    columns = _Columns(
        weeks=np.array([(each - first).days // 7 for each in begins], dtype=np.int64),
        categories=np.array([place[each.category] for each in told], dtype=np.int64),
        groups=group_codes([each.customer for each in told], len(told)),
        review=np.array([each.decision is DecisionKind.REVIEW for each in told], dtype=np.bool_),
        p=np.array([each.p for each in told], dtype=np.float64),
    )
    models: list[set[str]] = [set() for _ in range(num_weeks)]
    for each, week in zip(told, columns.weeks, strict=True):
        models[int(week)].add(each.model)
    weeks = [
        _week(columns, number, first + number * _WEEK, categories, tuple(sorted(models[number])))
        for number in range(num_weeks)
    ]
    found, num = _tested(columns, weeks, categories)
    return Trends(weeks=found, categories=tuple(categories), num_calls=len(told), num_comparisons=num)


def _frequent_first(counted: tuple[str, int]) -> tuple[int, str]:
    return -counted[1], counted[0]


def _week(columns: _Columns, number: int, begins: date, categories: Sequence[str], models: tuple[str, ...]) -> Week:
    rows = np.flatnonzero(columns.weeks == number)
    if not rows.size:
        return Week(begins=begins, num_calls=0, portions={}, review=None, confidence=None)
    sizes = _sizes(columns.groups[rows])
    counts = np.bincount(columns.categories[rows], minlength=len(categories))
    return Week(
        begins=begins,
        num_calls=int(rows.size),
        models=models,
        portions={code: _portion(int(count), sizes) for code, count in zip(categories, counts, strict=True)},
        review=_portion(int(columns.review[rows].sum()), sizes),
        confidence=_mean(columns.p[rows], sizes),
    )


def _portion(count: int, sizes: Codes) -> Portion:
    interval = share_interval(count, sizes)
    value = count / int(sizes.sum())
    if interval is None:
        return Portion(count=count, share=Estimate(value=value))
    return Portion(count=count, share=Estimate(value=value, low=interval.low, high=interval.high))


def _mean(values: Array, sizes: Codes) -> Estimate:
    """Return a mean with Student's interval, of as many values as the customers are worth."""
    centre, num = float(values.mean()), worth(sizes)
    if num < _FEWEST:
        return Estimate(value=centre)
    half = t_quantile((1 + SURE) / 2, num - 1) * float(values.std(ddof=1)) / math.sqrt(num)
    return Estimate(value=centre, low=max(0.0, centre - half), high=min(1.0, centre + half))


def _sizes(groups: Codes) -> Codes:
    return np.unique(groups, return_counts=True)[1].astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """A share of a week that is held against those before."""

    week: int
    category: int | None
    """None is the calls for review."""
    before: float
    p: float


def _tested(columns: _Columns, weeks: Sequence[Week], categories: Sequence[str]) -> tuple[tuple[Week, ...], int]:
    """Return the weeks with what changed, and how many comparisons were made."""
    made = [each for number in range(len(weeks)) for each in _comparisons(columns, weeks, number, len(categories))]
    adjusted = holm([each.p for each in made])
    found = list(weeks)
    for each, p in zip(made, adjusted, strict=True):
        week = found[each.week]
        if each.category is None:
            if week.review is not None:
                found[each.week] = replace(week, review=replace(week.review, before=each.before, p=p))
            continue
        code = categories[each.category]
        portion = replace(week.portions[code], before=each.before, p=p)
        found[each.week] = replace(week, portions={**week.portions, code: portion})
    return tuple(found), len(made)


def _comparisons(columns: _Columns, weeks: Sequence[Week], number: int, num_categories: int) -> Iterator[_Comparison]:
    """Yield the comparisons of one week with those before that the same model judged."""
    earlier = [each for each in range(max(0, number - BEFORE), number) if weeks[each].models == weeks[number].models]
    rows = np.flatnonzero(columns.weeks == number)
    others = np.flatnonzero(np.isin(columns.weeks, earlier))
    if min(rows.size, others.size) < FEW:
        return
    sides = [_Side.of(columns, each, num_categories) for each in (rows, others)]
    for place in range(num_categories + 1):
        hits = [int(side.hits[place]) for side in sides]
        if sum(hits) < FEWEST_HITS:
            continue
        (num, mine), (other, theirs) = (independent(hit, side.sizes) for hit, side in zip(hits, sides, strict=True))
        if min(num, other) < FEW:
            continue
        yield _Comparison(
            week=number,
            category=None if place == num_categories else place,
            before=hits[1] / others.size,
            p=fisher_p(round(mine), num, round(theirs), other),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Side:
    """The calls of one side of a comparison."""

    hits: npt.NDArray[np.int64]
    """By category, and at the end those for review."""
    sizes: Codes
    """Calls of each customer."""

    @classmethod
    def of(cls, columns: _Columns, rows: Codes, num_categories: int) -> "_Side":
        """Count some calls."""
        counts = np.bincount(columns.categories[rows], minlength=num_categories)
        hits = np.append(counts, columns.review[rows].sum()).astype(np.int64)
        return cls(hits=hits, sizes=_sizes(columns.groups[rows]))
