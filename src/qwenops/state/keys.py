"""API keys: what a key may do, how it is made, and how it is recognised without being kept.

A secret is 256 random bits, so its SHA-256 can be stored as it is: a slow password hash protects secrets that can be
guessed, and there is nothing to guess here, while every request would pay for it. Keys come from the database that
`qwenops keys` writes and from a file or variable that a container gets; both end up as `ApiKey`.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from qwenops.errors import ConfigError
from qwenops.text import say

PREFIX = "qo-"
_SHORTEST_SECRET = 24
_HOW_TO_WRITE = say("Write one `NAME KEY` a line, or a JSON list of objects with name, key and scopes.")


class Scope(StrEnum):
    """What a key opens."""

    INFERENCE = "inference"
    REVIEW = "review"
    """Seeing calls that wait for a person, and saying what they are about."""
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What one key may take; 0 is no limit of its own, no models are all models."""

    concurrency: int = 0
    requests_per_min: int = 0
    tokens_per_min: int = 0
    models: tuple[str, ...] = ()


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept: everything but its secret."""

    id: str
    name: str
    sha256: str
    scopes: frozenset[Scope] = frozenset({Scope.INFERENCE})
    limits: KeyLimits = NO_LIMITS
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it still opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def new_secret() -> str:
    """Make a secret; it is shown once and never kept."""
    return PREFIX + secrets.token_hex(32)


def digest(secret: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read_keys_file(path: Path) -> list[ApiKey]:
    """Read keys that a container gets as a mounted secret.

    Lines hold `SECRET` or `NAME SECRET`, `#` starts a comment. A file that begins with `[` is JSON: a list of objects
    with `name`, `key` or `sha256`, and optionally `scopes`, `concurrency`, `requests_per_min`, `tokens_per_min`,
    `models`, `expires_at`.

    Raises:
        ConfigError: It cannot be read, or an entry is wrong; the message never contains a secret.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            say("The file of API keys {path} cannot be read: {why}.", path=str(path), why=type(error).__name__),
            hint=say("Check that it exists and that this user may read it."),
        ) from None
    return parse_keys(text, source=str(path))


def parse_keys(text: str, *, source: str) -> list[ApiKey]:
    """Parse what `read_keys_file` reads; `source` is named in errors. Commas separate keys on one line."""
    if text.lstrip().startswith("["):
        return _parse_json(text, source)
    keys = []
    # Only a line feed ends a comment: what comes after any other separator may be a key that was commented out.
    for number, line in enumerate(text.split("\n"), 1):
        parts = [words for part in line.partition("#")[0].split(",") if (words := part.split())]
        for place, words in enumerate(parts, 1):
            match words:
                case [secret]:
                    unnamed = f"key-{number}" if len(parts) == 1 else f"key-{number}-{place}"
                    entry = {"name": unnamed, "key": secret}
                case [name, secret]:
                    entry = {"name": name, "key": secret}
                case _:
                    raise _wrong_line(source, number, say("it has more than a name and a key"))
            try:
                keys.append(_from_entry(entry))
            except ValueError:
                why = say("its key is shorter than {n} characters", n=_SHORTEST_SECRET)
                raise _wrong_line(source, number, why) from None
    return keys


def _parse_json(text: str, source: str) -> list[ApiKey]:
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise _wrong_line(source, error.lineno, say("it is not valid JSON")) from None
    return _from_entries(entries, source)


def _from_entries(entries: Iterable[Any], source: str) -> list[ApiKey]:
    keys = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            raise _wrong_entry(source, number, say("it is not an object"))
        try:
            keys.append(_from_entry(entry))
        except (ValueError, TypeError, KeyError):
            raise _wrong_entry(
                source,
                number,
                say("its fields are wrong, or its key is shorter than {n} characters", n=_SHORTEST_SECRET),
            ) from None
    return keys


_FIELDS = frozenset(
    {"name", "key", "sha256", "scopes", "concurrency", "requests_per_min", "tokens_per_min", "models", "expires_at"}
)


def _from_entry(entry: Mapping[str, Any]) -> ApiKey:
    if unknown := set(entry) - _FIELDS:
        raise ValueError(sorted(unknown))
    secret = entry.get("key")
    if secret is not None and (not isinstance(secret, str) or len(secret) < _SHORTEST_SECRET):
        raise ValueError
    sha256 = digest(secret) if secret is not None else str(entry["sha256"]).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError
    expires = entry.get("expires_at")
    expires_at = datetime.fromisoformat(expires) if expires else None
    return ApiKey(
        id=sha256[:12],
        name=str(entry.get("name") or sha256[:8]),
        sha256=sha256,
        scopes=frozenset(Scope(each) for each in entry.get("scopes", [Scope.INFERENCE])),
        limits=KeyLimits(
            concurrency=_limit(entry, "concurrency"),
            requests_per_min=_limit(entry, "requests_per_min"),
            tokens_per_min=_limit(entry, "tokens_per_min"),
            models=_models(entry),
        ),
        created_at=datetime.fromtimestamp(0, tz=UTC),
        expires_at=expires_at.replace(tzinfo=UTC) if expires_at and not expires_at.tzinfo else expires_at,
    )


def _limit(entry: Mapping[str, Any], name: str) -> int:
    """Return a limit; anything that would come out as no limit by accident is refused."""
    value = entry.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(name)
    return value


def _models(entry: Mapping[str, Any]) -> tuple[str, ...]:
    models = entry.get("models", [])
    if not isinstance(models, list) or not all(isinstance(each, str) for each in models):
        raise TypeError(models)
    return tuple(models)


def _wrong_entry(source: str, number: int, why: str) -> ConfigError:
    return ConfigError(
        say("Entry {number} of the API keys in {source} is wrong: {why}.", number=number, source=source, why=why),
        hint=_HOW_TO_WRITE,
    )


def _wrong_line(source: str, number: int, why: str) -> ConfigError:
    return ConfigError(
        say("Line {number} of the API keys in {source} is wrong: {why}.", number=number, source=source, why=why),
        hint=_HOW_TO_WRITE,
    )
