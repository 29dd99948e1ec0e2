"""A run's folder: what a measurement leaves behind, readable also after kill -9 and on a full disk.

    manifest.json    what was measured, how, on which machine (schema `qwenops.run/1`); replaced as a whole
    requests.jsonl   one line for each request that is over; append-only
    segments.jsonl   when each part began and ended, drops, gaps between sittings; append-only
    host.jsonl       samples of the host; append-only
    engine.jsonl     samples of the engine's own figures; append-only
    summary.json     the conclusion; replaced as a whole
    report.html      made from all of these

Each line is written with one call, so a process that dies leaves at most one torn line at the end of a file; readers
leave it out, and who continues the run cuts it off. One process writes at a time (a lock that dies with its process).
A little room is kept back while a run is open, so that its end can be written also when the disk is full.
"""

import bisect
import contextlib
import errno
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from qwenops.atomic import write_text
from qwenops.bench.continuing import how_to_continue
from qwenops.bench.counted import Counted
from qwenops.bench.record import Failure, Phase, RequestRecord
from qwenops.bench.segment import ClosedLoop, Driven, OpenLoop, Segment
from qwenops.bench.thinning import Bounds, joined, step
from qwenops.errors import InsufficientDiskError, RunFolderError
from qwenops.text import say

SCHEMA = "qwenops.run/1"
MANIFEST_FILE = "manifest.json"
SUMMARY_FILE = "summary.json"

JournalName = Literal["requests", "segments", "host", "engine"]

