"""`qwenops calls erase --customer ID`: a customer's calls are nowhere any more; what used them is known.

    ids of the calls (files, database) ──> written down ──> files rewritten ──> rows deleted ──> forgotten, logged

What is done is written down first, so an erasure that was broken off goes on where it was when it is called again.
Models cannot forget. Those that were trained on a file that changed are named: their manifests know it by its hash, or
by the hash that it had before earlier erasures, which the log knows.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenops.calls.without import Gone, Rewritten, conversations_in, mentions, rewrite_without
from qwenops.errors import ConfigError
from qwenops.models.folders import DISK_FULL, disk_full
from qwenops.state.audit import Action, read_events
from qwenops.state.database import Database
from qwenops.state.erasure import ErasedRows, begin_erasure, end_erasure, erase_rows
from qwenops.text import Report, say

_MOST_EVENTS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was erased, and what it had been used for."""

    num_conversations: int
    files: tuple[Rewritten, ...]
    """Data sets that have lost calls."""
    unreadable: tuple[Path, ...]
    """Files that still speak of the customer or a call and are of a kind that is not rewritten, or may not be."""
    rows: ErasedRows
    models: tuple[str, ...]
    """Models that were trained on one of the data sets while the calls were in it."""
    is_scrubbed: bool
    """Whether the database's file holds no trace either; not while another process is in the middle of reading."""


def erase(
    database: Database,
    customer_id: str,
    folders: Sequence[Path],
    *,
    models: Mapping[str, Collection[str]],
    actor: str,
    report: Report,
) -> Erasure:
    """Take everything about a customer out of the database and out of all files below some folders.

    Args:
        database: Review queue, feedback and log.
        customer_id: As it stands in the files.
        folders: Where data sets lie; files are gone through with all that is below.
        models: The hashes of data that each model was trained on.
        actor: Who erases, for the log.
        report: Is told how far it is.

    Raises:
        ConfigError: The id is empty, or a folder is not there.
        InsufficientDiskError: There is no room to rewrite a file; what was done stays done, and a second call goes on.
    """
    customer_id = customer_id.strip()
    if not customer_id:
        raise ConfigError(say("There is no customer without an id."), hint=say("Give the id that stands in the files."))
    files = sorted({path for folder in folders for path in _files(folder)})
    known: set[str] = set()
    for number, path in enumerate(files):
        report(0.4 * number / len(files), say("Looking into {name}", name=path.name))
        known |= _read(path, customer_id)
    gone = Gone(customer_id=customer_id, conversations=begin_erasure(database, customer_id, known))
    changed, unreadable = _rewrite(files, gone, report)
    report(0.95, say("Removing rows of the database"))
    rows = erase_rows(database, customer_id, gone.conversations)
    hashes = {each.old_sha256 for each in changed} | _earlier(database, {each.old_sha256 for each in changed})
    affected = tuple(sorted(name for name, used in models.items() if hashes.intersection(used)))
    detail = {
        "conversations": len(gone.conversations),
        "files": [
            {"path": str(each.path), "entries": each.num_entries, "old": each.old_sha256, "new": each.new_sha256}
            for each in changed
        ],
        "unreadable": [str(path) for path in unreadable],
        "review": rows.review,
        "feedback": rows.feedback,
        "models": list(affected),
    }
    is_scrubbed = end_erasure(database, customer_id, actor=actor, detail=detail)
    return Erasure(
        num_conversations=len(gone.conversations),
        files=changed,
        unreadable=unreadable,
        rows=rows,
        models=affected,
        is_scrubbed=is_scrubbed,
    )


def _rewrite(files: Sequence[Path], gone: Gone, report: Report) -> tuple[tuple[Rewritten, ...], tuple[Path, ...]]:
    """Rewrite the files that know one of the calls; return them, and those that a person has to look at."""
    changed: list[Rewritten] = []
    unreadable: list[Path] = []
    for number, path in enumerate(files):
        report(0.4 + 0.5 * number / len(files), say("Looking into {name}", name=path.name))
        try:
            done = rewrite_without(path, gone)
            if done is not None:
                changed.append(done)
            if path.exists() and mentions(path, gone):
                unreadable.append(path)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise disk_full(path.parent, 0) from error
            unreadable.append(path)
    return tuple(changed), tuple(unreadable)


def _read(path: Path, customer_id: str) -> set[str]:
    try:
        return conversations_in(path, customer_id)
    except OSError:
        return set()  # it is among the unreadable ones later


def _earlier(database: Database, hashes: Collection[str]) -> set[str]:
    """Return the hashes that files had before earlier erasures."""
    before: dict[str, set[str]] = {}
    for event in read_events(database, action=Action.ERASED, most=_MOST_EVENTS):
        for each in event.detail.get("files", ()):
            before.setdefault(each["new"], set()).add(each["old"])
    found: set[str] = set()
    waiting = list(hashes)
    while waiting:
        for old in before.get(waiting.pop(), set()) - found:
            found.add(old)
            waiting.append(old)
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; links are not followed.

    Raises:
        ConfigError: There is no such folder.
    """
    if folder.is_file():
        yield folder
        return
    if not folder.is_dir():
        raise ConfigError(
            say("There is no folder {folder}.", folder=str(folder)), hint=say("Name where data sets lie with --data.")
        )
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            if path.is_file() and not path.is_symlink():
                yield path
