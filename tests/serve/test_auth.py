import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qwenops.errors import AuthenticationError, ConfigError, ForbiddenError
from qwenops.serve.auth import ANYBODY, AuthClass, KeyRing, Principal, open_keyring
from qwenops.serve.options import KeyOptions, ServeOptions, is_loopback, refuse_open_door
from qwenops.state.database import open_database
from qwenops.state.keys import ApiKey, KeyLimits, Scope, digest, new_secret

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def key(name: str, secret: str, **fields: Any) -> ApiKey:
    return ApiKey(id=name, name=name, sha256=digest(secret), created_at=NOW, **fields)


def ring_of(*keys: ApiKey, now: datetime = NOW, **more: Any) -> KeyRing:
    ring = KeyRing([lambda: keys], now=lambda: now, **more)
    ring.refresh()
    return ring


def bearer(secret: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_a_key_opens_what_its_scopes_say() -> None:
    secrets = {scope: new_secret() for scope in Scope}
    ring = ring_of(
        *(key(scope.value, secret, scopes=frozenset({scope})) for scope, secret in secrets.items()),
        options=KeyOptions(metrics="key"),
    )
    opened = {scope: set[AuthClass]() for scope in Scope}
    for scope, secret in secrets.items():
        for auth_class in (AuthClass.INFERENCE, AuthClass.REVIEW, AuthClass.ADMIN, AuthClass.METRICS):
            try:
                assert ring.authorise(auth_class, bearer(secret)).name == scope.value
                opened[scope].add(auth_class)
            except ForbiddenError:
                pass
    assert opened == {
        Scope.INFERENCE: {AuthClass.INFERENCE},
        Scope.REVIEW: {AuthClass.REVIEW},
        Scope.METRICS: {AuthClass.METRICS},
        Scope.ADMIN: {AuthClass.INFERENCE, AuthClass.REVIEW, AuthClass.ADMIN, AuthClass.METRICS},
    }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer qo-wrong"},
        {"authorization": "Basic cW86"},
        {"x-api-key": "qo-wrong"},
        {"authorization": "Bearer \u6d4b\u8bd5"},
    ],
)
def test_without_a_known_key_nothing_but_probes_and_public_routes_opens(headers: Mapping[str, str]) -> None:
    ring = ring_of(key("one", new_secret()))
    for auth_class in (AuthClass.INFERENCE, AuthClass.ADMIN):
        with pytest.raises(AuthenticationError):
            ring.authorise(auth_class, headers)
    assert ring.authorise(AuthClass.PROBE, headers) is ANYBODY
    assert ring.authorise(AuthClass.PUBLIC, headers) is ANYBODY
    assert ring.authorise(AuthClass.METRICS, headers) is ANYBODY


def test_a_key_also_comes_in_x_api_key() -> None:
    secret = new_secret()
    assert ring_of(key("one", secret)).authorise(AuthClass.INFERENCE, {"x-api-key": secret}).name == "one"


def test_expired_and_revoked_keys_open_nothing_and_the_server_stays_closed() -> None:
    old, gone = new_secret(), new_secret()
    ring = ring_of(key("old", old, expires_at=NOW - timedelta(1)), key("gone", gone, revoked_at=NOW))
    assert ring.num_valid == 0
    for headers in (bearer(old), bearer(gone), {}):
        with pytest.raises(AuthenticationError):
            ring.authorise(AuthClass.INFERENCE, headers)


def test_a_server_that_had_a_key_stays_closed_when_its_source_is_emptied() -> None:
    keys = [key("one", new_secret())]
    ring = KeyRing([lambda: keys])
    ring.refresh()
    keys.clear()
    ring.refresh()
    with pytest.raises(AuthenticationError):
        ring.authorise(AuthClass.ADMIN, {})


def test_a_source_that_breaks_leaves_the_keys_as_they_were() -> None:
    secret = new_secret()
    broken = False

    def source() -> Iterable[ApiKey]:
        if broken:
            raise ConfigError("broken")
        return [key("one", secret)]

    ring = KeyRing([source])
    ring.refresh()
    broken = True
    with pytest.raises(ConfigError):
        ring.refresh()
    assert ring.recognise(secret) is not None


def test_an_error_never_holds_the_secret() -> None:
    secret = new_secret()
    ring = ring_of(key("one", new_secret()), key("two", secret))
    for auth_class, presented in ((AuthClass.ADMIN, secret), (AuthClass.INFERENCE, new_secret())):
        with pytest.raises((AuthenticationError, ForbiddenError)) as caught:
            ring.authorise(auth_class, bearer(presented))
        assert presented not in caught.value.message + caught.value.hint + repr(caught.value)


