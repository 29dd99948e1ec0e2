"""Whether one classifier is better than another on the same calls, which may end in "do not use the language model".

The verdict rests on the difference in macro-F1 with customers drawn anew, both classifiers on the same draw. Where its
interval holds 0, nothing is proven, and the cheaper classifier stays. McNemar's test stands beside it and asks about
accuracy: on whose calls was only one of the two right? A customer counts once, for the side that was right more often
on the customer's calls, since calls of one customer are alike. Where the two contradict each other, nothing is proven.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

import numpy as np

from qwenops.classify.answers import Answers
from qwenops.classify.evaluate.counts import ACCURACY, MACRO, headlines, tallies
from qwenops.classify.evaluate.evaluation import SURE, Estimate
from qwenops.classify.evaluate.levels import estimate
from qwenops.errors import InvalidDataError
from qwenops.statistics.clusters import RESAMPLES, Codes, pool, resample_groups
from qwenops.statistics.hypotheses import holm, mcnemar_p
from qwenops.statistics.samples import Array
from qwenops.text import Text, say

_LEAST_P = 0.001
"""What is shown of a p-value; what is less says nothing more."""


class Outcome(StrEnum):
    """What a comparison proves."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    """There is no evidence of a difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How one classifier compares with another that costs less."""

    ours: str
    theirs: str
    outcome: Outcome
    macro_f1: float
    """Ours."""
    their_macro_f1: float
    accuracy: float
    their_accuracy: float
    difference: Estimate
    """In macro-F1, ours less theirs."""
    ahead: int
    """Customers on whose calls ours was right more often."""
    behind: int
    p: float
    """McNemar's: of both being right equally often."""
    p_adjusted: float
    """Corrected for the number of comparisons (Holm)."""
    num_calls: int
    num_groups: int
    confidence: float
    """Of the interval; higher where several comparisons share it (Bonferroni)."""
    seed: int

    @property
    def use_ours(self) -> bool:
        """Whether there is a reason to use ours, which costs more."""
        return self.outcome is Outcome.BETTER


def compare(
    ours: Answers,
    theirs: Answers,
    *,
    name: str,
    their_name: str,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = SURE,
) -> Verdict:
    """Compare two classifiers of the same calls.

    Args:
        ours: What the classifier said that would have to prove itself.
        theirs: What the one said that is used otherwise: the baseline, or the one in service.
        name: What ours is called.
        their_name: What theirs is called.
        seed: Of the draws.
        resamples: How often customers are drawn anew.
        confidence: Of the interval.

    Raises:
        InvalidDataError: They answered different calls or know different classes.
    """
    _check_same(ours, theirs)
    ahead, behind = _who_was_right(ours, theirs)
    p = mcnemar_p(ahead, behind)
    rows = pool(ours.groups, seed=seed)
    counted = np.hstack([_tallies(each, rows) for each in (ours, theirs)])
    drawn = resample_groups(counted, np.bincount(rows), _differences, seed=seed, resamples=resamples)
    difference = estimate(drawn, MACRO, confidence)
    size = counted.shape[1] // 2
    total = counted.sum(axis=0)
    mine, other = headlines(total[:size]), headlines(total[size:])
    return Verdict(
        ours=name,
        theirs=their_name,
        outcome=_outcome(difference, ahead - behind, p, confidence),
        macro_f1=float(mine[MACRO]),
        their_macro_f1=float(other[MACRO]),
        accuracy=float(mine[ACCURACY]),
        their_accuracy=float(other[ACCURACY]),
        difference=difference,
        ahead=ahead,
        behind=behind,
        p=p,
        p_adjusted=p,
        num_calls=ours.num_calls,
        num_groups=ours.num_groups,
        confidence=confidence,
        seed=seed,
    )


