"""What a test says about a classifier: the figures, how sure each is, and as JSON.

A figure is an `Estimate`, with an interval where one can be known. Intervals of shares are exact and count customers,
not calls, where a customer called several times; those of averages come from drawing customers anew.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from qwenops.text import Text, say

SURE = 0.95
"""How sure intervals and flags are."""
FEW = 30
"""With fewer calls the figures of a class or a slice are too uncertain to be acted upon."""
MOST_NAMED = 8
"""Classes that a sentence lists; of more it says how many they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure and where its true value lies."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """How well one class is told from the others."""

    code: str
    num_true: int
    """Calls of the class."""
    num_said: int
    """Calls that were said to be of it."""
    precision: Estimate | None
    """None where it was never said."""
    recall: Estimate | None
    """None without a call of it."""
    f1: Estimate | None
    """None where it was neither true nor said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusedPair:
    """A class that is taken for another one."""

    truth: str
    said: str
    count: int
    share: float
    """Of the calls of the true class."""
    rows: tuple[int, ...]
    """Some of the calls, by their place in the test data: the ones that it was surest of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How well calls are told apart: by leaves, or by parents."""

    classes: tuple[str, ...]
    macro_f1: Estimate
    """The mean over the classes of which there are calls."""
    weighted_f1: Estimate
    accuracy: Estimate
    by_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Calls by true class and by the class that was said."""
    confused: tuple[ConfusedPair, ...]
    """The pairs that are confused most often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Calls of about the same confidence."""

    confidence: float
    """Their mean."""
    accuracy: Estimate
    num_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Whether probabilities mean what they say."""

    ece: float
    """Expected calibration error: by how much confidence and accuracy differ, over bins of equally many calls."""
    ece_if_calibrated: float
    """What it would be on average if every probability were true: above 0, since calls are few."""
    ece_if_calibrated_high: float
    """What it would stay below in 95 of 100 such tests."""
    class_wise_ece: float
    """The mean over all classes of the same, with the probability of the class."""
    brier: float
    """The mean of the squared differences from what is true, over all classes: from 0 to 2."""
    nll: float
    """The mean negative logarithm of the true class's probability."""
    bins: tuple[Bin, ...]

    @property
    def is_off(self) -> bool:
        """Whether it is further from calibrated than chance explains."""
        return self.ece > self.ece_if_calibrated_high


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What happens when only calls of some confidence or more are taken."""

    coverage: float
    """The share of the calls that are taken."""
    risk: float
    """The share of errors among them."""
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageAt:
    """How much could be taken at some precision, seen afterwards: thresholds for use come from other data."""

    precision: float
    coverage: float
    threshold: float | None
    """None where no threshold reaches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selective:
    """What is gained by leaving calls of low confidence to people."""

    aurc: float
    """The mean risk over all coverages."""
    curve: tuple[CurvePoint, ...]
    coverage_at: tuple[CoverageAt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of the calls, and whether it does worse or better than the others."""

    name: str
    value: str
    num_calls: int
    num_groups: int
    macro_f1: Estimate
    accuracy: Estimate
    ece: float
    difference: float | None = None
    """In accuracy, from all other calls; None without other calls."""
    p: float | None = None
    """Of there being no such difference, corrected for the number of slices; None where calls are too few."""

    @property
    def flagged(self) -> bool:
        """Whether it surely differs from the others."""
        return self.p is not None and self.p < 1 - SURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that a test says about a classifier."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    schema: Literal["qwenops.evaluation/1"] = "qwenops.evaluation/1"
    num_calls: int
    num_groups: int
    """Customers; a call whose customer is not known counts as one."""
    leaves: Level
    parents: Level | None = None
    reliability: Reliability
    selective: Selective
    slices: tuple[Slice, ...] = ()
    confidence: float = SURE
    """Of the intervals."""
    resamples: int
    seed: int


def notes_of(evaluation: Evaluation) -> tuple[Text, ...]:
    """Return what a reader must know before trusting the figures, in sentences."""
    leaves = evaluation.leaves.by_class
    absent = [each.code for each in leaves if not each.num_true]
    few = [each.code for each in leaves if 0 < each.num_true < FEW]
    notes = []
    if absent:
        notes.append(
            say("No call of {codes} is in the test data, so nothing is known about them.", codes=_list(absent))
        )
    if len(few) > MOST_NAMED:
        told = say(
            "{count} of {all} classes have fewer than {few} calls each; their figures are uncertain.",
            count=len(few),
            all=len(leaves),
            few=FEW,
        )
        notes.append(told)
    elif few:
        notes.append(
            say("{codes} have fewer than {few} calls each; their figures are uncertain.", codes=_list(few), few=FEW)
        )
    found = evaluation.reliability
    if found.is_off:
        notes.append(
            say(
                "Its confidence is off by {ece:.3f} on average; if it were right, chance would explain {high:.3f}.",
                ece=found.ece,
                high=found.ece_if_calibrated_high,
            )
        )
    return (*notes, *(_flag(each) for each in evaluation.slices if each.flagged))


def _flag(each: Slice) -> Text:
    return say(
        "{name} = {value}: accuracy {accuracy:.1%}, {points:+.1f} points from the other calls.",
        name=each.name,
        value=each.value,
        accuracy=each.accuracy.value,
        points=100 * (each.difference or 0.0),
    )


def _list(codes: list[str]) -> str:
    return ", ".join(codes)