def test_a_model_outside_the_keys_list_is_forbidden() -> None:
    principal = Principal(key_id="1", name="n", scopes=frozenset(), limits=KeyLimits(models=("qwen3:0.6b",)))
    principal.check_model("qwen3:0.6b")
    with pytest.raises(ForbiddenError, match=r"'qwen3:1\.7b'"):
        principal.check_model("qwen3:1.7b")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "127.0.0.1:8000"}, True),
        ({"host": "localhost:8000"}, True),
        ({"host": "[::1]:8000"}, True),
        ({"host": "evil.example:8000"}, False),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, True),
        ({"host": "127.0.0.1:8000", "origin": "https://ours.example"}, True),
        ({"host": "127.0.0.1:8000", "origin": "https://evil.example"}, False),
        ({"host": "127.0.0.1:8000", "origin": "null"}, False),
        ({"host": "["}, False),
    ],
)
def test_an_open_server_serves_this_machine_but_no_foreign_web_page(headers: dict[str, str], allowed: bool) -> None:  # noqa: FBT001 -- the column of a table
    ring = KeyRing(cors_origins=["https://ours.example"])
    if allowed:
        assert ring.authorise(AuthClass.ADMIN, headers) is ANYBODY
    else:
        with pytest.raises(ForbiddenError):
            ring.authorise(AuthClass.ADMIN, headers)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2"])
def test_a_public_server_without_keys_answers_anyone_and_is_administered_by_nobody(host: str) -> None:
    ring = KeyRing(options=KeyOptions(allow_public_without_keys=True), host=host)
    headers = {"host": "service.example:8000"}
    assert ring.authorise(AuthClass.INFERENCE, headers) is ANYBODY
    with pytest.raises(ForbiddenError, match="not administered"):
        ring.authorise(AuthClass.ADMIN, headers)


def test_keys_come_from_the_database_a_file_and_the_environment(tmp_path: Path) -> None:
    in_file, in_mounted, in_variable = new_secret(), new_secret(), new_secret()
    (tmp_path / "file").write_text(f"of-file {in_file}\n")
    (tmp_path / "mounted").write_text(f"of-secret {in_mounted}\n")
    database = tmp_path / "keys.db"
    with open_database(database) as opened:
        created = opened.create_key("of-database")
    ring = open_keyring(
        KeyOptions(file=tmp_path / "file", database=database),
        environ={"QWENOPS_API_KEYS": f"of-variable {in_variable}"},
    )
    names = {found.name for secret in (in_file, in_variable, created.secret) if (found := ring.recognise(secret))}
    assert names == {"of-file", "of-variable", "of-database"}
    ring = open_keyring(KeyOptions(), environ={"QWENOPS_API_KEYS_FILE": str(tmp_path / "mounted")})
    assert ring.recognise(in_mounted) is not None


def test_a_key_revoked_in_the_database_is_gone_after_the_next_look(tmp_path: Path) -> None:
    database = tmp_path / "keys.db"
    with open_database(database) as opened:
        created = opened.create_key("ops")
        ring = open_keyring(KeyOptions(database=database), environ={})
        assert ring.recognise(created.secret) is not None
        opened.revoke_key("ops")
    ring.refresh()
    assert ring.recognise(created.secret) is None


async def test_a_key_made_a_moment_ago_is_found_when_it_is_first_used(tmp_path: Path) -> None:
    database, file = tmp_path / "keys.db", tmp_path / "keys"
    file.write_text(f"old {new_secret()}\n")
    ring = open_keyring(KeyOptions(database=database, file=file), environ={})
    with open_database(database) as opened:
        created = opened.create_key("ops")
        assert await ring.look_again(bearer(created.secret))  # before the database is closed, which tidies it up
    assert ring.authorise(AuthClass.INFERENCE, bearer(created.secret)).name == "ops"
    in_file = new_secret()
    file.write_text(f"other {in_file}\n")
    assert await ring.look_again(bearer(in_file))
    assert ring.authorise(AuthClass.INFERENCE, bearer(in_file)).name == "other"


async def test_unknown_keys_make_the_server_look_a_few_times_a_second_and_read_what_changed(tmp_path: Path) -> None:
    file, reads = tmp_path / "keys", list[float]()

    def source() -> list[ApiKey]:
        reads.append(time.monotonic())
        return []

    ring = KeyRing([source], files=[file])
    ring.refresh()
    began_s = time.monotonic()
    assert not await ring.look_again(bearer(new_secret()))
    assert not await ring.look_again({})
    assert len(reads) == 1  # nothing has changed
    for turn in range(3):
        file.write_text("x" * (turn + 1))
        found = await asyncio.gather(*(ring.look_again(bearer(new_secret())) for _ in range(50)))
        assert all(found)
        assert len(reads) == turn + 2
    assert reads[3] - began_s >= 0.7


async def test_a_source_that_breaks_while_a_key_is_looked_for_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    secret, file = new_secret(), tmp_path / "keys"
    file.write_text(secret)
    ring = open_keyring(KeyOptions(file=file), environ={})
    file.write_text("too short")
    assert not await ring.look_again(bearer(new_secret()))
    assert ring.recognise(secret) is not None


def test_a_public_address_without_keys_is_refused_unless_it_is_meant() -> None:
    public = ServeOptions(host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 without an API key") as caught:
        refuse_open_door(public, num_keys=0)
    assert "qwenops keys create" in caught.value.hint
    refuse_open_door(public, num_keys=1)
    refuse_open_door(ServeOptions(), num_keys=0)
    refuse_open_door(ServeOptions(host="0.0.0.0", keys=KeyOptions(allow_public_without_keys=True)), num_keys=0)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_public(host: str, local: bool) -> None:  # noqa: FBT001 -- the column of a table
    assert is_loopback(host) is local
