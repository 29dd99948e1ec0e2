"""A database with a clock that tests turn, and calls that may be looked at."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qwenops.state.database import Database, open_database
from qwenops.state.feedback import Feedback
from qwenops.state.options import ReviewOptions
from qwenops.state.review import Candidate

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
EVERYTHING_SEEN = ReviewOptions(check_share=0.0, blind_share=0.0, second_share=0.0)
"""Only what the model is not sure of, with its prediction, by one person."""


class Clock:
    """A clock that goes on a little at each look, so that no two moments are the same."""

    def __init__(self) -> None:
        self.at = BEGIN

    def __call__(self) -> datetime:
        self.at += timedelta(milliseconds=1)
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Database, Clock]]:
    clock = Clock()
    with open_database(path, now=clock) as database:
        yield database, clock


def candidate(name: str, *, first: float = 0.4, second: float = 0.35, predicted: str = "billing.fee") -> Candidate:
    """Return a call that a model is not sure of."""
    return Candidate(
        conversation_id=name,
        customer_id=f"h:{name}",
        model="complaints@1-abc",
        taxonomy="made@1",
        predicted=predicted,
        confidence=first,
        probabilities={predicted: first, "other": second},
        turns=({"role": "customer", "text": f"said in {name}"},),
        is_unsure=True,
        is_critical=False,
    )


def sure(call: Candidate) -> Candidate:
    return replace(call, is_unsure=False)


def critical(call: Candidate) -> Candidate:
    return replace(call, is_critical=True)


def said(name: str, label: str, reviewer: str, *, is_critical: bool = False, seconds: float | None = None) -> Feedback:
    return Feedback(
        conversation_id=name,
        taxonomy="made@1",
        label=label,
        reviewer=reviewer,
        critical=is_critical,
        seconds=seconds,
    )
