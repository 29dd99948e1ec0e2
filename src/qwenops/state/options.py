"""What is kept about calls that people look at: where, how it is chosen, and for how long."""

from dataclasses import dataclass, field
from pathlib import Path

from qwenops.options import Unit, option


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewOptions:
    """Which calls a person looks at, and how."""

    check_share: float = option(
        0.01,
        help="Share of the calls that the model is sure of which a person looks at all the same.",
        minimum=0.0,
        maximum=1.0,
        flag=False,
    )
    blind_share: float = option(
        0.1,
        help="Share of the queue in which the prediction is hidden, to see how far people follow it.",
        minimum=0.0,
        maximum=1.0,
        flag=False,
    )
    second_share: float = option(
        0.05,
        help="Share of the queue that two people label, to see how far they agree; critical classes always need two.",
        minimum=0.0,
        maximum=1.0,
        flag=False,
    )
    lease_s: float = option(
        900.0,
        help="How long a call is kept for the person who took it.",
        unit=Unit.SECONDS,
        minimum=1.0,
        flag=False,
    )
    seed: int = option(0, help="Of the lots that decide which calls belong to these shares.", minimum=0, flag=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionOptions:
    """How long each kind of data is kept; 0 is for ever."""

    review_s: float = option(
        90 * 86_400.0, help="Calls in the review queue, labelled or not.", unit=Unit.SECONDS, minimum=0, flag=False
    )
    feedback_s: float = option(0.0, help="What people said about calls.", unit=Unit.SECONDS, minimum=0, flag=False)
    audit_s: float = option(
        0.0, help="The log of who labelled, promoted, saw and erased.", unit=Unit.SECONDS, minimum=0, flag=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateOptions:
    """What is kept about calls that people look at."""

    database: Path | None = option(
        None,
        help="SQLite file of feedback, review queue and audit log; the user's own where it is not given.",
        flag="--state",
    )
    review: ReviewOptions = field(default_factory=ReviewOptions)
    retention: RetentionOptions = field(default_factory=RetentionOptions)