LOCK_FILE = ".lock"
_RESERVE = ".reserve"
_RESERVE_BYTES = 256 * 1024
_BLOCK_BYTES = 64 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time in which the run did not run. The run's own time stands still meanwhile."""

    at_ns: int
    """Since the run's origin."""
    lost_s: float
    """How long it lasted by the wall clock; 0 when that is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """All that a run's folder holds."""

    path: Path
    manifest: Mapping[str, Any]
    drivens: Sequence[Driven] = ()
    """In order; an unfinished last one is marked as interrupted."""
    host: Sequence[Mapping[str, Any]] = ()
    engine: Sequence[Mapping[str, Any]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Empty while there is none."""
    gaps: Sequence[Gap] = ()
    every: int = 1
    """Of so many requests one is here; more than 1 where a long run is read thinned."""

    def all_records(self) -> Iterator[RequestRecord]:
        """Yield all its requests, one by one, also where it is thinned."""
        if self.every > 1:
            return read_records(self.path)
        return (record for driven in self.drivens for record in driven.records)


class RunFolder:
    """The folder of one run, open for writing.

    Raises:
        InsufficientDiskError: By every method that writes, when the disk is full; the folder stays readable.
    """

    def __init__(self, path: Path, lock: contextlib.ExitStack) -> None:
        """Take over a folder whose lock is held; `create` and `open` do that."""
        self.path = path
        self._lock = lock
        self._journals: dict[str, _Journal] = {}
        self._is_full = False

    @classmethod
    def create(cls, path: Path, manifest: Mapping[str, Any]) -> "RunFolder":
        """Make the folder with its manifest.

        Raises:
            RunFolderError: There is a run in it already, or it cannot be made.
        """
        folder = cls(path, _locked(path))
        try:
            _check_empty(path)
            folder._keep_room()
            folder.write_manifest(manifest)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of a run to continue it; torn last lines are cut off.

        Raises:
            RunFolderError: It is no run's folder, damaged, of a newer version, or in use by another process.
        """
        read_manifest(path)
        folder = cls(path, _locked(path))
        try:
            for name in get_args(JournalName):
                _cut_torn_line(_journal_path(path, name))
            folder._keep_room()
        except BaseException:
            folder.close()
            raise
        return folder

    def clear(self) -> None:
        """Forget all that was recorded, to begin the run anew."""
        for journal in self._journals.values():
            journal.close()
        self._journals = {}
        for name in get_args(JournalName):
            _journal_path(self.path, name).unlink(missing_ok=True)
        (self.path / SUMMARY_FILE).unlink(missing_ok=True)

    def keep(self, keeps: Mapping[str, Callable[[Mapping[str, Any]], bool]]) -> None:
        """Take the lines out of the journals for which their function says no; the conclusion goes with them."""
        (self.path / SUMMARY_FILE).unlink(missing_ok=True)
        for name in get_args(JournalName):
            place = _journal_path(self.path, name)
            if name in keeps and place.exists():
                kept = b"".join(_line(line) for line in read_lines(self.path, name) if keeps[name](line))
                journal = self._journals.pop(name, None)
                if journal is not None:
                    journal.close()
                self._replace(place.name, kept.decode())

    def add_record(self, record: RequestRecord) -> None:
        """Write a request that is over."""
        self.add("requests", record_data(record))

    def add(self, journal: JournalName, line: Mapping[str, Any]) -> None:
        """Write a line into a journal."""
        written = _line(line)
        if self._is_full:
            raise _disk_full(self.path, len(written))
        if journal not in self._journals:
            self._journals[journal] = _Journal(_journal_path(self.path, journal))
        try:
            self._journals[journal].append(written)
        except OSError as error:
            raise self._failed(error, len(written)) from error

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        self._replace(MANIFEST_FILE, _indented(manifest))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary."""
        self._replace(SUMMARY_FILE, _indented(summary))

    def close(self) -> None:
        """Make everything durable and give the lock back; a second call does nothing."""
        for journal in self._journals.values():
            journal.close()
        self._journals = {}
        self._free_room()
        self._lock.close()

    def _replace(self, name: str, text: str) -> None:
        try:
            write_text(self.path / name, text)
        except OSError as error:
            failure = self._failed(error, len(text))
            if not isinstance(failure, InsufficientDiskError):
                raise failure from error
            try:
                write_text(self.path / name, text)  # into the room that was kept back
            except OSError:
                raise failure from error

    def _failed(self, error: OSError, needed_bytes: int) -> InsufficientDiskError | RunFolderError:
        """Say what a failed write means; from a full disk on, only the run's end is still written."""
        if error.errno in _FULL:
            failure = _disk_full(self.path, needed_bytes)
            self._is_full = True
            self._free_room()
            return failure
        return RunFolderError(
            say("The run's folder {path} cannot be written: {reason}.", path=str(self.path), reason=error.strerror),
            hint=say("Give a folder that can be written."),
        )

    def _keep_room(self) -> None:
        try:
            with (self.path / _RESERVE).open("wb") as reserve:
                reserve.write(bytes(_RESERVE_BYTES))
        except OSError as error:
            raise self._failed(error, _RESERVE_BYTES) from error

    def _free_room(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / _RESERVE).unlink()


class _Journal:
    """A file of lines that only grows."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._size = os.fstat(self._descriptor).st_size

    def append(self, line: bytes) -> None:
        """Write a whole line or none of it."""
        written = os.write(self._descriptor, line)
        if written < len(line):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)


_RECORD_DEFAULTS: tuple[tuple[str, Any], ...] = tuple(
    (each.name, each.default_factory() if each.default_factory is not MISSING else each.default)
    for each in fields(RequestRecord)
)
_RECORD_FIELDS = frozenset(name for name, _ in _RECORD_DEFAULTS)


def record_data(record: RequestRecord) -> dict[str, Any]:
    """Return a record as a line of `requests.jsonl` holds it: what has its default value is left out."""
    return {name: value for name, default in _RECORD_DEFAULTS if (value := getattr(record, name)) != default}


def record_of(data: Mapping[str, Any]) -> RequestRecord:
    """Read what `record_data` made; fields that a newer version added are left out.

    Raises:
        KeyError: A field is missing that every record has.
        ValueError: A phase or a failure is unknown.
    """
    known = {name: value for name, value in data.items() if name in _RECORD_FIELDS}
    known["phase"] = Phase(data["phase"])
    known["failure"] = Failure(data["failure"]) if data.get("failure") else None
    known["chunk_gaps_us"] = tuple(data.get("chunk_gaps_us", ()))
    return RequestRecord(**known)


def segment_data(segment: Segment) -> dict[str, Any]:
    """Return a segment as a line of `segments.jsonl` holds it."""
    load: dict[str, Any]
    if isinstance(segment.load, OpenLoop):
        load = {"offsets_ns": list(segment.load.offsets_ns)}
    else:
        load = {name: getattr(segment.load, name) for name in ("users", "requests", "think_s")}
    names = ("name", "phase", "duration_s", "first_item", "max_in_flight")
    return {"load": load, **{name: getattr(segment, name) for name in names}}


def segment_of(data: Mapping[str, Any]) -> Segment:
    """Read what `segment_data` made."""
    load = data["load"]
    return Segment(
        name=data["name"],
        phase=Phase(data["phase"]),
        duration_s=data["duration_s"],
        first_item=data["first_item"],
        max_in_flight=data["max_in_flight"],
        load=OpenLoop(offsets_ns=tuple(load["offsets_ns"])) if "offsets_ns" in load else ClosedLoop(**load),
    )


def read_lines(path: Path, journal: JournalName) -> Iterator[dict[str, Any]]:
    """Yield the lines of a journal one by one; a torn last one is left out.

    Raises:
        RunFolderError: A line in the middle is no JSON object.
    """
    place = _journal_path(path, journal)
    torn = 0
    try:
        with place.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if torn:
                    raise RunFolderError(
                        say("Line {line} of {path} is damaged.", line=torn, path=str(place)),
                        hint=say("Measure again; this run cannot be trusted."),
                    )
                found = _parsed(line)
                if found is None:
                    torn = number
                else:
                    yield found
    except FileNotFoundError:
        return


def read_records(path: Path) -> Iterator[RequestRecord]:
    """Yield the records of a run's folder one by one, in the order in which they ended.

    A request that was interrupted and sent again in a later sitting has the later record only.
    """
    last: dict[int, int] = {
        line["index"]: -1 for line in read_lines(path, "requests") if line.get("failure") == Failure.INTERRUPTED
    }
    if last:
        for number, line in enumerate(read_lines(path, "requests")):
            if line["index"] in last:
                last[line["index"]] = number
    for number, line in enumerate(read_lines(path, "requests")):
        if last.get(line["index"], number) == number:
            yield record_of(line)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a run's folder.

    Raises:
        RunFolderError: It is no run's folder, damaged, or of a newer version.
    """
    manifest = _read_json(path / MANIFEST_FILE)
    if manifest is None:
        raise RunFolderError(
            say("There is no run in {path}.", path=str(path)),
            hint=say("Give the folder that a `qwenops bench` command made; it holds a manifest.json."),
        )
    if manifest.get("schema") != SCHEMA:
        raise RunFolderError(
            say(
                "The run in {path} was written as {found}; this version reads {known}.",
                path=str(path),
                found=manifest.get("schema"),
                known=SCHEMA,
            ),
            hint=say("Read it with the version of qwenops that wrote it."),
        )
    return manifest


def read_summary(path: Path) -> dict[str, Any]:
    """Return the conclusion of a run's folder; empty while there is none."""
    return _read_json(path / SUMMARY_FILE) or {}


def read_run(path: Path, *, thin: Bounds | None = None) -> RecordedRun:
    """Read a run's folder, also one that is being written or whose writer was killed.

    Args:
        path: The folder.
        thin: How much of it may be in memory; without, all of it is. A run of several measured segments
            is never thinned.

    Raises:
        RunFolderError: It is no run's folder, damaged, or of a newer version.
        InvalidRunError: It holds fewer requests than were counted.
    """
    manifest = read_manifest(path)
    try:
        lines = list(read_lines(path, "segments"))
        every = 1 if thin is None else _every(path, lines, thin)
        counted = Counted(lines)
        records = list(itertools.islice(counted.passed(read_records(path)), 0, None, every))
        counted.check(path)
        drivens = _drivens(lines, records, last_seen_ns(path))
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            say("The run in {path} is damaged: {reason}.", path=str(path), reason=repr(error)),
            hint=say("Measure again; this run cannot be trusted."),
        ) from error
    return RecordedRun(
        path=path,
        manifest=manifest,
        drivens=drivens,
        host=_samples(path, "host", thin),
        engine=_samples(path, "engine", thin),
        summary=read_summary(path),
        gaps=gaps_of(lines),
        every=every,
    )


