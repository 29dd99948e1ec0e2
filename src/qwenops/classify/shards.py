"""The folder of a batch: predictions in shards, each there whole or not at all, and a journal of those that are done.

    manifest.json         which model (`qwenops.batch/1`)
    shards/000017.jsonl   the predictions of some hundred calls; written beside, then renamed
    journal.jsonl         one line for each shard that is done, with its hash; append-only
    rejected/             what could not be classified, as it was found; at the end one file beside the predictions

A shard counts when its line stands in the journal. A process that dies leaves at most a shard without a line, which is
removed, or half a line, which is cut off: so after `kill -9` and another start every call is in exactly one shard. One
process writes at a time (a lock that dies with it).
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qwenops.atomic import sync_folder, whole_file, write_text
from qwenops.calls.problems import Problem, write_rejected
from qwenops.classify.prediction import Prediction, dump_prediction
from qwenops.errors import ConfigError, QwenOpsError
from qwenops.models.folders import DISK_FULL, disk_full
from qwenops.models.locks import held_if_free
from qwenops.text import say

SCHEMA = "qwenops.batch/1"
_log = logging.getLogger(__name__)
_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A line of the journal."""

    number: int
    sha256: str
    num_calls: int
    tokens: int
    decisions: Mapping[str, int] = field(default_factory=dict)
    """How many calls were decided in each way."""

    @property
    def name(self) -> str:
        """Its file."""
        return f"{self.number:06d}.jsonl"


class Seen:
    """The ids of the calls that came already: on disk in a file that nobody sees, so that memory stays flat."""

    def __init__(self) -> None:
        """Begin with none."""
        # One thread at a time uses it, though not always the same.
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._table.execute("PRAGMA journal_mode=OFF")
        self._table.execute("PRAGMA synchronous=OFF")
        self._table.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID")

    def add_done(self, ids: Iterable[str]) -> None:
        """Take note of calls that are classified."""
        self._table.execute("BEGIN")
        self._table.executemany("INSERT OR IGNORE INTO seen VALUES (?, NULL)", ((_storable(each),) for each in ids))
        self._table.execute("COMMIT")

    def meet(self, conversation_id: str, place: str) -> tuple[bool, str]:
        """Take note of a call that comes at a place of the input.

        Return whether it was classified before, and, if it came in this input already, where that was.
        """
        key = _storable(conversation_id)
        found = self._table.execute("SELECT place FROM seen WHERE id = ?", (key,)).fetchone()
        if found is not None and found[0] is not None:
            return False, str(found[0])
        self._table.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (key, place))
        return found is not None, ""

    def close(self) -> None:
        """Give the file back."""
        self._table.close()


class ShardFolder:
    """The folder of one batch, open for writing; `open_folder` opens it."""

    def __init__(self, path: Path, shards: list[Shard], seen: Seen) -> None:
        """Take over a folder whose lock is held."""
        self.path = path
        self.shards = shards
        self.seen = seen
        self._next = 1 + max((each.number for each in shards), default=-1)
        self._num_rejected = 0

    @property
    def num_calls(self) -> int:
        """Calls that are classified."""
        return sum(each.num_calls for each in self.shards)

    @property
    def decisions(self) -> dict[str, int]:
        """How many calls were decided in each way."""
        found: Counter[str] = Counter()
        for each in self.shards:
            found.update(each.decisions)
        return dict(found)

    def finish(self, predictions: Sequence[Prediction], problems: Sequence[Problem]) -> None:
        """Write a shard, and then into the journal that it is done; problems go into the side file's part.

        Raises:
            InsufficientDiskError: There is no room; what was done before stays.
        """
        with _full_disk(self.path):
            if problems:
                write_rejected(self.path / "rejected" / f"{self._num_rejected:06d}.jsonl", problems)
                self._num_rejected += 1
            if predictions:
                self._write(predictions)

    def lines(self) -> Iterator[bytes]:
        """Yield the predictions of all shards, line by line."""
        for shard in self.shards:
            with (self.path / "shards" / shard.name).open("rb") as lines:
                yield from lines

    def assemble(self, out: Path) -> None:
        """Write the predictions of all shards into one file of lines, whole or not at all.

        Raises:
            InsufficientDiskError: There is no room; the shards stay.
        """
        with _full_disk(self.path), whole_file(out, mode=0o600) as target:
            for shard in self.shards:
                with (self.path / "shards" / shard.name).open("rb") as part:
                    shutil.copyfileobj(part, target, _COPY_BYTES)

    def assemble_rejected(self, out: Path) -> None:
        """Write what was rejected in this sitting into one file; without anything there is none.

        Raises:
            InsufficientDiskError: There is no room.
        """
        parts = sorted((self.path / "rejected").glob("*.jsonl"))
        if not parts:
            out.unlink(missing_ok=True)
            return
        with _full_disk(self.path), whole_file(out, mode=0o600) as target:
            for path in parts:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, target, _COPY_BYTES)

    def _write(self, predictions: Sequence[Prediction]) -> None:
        raw = "".join(f"{dump_prediction(each)}\n" for each in predictions).encode("utf-8", "backslashreplace")
        shard = Shard(
            number=self._next,
            sha256=hashlib.sha256(raw).hexdigest(),
            num_calls=len(predictions),
            tokens=sum(each.tokens or 0 for each in predictions),
            decisions=Counter(each.decision.value for each in predictions),
        )
        with whole_file(self.path / "shards" / shard.name, mode=0o600) as out:
            out.write(raw)
        _append(_journal(self.path), _line(shard))
        self.shards.append(shard)
        self._next += 1


