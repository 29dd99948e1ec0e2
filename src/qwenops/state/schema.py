"""The tables that replicas share, and how they came to be: every version knows the way up and the way down.

SQLite on one host; the statements keep to what PostgreSQL understands as well.

    api_keys        who may call
    review_items    redacted calls that a person should look at, with what a model said about them
    feedback        what people said, and what a model had said
    audit_log       who labelled, promoted, saw or erased what
    erasures        erasures that have begun and not ended, so that one that was broken off can go on
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
    text,
)
from sqlalchemy import inspect as inspect_database
from sqlalchemy import update as update_rows

from qwenops.errors import ConfigError
from qwenops.text import say

metadata = MetaData()

versions = Table("schema_version", metadata, Column("version", Integer, nullable=False))

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("requests_per_min", Integer, nullable=False),
    Column("tokens_per_min", Integer, nullable=False),
    Column("models", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
)

review_items = Table(
    "review_items",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("conversation_id", String(256), nullable=False, unique=True),
    Column("customer_id", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("taxonomy", String(128), nullable=False),
    Column("predicted", String(256), nullable=False),
    Column("confidence", Float, nullable=False),
    Column("margin", Float, nullable=False),
    Column("probabilities", Text, nullable=False),
    Column("turns", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("why", String(16), nullable=False),
    Column("chance", Float, nullable=False),
    Column("critical", Boolean, nullable=False),
    Column("blind", Boolean, nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("claimed_by", String(128), nullable=False),
    Column("claimed_until", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("closed_at", DateTime(timezone=True)),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("conversation_id", String(256), nullable=False),
    Column("customer_id", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("taxonomy", String(128), nullable=False),
    Column("predicted", String(256), nullable=False),
    Column("label", String(256), nullable=False),
    Column("secondary", Text, nullable=False),
    Column("axes", Text, nullable=False),
    Column("reviewer", String(128), nullable=False),
    Column("key_name", String(128), nullable=False),
    Column("seconds", Float),
    Column("note", Text, nullable=False),
    Column("blind", Boolean, nullable=False),
    Column("critical", Boolean, nullable=False),
    Column("chance", Float),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("key_name", String(128), nullable=False),
    Column("action", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("detail", Text, nullable=False),
)

erasures = Table(
    "erasures",
    metadata,
    Column("customer_id", String(256), primary_key=True),
    Column("conversations", Text, nullable=False),
    Column("began_at", DateTime(timezone=True), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    up: Callable[[Connection], None]
    down: Callable[[Connection], None]


def _create_api_keys(connection: Connection) -> None:
    connection.execute(
        text(
            "CREATE TABLE api_keys (id VARCHAR(32) PRIMARY KEY, name VARCHAR(128) NOT NULL, "
            "sha256 VARCHAR(64) NOT NULL UNIQUE, scopes TEXT NOT NULL, concurrency INTEGER NOT NULL, "
            "requests_per_min INTEGER NOT NULL, tokens_per_min INTEGER NOT NULL, models TEXT NOT NULL, "
            "created_at TIMESTAMP NOT NULL, expires_at TIMESTAMP, revoked_at TIMESTAMP)"
        )
    )


def _drop_api_keys(connection: Connection) -> None:
    connection.execute(text("DROP TABLE api_keys"))


_REVIEWING = (
    (
        "CREATE TABLE review_items (id VARCHAR(32) PRIMARY KEY, conversation_id VARCHAR(256) NOT NULL UNIQUE, "
        "customer_id VARCHAR(256) NOT NULL, model VARCHAR(256) NOT NULL, taxonomy VARCHAR(128) NOT NULL, "
        "predicted VARCHAR(256) NOT NULL, confidence FLOAT NOT NULL, margin FLOAT NOT NULL, "
        "probabilities TEXT NOT NULL, turns TEXT NOT NULL, evidence TEXT NOT NULL, "
        "why VARCHAR(16) NOT NULL, chance FLOAT NOT NULL, critical BOOLEAN NOT NULL, blind BOOLEAN NOT NULL, "
        "wanted INTEGER NOT NULL, state VARCHAR(16) NOT NULL, claimed_by VARCHAR(128) NOT NULL, "
        "claimed_until TIMESTAMP, created_at TIMESTAMP NOT NULL, closed_at TIMESTAMP)"
    ),
    "CREATE INDEX review_items_by_state ON review_items (state)",
    "CREATE INDEX review_items_by_customer ON review_items (customer_id)",
    (
        "CREATE TABLE feedback (id VARCHAR(32) PRIMARY KEY, conversation_id VARCHAR(256) NOT NULL, "
        "customer_id VARCHAR(256) NOT NULL, model VARCHAR(256) NOT NULL, taxonomy VARCHAR(128) NOT NULL, "
        "predicted VARCHAR(256) NOT NULL, label VARCHAR(256) NOT NULL, secondary TEXT NOT NULL, axes TEXT NOT NULL, "
        "reviewer VARCHAR(128) NOT NULL, key_name VARCHAR(128) NOT NULL, seconds FLOAT, note TEXT NOT NULL, "
        "blind BOOLEAN NOT NULL, critical BOOLEAN NOT NULL, chance FLOAT, created_at TIMESTAMP NOT NULL)"
    ),
    "CREATE INDEX feedback_by_conversation ON feedback (conversation_id)",
    "CREATE INDEX feedback_by_customer ON feedback (customer_id)",
    (
        "CREATE TABLE audit_log (id VARCHAR(32) PRIMARY KEY, created_at TIMESTAMP NOT NULL, "
        "actor VARCHAR(128) NOT NULL, key_name VARCHAR(128) NOT NULL, action VARCHAR(32) NOT NULL, "
        "kind VARCHAR(32) NOT NULL, subject VARCHAR(256) NOT NULL, detail TEXT NOT NULL)"
    ),
    "CREATE INDEX audit_log_by_time ON audit_log (created_at)",
    "CREATE INDEX audit_log_by_subject ON audit_log (subject)",
    (
        "CREATE TABLE erasures (customer_id VARCHAR(256) PRIMARY KEY, conversations TEXT NOT NULL, "
        "began_at TIMESTAMP NOT NULL)"
    ),
)


_UNREVIEWING = (
    "DROP TABLE erasures",
    "DROP TABLE audit_log",
    "DROP TABLE feedback",
    "DROP TABLE review_items",
)


def _create_reviewing(connection: Connection) -> None:
    for statement in _REVIEWING:
        connection.execute(text(statement))


def _drop_reviewing(connection: Connection) -> None:
    for statement in _UNREVIEWING:
        connection.execute(text(statement))


MIGRATIONS: tuple[Migration, ...] = (
    Migration(_create_api_keys, _drop_api_keys),
    Migration(_create_reviewing, _drop_reviewing),
)
"""Version n is what the first n leave behind. Steps are only ever added at the end."""


def version_of(connection: Connection) -> int:
    """Return the version of a database's schema; 0 is empty."""
    if not inspect_database(connection).has_table(versions.name):
        return 0
    return connection.execute(select(versions.c.version)).scalar_one_or_none() or 0


def migrate(connection: Connection, *, to: int = len(MIGRATIONS)) -> int:
    """Bring the schema to a version, up or down, within the caller's transaction; return the version before.

    Raises:
        ConfigError: A newer qwenops wrote this database.
    """
    before = version_of(connection)
    if before > len(MIGRATIONS):
        raise ConfigError(
            say("The database has version {found}; this program knows {known}.", found=before, known=len(MIGRATIONS)),
            hint=say("Use the newer qwenops that wrote it."),
        )
    if before == 0 and to > 0 and not inspect_database(connection).has_table(versions.name):
        connection.execute(text("CREATE TABLE schema_version (version INTEGER NOT NULL)"))
        connection.execute(insert(versions).values(version=0))
    for number in range(before, to):
        MIGRATIONS[number].up(connection)
    for number in range(before, to, -1):
        MIGRATIONS[number - 1].down(connection)
    if before != to:
        connection.execute(update_rows(versions).values(version=to))
    return before
