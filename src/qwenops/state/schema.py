"""The tables that replicas share, and how they came to be: every version knows the way up and the way down.

SQLite on one host; the statements keep to what PostgreSQL understands as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Column, Connection, DateTime, Integer, MetaData, String, Table, Text, insert, select, text
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


MIGRATIONS: tuple[Migration, ...] = (Migration(_create_api_keys, _drop_api_keys),)
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
