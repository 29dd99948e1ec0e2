"""What an evaluation leaves behind: one JSON file (`qwenops.evaluated/1`) from which its page can be made at any time.

`Record` is filled in by whoever evaluates; everything besides the evaluation may be missing, and the page then says
less. `gather.record_of` makes one of the folders that commands leave.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from qwenops.atomic import write_text
from qwenops.calls.classes import ClassSeverity, Taxonomy, Words
from qwenops.classify.calibrate import Calibration
from qwenops.classify.decide import Filed, Thresholds
from qwenops.classify.evaluate.comparing import Verdict
from qwenops.classify.evaluate.evaluation import Evaluation, Reliability
from qwenops.classify.mislabelled import Suspicion
from qwenops.classify.plain import from_plain, to_plain
from qwenops.errors import InvalidDataError
from qwenops.text import Text, say

Facts = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """Another classifier of the same calls: a baseline, or the one in service."""

    name: str
    evaluation: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """Thresholds that were chosen on validation calls, and what they do with the test calls."""

    thresholds: Thresholds
    filed: Filed


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtedLabel:
    """A label that a classifier which did not see it holds for wrong."""

    conversation_id: str
    suspicion: Suspicion


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What goes into the cost of classifying; prices that nobody gave are not made up."""

    calls_per_s: Annotated[float, Field(gt=0)]
    """As measured, on one machine."""
    measured: str = ""
    """On which machine, with which engine, on which calls."""
    machine_per_hour: float | None = None
    """What an hour of that machine costs."""
    review_share: float | None = None
    """Of the calls that a person looks at."""
    minutes_per_review: float | None = None
    person_per_hour: float | None = None
    currency: str = ""

    @property
    def machine_s(self) -> float:
        """Seconds of the machine for 1,000 calls."""
        return 1000 / self.calls_per_s

    @property
    def machine_cost(self) -> float | None:
        """Of 1,000 calls; None where the price is not known."""
        return None if self.machine_per_hour is None else self.machine_s / 3600 * self.machine_per_hour

    @property
    def person_cost(self) -> float | None:
        """Of the people who look at what is left of 1,000 calls; None where something is not known."""
        if self.review_share is None or self.minutes_per_review is None or self.person_per_hour is None:
            return None
        return 1000 * self.review_share * self.minutes_per_review / 60 * self.person_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """Which calls a part of the data is."""

    calls: int
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What was measured on what; each hash is SHA-256. Empty is what nobody knows."""

    model: Facts = field(default_factory=dict)
    """The classifier: version, weights, base model and their hashes."""
    taxonomy: str = ""
    taxonomy_sha256: str = ""
    prompt_sha256: str = ""
    redaction: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the files of calls, labels and splits, by name."""
    parts: Mapping[str, PartFacts] = field(default_factory=dict)
    """By name: train, val, test."""
    part: str = "test"
    """The one that the figures are about."""
    split: Facts = field(default_factory=dict)
    """How the data were divided: keys, by time, seed."""
    machine: Facts = field(default_factory=dict)
    versions: Facts = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that a page about an evaluation shows."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    schema: Literal["qwenops.evaluated/1"] = "qwenops.evaluated/1"
    name: str
    """What the classifier is called, here and in the verdicts."""
    made_at: datetime | None = None
    evaluation: Evaluation
    """Of calibrated probabilities, on calls that nothing was chosen by."""
    before: Reliability | None = None
    """Of the same calls before calibration."""
    calibration: Calibration | None = None
    verdicts: tuple[Verdict, ...] = ()
    rivals: tuple[Rival, ...] = ()
    points: tuple[OperatingPoint, ...] = ()
    """One for each precision that was aimed at."""
    doubted: tuple[DoubtedLabel, ...] = ()
    """The surest first."""
    num_labels: int | None = None
    """How many labels were looked at for that; None where none were."""
    ids: Mapping[int, str] = field(default_factory=dict)
    """Conversations by their place in the test data; those of the evaluation's examples suffice."""
    names: Mapping[str, Words] = field(default_factory=dict)
    """What classes are called, by code."""
    critical: tuple[str, ...] = ()
    """Codes of classes of which none may be overlooked."""
    cost: Cost | None = None
    provenance: Provenance = field(default_factory=Provenance)


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, whole or not at all."""
    write_text(path, json.dumps(to_plain(record), ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote.

    Raises:
        InvalidDataError: The file cannot be read, or is something else.
    """
    try:
        return from_plain(Record, json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def names_of(taxonomy: Taxonomy) -> dict[str, Words]:
    """Return what the classes of a taxonomy are called, leaves and parents."""
    return {code: each.name for code, each in taxonomy.classes.items()}


def critical_of(taxonomy: Taxonomy) -> tuple[str, ...]:
    """Return the leaves of which none may be overlooked."""
    return tuple(leaf for leaf in taxonomy.leaves if taxonomy.severity_of(leaf) is ClassSeverity.CRITICAL)


def unreadable(path: Path, error: Exception) -> InvalidDataError:
    """Return what to raise where there is no evaluation that can be read."""
    reason: Text | str = say("{key} is missing", key=str(error)) if isinstance(error, KeyError) else _first_line(error)
    return InvalidDataError(
        say("There is no evaluation to read in {path}: {reason}.", path=str(path), reason=reason),
        hint=say("Evaluate again with `qwenops finetune evaluate`, or export with `qwenops finetune export`."),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