def _every(path: Path, lines: Sequence[Mapping[str, Any]], thin: Bounds) -> int:
    """Return of how many requests one is to be read."""
    phases = [line["segment"]["phase"] for line in lines if line["event"] == "began"]
    place = _journal_path(path, "requests")
    if phases.count(Phase.MEASURE) != 1 or not place.exists():
        return 1
    with place.open("rb") as file:
        number = sum(1 for _ in file)
    return step(number, place.stat().st_size, thin)


def _samples(path: Path, name: JournalName, thin: Bounds | None) -> list[dict[str, Any]]:
    """Read a journal of samples; where there are too many, neighbours of one schema and target are put together."""
    if thin is None:
        return list(read_lines(path, name))
    kinds = Counter((line.get("schema"), line.get("target")) for line in read_lines(path, name))
    found: list[dict[str, Any]] = []
    for kind, number in kinds.items():
        lines = (line for line in read_lines(path, name) if (line.get("schema"), line.get("target")) == kind)
        found += joined(lines, math.ceil(number / thin.samples))
    return sorted(found, key=lambda line: line.get("at_ns", 0))


def last_seen_ns(path: Path) -> int:
    """Return the latest moment of the run's own time that any journal knows."""
    latest = 0
    for name in get_args(JournalName):
        _, found = _last_whole(_journal_path(path, name))
        latest = max(latest, int(found.get("ended_ns") or found.get("at_ns") or 0))
    return latest


