"""Who may call what: every route carries a guard, and every guard names one class.

    @router.post("/v1/completions")
    async def complete(principal: Annotated[Principal, Depends(guard(AuthClass.INFERENCE))]) -> ...

A server that has never had a key and listens on loopback is open to this machine, but not to web pages that a browser
on it shows: then the Host must be local (against DNS rebinding) and the Origin one of ours (against foreign pages).
One that listens on a public address without keys, as it may when told so, answers anyone and is administered by nobody.
"""

import asyncio
import contextlib
import hmac
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlsplit

from fastapi import Request

from qwenops.errors import AuthenticationError, ConfigError, ForbiddenError
from qwenops.serve.options import KeyOptions, is_loopback
from qwenops.serve.reload import Fingerprint, fingerprint
from qwenops.state.keys import NO_LIMITS, ApiKey, KeyLimits, Scope, digest, parse_keys, read_keys_file
from qwenops.text import say

KEYS_FILE_VARIABLE = "QWENOPS_API_KEYS_FILE"
KEYS_VARIABLE = "QWENOPS_API_KEYS"
_LOOK_EVERY_S = 0.25
"""Unknown keys make the server look at the files of keys no more often than this."""


class AuthClass(StrEnum):
    """What a route asks of its caller."""

    PUBLIC = "public"
    """Nothing: the landing page, the API's description."""
    PROBE = "probe"
    """Nothing: kubelets and balancers carry no keys; the answers hold no secrets."""
    METRICS = "metrics"
    """A key with the metrics scope where `keys.metrics` says so."""
    INFERENCE = "inference"
    REVIEW = "review"
    """A key with the review scope: the answers hold what customers said."""
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls."""

    key_id: str
    name: str
    scopes: frozenset[Scope]
    limits: KeyLimits = NO_LIMITS

    def check_model(self, model: str) -> None:
        """Refuse a model that this key may not use.

        Raises:
            ForbiddenError: It is not on the key's list.
        """
        if self.limits.models and model not in self.limits.models:
            raise ForbiddenError(
                say("This key may not use the model {model!r}.", model=model[:128]),
                hint=say("It may use: {known}.", known=", ".join(self.limits.models)),
            )


ANYBODY = Principal(key_id="", name="", scopes=frozenset(Scope))
"""The caller of a server without keys."""

KeySource = Callable[[], Iterable[ApiKey]]


class KeyRing:
    """The keys that open this server, in memory; `refresh` reads their sources again.

    Args:
        sources: Give the keys.
        options: What needs a key.
        cors_origins: Web pages that may call a server without keys.
        host: Where it listens.
        now: The time, for keys that expire.
        files: Where the sources read; when one has changed, an unknown key is a reason to read them again.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        sources: Sequence[KeySource] = (),
        *,
        options: KeyOptions | None = None,
        cors_origins: Sequence[str] = (),
        host: str = "127.0.0.1",
        now: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
        files: Sequence[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know no key until `refresh`."""
        self.options = options if options is not None else KeyOptions()
        self.cors_origins = tuple(cors_origins)
        self._host = host
        self._sources = tuple(sources)
        self._now = now
        self._keys: dict[str, ApiKey] = {}
        self._needed = False
        self._files = tuple(files)
        self._clock = clock
        self._reading = threading.Lock()
        self._read_state: list[Fingerprint | None] = []
        self._num_reads = 0
        self._looking = asyncio.Lock()
        self._looked_s = -_LOOK_EVERY_S

    @property
    def num_valid(self) -> int:
        """Keys that open something now."""
        now = self._now()
        return sum(key.is_valid(now) for key in self._keys.values())

    @property
    def num_known(self) -> int:
        """Keys that exist, those that expired or were revoked counted."""
        return len(self._keys)

    @property
    def needed(self) -> bool:
        """Whether callers need a key: yes, for ever, once there was one, even if all were revoked since."""
        return self._needed

    def refresh(self) -> None:
        """Read all sources again; may wait for the disk.

        Raises:
            ConfigError: A source is wrong; the keys stay as they were.
        """
        with self._reading:  # what is read last is what is known
            state = self._state()
            keys = {key.sha256: key for source in self._sources for key in source()}
            self._keys = keys
            self._needed = self._needed or bool(keys)
            self._read_state = state
            self._num_reads += 1

    async def look_again(self, headers: Mapping[str, str]) -> bool:
        """Read the sources again if one has changed and the request carries a key; return whether they were read.

        A key that was made a moment ago works so at once. However many unknown keys come, the files are looked at a
        few times a second: whoever comes in between waits for the next look.
        """
        if not self._files or not _secret_of(headers):
            return False
        num_reads, asked_s = self._num_reads, self._clock()
        async with self._looking:
            if self._looked_s < asked_s:
                await asyncio.sleep(self._looked_s + _LOOK_EVERY_S - self._clock())
                self._looked_s = self._clock()
                await asyncio.to_thread(self._refresh_if_changed)
        return self._num_reads != num_reads

    def _refresh_if_changed(self) -> None:
        if self._state() != self._read_state:
            with contextlib.suppress(ConfigError):  # whoever reads them regularly logs it
                self.refresh()

    def _state(self) -> list[Fingerprint | None]:
        return [fingerprint(each) for each in self._files]

    def recognise(self, secret: str) -> ApiKey | None:
        """Return the valid key of a secret.

        The look-up goes by the secret's hash, so what its timing could tell is about a hash that nobody can steer;
        the hashes are then compared in constant time.
        """
        sha256 = digest(secret)
        key = self._keys.get(sha256)
        if key is None or not hmac.compare_digest(key.sha256, sha256) or not key.is_valid(self._now()):
            return None
        return key

    def authorise(self, auth_class: AuthClass, headers: Mapping[str, str]) -> Principal:
        """Say who calls, or refuse.

        Raises:
            AuthenticationError: No key, or a wrong one.
            ForbiddenError: The key lacks the scope, or a foreign web page is behind the request.
        """
        match auth_class:
            case AuthClass.PUBLIC | AuthClass.PROBE:
                return ANYBODY
            case AuthClass.METRICS:
                return self._with_scope(Scope.METRICS, headers) if self.options.metrics == "key" else ANYBODY
            case AuthClass.INFERENCE:
                return self._with_scope(Scope.INFERENCE, headers)
            case AuthClass.REVIEW:
                return self._with_scope(Scope.REVIEW, headers)
            case AuthClass.ADMIN:
                return self._with_scope(Scope.ADMIN, headers)
            case _:
                assert_never(auth_class)

    def _with_scope(self, scope: Scope, headers: Mapping[str, str]) -> Principal:
        if not self._needed:
            self._refuse_foreign_pages(headers)
            if scope is Scope.ADMIN:
                self._refuse_public_administration()
            return ANYBODY
        secret = _secret_of(headers)
        if not secret:
            raise AuthenticationError(
                say("This server needs an API key, and the request carries none."),
                hint=say("Send `Authorization: Bearer qo-...`."),
            )
        key = self.recognise(secret)
        if key is None:
            raise AuthenticationError(
                say("The API key is not known here, expired, or was revoked."),
                hint=say("Check it with `qwenops keys list`, or create another with `qwenops keys create NAME`."),
            )
        if scope not in key.scopes and Scope.ADMIN not in key.scopes:
            raise ForbiddenError(
                say("The key {name!r} has no {scope} scope.", name=key.name, scope=scope.value),
                hint=say("Create one that has with `qwenops keys create NAME --scope {scope}`.", scope=scope.value),
            )
        return Principal(key_id=key.id, name=key.name, scopes=key.scopes, limits=key.limits)

    def _refuse_public_administration(self) -> None:
        if not is_loopback(self._host):
            raise ForbiddenError(
                say("Without an API key, a server on {host} is not administered over HTTP.", host=self._host),
                hint=say("Create a key with `qwenops keys create NAME --scope admin`, or send the process a signal."),
            )

    def _refuse_foreign_pages(self, headers: Mapping[str, str]) -> None:
        host = _host_of(headers.get("host", ""))
        if is_loopback(self._host) and host and not is_loopback(host):
            raise ForbiddenError(
                say("This server is for this machine, and the request names the host {host!r}.", host=host[:128]),
                hint=say("Call it as 127.0.0.1 or localhost, or create an API key."),
            )
        origin = headers.get("origin", "")
        if not origin or origin in self.cors_origins:
            return
        if _host_of(urlsplit(origin).netloc) != host:
            raise ForbiddenError(
                say("The web page {origin!r} may not call this server.", origin=origin[:128]),
                hint=say("Add it to cors_origins if it is yours."),
            )


def _secret_of(headers: Mapping[str, str]) -> str:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret:
        return secret.strip()
    return headers.get("x-api-key", "").strip()


def _host_of(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return netloc


def open_keyring(
    options: KeyOptions,
    *,
    host: str = "127.0.0.1",
    cors_origins: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> KeyRing:
    """Read the keys that `options` and the environment name.

    Raises:
        ConfigError: A source cannot be read or is wrong.
    """
    sources: list[KeySource] = []
    files: list[Path] = []
    file = options.file or (environ[KEYS_FILE_VARIABLE] if environ.get(KEYS_FILE_VARIABLE) else None)
    if file is not None:
        sources.append(lambda: read_keys_file(Path(file)))
        files.append(Path(file))
    if text := environ.get(KEYS_VARIABLE):
        sources.append(lambda: parse_keys(text, source=KEYS_VARIABLE))
    if (database := options.database) is not None:
        sources.append(lambda: _from_database(database))
        files += [database, database.with_name(f"{database.name}-wal")]  # what is written stands in the second at first
    ring = KeyRing(sources, options=options, cors_origins=cors_origins, host=host, files=files)
    ring.refresh()
    return ring


def _from_database(database: Path) -> list[ApiKey]:
    from qwenops.state.database import open_database

    if not database.exists():
        return []
    with open_database(database) as opened:
        return opened.list_keys()


class Guard:
    """A FastAPI dependency that says who calls; the key ring is `app.state.keys`."""

    def __init__(self, auth_class: AuthClass) -> None:
        """Guard routes of one class."""
        self.auth_class = auth_class

    async def __call__(self, request: Request) -> Principal:
        """Let the caller through, or raise."""
        ring: KeyRing = request.app.state.keys
        try:
            principal = ring.authorise(self.auth_class, request.headers)
        except AuthenticationError:
            if not await ring.look_again(request.headers):
                raise
            principal = ring.authorise(self.auth_class, request.headers)
        request.state.principal = principal
        return principal


@cache
def guard(auth_class: AuthClass) -> Guard:
    """Return the guard of a class, for `Depends`."""
    return Guard(auth_class)


def auth_class_of(route: Any) -> AuthClass | None:
    """Return the class that a route's guard names; None when the route has no guard or two that differ."""
    found = set(_classes_in(getattr(route, "dependant", None)))
    return found.pop() if len(found) == 1 else None


def _classes_in(dependant: Any) -> Iterable[AuthClass]:
    if dependant is None:
        return
    if isinstance(dependant.call, Guard):
        yield dependant.call.auth_class
    for each in dependant.dependencies:
        yield from _classes_in(each)
