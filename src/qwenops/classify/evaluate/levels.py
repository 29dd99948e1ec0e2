"""How well calls are told apart at one level of the taxonomy: overall, class by class, and what is taken for what.

The F1 of a class is 2 J / (1 + J), where J is the share of hits among the calls that are of the class or said to be.
That share has an exact interval, and so has F1, also of a class with five calls that were all right.
"""

import numpy as np

from qwenops.classify.answers import Answers, Flags
from qwenops.classify.evaluate.counts import MACRO, WEIGHTED, confusion, headlines, tallies
from qwenops.classify.evaluate.evaluation import ClassFigures, ConfusedPair, Estimate, Level
from qwenops.statistics.clusters import Codes, Resampled, group_interval, pool, resample_groups, share_interval
from qwenops.statistics.samples import Interval

_PAIRS = 10
_EXAMPLES = 3


def level(answers: Answers, *, seed: int, resamples: int, confidence: float) -> Level:
    """Judge answers.

    Args:
        answers: What was said about calls whose class is known.
        seed: Of the draws of customers.
        resamples: How many draws.
        confidence: Of the intervals.
    """
    said = answers.said
    by_class = tuple(_class(answers, said, each, confidence) for each in range(len(answers.classes)))
    drawn = _resampled(answers, said, seed, resamples)
    cells = confusion(answers.truth, said, len(answers.classes))
    return Level(
        classes=answers.classes,
        macro_f1=_macro(estimate(drawn, MACRO, confidence), by_class),
        weighted_f1=estimate(drawn, WEIGHTED, confidence),
        accuracy=share(answers.right, answers.groups, confidence),
        by_class=by_class,
        confusion=tuple(tuple(int(cell) for cell in row) for row in cells),
        confused=_confused(answers, said, cells),
    )


def macro_f1(answers: Answers, *, seed: int, resamples: int, confidence: float) -> Estimate:
    """Return macro-F1 alone, with its interval; the arguments are those of `level`."""
    said = answers.said
    found = estimate(_resampled(answers, said, seed, resamples), MACRO, confidence)
    if found.low is None or found.low < found.value:
        return found
    return _macro(found, tuple(_class(answers, said, each, confidence) for each in range(len(answers.classes))))


def estimate(resampled: Resampled, which: int, confidence: float) -> Estimate:
    """Return one of the figures that were resampled."""
    found = group_interval(resampled, which, confidence)
    return _with(float(resampled.seen[which]), found)


def share(hits: Flags, groups: Codes, confidence: float) -> Estimate:
    """Return the share of calls that are hits, with its interval; `groups` are their customers."""
    return _with(float(hits.mean()), share_interval(int(hits.sum()), _sizes(groups), confidence))


def _resampled(answers: Answers, said: Codes, seed: int, resamples: int) -> Resampled:
    rows = pool(answers.groups, seed=seed)
    counted = tallies(answers.truth, said, rows, num_classes=len(answers.classes), num_rows=int(rows.max()) + 1)
    return resample_groups(counted, np.bincount(rows), headlines, seed=seed, resamples=resamples)


def _macro(found: Estimate, by_class: tuple[ClassFigures, ...]) -> Estimate:
    """Return macro-F1 with a lower bound also where everything was right, so that all draws are alike.

    It is then the mean of what the classes cannot be below.
    """
    if found.low is None or found.low < found.value:
        return found
    lows = [each.f1.low for each in by_class if each.f1 and each.num_true and each.f1.low is not None]
    return Estimate(value=found.value, low=min(found.low, float(np.mean(lows))), high=found.high) if lows else found


def _class(answers: Answers, said: Codes, each: int, confidence: float) -> ClassFigures:
    true, named = answers.truth == each, said == each
    either = true | named
    union = _among(true & named, either, answers.groups, confidence)
    return ClassFigures(
        code=answers.classes[each],
        num_true=int(true.sum()),
        num_said=int(named.sum()),
        precision=_among(true, named, answers.groups, confidence),
        recall=_among(named, true, answers.groups, confidence),
        f1=union and _with(_f1(union.value), _f1_interval(union)),
    )


def _among(hits: Flags, calls: Flags, groups: Codes, confidence: float) -> Estimate | None:
    return share(hits[calls], groups[calls], confidence) if calls.any() else None


def _f1_interval(union: Estimate) -> Interval | None:
    if union.low is None or union.high is None:
        return None
    return Interval(low=_f1(union.low), high=_f1(union.high))


def _f1(overlap: float) -> float:
    return 2 * overlap / (1 + overlap)


def _sizes(groups: Codes) -> Codes:
    return np.unique(groups, return_counts=True)[1].astype(np.int64)


def _with(value: float, interval: Interval | None) -> Estimate:
    if interval is None:
        return Estimate(value=value)
    return Estimate(value=value, low=interval.low, high=interval.high)


def _confused(answers: Answers, said: Codes, cells: Codes) -> tuple[ConfusedPair, ...]:
    errors = cells - np.diag(np.diag(cells))
    order = np.argsort(-errors, axis=None, kind="stable")[:_PAIRS]
    confidence = answers.confidence
    found = []
    for cell in order:
        truth, other = divmod(int(cell), len(answers.classes))
        if not errors[truth, other]:
            break
        rows = np.flatnonzero((answers.truth == truth) & (said == other))
        surest = rows[np.argsort(-confidence[rows], kind="stable")[:_EXAMPLES]]
        found.append(
            ConfusedPair(
                truth=answers.classes[truth],
                said=answers.classes[other],
                count=int(errors[truth, other]),
                share=float(errors[truth, other] / cells[truth].sum()),
                rows=tuple(int(row) for row in surest),
            )
        )
    return tuple(found)