def gaps_of(lines: Sequence[Mapping[str, Any]]) -> tuple[Gap, ...]:
    """Return the gaps between the sittings of a run."""
    return tuple(Gap(at_ns=line["at_ns"], lost_s=line["lost_s"]) for line in lines if line["event"] == "resumed")


def _drivens(
    lines: Sequence[Mapping[str, Any]], records: Sequence[RequestRecord], latest_ns: int
) -> tuple[Driven, ...]:
    """Put what was recorded together again, segment by segment."""
    began = [line for line in lines if line["event"] == "began"]
    ended = {line["number"]: line for line in lines if line["event"] == "ended"}
    firsts = [line["first_index"] for line in began]
    parts: list[list[RequestRecord]] = [[] for _ in began]
    for record in sorted(records, key=lambda each: each.index):
        parts[bisect.bisect_right(firsts, record.index) - 1].append(record)
    drops = Counter(line["number"] for line in lines if line["event"] == "dropped")
    found = []
    for line, part in zip(began, parts, strict=True):
        end = ended.get(line["number"])
        found.append(
            Driven(
                segment=segment_of(line["segment"]),
                began_ns=line["at_ns"],
                window_ns=end["window_ns"] if end else latest_ns - line["at_ns"],
                ended_ns=end["at_ns"] if end else latest_ns,
                records=tuple(part),
                dropped=drops[line["number"]],
                interrupted=end["interrupted"] if end else True,
            )
        )
    return tuple(found)


def _journal_path(path: Path, name: str) -> Path:
    return path / f"{name}.jsonl"


def _line(content: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which only escapes can hold
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _indented(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return what a whole line holds; None when it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _cut_torn_line(path: Path) -> None:
    """Shorten a journal to its whole lines."""
    end, _ = _last_whole(path)
    if path.exists() and path.stat().st_size > end:
        os.truncate(path, end)


def _last_whole(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the last whole line of a journal ends, and what it holds; 0 and nothing when there is none."""
    if not path.exists():
        return 0, {}
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            line = _last_line(file, end)
            if (found := _parsed(line)) is not None:
                return end, found
            end -= len(line)
    return 0, {}


def _last_line(file: BinaryIO, end: int) -> bytes:
    """Return the last line of the first `end` bytes of a file, whole or torn."""
    start, line = end, b""
    while start > 0:
        begin = max(0, start - _BLOCK_BYTES)
        file.seek(begin)
        line = file.read(start - begin) + line
        cut = line.rfind(b"\n", 0, len(line) - 1)
        if cut >= 0:
            return line[cut + 1 :]
        start = begin
    return line


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(
            say("{path} cannot be read: {reason}.", path=str(path), reason=str(error)),
            hint=say("Measure again; this run cannot be trusted."),
        ) from error
    if not isinstance(found, dict):
        raise RunFolderError(say("{path} holds no JSON object.", path=str(path)))
    return found


def _check_empty(path: Path) -> None:
    if (path / MANIFEST_FILE).exists():
        raise RunFolderError(
            say("There is a run in {path} already.", path=str(path)),
            hint=say("Give another folder. {otherwise}", otherwise=how_to_continue(_verb_of(path), path)),
        )


def _locked(path: Path) -> contextlib.ExitStack:
    """Make the folder where there is none, and hold its lock."""
    from qwenops.models.locks import held_if_free

    stack = contextlib.ExitStack()
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = stack.enter_context(held_if_free(path / LOCK_FILE))
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(path, _RESERVE_BYTES) from error
        raise RunFolderError(
            say("The run's folder {path} cannot be made: {reason}.", path=str(path), reason=error.strerror),
            hint=say("Give a folder that can be written."),
        ) from error
    if not taken:
        stack.close()
        raise RunFolderError(
            say("Another process is writing the run in {path}.", path=str(path)),
            hint=say("Wait until it has ended, or give another folder."),
        )
    return stack


def _disk_full(path: Path, needed_bytes: int) -> InsufficientDiskError:
    from qwenops.hardware import free_disk_bytes

    verb = _verb_of(path)
    text, hint = (
        (
            say("The disk under {path} is full; the run stops here. What was recorded is whole.", path=str(path)),
            say("Make room. {then}", then=how_to_continue(verb, path)),
        )
        if verb
        else (
            say("The disk under {path} is full; nothing was recorded.", path=str(path)),
            say("Make room, or give another folder, and begin again."),
        )
    )
    return InsufficientDiskError(text, hint=hint, needed_bytes=needed_bytes, available_bytes=free_disk_bytes(path))


def _verb_of(path: Path) -> str:
    """Return whose run is in a folder; empty where none is."""
    with contextlib.suppress(RunFolderError):
        return str((_read_json(path / MANIFEST_FILE) or {}).get("verb", ""))
    return ""
