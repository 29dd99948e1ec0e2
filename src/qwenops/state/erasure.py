"""Taking everything about one customer out of the database, so that it goes on where it was broken off.

Files of labels and predictions know calls only by their ids, and which calls are a customer's is said in the files of
calls that are erased as well. So the ids are written down first, and forgotten last.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy import update as update_rows

from qwenops.state.audit import Action, Event, Kind, add_events
from qwenops.state.database import Database
from qwenops.state.review import IDS_AT_ONCE
from qwenops.state.schema import erasures, feedback, review_items


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedRows:
    """How many rows went."""

    review: int
    feedback: int


def customer_mark(customer_id: str) -> str:
    """Return what the log calls a customer: a hash that tells whether an id is meant and does not give it away."""
    return hashlib.sha256(customer_id.encode("utf-8", "replace")).hexdigest()[:32]


def begin_erasure(database: Database, customer_id: str, conversations: Iterable[str]) -> frozenset[str]:
    """Write down which calls will be erased; return them with those of an erasure that was broken off."""
    with database.writing() as connection:
        wanted = select(erasures.c.conversations).where(erasures.c.customer_id == customer_id)
        before = connection.execute(wanted).scalar_one_or_none()
        known = set(conversations)
        for table in (review_items, feedback):
            ids = select(table.c.conversation_id).where(table.c.customer_id == customer_id)
            known.update(connection.scalars(ids))
        if before is None:
            listed = json.dumps(sorted(known))
            connection.execute(
                insert(erasures).values(customer_id=customer_id, conversations=listed, began_at=database.now())
            )
        else:
            known.update(json.loads(before))
            row = update_rows(erasures).where(erasures.c.customer_id == customer_id)
            connection.execute(row.values(conversations=json.dumps(sorted(known))))
    return frozenset(known)


def erase_rows(database: Database, customer_id: str, conversations: Iterable[str]) -> ErasedRows:
    """Remove a customer's calls from the review queue, and what was said about them."""
    ids = sorted(conversations)
    counts: dict[str, int] = {}
    with database.writing() as connection:
        for table in (review_items, feedback):
            gone = connection.execute(delete(table).where(table.c.customer_id == customer_id)).rowcount
            for first in range(0, len(ids), IDS_AT_ONCE):
                some = table.c.conversation_id.in_(ids[first : first + IDS_AT_ONCE])
                gone += connection.execute(delete(table).where(some)).rowcount
            counts[table.name] = gone
    return ErasedRows(review=counts[review_items.name], feedback=counts[feedback.name])


def end_erasure(database: Database, customer_id: str, *, actor: str, detail: Mapping[str, Any]) -> bool:
    """Forget the list of calls, write into the log that the customer was erased, and leave no trace in the file.

    Return whether the last was possible: it is not while another process is in the middle of reading.
    """
    with database.writing() as connection:
        connection.execute(delete(erasures).where(erasures.c.customer_id == customer_id))
        erased = Event(
            action=Action.ERASED,
            kind=Kind.CUSTOMER,
            subject=customer_mark(customer_id),
            actor=actor,
            detail=detail,
        )
        add_events(connection, database.now(), [erased])
    return database.scrub()
