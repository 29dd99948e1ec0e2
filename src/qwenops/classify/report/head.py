"""What is seen first: whether to use the classifier at all, what is to be doubted, and the few figures that matter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from qwenops.classify.evaluate.comparing import Outcome, Verdict, verdict_sentences
from qwenops.classify.evaluate.evaluation import Evaluation, notes_of
from qwenops.classify.report.cost import cost_tile
from qwenops.classify.report.figures import points, score, score_range, share, share_range
from qwenops.classify.report.names import system_name
from qwenops.classify.report.record import Record
from qwenops.page.document import Block, Details, Notice, Tile, Tiles, Tone
from qwenops.text import say

MOST_NOTES = 6
_GRAVITY = (Outcome.WORSE, Outcome.UNDECIDED, Outcome.BETTER)


def head_of(record: Record) -> list[Block]:
    """Return the blocks at the top of the page."""
    return [verdict_notice(record), *_notes(record.evaluation), tiles(record)]


def own_verdicts(record: Record) -> list[Verdict]:
    """Return the verdicts about this classifier, the one that decides first.

    That is the one against the best of those that it could not beat, or, where it beat all, against the best of them.
    """
    mine = [
        replace(each, ours=system_name(each.ours), theirs=system_name(each.theirs))
        for each in record.verdicts
        if each.ours == record.name
    ]
    return sorted(mine, key=lambda each: (_GRAVITY.index(each.outcome), -each.their_macro_f1))


def tone_of(outcome: Outcome) -> Tone:
    """Return how what a comparison proves is meant to be taken."""
    match outcome:
        case Outcome.BETTER:
            return Tone.GOOD
        case Outcome.UNDECIDED:
            return Tone.WARNING
        case Outcome.WORSE:
            return Tone.BAD
        case _:
            assert_never(outcome)


def verdict_notice(record: Record) -> Notice:
    """Return the one sentence that the page is about."""
    verdicts = own_verdicts(record)
    if not verdicts:
        return Notice(
            tone=Tone.NOTE,
            text=say(
                "Whether {name} is worth its cost is not known: it was compared with nothing.",
                name=system_name(record.name),
            ),
            detail=say("`qwenops finetune evaluate` compares it with the baseline on the same calls."),
            large=True,
        )
    advice, difference, counted = verdict_sentences(verdicts[0])
    return Notice(
        tone=tone_of(verdicts[0].outcome),
        text=advice,
        detail=say("{difference} {counted}", difference=difference, counted=counted),
        large=True,
    )


def _notes(evaluation: Evaluation) -> list[Block]:
    notices: list[Block] = [Notice(tone=Tone.WARNING, text=each) for each in notes_of(evaluation)]
    rest = notices[MOST_NOTES:]
    more = [Details(summary=say("{num} more remarks", num=len(rest)), blocks=rest)] if rest else []
    return [*notices[:MOST_NOTES], *more]


def tiles(record: Record) -> Tiles:
    """Return the headline figures."""
    told = record.evaluation
    leaves = told.leaves
    found: list[Tile | None] = [
        Tile(name=say("Macro-F1"), value=score(leaves.macro_f1.value), detail=score_range(leaves.macro_f1)),
        Tile(name=say("Accuracy"), value=share(leaves.accuracy.value), detail=share_range(leaves.accuracy)),
        *_against(own_verdicts(record)),
        _calibration(record),
        *_filed(record),
        cost_tile(record.cost),
        Tile(
            name=say("Calls in the test"),
            value=f"{told.num_calls:,}",
            detail=say("of {customers} customers", customers=f"{told.num_groups:,}"),
        ),
    ]
    return Tiles(tiles=[each for each in found if each is not None])


def _against(verdicts: Sequence[Verdict]) -> list[Tile]:
    if not verdicts:
        return []
    verdict = verdicts[0]
    low, high = verdict.difference.low, verdict.difference.high
    return [
        Tile(
            name=say("Macro-F1 against {other}, points", other=verdict.theirs),
            value=points(verdict.difference.value),
            detail="" if low is None or high is None else say("{low} to {high}", low=points(low), high=points(high)),
            tone=tone_of(verdict.outcome),
        )
    ]


def _calibration(record: Record) -> Tile:
    told = record.evaluation.reliability
    before = record.before.ece if record.before else None
    return Tile(
        name=say("Confidence is off by"),
        value=share(told.ece),
        detail="" if before is None else say("{before} before calibration", before=share(before)),
        tone=Tone.WARNING if told.is_off else Tone.PLAIN,
    )


def _filed(record: Record) -> list[Tile]:
    return [
        Tile(
            name=say(
                "Filed without a person, aiming at {precision}", precision=share(each.thresholds.target_precision)
            ),
            value=share(each.filed.auto + each.filed.parent),
            detail=say("{review} left to people", review=share(each.filed.review)),
        )
        for each in sorted(record.points, key=lambda each: each.thresholds.target_precision)
    ]
