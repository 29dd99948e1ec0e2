"""The queue of calls that a person should look at.

    offer ──> open ──take──> open, kept for a person ──answer──> done
                                     │                        └─> disputed
                                     └─ answer of the first of two, or the time is over ──> open

A call comes in because the model is not sure, or, of those that it is sure of, by lot: from the second kind follows how
good the model is where nobody would look. Those come first that would teach most: the two best classes are close
together, and few calls of the predicted class are known. In a share of the queue the prediction is hidden, so that it
shows whether people follow it; another share, and every critical class, needs two people, who do not see one another's
answers.

Lots are drawn from the call's id and a seed, so the same call always draws the same lot, on every replica and in every
repetition. Calls are kept redacted, for as long as the options say.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, Row, Select, case, func, insert, literal, or_, select
from sqlalchemy import update as update_rows

from qwenops.state.audit import Action, Event, Kind, add_events
from qwenops.state.database import Database, new_id, utc
from qwenops.state.feedback import CRITICAL_WANTED, Feedback, Outcome, Settled, add_feedback, answers_about, settle
from qwenops.state.options import ReviewOptions
from qwenops.state.schema import feedback, review_items

IDS_AT_ONCE = 500
"""Of so many ids one statement may speak."""


class Why(StrEnum):
    """Why a call is in the queue."""

    UNSURE = "unsure"
    """The model could not file it."""
    CHECK = "check"
    """The model was sure, and the lot fell on it."""


class ItemState(StrEnum):
    """How far a call of the queue is."""

    OPEN = "open"
    DONE = "done"
    DISPUTED = "disputed"


_STATES = {Outcome.OPEN: ItemState.OPEN, Outcome.AGREED: ItemState.DONE, Outcome.DISPUTED: ItemState.DISPUTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A call that a model has classified, for the queue to choose or not."""

    conversation_id: str
    customer_id: str
    model: str
    taxonomy: str
    predicted: str
    confidence: float
    """How probable the prediction is."""
    probabilities: Mapping[str, float]
    """By leaf."""
    turns: Sequence[Mapping[str, str]]
    """Role and text of each turn, redacted."""
    evidence: Sequence[Mapping[str, float]] = ()
    """Turns that carried the prediction, where somebody looked: `turn` and `drop`."""
    is_unsure: bool
    is_critical: bool

    @property
    def margin(self) -> float:
        """How far the best leaf is ahead of the next, from 0 to 1."""
        first, second = (*sorted(self.probabilities.values(), reverse=True)[:2], 0.0, 0.0)[:2]
        return min(max(first - second, 0.0), 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A call of the queue."""

    id: str
    call: Candidate
    why: Why
    chance: float
    """How probable it was that the call would be chosen."""
    blind: bool
    """Whether the person is not shown what the model said."""
    wanted: int
    """How many people must agree."""
    state: ItemState
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How full the queue is."""

    open: int
    claimed: int
    """Of the open ones, those that somebody has taken and not answered yet."""
    done: int
    disputed: int
    by_class: Mapping[str, int] = field(default_factory=dict)
    """Open ones by predicted class."""
    oldest_at: datetime | None = None
    """When the oldest open one came in."""


def lot(conversation_id: str, purpose: str, seed: int = 0) -> float:
    """Return a number from 0 to below 1 that a call has drawn for a purpose, always the same."""
    drawn = hashlib.blake2b(f"{seed}\0{purpose}\0{conversation_id}".encode("utf-8", "replace"), digest_size=8)
    return int.from_bytes(drawn.digest(), "big") / 2**64


def offer(database: Database, candidates: Sequence[Candidate], options: ReviewOptions) -> int:
    """Put those calls into the queue that a person should look at; return how many are new in it.

    A call that is in the queue already, or was, stays as it is there: to offer it again changes nothing.
    """
    chosen = {each.conversation_id: each for each in candidates if _is_chosen(each, options)}
    if not chosen:
        return 0
    at = database.now()
    with database.writing() as connection:
        known = _known(connection, list(chosen))
        new = [each for each in chosen.values() if each.conversation_id not in known]
        if new:
            rows = [_row(each, options, at, number) for number, each in enumerate(new)]
            connection.execute(insert(review_items), rows)
    return len(new)


def take(
    database: Database, reviewer: str, options: ReviewOptions, *, count: int = 1, key_name: str = ""
) -> list[Item]:
    """Give the next calls to a person, who keeps them for a while; that they were seen goes into the log.

    What a person has taken and not answered comes first again. Nobody gets a call that they have answered.
    """
    now = database.now()
    items = review_items.c
    with database.writing() as connection:
        answered = select(feedback.c.conversation_id).where(feedback.c.reviewer == reviewer)
        free = or_(items.claimed_until.is_(None), items.claimed_until <= now, items.claimed_by == reviewer)
        wanted = (
            select(review_items)
            .where(items.state == ItemState.OPEN.value, free, items.conversation_id.not_in(answered))
            .order_by(
                case((items.claimed_by == reviewer, 0), else_=1),
                _priority(connection).desc(),
                items.created_at,
                items.id,
            )
            .limit(count)
        )
        found = [_item(row) for row in connection.execute(wanted)]
        if found:
            until = now + timedelta(seconds=options.lease_s)
            chosen = update_rows(review_items).where(items.id.in_([each.id for each in found]))
            connection.execute(chosen.values(claimed_by=reviewer, claimed_until=until))
        seen = [
            Event(
                action=Action.SAW,
                kind=Kind.CALL,
                subject=each.call.conversation_id,
                actor=reviewer,
                key_name=key_name,
                detail={"blind": each.blind},
            )
            for each in found
        ]
        add_events(connection, now, seen)
    return found


def answer(database: Database, said: Feedback) -> Settled:
    """Take what a person said about a call, whether it is in the queue or not, and say where that leads.

    What the model had said, and how the call came into the queue, is known of a call in the queue better than by
    whoever answers.
    """
    now = database.now()
    items = review_items.c
    with database.writing() as connection:
        row = connection.execute(select(review_items).where(items.conversation_id == said.conversation_id)).first()
        wanted = 1
        if row is not None:
            item = _item(row)
            wanted = item.wanted
            said = replace(
                said,
                customer_id=item.call.customer_id,
                model=item.call.model,
                predicted=item.call.predicted,
                blind=item.blind,
                critical=said.critical or item.call.is_critical,
                chance=item.chance,
            )
        add_feedback(connection, said, now)
        settled = settle(answers_about(connection, said.conversation_id), wanted=wanted)
        if row is not None:
            state = _STATES[settled.outcome]
            connection.execute(
                update_rows(review_items)
                .where(items.id == row.id)
                .values(
                    state=state.value,
                    claimed_by="",
                    claimed_until=None,
                    closed_at=None if state is ItemState.OPEN else now,
                )
            )
        labelled = Event(
            action=Action.LABELLED,
            kind=Kind.CALL,
            subject=said.conversation_id,
            actor=said.reviewer,
            key_name=said.key_name,
            detail={"label": said.label, "predicted": said.predicted, "outcome": settled.outcome.value},
        )
        add_events(connection, now, [labelled])
    return settled


def queue_counts(database: Database) -> Counts:
    """Return how full the queue is."""
    now = database.now()
    items = review_items.c
    is_open = items.state == ItemState.OPEN.value
    with database.reading() as connection:
        states = _counted(connection, select(items.state, func.count()).group_by(items.state))
        by_class = _counted(connection, select(items.predicted, func.count()).where(is_open).group_by(items.predicted))
        claimed = connection.execute(select(func.count()).where(is_open, items.claimed_until > now)).scalar_one()
        oldest = connection.execute(select(func.min(items.created_at)).where(is_open)).scalar_one()
    return Counts(
        open=states.get(ItemState.OPEN.value, 0),
        claimed=claimed,
        done=states.get(ItemState.DONE.value, 0),
        disputed=states.get(ItemState.DISPUTED.value, 0),
        by_class=by_class,
        oldest_at=utc(oldest) if oldest is not None else None,
    )


def _counted(connection: Connection, wanted: Select[str, int]) -> dict[str, int]:
    return {name: count for name, count in connection.execute(wanted)}  # noqa: C416 -- rows are no tuples to a checker


def _is_chosen(call: Candidate, options: ReviewOptions) -> bool:
    return call.is_unsure or lot(call.conversation_id, "check", options.seed) < options.check_share


def _known(connection: Connection, ids: Sequence[str]) -> set[str]:
    column = review_items.c.conversation_id
    found: set[str] = set()
    for first in range(0, len(ids), IDS_AT_ONCE):
        found.update(connection.scalars(select(column).where(column.in_(ids[first : first + IDS_AT_ONCE]))))
    return found


def _priority(connection: Connection) -> ColumnElement[float]:
    """Return what orders the queue: how close the two best classes are, times how little is known of the first."""
    closeness = literal(1.0, Float) - review_items.c.margin
    known: Counter[str] = Counter()
    for column in (review_items.c.predicted, feedback.c.label):
        for code, count in connection.execute(select(column, func.count()).group_by(column)):
            known[code] += count
    if not known:
        return closeness
    rarity = {code: 1 / (1 + math.log(count)) for code, count in known.items()}
    return closeness * case(rarity, value=review_items.c.predicted, else_=1.0)


def _row(call: Candidate, options: ReviewOptions, at: datetime, number: int) -> dict[str, Any]:
    is_double = call.is_critical or lot(call.conversation_id, "second", options.seed) < options.second_share
    return {
        "id": new_id(at, number),
        "conversation_id": call.conversation_id,
        "customer_id": call.customer_id,
        "model": call.model,
        "taxonomy": call.taxonomy,
        "predicted": call.predicted,
        "confidence": call.confidence,
        "margin": call.margin,
        "probabilities": json.dumps(dict(call.probabilities), ensure_ascii=False),
        "turns": json.dumps([dict(each) for each in call.turns], ensure_ascii=False),
        "evidence": json.dumps([dict(each) for each in call.evidence]),
        "why": (Why.UNSURE if call.is_unsure else Why.CHECK).value,
        "chance": 1.0 if call.is_unsure else options.check_share,
        "critical": call.is_critical,
        "blind": lot(call.conversation_id, "blind", options.seed) < options.blind_share,
        "wanted": CRITICAL_WANTED if is_double else 1,
        "state": ItemState.OPEN.value,
        "claimed_by": "",
        "claimed_until": None,
        "created_at": at,
        "closed_at": None,
    }


def _item(row: Row[Any]) -> Item:
    why = Why(row.why)
    return Item(
        id=row.id,
        call=Candidate(
            conversation_id=row.conversation_id,
            customer_id=row.customer_id,
            model=row.model,
            taxonomy=row.taxonomy,
            predicted=row.predicted,
            confidence=row.confidence,
            probabilities=json.loads(row.probabilities),
            turns=tuple(json.loads(row.turns)),
            evidence=tuple(json.loads(row.evidence)),
            is_unsure=why is Why.UNSURE,
            is_critical=row.critical,
        ),
        why=why,
        chance=row.chance,
        blind=row.blind,
        wanted=row.wanted,
        state=ItemState(row.state),
        created_at=utc(row.created_at),
    )
