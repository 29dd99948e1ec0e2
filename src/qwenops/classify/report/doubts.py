"""Where a classifier does worse than elsewhere, and which labels should be looked at again."""

from collections.abc import Mapping, Sequence

from qwenops.classify.evaluate.evaluation import Slice
from qwenops.classify.report.figures import UNKNOWN, count_cell, p_value, points, score, score_cell, share_cell
from qwenops.classify.report.names import class_name
from qwenops.classify.report.record import Record
from qwenops.page.document import Block, Cell, Column, Paragraph, Table, Tone
from qwenops.text import Text, say

MOST_SLICES = 120
MOST_DOUBTED = 50
SLICE_NAMES: Mapping[str, Text] = {
    "lang": say("Language"),
    "language": say("Language"),
    "month": say("Month"),
    "week": say("Week"),
    "recognition": say("Confidence of the recognition"),
    "noise": say("Noise of the recognition"),
    "asr_conf": say("Confidence of the recognition"),
    "length": say("Length"),
    "tokens": say("Tokens"),
    "author": say("Author"),
    "agent": say("Agent"),
    "channel": say("Channel"),
    "hard_negative": say("Hard cases"),
    "surface": say("Manner of speaking"),
}
"""What usual ways of dividing calls are called; others keep their own name."""


def slice_blocks(slices: Sequence[Slice]) -> list[Block]:
    """Return the parts of the calls, those first that surely differ from the others."""
    if not slices:
        return []
    ordered = sorted(slices, key=lambda each: (0, each.difference or 0.0) if each.flagged else (1, 0.0))
    shown = ordered[:MOST_SLICES]
    titles = (
        say("Calls"),
        say("Customers"),
        say("Accuracy"),
        say("Macro-F1"),
        say("ECE"),
        say("Points from the others"),
        say("p, corrected"),
    )
    note = say(
        "✕ surely does worse than all other calls, ✓ surely better (Fisher's exact test, corrected for the number of "
        "parts by Holm). No p where calls are too few."
    )
    if len(shown) < len(ordered):
        note = say("{note} {num} more parts are not shown.", note=note, num=len(ordered) - len(shown))
    return [
        Table(
            title=say("Parts of the calls"),
            columns=[Column(title=say("Part")), *(Column(title=each, numeric=True) for each in titles)],
            rows=[_slice_row(each) for each in shown],
            note=note,
        )
    ]


def _slice_row(each: Slice) -> list[Cell | str]:
    difference = each.difference
    tone = Tone.PLAIN
    if each.flagged:
        tone = Tone.BAD if (difference or 0.0) < 0 else Tone.GOOD
    name = SLICE_NAMES.get(each.name, each.name)
    return [
        Cell(text=say("{name}: {value}", name=name, value=each.value)),
        count_cell(each.num_calls),
        count_cell(each.num_groups),
        share_cell(each.accuracy),
        score_cell(each.macro_f1),
        Cell(text=score(each.ece), order=each.ece),
        Cell(text=points(difference), order=difference, tone=tone),
        Cell(text=p_value(each.p), order=each.p),
    ]


def label_blocks(record: Record) -> list[Block]:
    """Return labels that are probably wrong; a sentence where none was looked at or none found."""
    if record.num_labels is None:
        return []
    looked = f"{record.num_labels:,}"
    if not record.doubted:
        return [Paragraph(text=say("None of {labels} labels was found that is probably wrong.", labels=looked))]
    found = record.doubted[:MOST_DOUBTED]
    rows: list[list[Cell | str]] = [
        [
            each.conversation_id or UNKNOWN,
            Cell(text=class_name(each.suspicion.given, record.names), detail=each.suspicion.given),
            Cell(text=class_name(each.suspicion.likely, record.names), detail=each.suspicion.likely),
            Cell(text=score(each.suspicion.p_given), order=each.suspicion.p_given),
            Cell(text=score(each.suspicion.p_likely), order=each.suspicion.p_likely),
        ]
        for each in found
    ]
    columns = [Column(title=say("Call")), Column(title=say("Label")), Column(title=say("More likely"))]
    columns += [Column(title=each, numeric=True) for each in (say("p of the label"), say("p of the other"))]
    return [
        Table(
            title=say("Labels to look at again"),
            columns=columns,
            rows=rows,
            note=say(
                "{shown} of {found} labels out of {labels} that a classifier which had not seen them holds for wrong "
                "(confident learning). It may be wrong itself: a person decides.",
                shown=len(found),
                found=len(record.doubted),
                labels=looked,
            ),
        )
    ]
