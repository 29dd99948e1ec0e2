"""From the record of an evaluation to the page about it: what is read in which order."""

from collections.abc import Sequence

from qwenops.classify.evaluate.comparing import Outcome, Verdict
from qwenops.classify.report import classes, doubts, setting, trust
from qwenops.classify.report.cost import cost_blocks
from qwenops.classify.report.figures import p_value, points, score
from qwenops.classify.report.head import head_of, own_verdicts, tone_of
from qwenops.classify.report.names import system_name
from qwenops.classify.report.record import Record
from qwenops.page.document import Block, Cell, Column, Page, Section, Table
from qwenops.text import Text, say


def evaluation_page(record: Record) -> Page:
    """Return the page about an evaluation."""
    told = record.evaluation
    sections = [
        Section(title=say("Is it worth it?"), anchor="verdict", blocks=_verdict(record)),
        Section(title=say("Classes"), anchor="classes", blocks=classes.class_blocks(record)),
        Section(
            title=say("Can its confidence be trusted?"),
            anchor="calibration",
            blocks=trust.calibration_blocks(record),
        ),
        Section(
            title=say("What may be filed without a person"),
            anchor="coverage",
            blocks=trust.selective_blocks(record),
        ),
        Section(title=say("Where it does worse"), anchor="parts", blocks=doubts.slice_blocks(told.slices)),
        Section(title=say("Doubtful labels"), anchor="labels", blocks=doubts.label_blocks(record)),
        Section(title=say("Cost"), anchor="cost", blocks=cost_blocks(record.cost)),
        Section(title=say("How it was measured"), anchor="setting", blocks=setting.setting_blocks(record)),
        Section(title=say("What the words mean"), anchor="words", blocks=[setting.meaning_table()]),
    ]
    return Page(
        title=say("Evaluation: {name}", name=system_name(record.name)),
        subtitle=_subtitle(record),
        head=head_of(record),
        sections=[each for each in sections if each.blocks],
        footer=say(
            "Made by qwenops from the record of the evaluation. Nothing in this page is fetched from anywhere, and no "
            "words of a call are in it."
        ),
    )


def _subtitle(record: Record) -> str:
    when = record.made_at.strftime("%Y-%m-%d %H:%M") if record.made_at else ""
    return " · ".join(each for each in (record.provenance.taxonomy, when) if each)


def _verdict(record: Record) -> list[Block]:
    blocks: list[Block] = [classes.level_table(record)]
    verdicts = own_verdicts(record)
    return [verdict_table(verdicts), *blocks] if verdicts else blocks


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return how the classifier compares with each of the others."""
    titles = (
        say("The other's macro-F1"),
        say("Difference, points"),
        say("Right more often for"),
        say("Less often for"),
        say("McNemar's p"),
    )
    columns = [Column(title=say("Compared with")), Column(title=say("Verdict"))]
    columns += [Column(title=each, numeric=True) for each in titles]
    return Table(
        title=say("Against the others"),
        columns=columns,
        rows=[_verdict_row(each) for each in verdicts],
        note=say(
            "It is better where the whole interval of the difference is above 0, and accuracy does not contradict. It "
            "has to be better than each of them to be worth its cost. Customers are counted, on the same calls."
        ),
        sortable=False,
    )


def _verdict_row(each: Verdict) -> list[Cell | str]:
    low, high = each.difference.low, each.difference.high
    between: Text | str = ""
    if low is not None and high is not None:
        between = say("{low} to {high}", low=points(low), high=points(high))
    return [
        each.theirs,
        Cell(text=_OUTCOMES[each.outcome], tone=tone_of(each.outcome)),
        Cell(text=score(each.their_macro_f1), order=each.their_macro_f1),
        Cell(text=points(each.difference.value), order=each.difference.value, detail=between),
        Cell(text=f"{each.ahead:,}", order=each.ahead),
        Cell(text=f"{each.behind:,}", order=each.behind),
        Cell(text=p_value(each.p_adjusted), order=each.p_adjusted),
    ]


_OUTCOMES = {
    Outcome.BETTER: say("better"),
    Outcome.WORSE: say("worse"),
    Outcome.UNDECIDED: say("no evidence"),
}
