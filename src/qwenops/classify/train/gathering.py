"""From files of calls, labels and splits to what is trained on: labelled calls (`labelled`) as tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qwenops.calls.classes import Taxonomy
from qwenops.calls.problems import Problem, Severity
from qwenops.calls.split import Part
from qwenops.classify.dataset import EncodedCalls, TrainData, encode
from qwenops.classify.labelled import DataFiles, open_labelled, settle
from qwenops.classify.prompt import legend_of
from qwenops.classify.train.options import TrainOptions
from qwenops.models.tokenizer import Tokenizer
from qwenops.text import Report, say

__all__ = ["DataFiles", "Gathered", "gather", "gather_parts", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """Parts of labelled calls, and what is known about them."""

    parts: Mapping[Part, EncodedCalls]
    redactions: tuple[str, ...]
    sources: dict[str, str]
    """SHA-256 of each file, by name."""
    customers: dict[str, str]
    """By conversation; empty where nobody said."""
    warnings: tuple[Problem, ...] = ()
    """What a person should know about the files."""
    places: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """File and line of each call's label."""


def gather(
    files: DataFiles, taxonomy: Taxonomy, tokenizer: Tokenizer, options: TrainOptions, report: Report
) -> TrainData:
    """Read, settle and encode training and validation calls; the test calls are not looked at.

    Raises:
        InvalidDataError: Something is wrong with the files; all of it is named.
        ConfigError: The budget leaves no room for a call.
    """
    legend = legend_of(taxonomy, "zh") if options.legend else ""
    found = gather_parts(
        files,
        (Part.TRAIN, Part.VAL),
        taxonomy,
        tokenizer,
        budget_tokens=options.max_tokens,
        legend=legend,
        report=report,
    )
    return TrainData(
        train=found.parts[Part.TRAIN],
        val=found.parts[Part.VAL],
        taxonomy=taxonomy,
        budget_tokens=options.max_tokens,
        legend=legend,
        redactions=found.redactions,
        sources=found.sources,
        warnings=(*found.warnings, *_single(found.parts[Part.TRAIN], taxonomy, found.places)),
    )


def _single(calls: EncodedCalls, taxonomy: Taxonomy, places: Mapping[str, tuple[str, int]]) -> Iterator[Problem]:
    """Yield the classes that have a single example among the training calls."""
    counts = np.bincount(calls.labels, minlength=len(taxonomy.leaves))
    for place in np.flatnonzero(counts == 1):
        name = calls.ids[int(np.flatnonzero(calls.labels == place)[0])]
        code = taxonomy.leaves[place]
        told = say("The class {code} has a single example; nothing can be learnt from it.", code=code)
        source, line = places[name]
        yield Problem(
            what=told, source=source, line=line, field="primary", severity=Severity.WARNING, conversation_id=name
        )


def gather_parts(
    files: DataFiles,
    parts: Sequence[Part],
    taxonomy: Taxonomy,
    tokenizer: Tokenizer,
    *,
    budget_tokens: int,
    legend: str,
    report: Report,
) -> Gathered:
    """Read, settle and encode some parts of the calls.

    Raises:
        InvalidDataError: Something is wrong with the files; all of it is named.
        ConfigError: The budget leaves no room for a call.
    """
    labelled = open_labelled(files, taxonomy)
    encoded = {
        part: encode(
            labelled.pairs(part),
            taxonomy=taxonomy,
            tokenizer=tokenizer,
            budget_tokens=budget_tokens,
            legend=legend,
            total=len(labelled.splits.parts()[part]),
            report=report,
        )
        for part in parts
    }
    labelled.finish(*parts)
    return Gathered(
        parts=encoded,
        redactions=tuple(sorted(labelled.redactions)),
        sources=files.hashes(),
        customers=labelled.customers,
        warnings=labelled.warnings,
        places=labelled.places,
    )
