"""What was measured on what, with the hashes that prove it, and what the figures mean."""

from collections.abc import Mapping
from typing import Any

from qwenops.classify.report.figures import UNKNOWN
from qwenops.classify.report.record import Provenance, Record
from qwenops.page.document import Block, Cell, Code, Column, Facts, Table
from qwenops.page.ticks import number
from qwenops.text import Text, say

NAMES: Mapping[str, Text] = {
    "name": say("Name"),
    "version": say("Version"),
    "base": say("Base model"),
    "base_sha256": say("SHA-256 of the base model"),
    "adapter_sha256": say("SHA-256 of the adapter"),
    "sha256": say("SHA-256"),
    "scheme": say("Weights"),
    "seed": say("Seed"),
    "keys": say("What ties calls together"),
    "by_time": say("In the order of time"),
    "processor": say("Processor"),
    "cores": say("Usable cores"),
}
"""What usual facts are called; others keep the names that they have in the record."""
PARTS: Mapping[str, Text] = {
    "train": say("Training"),
    "val": say("Validation"),
    "calibration": say("Calibration"),
    "test": say("Test"),
}


def setting_blocks(record: Record) -> list[Block]:
    """Return what was measured on what."""
    found = record.provenance
    blocks: list[Block] = [_test(record)]
    titled = (
        (say("Classifier"), found.model),
        (say("Split"), found.split),
        (say("Machine"), found.machine),
        (say("Versions"), found.versions),
    )
    for title, facts in titled:
        if pairs := _pairs(facts):
            blocks.append(Facts(title=title, pairs=pairs))
    blocks += [each for each in (_files(found), _parts(found)) if each is not None]
    if found.command:
        blocks.append(Code(title=say("Evaluate again"), text=found.command))
    return blocks


def _test(record: Record) -> Facts:
    found, told = record.provenance, record.evaluation
    pairs: list[tuple[str, str]] = [
        (say("Made at"), record.made_at.isoformat(timespec="seconds") if record.made_at else UNKNOWN),
        (say("Judged on"), PARTS.get(found.part, found.part)),
        (say("Calls"), f"{told.num_calls:,}"),
        (say("Customers"), f"{told.num_groups:,}"),
        (say("Taxonomy"), found.taxonomy),
        (say("SHA-256 of the taxonomy"), found.taxonomy_sha256),
        (say("SHA-256 of the prompt"), found.prompt_sha256),
        (say("Redaction"), found.redaction),
        (say("Confidence of the intervals"), f"{100 * told.confidence:.3g} %"),
        (say("Draws of customers"), f"{told.resamples:,}"),
        (say("Seed of the draws"), str(told.seed)),
    ]
    return Facts(title=say("What was measured on what"), pairs=[(name, value) for name, value in pairs if value])


def _pairs(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = {key: value for key, value in facts.items() if value is not None and value != ""}
    return [(NAMES.get(key, key), _readable(value)) for key, value in known.items()]


def _readable(value: Any) -> str:
    match value:
        case bool():
            return say("yes") if value else say("no")
        case float():
            return number(value)
        case _:
            return str(value)


def _files(found: Provenance) -> Table | None:
    if not found.sources:
        return None
    rows = [[name, f"`{digest}`"] for name, digest in found.sources.items()]
    columns = [Column(title=say("File")), Column(title="SHA-256")]
    return Table(title=say("Files that the data came from"), columns=columns, rows=rows, sortable=False)


def _parts(found: Provenance) -> Table | None:
    if not found.parts:
        return None
    rows: list[list[Cell | str]] = [
        [
            PARTS.get(name, name),
            Cell(text=f"{part.calls:,}", order=part.calls),
            f"`{part.sha256}`" if part.sha256 else "",
        ]
        for name, part in found.parts.items()
    ]
    columns = [Column(title=say("Part")), Column(title=say("Calls"), numeric=True), Column(title="SHA-256")]
    return Table(title=say("Parts of the data"), columns=columns, rows=rows, sortable=False)


def meaning_table() -> Table:
    """Return what the figures mean."""
    rows = [
        [
            say("Precision"),
            say("Of the calls that were said to be of a class, the share that are."),
        ],
        [say("Recall"), say("Of the calls of a class, the share that were found.")],
        [say("F1"), say("The harmonic mean of precision and recall; both must be good.")],
        [
            say("Macro-F1"),
            say("The mean F1 of all classes of which there are calls; rare ones count as much as frequent ones."),
        ],
        [say("ECE"), say("By how much confidence and accuracy differ, over parts of equally many calls.")],
        [
            say("Brier"),
            say("The mean squared difference of the probabilities from what is true, over all classes: 0 to 2."),
        ],
        [say("NLL"), say("The mean negative logarithm of the true class's probability.")],
        [say("Coverage"), say("The share of calls that are filed without a person.")],
        [
            say("Interval"),
            say("Where the true figure lies with 95 % confidence; calls of one customer count as what they are worth."),
        ],
        [say("McNemar's p"), say("How likely so uneven a score is if both are right equally often.")],
    ]
    columns = [Column(title=say("Figure")), Column(title=say("Definition"))]
    return Table(title=say("What the figures mean"), columns=columns, rows=rows, sortable=False)
