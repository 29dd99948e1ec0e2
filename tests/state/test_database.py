import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Table, delete

from qwenops.errors import ConfigError, OverloadedError
from qwenops.state.audit import Action, Event, Kind, record
from qwenops.state.database import Database, open_database
from qwenops.state.keys import KeyLimits, Scope, digest
from qwenops.state.schema import MIGRATIONS, audit_log, metadata


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "state" / "keys.db") as opened:
        yield opened


def test_a_key_comes_back_as_it_was_made_and_its_secret_is_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    limits = KeyLimits(concurrency=1, requests_per_min=2, tokens_per_min=3, models=("a", "b"))
    expires_at = datetime.now(tz=UTC) + timedelta(days=1)
    with open_database(path) as opened:
        created = opened.create_key("ops", scopes={Scope.ADMIN}, limits=limits, expires_at=expires_at)
    with open_database(path) as opened:
        assert opened.list_keys() == [created.key]
    assert created.key.sha256 == digest(created.secret)
    everything = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert created.key.sha256.encode() in everything
    assert created.secret.removeprefix("qo-").encode() not in everything


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    with open_database(path) as opened:
        opened.create_key("ops")
        for each in tmp_path.iterdir():
            assert stat.S_IMODE(each.stat().st_mode) == 0o600, each


def test_a_revoked_key_stays_on_the_list_and_frees_its_name(database: Database) -> None:
    first = database.create_key("ops")
    with pytest.raises(ConfigError, match="already"):
        database.create_key("ops")
    revoked = database.revoke_key("ops")
    assert revoked.id == first.key.id
    assert revoked.revoked_at is not None
    second = database.create_key("ops")
    assert [key.id for key in database.list_keys()] == [first.key.id, second.key.id]
    assert database.revoke_key(second.key.id).id == second.key.id
    with pytest.raises(ConfigError, match="no key called 'ops'"):
        database.revoke_key("ops")


@pytest.mark.parametrize("name", ["", "   ", "x" * 129])
def test_a_name_that_cannot_be_is_refused(database: Database, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        database.create_key(name)


def test_the_schema_goes_up_and_down_and_up_again_for_every_version(database: Database) -> None:
    for version in (0, *range(1, len(MIGRATIONS) + 1), *range(len(MIGRATIONS) - 1, -1, -1), len(MIGRATIONS)):
        database.migrate(to=version)
        assert database.version() == version
    database.create_key("works")


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: str(table.name))
def test_the_migrated_tables_have_the_columns_that_the_code_declares(tmp_path: Path, table: Table) -> None:
    path = tmp_path / "keys.db"
    with open_database(path):
        pass
    connection = sqlite3.connect(path)
    columns = {row[1]: bool(row[3] or row[5]) for row in connection.execute(f"PRAGMA table_info({table.name})")}
    mode = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert columns == {column.name: not column.nullable for column in table.columns}
    assert mode == ("wal",)


def test_a_database_of_the_first_version_gets_the_tables_of_the_second_and_keeps_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    with open_database(path) as opened:
        opened.create_key("old")
        opened.migrate(to=1)
    with open_database(path) as opened:
        assert [key.name for key in opened.list_keys()] == ["old"]
        assert opened.version() == 2


def test_a_database_that_others_write_for_too_long_is_busy_and_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calls.db"
    monkeypatch.setattr("qwenops.state.database._BUSY_TIMEOUT_MS", 50)
    with open_database(path) as opened:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OverloadedError, match="locked") as caught, opened.writing():
            pass
        other.execute("ROLLBACK")
        other.close()
        assert caught.value.retry_after_s
        with opened.writing():
            pass


def test_what_was_deleted_is_neither_in_the_file_nor_beside_it_after_scrubbing(tmp_path: Path) -> None:
    path = tmp_path / "calls.db"
    with open_database(path) as opened:
        record(opened, Event(action=Action.SAW, kind=Kind.CALL, subject="findable-words", actor="wang"))
        assert any(b"findable-words" in each.read_bytes() for each in tmp_path.iterdir())
        with opened.writing() as connection:
            connection.execute(delete(audit_log))
        assert opened.scrub()
        assert not any(b"findable-words" in each.read_bytes() for each in tmp_path.iterdir())


def test_a_database_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    with open_database(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="version 99"), open_database(path):
        pass


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    path.write_text("these are notes, not a database, and they are long enough to be read as a header of one\n" * 20)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="cannot be used"), open_database(path):
        pass
    assert path.read_bytes() == before


def test_writers_at_the_same_time_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    failures: list[BaseException] = []

    def create(number: int) -> None:
        try:
            with open_database(path) as opened:
                for each in range(3):
                    opened.create_key(f"{number}-{each}")
        except BaseException as error:  # noqa: BLE001 -- the main thread reports it
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    with open_database(path) as opened:
        assert len(opened.list_keys()) == 18
