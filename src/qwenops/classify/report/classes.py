"""How well classes are told apart: all together by level, each alone, and what is taken for what."""

from collections.abc import Mapping, Sequence

from qwenops.classify.evaluate.evaluation import FEW, ClassFigures, ConfusedPair, Level
from qwenops.classify.report.figures import count_cell, score, score_cell, share, share_cell
from qwenops.classify.report.names import class_name, system_name
from qwenops.classify.report.record import Record
from qwenops.page.document import Block, Cell, Column, Details, Figure, Table, Tone
from qwenops.page.matrix import Matrix, MatrixRow, Square
from qwenops.page.plot import Axis, Lane, Lanes
from qwenops.text import Text, say

MOST_SQUARES = 60
"""Classes of a matrix that can still be read, and whose page stays small."""
_RIGHT, _WRONG = 2, 1
"""Hues."""


def level_table(record: Record) -> Table:
    """Return how well calls are told apart by leaves and by parents, beside the others that were tested."""
    told = record.evaluation
    levels: list[tuple[str, str, Level]] = [(system_name(record.name), say("classes"), told.leaves)]
    if told.parents:
        levels.append((system_name(record.name), say("groups of classes"), told.parents))
    for rival in record.rivals:
        levels.append((system_name(rival.name), say("classes"), rival.evaluation.leaves))
        if rival.evaluation.parents:
            levels.append((system_name(rival.name), say("groups of classes"), rival.evaluation.parents))
    rows: list[list[Cell | str]] = [
        [
            Cell(text=name, detail=which),
            Cell(text=str(len(level.classes)), order=len(level.classes)),
            score_cell(level.macro_f1),
            score_cell(level.weighted_f1),
            share_cell(level.accuracy),
        ]
        for name, which, level in levels
    ]
    titles = (say("Classes"), say("Macro-F1"), say("Weighted F1"), say("Accuracy"))
    columns = [Column(title=say("Classifier and level")), *(Column(title=each, numeric=True) for each in titles)]
    return Table(
        title=say("Levels of the taxonomy"),
        columns=columns,
        rows=rows,
        note=say("Small figures are {sure:.3g} % intervals, by drawing customers anew.", sure=100 * told.confidence),
    )


def class_blocks(record: Record) -> list[Block]:
    """Return the classes one by one, and what is taken for what."""
    told = record.evaluation
    rival = record.rivals[0] if record.rivals else None
    theirs = _f1_by_class(rival.evaluation.leaves) if rival else {}
    their_name = system_name(rival.name) if rival else ""
    blocks: list[Block] = [class_table(record, told.leaves, theirs, their_name), f1_figure(record, theirs, their_name)]
    blocks.append(confusion_matrix(record, told.leaves))
    if told.leaves.confused:
        blocks.append(confused_table(record, told.leaves.confused))
    if told.parents:
        inner: list[Block] = [class_table(record, told.parents, {}, ""), confusion_matrix(record, told.parents)]
        blocks.append(Details(summary=say("The same for groups of classes"), blocks=inner))
    return blocks


def class_table(record: Record, level: Level, theirs: Mapping[str, float], their_name: str) -> Table:
    """Return precision, recall and F1 of each class with their intervals."""
    rows = [[*_class_row(record, each), *_their_f1(each, theirs)] for each in level.by_class]
    titles = [say("Calls"), say("Said"), say("Precision"), say("Recall"), say("F1")]
    if theirs:
        titles.append(say("F1 of {name}", name=their_name))
    columns = [Column(title=say("Class")), *(Column(title=each, numeric=True) for each in titles)]
    return Table(
        title=say("Class by class"),
        columns=columns,
        rows=rows,
        note=say(
            "Small figures are intervals; they count customers. ! marks fewer than {few} calls: too few to act upon.",
            few=FEW,
        ),
    )


def _class_row(record: Record, each: ClassFigures) -> list[Cell | str]:
    few = Tone.WARNING if each.num_true < FEW else Tone.PLAIN
    name = class_name(each.code, record.names)
    detail = say("{code}, critical", code=each.code) if each.code in record.critical else each.code
    return [
        Cell(text=name, detail="" if detail == name else detail),
        Cell(text=f"{each.num_true:,}", order=each.num_true, tone=few),
        count_cell(each.num_said),
        score_cell(each.precision),
        score_cell(each.recall),
        score_cell(each.f1),
    ]


