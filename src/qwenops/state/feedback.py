"""What people said about calls, and what a model had said before: the labels of tomorrow.

Every answer is kept as it was given. What a call counts as follows from all of them (`settle`): of each person the
latest, one person for most classes, two who agree for critical ones. Three who do not agree are a dispute, for which
there is no label.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from qwenops.state.database import Database, new_id, utc
from qwenops.state.schema import feedback

CRITICAL_WANTED = 2
"""How many people must agree where a critical class is at stake."""
MOST_PEOPLE = 3
"""So many who do not agree are a dispute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What one person said about one call."""

    conversation_id: str
    taxonomy: str
    """Name and version that `label` belongs to."""
    label: str
    """The class that the person chose."""
    reviewer: str
    secondary: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)
    customer_id: str = ""
    model: str = ""
    """Which model had said something; empty where none had, or nobody knows."""
    predicted: str = ""
    """What it had said."""
    key_name: str = ""
    """The API key that the answer came with."""
    seconds: float | None = None
    """How long the person took."""
    note: str = ""
    blind: bool = False
    """Whether the person was not shown what the model had said."""
    critical: bool = False
    """Whether the label or the prediction is of a critical class."""
    chance: float | None = None
    """How probable it was that this call was chosen for review; None where nobody chose it."""
    id: str = ""
    at: datetime | None = None


class Outcome(StrEnum):
    """Where the answers about one call lead."""

    AGREED = "agreed"
    OPEN = "open"
    """Another person is needed."""
    DISPUTED = "disputed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a call counts as."""

    outcome: Outcome
    label: str
    """The class with the most votes; empty where there is none."""
    votes: tuple[Feedback, ...]
    """The latest answer of each person, the earliest first."""
    wanted: int
    """How many people must agree."""


def settle(answers: Iterable[Feedback], *, wanted: int = 1) -> Settled:
    """Say what a call counts as.

    Args:
        answers: All that was said about it, the earliest first.
        wanted: How many people must agree at least; two where any answer is about a critical class.
    """
    latest: dict[str, Feedback] = {}
    for each in answers:
        latest.pop(each.reviewer, None)
        latest[each.reviewer] = each
    votes = tuple(latest.values())
    needed = max(wanted, CRITICAL_WANTED) if any(vote.critical for vote in votes) else wanted
    ranked = Counter((vote.taxonomy, vote.label) for vote in votes).most_common(2)
    most = ranked[0][1] if ranked else 0
    second = ranked[1][1] if len(ranked) > 1 else 0
    if most >= needed and most > second:
        outcome = Outcome.AGREED
    elif len(votes) >= MOST_PEOPLE:
        outcome = Outcome.DISPUTED
    else:
        outcome = Outcome.OPEN
    return Settled(outcome=outcome, label=ranked[0][0][1] if most > second else "", votes=votes, wanted=needed)


def add_feedback(connection: Connection, said: Feedback, at: datetime) -> str:
    """Add an answer within the caller's transaction; return its id."""
    row = _row(said, at)
    connection.execute(insert(feedback).values(**row))
    return str(row["id"])


def answers_about(connection: Connection, conversation_id: str) -> list[Feedback]:
    """Return what was said about a call, the earliest first."""
    wanted = select(feedback).where(feedback.c.conversation_id == conversation_id).order_by(feedback.c.id)
    return [_feedback(row) for row in connection.execute(wanted)]


def read_feedback(
    database: Database, *, since: datetime | None = None, until: datetime | None = None
) -> list[Feedback]:
    """Return what was said in a span of time, the earliest first.

    Args:
        database: Where it is kept.
        since: From then on.
        until: Before then.
    """
    wanted = select(feedback).order_by(feedback.c.id)
    if since is not None:
        wanted = wanted.where(feedback.c.created_at >= since)
    if until is not None:
        wanted = wanted.where(feedback.c.created_at < until)
    with database.reading() as connection:
        return [_feedback(row) for row in connection.execute(wanted)]


def by_call(answers: Sequence[Feedback]) -> dict[str, list[Feedback]]:
    """Return answers by the call that they are about, in their order."""
    found: dict[str, list[Feedback]] = {}
    for each in answers:
        found.setdefault(each.conversation_id, []).append(each)
    return found


def _row(said: Feedback, at: datetime) -> dict[str, Any]:
    return {
        "id": new_id(at),
        "conversation_id": said.conversation_id,
        "customer_id": said.customer_id,
        "model": said.model,
        "taxonomy": said.taxonomy,
        "predicted": said.predicted,
        "label": said.label,
        "secondary": json.dumps(list(said.secondary), ensure_ascii=False),
        "axes": json.dumps(dict(said.axes), ensure_ascii=False),
        "reviewer": said.reviewer,
        "key_name": said.key_name,
        "seconds": said.seconds,
        "note": said.note,
        "blind": said.blind,
        "critical": said.critical,
        "chance": said.chance,
        "created_at": at,
    }


def _feedback(row: Row[Any]) -> Feedback:
    return Feedback(
        id=row.id,
        conversation_id=row.conversation_id,
        customer_id=row.customer_id,
        model=row.model,
        taxonomy=row.taxonomy,
        predicted=row.predicted,
        label=row.label,
        secondary=tuple(json.loads(row.secondary)),
        axes=json.loads(row.axes),
        reviewer=row.reviewer,
        key_name=row.key_name,
        seconds=row.seconds,
        note=row.note,
        blind=row.blind,
        critical=row.critical,
        chance=row.chance,
        at=utc(row.created_at),
    )