def compare_all(
    systems: Mapping[str, Answers], against: str, *, seed: int, resamples: int = RESAMPLES
) -> tuple[Verdict, ...]:
    """Compare several classifiers with one of them, so that all verdicts together are as sure as one alone.

    Args:
        systems: What each said about the same calls, by name.
        against: The name of the one that the others must beat.
        seed: Of the draws.
        resamples: How often customers are drawn anew.

    Raises:
        InvalidDataError: They answered different calls or know different classes.
    """
    others = [name for name in systems if name != against]
    confidence = 1 - (1 - SURE) / max(1, len(others))
    verdicts = [
        compare(
            systems[name],
            systems[against],
            name=name,
            their_name=against,
            seed=seed,
            resamples=resamples,
            confidence=confidence,
        )
        for name in others
    ]
    adjusted = holm([each.p for each in verdicts])
    return tuple(
        replace(each, p_adjusted=p, outcome=_outcome(each.difference, each.ahead - each.behind, p, SURE))
        for each, p in zip(verdicts, adjusted, strict=True)
    )


def verdict_sentences(verdict: Verdict) -> tuple[Text, ...]:
    """Return a verdict in words, what to do first."""
    points = 100 * verdict.difference.value
    low, high = verdict.difference.low, verdict.difference.high
    if low is None or high is None:
        told = say("Macro-F1 differs by {points:+.1f} points; there are too few customers to be sure.", points=points)
    else:
        told = say(
            "Macro-F1 differs by {points:+.1f} points; with {sure:.3g} % confidence by {low:+.1f} to {high:+.1f}.",
            points=points,
            sure=100 * verdict.confidence,
            low=100 * low,
            high=100 * high,
        )
    counted = say(
        "It was right more often for {ahead} customers and less often for {behind} (McNemar: p {p}).",
        ahead=verdict.ahead,
        behind=verdict.behind,
        p=f"= {verdict.p_adjusted:.3f}" if verdict.p_adjusted >= _LEAST_P else f"< {_LEAST_P}",
    )
    return (_advice(verdict), told, counted)


def _advice(verdict: Verdict) -> Text:
    ours, theirs = verdict.ours, verdict.theirs
    match verdict.outcome:
        case Outcome.BETTER:
            return say("Use {ours}: it is better than {theirs}.", ours=ours, theirs=theirs)
        case Outcome.WORSE:
            return say("Do not use {ours}: it is worse than {theirs}.", ours=ours, theirs=theirs)
        case Outcome.UNDECIDED:
            return say(
                "Do not use {ours}: there is no evidence that it is better than {theirs}.", ours=ours, theirs=theirs
            )
        case _:
            assert_never(verdict.outcome)


def _check_same(ours: Answers, theirs: Answers) -> None:
    same = (
        ours.classes == theirs.classes
        and np.array_equal(ours.truth, theirs.truth)
        and np.array_equal(ours.groups, theirs.groups)
    )
    if not same:
        raise InvalidDataError(
            say("The two classifiers were tested on different calls, or know different classes."),
            hint=say("Evaluate both on the same test data with the same taxonomy."),
        )


def _who_was_right(ours: Answers, theirs: Answers) -> tuple[int, int]:
    """Return for how many customers ours was right more often, and for how many theirs."""
    lead = np.bincount(ours.groups, weights=ours.right.astype(np.float64) - theirs.right)
    return int((lead > 0).sum()), int((lead < 0).sum())


def _tallies(answers: Answers, rows: Codes) -> Array:
    return tallies(answers.truth, answers.said, rows, num_classes=len(answers.classes), num_rows=int(rows.max()) + 1)


def _differences(totals: Array) -> Array:
    """Return the headlines of the first half less those of the second."""
    size = totals.shape[-1] // 2
    return headlines(totals[..., :size]) - headlines(totals[..., size:])


def _outcome(difference: Estimate, lead: int, p: float, confidence: float) -> Outcome:
    """Return what is proven; nothing is where accuracy surely speaks against macro-F1."""
    sure_lead = np.sign(lead) if p < 1 - confidence else 0
    if difference.low is not None and difference.low > 0 and sure_lead >= 0:
        return Outcome.BETTER
    if difference.high is not None and difference.high < 0 and sure_lead <= 0:
        return Outcome.WORSE
    return Outcome.UNDECIDED
