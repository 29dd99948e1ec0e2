"""What is gained when a classifier may keep quiet: how risk falls as fewer calls are taken, the surest first.

A threshold takes all calls of equal confidence or none of them. Where they are many, the risk in between is that of
taking them in random order.
"""

from collections.abc import Sequence

import numpy as np

from qwenops.classify.answers import Answers
from qwenops.classify.evaluate.evaluation import CoverageAt, CurvePoint, Selective

PRECISIONS = (0.95, 0.98)
_POINTS = 200
"""A picture shows no more."""
_ROUNDING = 1e-12


def selective(answers: Answers, precisions: Sequence[float] = PRECISIONS) -> Selective:
    """Return risk by coverage, its mean, and how much can be taken at some precisions."""
    confidence = answers.confidence
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    wrong = np.cumsum(~answers.right[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], [True]))
    taken, errors = ends + 1, wrong[ends]
    places = np.arange(1, ordered.size + 1)
    between = np.interp(places, np.append([0], taken), np.append([0], errors))
    shown = np.unique(np.linspace(0, ends.size - 1, _POINTS).round().astype(np.int64))
    found = []
    for precision in precisions:
        reached = np.flatnonzero(errors <= (1 - precision) * taken + _ROUNDING)
        last = int(reached[-1]) if reached.size else None
        found.append(
            CoverageAt(
                precision=precision,
                coverage=0.0 if last is None else float(taken[last] / ordered.size),
                threshold=None if last is None else float(ordered[ends[last]]),
            )
        )
    return Selective(
        aurc=float((between / places).mean()),
        curve=tuple(
            CurvePoint(
                coverage=float(taken[each] / ordered.size),
                risk=float(errors[each] / taken[each]),
                threshold=float(ordered[ends[each]]),
            )
            for each in shown
        ),
        coverage_at=tuple(found),
    )
