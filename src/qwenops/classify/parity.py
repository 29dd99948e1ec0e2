"""Whether a compressed classifier still says what the original says: a gate that export has to pass.

Both score the same calls, whose classes are known. What is asked is that they choose the same class for nearly every
call, and that the compressed one tells the classes apart nearly as well. Pure: two matrices of probabilities in, a
verdict out; who is refused learns which calls differ most.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenops.classify.answers import Answers, Flags, answers_of
from qwenops.classify.evaluate.counts import MACRO, headlines, tallies
from qwenops.errors import InvalidDataError, ParityError
from qwenops.statistics.samples import Array
from qwenops.text import say

LEAST_AGREEMENT = 0.995
MOST_F1_LOSS = 0.005
TIE = 0.02
"""Where the original's two most probable classes are so close, either is right."""
MOST_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One call of which the two say different things."""

    conversation_id: str
    reference: str
    """The class that the original chooses."""
    candidate: str
    distance: float
    """Between the probabilities: half the sum of all differences, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelParity:
    """How near a candidate comes to its reference."""

    reference: str
    candidate: str
    num_calls: int
    num_ties: int
    """Calls where they differ, but the reference itself hardly decides; they count as agreed."""
    agreement: float
    """Share of calls for which both choose the same class."""
    reference_macro_f1: float
    candidate_macro_f1: float
    mean_distance: float
    largest_distance: float
    most_different: tuple[Difference, ...]
    """Calls that got another class first, then by distance; the worst first."""

    @property
    def f1_loss(self) -> float:
        """How much macro-F1 the candidate loses; below 0 where it gains."""
        return self.reference_macro_f1 - self.candidate_macro_f1


def judge(
    reference: npt.ArrayLike,
    candidate: npt.ArrayLike,
    *,
    truth: Sequence[str],
    classes: Sequence[str],
    ids: Sequence[str],
    names: tuple[str, str],
) -> LabelParity:
    """Compare what two classifiers say about the same calls.

    Args:
        reference: Probabilities of the original, shape (calls, classes).
        candidate: Probabilities of what is judged, of the same shape.
        truth: The true class of each call.
        classes: The classes, in the order of the columns.
        ids: What each call is called.
        names: What reference and candidate are, for whoever reads the result.

    Raises:
        InvalidDataError: The numbers do not fit together, or are no probabilities.
    """
    right, judged = (answers_of(truth, each, classes) for each in (reference, candidate))
    if len(ids) != right.num_calls:
        raise InvalidDataError(say("There are {ids} ids for {calls} calls.", ids=len(ids), calls=right.num_calls))
    distances = 0.5 * np.abs(right.probabilities - judged.probabilities).sum(axis=1)
    differs = right.said != judged.said
    tied = differs & _undecided(right)
    return LabelParity(
        reference=names[0],
        candidate=names[1],
        num_calls=right.num_calls,
        num_ties=int(tied.sum()),
        agreement=float(1 - (differs & ~tied).mean()),
        reference_macro_f1=_macro_f1(right),
        candidate_macro_f1=_macro_f1(judged),
        mean_distance=float(distances.mean()),
        largest_distance=float(distances.max()),
        most_different=tuple(_worst(right, judged, distances, differs & ~tied, ids)),
    )


def hold(parity: LabelParity, *, least_agreement: float = LEAST_AGREEMENT, most_f1_loss: float = MOST_F1_LOSS) -> None:
    """Refuse what differs too much.

    Raises:
        ParityError: The classes chosen differ for too many calls, or macro-F1 falls too far; it names the calls that
            differ most.
    """
    if parity.agreement >= least_agreement and parity.f1_loss <= most_f1_loss:
        return
    calls = ", ".join(
        f"{each.conversation_id} ({each.candidate} instead of {each.reference})"
        if each.candidate != each.reference
        else f"{each.conversation_id} ({each.distance:.2f})"
        for each in parity.most_different
    )
    raise ParityError(
        say(
            "{candidate} chooses the class that {reference} chooses for {found:.2%} of {calls} calls (at least "
            "{floor:.2%} is asked for), and its macro-F1 is {judged:.4f} instead of {right:.4f} (at most {most:g} "
            "less). The calls that differ most: {worst}.",
            candidate=parity.candidate,
            reference=parity.reference,
            found=parity.agreement,
            calls=parity.num_calls,
            floor=least_agreement,
            judged=parity.candidate_macro_f1,
            right=parity.reference_macro_f1,
            most=most_f1_loss,
            worst=calls,
        ),
        hint=say("Export with more bits: int8 instead of w8a8, or bf16."),
        calls=tuple(each.conversation_id for each in parity.most_different),
    )


def parity_data(parity: LabelParity) -> Mapping[str, Any]:
    """Return a result for JSON."""
    return {**asdict(parity), "f1_loss": parity.f1_loss}


def _undecided(answers: Answers) -> Flags:
    second, best = np.partition(answers.probabilities, -2, axis=1)[:, -2:].T
    close: Flags = best - second < TIE
    return close


def _macro_f1(answers: Answers) -> float:
    rows = np.zeros(answers.num_calls, dtype=np.int64)
    counted = tallies(answers.truth, answers.said, rows, num_classes=len(answers.classes), num_rows=1)
    return float(headlines(counted)[0, MACRO])


def _worst(
    right: Answers, judged: Answers, distances: Array, differs: Flags, ids: Sequence[str]
) -> Iterator[Difference]:
    order = np.lexsort((np.arange(distances.size), -distances, ~differs))
    for each in order[:MOST_SHOWN]:
        if distances[each] > 0:
            yield Difference(
                conversation_id=ids[each],
                reference=right.classes[right.said[each]],
                candidate=right.classes[judged.said[each]],
                distance=float(distances[each]),
            )
