"""Who did what: labelled a call, saw one, promoted a model, erased a customer. Rows are only added.

An event names what it is about by id and holds none of its content, so it may stay when a call is erased. How long
events are kept is an option of its own (`retention`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from qwenops.state.database import Database, new_id, utc
from qwenops.state.schema import audit_log

_LONGEST = 256
"""Characters of a subject, as the column has it."""


class Action(StrEnum):
    """What was done."""

    SAW = "saw"
    LABELLED = "labelled"
    REGISTERED = "registered"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    EXPORTED = "exported"
    """Labels were written into a file."""
    ERASED = "erased"
    EXPIRED = "expired"
    """Data was removed because its time was over."""


class Kind(StrEnum):
    """What it was done to."""

    CALL = "call"
    MODEL = "model"
    CUSTOMER = "customer"
    """The subject is a hash of the customer's id."""
    FILE = "file"
    TABLE = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that somebody did."""

    action: Action
    kind: Kind
    subject: str
    """The id of what it was done to."""
    actor: str
    """Who did it: a reviewer, or the user of the command line."""
    key_name: str = ""
    """The API key, where it came over HTTP."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    at: datetime | None = None


def record(database: Database, *events: Event) -> None:
    """Add events in a transaction of their own."""
    with database.writing() as connection:
        add_events(connection, database.now(), events)


def add_events(connection: Connection, at: datetime, events: Sequence[Event]) -> None:
    """Add events to the transaction of what they are about, so that neither is there without the other."""
    if events:
        connection.execute(insert(audit_log), [_row(event, at, number) for number, event in enumerate(events)])


def read_events(
    database: Database,
    *,
    subject: str = "",
    actor: str = "",
    action: Action | None = None,
    since: datetime | None = None,
    most: int = 1000,
) -> list[Event]:
    """Return events, the latest first.

    Args:
        database: Where they are kept.
        subject: Only those about this id.
        actor: Only those of this person.
        action: Only those of this kind.
        since: Only those from then on.
        most: How many at most.
    """
    wanted = select(audit_log).order_by(audit_log.c.created_at.desc(), audit_log.c.id.desc()).limit(most)
    if subject:
        wanted = wanted.where(audit_log.c.subject == subject)
    if actor:
        wanted = wanted.where(audit_log.c.actor == actor)
    if action is not None:
        wanted = wanted.where(audit_log.c.action == action.value)
    if since is not None:
        wanted = wanted.where(audit_log.c.created_at >= since)
    with database.reading() as connection:
        return [_event(row) for row in connection.execute(wanted)]


def _row(event: Event, at: datetime, number: int) -> dict[str, Any]:
    return {
        "id": new_id(at, number),
        "created_at": at,
        "actor": event.actor,
        "key_name": event.key_name,
        "action": event.action.value,
        "kind": event.kind.value,
        "subject": event.subject[:_LONGEST],
        "detail": json.dumps(event.detail, ensure_ascii=False, sort_keys=True),
    }


def _event(row: Row[Any]) -> Event:
    return Event(
        id=row.id,
        at=utc(row.created_at),
        actor=row.actor,
        key_name=row.key_name,
        action=Action(row.action),
        kind=Kind(row.kind),
        subject=row.subject,
        detail=json.loads(row.detail),
    )
