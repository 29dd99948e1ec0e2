"""What a classifier said about calls whose class is known: checked once, then plain arrays for all that judge it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenops.calls.problems import Problem, refuse
from qwenops.statistics.clusters import Codes
from qwenops.statistics.samples import Array
from qwenops.text import say

Flags = npt.NDArray[np.bool_]

_OFF = 0.01
"""The probabilities of a call may miss 1 by so much, as those of half precision do; they are put right."""
_BELOW = -1e-6
_FEWEST_CLASSES = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Calls whose class is known, with the probabilities that a classifier gave."""

    classes: tuple[str, ...]
    truth: Codes
    """The true class of each call, as a place in `classes`."""
    probabilities: Array
    """Shape (calls, classes); each row is at least 0 and sums to 1."""
    groups: Codes
    """The customer of each call, as any number; calls of one customer are alike."""

    @property
    def num_calls(self) -> int:
        """How many calls there are."""
        return int(self.truth.size)

    @property
    def num_groups(self) -> int:
        """How many customers there are."""
        return int(np.unique(self.groups).size)

    @property
    def said(self) -> Codes:
        """The most probable class of each call; of equal ones the first."""
        places: Codes = self.probabilities.argmax(axis=1).astype(np.int64)
        return places

    @property
    def confidence(self) -> Array:
        """How probable the most probable class of each call is."""
        highest: Array = self.probabilities.max(axis=1)
        return highest

    @property
    def right(self) -> Flags:
        """Whether the most probable class is the true one."""
        found: Flags = self.said == self.truth
        return found

    def at(self, rows: Codes) -> "Answers":
        """Return what was said about some of the calls; customers keep their numbers."""
        return Answers(
            classes=self.classes,
            truth=self.truth[rows],
            probabilities=self.probabilities[rows],
            groups=self.groups[rows],
        )


def answers_of(
    truth: Sequence[str],
    probabilities: npt.ArrayLike,
    classes: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
) -> Answers:
    """Check what a classifier said, and return it as arrays.

    Args:
        truth: The true class of each call.
        probabilities: Shape (calls, classes).
        classes: The classes, in the order of the columns.
        groups: The customer of each call; a call whose customer is not known (an empty text) stands for itself, and
            without `groups` all do.

    Raises:
        InvalidDataError: The numbers of calls or classes differ, a label is no class, a probability is no number or
            below 0, or the probabilities of a call do not sum to 1; the calls are named by their place.
    """
    matrix = np.asarray(probabilities, dtype=np.float64)
    refuse(list(_misshapen(truth, matrix, classes, groups)), say("Nothing can be judged."))
    refuse([*_unknown(truth, classes), *_improbable(matrix)], say("The answers cannot be judged."))
    place = {name: each for each, name in enumerate(classes)}
    positive = np.maximum(matrix, 0.0)
    return Answers(
        classes=tuple(classes),
        truth=np.array([place[each] for each in truth], dtype=np.int64),
        probabilities=positive / positive.sum(axis=1, keepdims=True),
        groups=group_codes(groups, len(truth)),
    )


def group_codes(groups: Sequence[str] | None, num_calls: int) -> Codes:
    """Return the customer of each call as a number from 0; who is not known is somebody else each time."""
    if groups is None:
        return np.arange(num_calls, dtype=np.int64)
    known: dict[str, int] = {}
    codes: list[int] = []
    following = 0
    for group in groups:
        code = known.setdefault(group, following) if group else following
        following += code == following
        codes.append(code)
    return np.array(codes, dtype=np.int64)


def _misshapen(
    truth: Sequence[str], matrix: Array, classes: Sequence[str], groups: Sequence[str] | None
) -> Iterator[Problem]:
    if len(set(classes)) < len(classes) or len(classes) < _FEWEST_CLASSES:
        yield Problem(
            what=say("There must be at least two classes, each once: {names}", names=", ".join(classes)),
            field="classes",
        )
    if not truth:
        yield Problem(what=say("There is no call."), field="truth")
    if matrix.shape != (len(truth), len(classes)):
        yield Problem(
            what=say(
                "There are probabilities of shape {shape} for {calls} calls and {classes} classes.",
                shape=" x ".join(str(each) for each in matrix.shape),
                calls=len(truth),
                classes=len(classes),
            ),
            field="probabilities",
        )
    if groups is not None and len(groups) != len(truth):
        yield Problem(
            what=say("There are {groups} customers for {calls} calls.", groups=len(groups), calls=len(truth)),
            field="groups",
        )


def _unknown(truth: Sequence[str], classes: Sequence[str]) -> Iterator[Problem]:
    known = set(classes)
    for row, name in enumerate(truth):
        if name not in known:
            yield Problem(
                what=say("{name!r} is none of the {count} classes.", name=name, count=len(known)), field=f"truth[{row}]"
            )


def _improbable(matrix: Array) -> Iterator[Problem]:
    with np.errstate(invalid="ignore"):  # infinities of both signs
        sums = matrix.sum(axis=1)
    sound = np.isfinite(sums) & (matrix.min(axis=1) >= _BELOW) & (np.abs(sums - 1) <= _OFF)
    for row in np.flatnonzero(~sound):
        lowest, total = float(matrix[row].min()), float(sums[row])
        yield Problem(
            what=say(
                "These are no probabilities: the lowest is {lowest:g}, and they sum to {total:g}.",
                lowest=lowest,
                total=total,
            ),
            field=f"probabilities[{row}]",
        )
