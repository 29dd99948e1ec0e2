"""How a classifier does on parts of the calls: by noise, length, author, month, whatever somebody names.

A part is flagged where its accuracy surely differs from that of all other calls (Fisher's exact test, corrected for the
number of parts by Holm). Calls of one customer are counted as what they are worth, so flags are rather too rare.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from qwenops.calls.problems import Problem, refuse
from qwenops.classify.answers import Answers, Flags
from qwenops.classify.evaluate.evaluation import FEW, Slice
from qwenops.classify.evaluate.levels import macro_f1, share
from qwenops.classify.evaluate.reliability import calibration_error
from qwenops.statistics.clusters import Codes, independent
from qwenops.statistics.hypotheses import fisher_p, holm
from qwenops.text import say

MOST_VALUES = 50
"""Of one name; the ones with the most calls. More are no parts but single cases."""
_RESAMPLES = 1000


def slices_of(
    answers: Answers, named: Mapping[str, Sequence[str]], *, seed: int, confidence: float
) -> tuple[Slice, ...]:
    """Judge parts of the calls.

    Args:
        answers: What was said about all calls.
        named: For each name the value of every call; an empty one is not known, and no part is made of it.
        seed: Of the draws of customers.
        confidence: Of the intervals.

    Raises:
        InvalidDataError: There are not as many values as calls.
    """
    refuse(
        [
            Problem(
                what=say("There are {values} values for {calls} calls.", values=len(each), calls=answers.num_calls),
                field=f"slices.{name}",
            )
            for name, each in named.items()
            if len(each) != answers.num_calls
        ],
        say("The calls cannot be divided."),
    )
    found = [
        _slice(answers, name, value, inside, seed=seed, confidence=confidence)
        for name, values in named.items()
        for value, inside in _parts(values)
    ]
    judged = [place for place, each in enumerate(found) if each.p is not None]
    for place, p in zip(judged, holm([found[each].p or 0.0 for each in judged]), strict=True):
        found[place] = replace(found[place], p=p)
    return tuple(found)


def _parts(values: Sequence[str]) -> Iterator[tuple[str, Flags]]:
    """Yield the frequent values, in their order, with the calls that have them."""
    each = np.array(values, dtype=np.str_)
    names, counts = np.unique(each, return_counts=True)
    frequent = [str(one) for one in names[np.argsort(-counts, kind="stable")] if one]
    for name in sorted(frequent[:MOST_VALUES]):
        yield name, each == name


def _slice(answers: Answers, name: str, value: str, inside: Flags, *, seed: int, confidence: float) -> Slice:
    part = answers.at(np.flatnonzero(inside))
    rest = answers.at(np.flatnonzero(~inside))
    accuracy = share(part.right, part.groups, confidence)
    return Slice(
        name=name,
        value=value,
        num_calls=part.num_calls,
        num_groups=int(np.unique(part.groups).size),
        macro_f1=macro_f1(part, seed=seed, resamples=_RESAMPLES, confidence=confidence),
        accuracy=accuracy,
        ece=calibration_error(part.confidence, part.right),
        difference=accuracy.value - float(rest.right.mean()) if rest.num_calls else None,
        p=_p_of_no_difference(part, rest) if min(part.num_calls, rest.num_calls) >= FEW else None,
    )


def _p_of_no_difference(part: Answers, rest: Answers) -> float:
    (num, hits), (others, other_hits) = _counted(part), _counted(rest)
    return fisher_p(round(hits), num, round(other_hits), others)


def _counted(answers: Answers) -> tuple[int, float]:
    sizes: Codes = np.bincount(answers.groups).astype(np.int64)
    return independent(int(answers.right.sum()), sizes)