@contextlib.contextmanager
def open_folder(path: Path, *, model: str) -> Iterator[ShardFolder]:
    """Open the folder of a batch, new or to go on with it, and hold it.

    Args:
        path: Where it is; it is made if there is none.
        model: What predictions call the model.

    Raises:
        ConfigError: Another process writes into it, another model did, or it is no such folder.
        InsufficientDiskError: There is no room.
    """
    with contextlib.ExitStack() as stack:
        with _writable(path):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            is_ours = stack.enter_context(held_if_free(path / ".lock"))
        if not is_ours:
            raise ConfigError(
                say("Another process writes into {path}.", path=str(path)),
                hint=say("Wait for it, or give another file with --out."),
            )
        with _writable(path), _full_disk(path):
            _check_manifest(path, model)
            seen = stack.enter_context(contextlib.closing(Seen()))
            shards = _read_shards(path, seen)
            shutil.rmtree(path / "rejected", ignore_errors=True)
        yield ShardFolder(path, shards, seen)


def _check_manifest(path: Path, model: str) -> None:
    manifest = path / "manifest.json"
    try:
        found = json.loads(manifest.read_bytes())
    except FileNotFoundError:
        write_text(manifest, json.dumps({"schema": SCHEMA, "model": model}, indent=1) + "\n", mode=0o600)
        return
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ConfigError(
            say("{path} is not the folder of a batch.", path=str(path)), hint=say("Give another file with --out.")
        )
    if found.get("model") != model:
        raise ConfigError(
            say(
                "{path} holds predictions of {found}, not of {model}.",
                path=str(path),
                found=found.get("model"),
                model=model,
            ),
            hint=say("Give another file with --out, or remove that folder."),
        )


def _read_shards(path: Path, seen: Seen) -> list[Shard]:
    """Return the shards that are done and whole, and take everything else away."""
    kept: list[Shard] = []
    lines = 0
    for shard in _read_journal(_journal(path)):
        lines += 1
        ids = _ids_of(path / "shards" / shard.name, shard)
        if ids is None:
            _log.warning("shard %s is damaged: its calls are classified again", shard.name)
            continue
        seen.add_done(ids)
        kept.append(replace(shard, num_calls=len(ids)))  # an erasure may have taken some out
    if lines != len(kept):
        write_text(_journal(path), "".join(_line(each).decode() for each in kept), mode=0o600)
    known = {each.name for each in kept}
    shelf = path / "shards"
    for file in shelf.iterdir() if shelf.is_dir() else ():
        if file.name not in known:
            file.unlink(missing_ok=True)
    return kept


def _read_journal(path: Path) -> Iterator[Shard]:
    """Yield the lines of a journal; half a line at its end is cut off."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        os.truncate(path, whole)
    for line in raw[:whole].splitlines():
        try:
            found = json.loads(line)
            yield Shard(
                number=int(found["shard"]),
                sha256=str(found["sha256"]),
                num_calls=int(found["calls"]),
                tokens=int(found["tokens"]),
                decisions={str(kind): int(count) for kind, count in found["decisions"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                say("{path} is damaged.", path=str(path)),
                hint=say("Remove the folder that it is in; all calls are classified again then."),
            ) from error


def _ids_of(path: Path, shard: Shard) -> list[str] | None:
    """Return the calls of a shard; None if it is not what was written."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(raw).hexdigest() != shard.sha256:
        return None
    return [str(json.loads(line)["conversation_id"]) for line in raw.splitlines()]


def _line(shard: Shard) -> bytes:
    told: dict[str, Any] = {
        "shard": shard.number,
        "sha256": shard.sha256,
        "calls": shard.num_calls,
        "tokens": shard.tokens,
        "decisions": dict(shard.decisions),
    }
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _append(path: Path, line: bytes) -> None:
    """Add a line and make it durable; a line that does not fit leaves the file as it was."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def _journal(path: Path) -> Path:
    return path / "journal.jsonl"


def _storable(text: str) -> str:
    """Return an id that SQLite can hold: half a surrogate pair has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(path, 0) from error
        raise


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except QwenOpsError:
        raise
    except OSError as error:
        raise ConfigError(
            say("{path} cannot be written: {reason}.", path=str(path), reason=error.strerror or str(error)),
            hint=say("Give a file with --out in a folder that you may write to."),
        ) from error
