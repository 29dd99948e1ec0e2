"""Forgetting: each kind of data goes when its time is over."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Table, delete

from qwenops.state.audit import Action, Event, Kind, add_events
from qwenops.state.database import Database
from qwenops.state.options import RetentionOptions
from qwenops.state.schema import audit_log, feedback, review_items

ACTOR = "retention"
"""Who the log says it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """How many rows went, by kind."""

    review: int = 0
    feedback: int = 0
    audit: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.review + self.feedback + self.audit


def expire(database: Database, options: RetentionOptions) -> Expired:
    """Remove what is older than the options allow; the log says how much that was."""
    now = database.now()
    gone: dict[str, int] = {}
    kept: tuple[tuple[str, Table, float], ...] = (
        ("review", review_items, options.review_s),
        ("feedback", feedback, options.feedback_s),
        ("audit", audit_log, options.audit_s),
    )
    with database.writing() as connection:
        for name, table, kept_s in kept:
            if kept_s:
                too_old = table.c.created_at < now - timedelta(seconds=kept_s)
                gone[name] = connection.execute(delete(table).where(too_old)).rowcount
        events = [
            Event(action=Action.EXPIRED, kind=Kind.TABLE, subject=name, actor=ACTOR, detail={"rows": count})
            for name, count in gone.items()
            if count
        ]
        add_events(connection, now, events)
    expired = Expired(**gone)
    if expired.total:
        database.scrub()
    return expired
