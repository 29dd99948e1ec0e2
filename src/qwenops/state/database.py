"""The database of state that replicas share: one SQLite file on one host.

API keys are written by the command line and read by servers; what people say about calls comes in through servers and
is taken out by the command line (`feedback`, `review`, `audit`, which work on an open database).
"""

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, create_engine, event, insert, select
from sqlalchemy import update as update_rows
from sqlalchemy.exc import DatabaseError, OperationalError

from qwenops.errors import ConfigError, OverloadedError
from qwenops.state.keys import NO_LIMITS, ApiKey, KeyLimits, Scope, digest, new_secret
from qwenops.state.schema import MIGRATIONS, api_keys, migrate, version_of
from qwenops.text import say

_BUSY_TIMEOUT_MS = 10_000
_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    """A new key together with its secret, which exists only here."""

    key: ApiKey
    secret: str


class Database:
    """An open database. Each operation is one transaction; it may be used from several threads."""

    def __init__(self, engine: Engine, *, now: Callable[[], datetime]) -> None:
        """Use `open_database`."""
        self._reader = engine
        self._writer = engine.execution_options(writes=True)
        self._now = now

    def create_key(
        self,
        name: str,
        *,
        scopes: Iterable[Scope] = (Scope.INFERENCE,),
        limits: KeyLimits = NO_LIMITS,
        expires_at: datetime | None = None,
    ) -> CreatedKey:
        """Make a key. Its secret is returned once and not kept.

        Raises:
            ConfigError: A valid key of that name exists, or the name is empty or too long.
        """
        if not name.strip() or len(name) > 128:  # noqa: PLR2004 -- the column's length
            raise ConfigError(
                say("{name!r} cannot be the name of a key.", name=name[:32]), hint=say("Use 1 to 128 characters.")
            )
        secret = new_secret()
        key = ApiKey(
            id=secrets.token_hex(6),
            name=name,
            sha256=digest(secret),
            scopes=frozenset(scopes),
            limits=limits,
            created_at=self._now(),
            expires_at=expires_at,
        )
        with self._writer.begin() as connection:
            if any(each.name == name and each.is_valid(self._now()) for each in _read(connection)):
                raise ConfigError(
                    say("There is a key called {name!r} already.", name=name),
                    hint=say("Revoke it first with `qwenops keys revoke {name}`, or use another name.", name=name),
                )
            connection.execute(insert(api_keys).values(**_row(key)))
        return CreatedKey(key=key, secret=secret)

    def list_keys(self) -> list[ApiKey]:
        """Return every key, the oldest first, those that expired or were revoked included."""
        with self._reader.connect() as connection:
            return _read(connection)

    def revoke_key(self, name_or_id: str) -> ApiKey:
        """Make a key useless; running servers notice within seconds.

        Raises:
            ConfigError: There is no valid key of that name or id.
        """
        now = self._now()
        with self._writer.begin() as connection:
            valid = [key for key in _read(connection) if key.revoked_at is None]
            for key in valid:
                if name_or_id in {key.name, key.id}:
                    connection.execute(update_rows(api_keys).where(api_keys.c.id == key.id).values(revoked_at=now))
                    return next(each for each in _read(connection) if each.id == key.id)
        raise ConfigError(
            say("There is no key called {name!r} that could be revoked.", name=name_or_id[:128]),
            hint=say("Keys: {known}.", known=", ".join(key.name for key in valid) or "-"),
        )

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return self._now()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads.

        Raises:
            OverloadedError: The file cannot be read now.
        """
        with _explained(self._reader), self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes, alone; it counts as a whole or not at all.

        Raises:
            OverloadedError: The file cannot be written now: somebody else writes for too long, or the disk is full.
        """
        with _explained(self._writer), self._writer.begin() as connection:
            yield connection

    def scrub(self) -> bool:
        """Empty the log of changes into the file, so that erased rows are in neither; say whether that was possible.

        It is not while another process is in the middle of reading; whoever erases may ask again later.
        """
        raw = self._reader.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            found = cursor.fetchone()
            cursor.close()
        finally:
            raw.close()
        return found is not None and found[0] == 0

    def version(self) -> int:
        """Return the version of the schema."""
        with self._reader.connect() as connection:
            return version_of(connection)

    def migrate(self, *, to: int = len(MIGRATIONS)) -> int:
        """Bring the schema to a version, up or down; return the version before."""
        with self._writer.begin() as connection:
            return migrate(connection, to=to)


@contextlib.contextmanager
def open_database(path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(tz=UTC)) -> Iterator[Database]:
    """Open a database, make it when it is not there, bring its schema up to date, and close it at the end.

    The file is readable by its owner only.

    Raises:
        ConfigError: It is no database, cannot be opened, or a newer qwenops wrote it.
    """
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        yield _opened(engine, path, now)
    except DatabaseError as error:
        raise _unusable(path, str(error.orig)) from error
    finally:
        engine.dispose()


def _opened(engine: Engine, path: Path, now: Callable[[], datetime]) -> Database:
    try:
        _make_private(path)
    except OSError as error:
        raise _unusable(path, str(error)) from error
    database = Database(engine, now=now)
    if database.version() != len(MIGRATIONS):
        database.migrate()
    return database


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        say("The database {path} cannot be used: {why}.", path=str(path), why=why),
        hint=say("Check that it is a database of qwenops and that this user may read and write its folder."),
    )


@contextlib.contextmanager
def _explained(engine: Engine) -> Iterator[None]:
    """Turn what may pass by itself into an error that says so; the rest goes on to whoever opened the database."""
    try:
        yield
    except OperationalError as error:
        raise OverloadedError(
            say(
                "The database {path} cannot be used now: {why}.",
                path=str(engine.url.database),
                why=str(error.orig),
            ),
            hint=say("Check that its disk has room, and try again."),
            retry_after_s=_AGAIN_S,
        ) from error


def _make_private(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _on_connect(connection: Any, _: Any) -> None:
    """Let readers read while one writes, wait for other writers, and leave transactions to us."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA secure_delete=ON")  # what is erased is overwritten
    cursor.close()


def _on_begin(connection: Connection) -> None:
    """Take the write lock at once where writing is meant: two that read first and then write would block each other."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _read(connection: Connection) -> list[ApiKey]:
    rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id))
    return [_key(row) for row in rows]


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "sha256": key.sha256,
        "scopes": json.dumps(sorted(key.scopes)),
        "concurrency": key.limits.concurrency,
        "requests_per_min": key.limits.requests_per_min,
        "tokens_per_min": key.limits.tokens_per_min,
        "models": json.dumps(list(key.limits.models)),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        sha256=row.sha256,
        scopes=frozenset(Scope(each) for each in json.loads(row.scopes)),
        limits=KeyLimits(
            concurrency=row.concurrency,
            requests_per_min=row.requests_per_min,
            tokens_per_min=row.tokens_per_min,
            models=tuple(json.loads(row.models)),
        ),
        created_at=utc(row.created_at),
        expires_at=utc(row.expires_at) if row.expires_at else None,
        revoked_at=utc(row.revoked_at) if row.revoked_at else None,
    )


def new_id(at: datetime, number: int = 0) -> str:
    """Make an id that sorts by time, and within one transaction by number."""
    return f"{int(at.timestamp() * 1e6):016x}{number:04x}{secrets.token_hex(4)}"


def utc(at: datetime) -> datetime:
    """Return a time with its zone, which SQLite forgets: everything is written in UTC."""
    return at if at.tzinfo else at.replace(tzinfo=UTC)