def _their_f1(each: ClassFigures, theirs: Mapping[str, float]) -> list[Cell | str]:
    if not theirs:
        return []
    found = theirs.get(each.code)
    return [Cell(text=score(found), order=found)]


def _f1_by_class(level: Level) -> dict[str, float]:
    return {each.code: each.f1.value for each in level.by_class if each.f1}


def f1_figure(record: Record, theirs: Mapping[str, float], their_name: str) -> Figure:
    """Return F1 of each class as a point with its interval, the worst first."""
    known = [each for each in record.evaluation.leaves.by_class if each.f1 and each.num_true]
    lanes = [
        Lane(
            title=class_name(each.code, record.names),
            value=each.f1.value,
            interval=None if each.f1.low is None or each.f1.high is None else (each.f1.low, each.f1.high),
            points=(theirs[each.code],) if each.code in theirs else (),
            note=score(each.f1.value),
        )
        for each in sorted(known, key=lambda one: one.f1.value if one.f1 else 0.0)
        if each.f1
    ]
    caption: Text | str = say("Small dots are the F1 of {name}.", name=their_name) if theirs else ""
    plot = Lanes(x=Axis(title=say("F1"), low=0.0, high=1.0), lanes=lanes)
    return Figure(title=say("F1 of each class, the worst first"), plot=plot, caption=caption)


def confusion_matrix(record: Record, level: Level) -> Matrix:
    """Return calls by true class and by the class that was said."""
    chosen = _chosen(level)
    rows = [
        MatrixRow(
            title=say("{place}. {name}", place=place, name=class_name(level.classes[truth], record.names)),
            squares=[_square(level.confusion[truth], truth, said) for said in chosen],
        )
        for place, truth in enumerate(chosen, 1)
    ]
    note: Text = say(
        "A row is a true class, a column what was said, in the order of the rows. Colour is the share of the row: "
        "green is right, orange is wrong."
    )
    if len(chosen) < len(level.classes):
        note = say(
            "{note} Only the {shown} of {all} classes with the most errors are shown.",
            note=note,
            shown=len(chosen),
            all=len(level.classes),
        )
    return Matrix(
        title=say("What is taken for what"),
        corner=say("True class"),
        columns=[str(place) for place in range(1, len(chosen) + 1)],
        rows=rows,
        note=note,
    )


def _chosen(level: Level) -> list[int]:
    """Return the classes that a matrix shows, in their order: those that errors are made with, where they are many."""
    places = range(len(level.classes))
    if len(places) <= MOST_SQUARES:
        return list(places)
    errors = [
        sum(level.confusion[each]) + sum(row[each] for row in level.confusion) - 2 * level.confusion[each][each]
        for each in places
    ]
    return sorted(sorted(places, key=lambda each: -errors[each])[:MOST_SQUARES])


def _square(row: Sequence[int], truth: int, said: int) -> Square:
    count = row[said]
    if not count:
        return Square()
    return Square(text=str(count), heat=count / sum(row), hue=_RIGHT if truth == said else _WRONG)


def confused_table(record: Record, pairs: Sequence[ConfusedPair]) -> Table:
    """Return the pairs of classes that are confused most often, with calls to listen to."""
    rows: list[list[Cell | str]] = [
        [
            Cell(text=class_name(each.truth, record.names), detail=each.truth),
            Cell(text=class_name(each.said, record.names), detail=each.said),
            count_cell(each.count),
            Cell(text=share(each.share), order=each.share),
            ", ".join(record.ids.get(row, "") or f"#{row + 1}" for row in each.rows),
        ]
        for each in pairs
    ]
    columns = [Column(title=say("True class")), Column(title=say("What was said"))]
    columns += [Column(title=say("Calls"), numeric=True), Column(title=say("Of the true class"), numeric=True)]
    columns.append(Column(title=say("Some of them")))
    return Table(
        title=say("The pairs that are confused most often"),
        columns=columns,
        rows=rows,
        note=say("The examples are the calls that it was surest of. # is a call's place in the test data."),
    )
