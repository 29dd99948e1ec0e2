"""Names that point at artefacts, and where they pointed before: one small file, replaced as a whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text
from qwenops.errors import ModelLoadError
from qwenops.text import say

ALIASES_SCHEMA = "qwenops.aliases/1"
_MOST_BEFORE = 100
_MOST_CHANGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """Where an alias points, and where it pointed before."""

    now: str
    """The name of the artefact's folder."""
    before: tuple[str, ...] = ()
    """The earliest first; a rollback goes to the last."""
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A move of an alias."""

    alias: str
    action: str
    """`registered`, `promoted` or `rolled_back`."""
    old: str
    """The name of the artefact's folder; empty where it pointed nowhere."""
    new: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aliases:
    """All aliases of one classifier."""

    pointers: Mapping[str, Pointer]
    changes: tuple[Change, ...] = ()
    """The latest last."""

    def pointed(self, alias: str, key: str, *, at: datetime, by: str, action: str) -> "Aliases":
        """Return them with one pointing at a folder, and from where it came on top of where it can go back to."""
        old = self.pointers.get(alias)
        before = () if old is None else (*old.before, old.now)[-_MOST_BEFORE:]
        return self._moved(alias, Pointer(now=key, before=before, at=at, by=by), action)

    def back(self, alias: str, *, at: datetime, by: str) -> "Aliases | None":
        """Return them with one pointing where it pointed before; None where it pointed nowhere."""
        old = self.pointers.get(alias)
        if old is None or not old.before:
            return None
        return self._moved(alias, Pointer(now=old.before[-1], before=old.before[:-1], at=at, by=by), "rolled_back")

    def _moved(self, alias: str, pointer: Pointer, action: str) -> "Aliases":
        old = self.pointers.get(alias)
        change = Change(
            alias=alias, action=action, old=old.now if old else "", new=pointer.now, at=pointer.at, by=pointer.by
        )
        changes = (*self.changes, change)[-_MOST_CHANGES:]
        return Aliases(pointers={**self.pointers, alias: pointer}, changes=changes)


def read_aliases(path: Path) -> Aliases:
    """Read them; without a file there are none.

    Raises:
        ModelLoadError: The file is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Aliases(pointers={})
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    try:
        return _aliases_of(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error


def write_aliases(path: Path, aliases: Aliases) -> None:
    """Write them in one step."""
    data = {
        "schema": ALIASES_SCHEMA,
        "aliases": {
            name: {"now": each.now, "before": list(each.before), "at": each.at.isoformat(), "by": each.by}
            for name, each in aliases.pointers.items()
        },
        "changes": [change_data(each) for each in aliases.changes],
    }
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def change_data(change: Change) -> dict[str, Any]:
    """Return a change for JSON."""
    return {
        "alias": change.alias,
        "action": change.action,
        "old": change.old,
        "new": change.new,
        "at": change.at.isoformat(),
        "by": change.by,
    }


def _aliases_of(data: Mapping[str, Any]) -> Aliases:
    if data["schema"] != ALIASES_SCHEMA:
        raise ValueError(data["schema"])
    pointers = {
        str(name): Pointer(
            now=str(each["now"]),
            before=tuple(each["before"]),
            at=datetime.fromisoformat(each["at"]),
            by=str(each["by"]),
        )
        for name, each in data["aliases"].items()
    }
    changes = [Change(**{**each, "at": datetime.fromisoformat(each["at"])}) for each in data["changes"]]
    return Aliases(pointers=pointers, changes=tuple(changes))


def _damaged(path: Path, reason: str) -> ModelLoadError:
    return ModelLoadError(
        say("{path} is damaged: {reason}.", path=str(path), reason=reason),
        hint=say("Remove it and promote a version again; the artefacts are not touched by that."),
    )
