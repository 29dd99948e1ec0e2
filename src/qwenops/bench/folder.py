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
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qwenops.bench.record import RequestRecord
from qwenops.bench.segment import Driven

SCHEMA = "qwenops.run/1"

JournalName = Literal["requests", "segments", "host", "engine"]


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


class RunFolder:
    """The folder of one run, open for writing.

    Raises:
        InsufficientDiskError: By every method that writes, when the disk is full; the folder stays readable.
    """

    path: Path

    @classmethod
    def create(cls, path: Path, manifest: Mapping[str, Any]) -> "RunFolder":
        """Make the folder with its manifest.

        Raises:
            RunFolderError: There is a run in it already.
        """
        raise NotImplementedError

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of a run to continue it; torn last lines are cut off.

        Raises:
            RunFolderError: It is no run's folder, damaged, of a newer version, or in use by another process.
        """
        raise NotImplementedError

    def add_record(self, record: RequestRecord) -> None:
        """Write a request that is over."""
        raise NotImplementedError

    def add(self, journal: JournalName, line: Mapping[str, Any]) -> None:
        """Write a line into a journal."""
        raise NotImplementedError

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        raise NotImplementedError

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace the summary."""
        raise NotImplementedError

    def close(self) -> None:
        """Make everything durable and give the lock back; a second call does nothing."""
        raise NotImplementedError


def record_data(record: RequestRecord) -> dict[str, Any]:
    """Return a record as a line of `requests.jsonl` holds it: what is None or empty is left out."""
    raise NotImplementedError


def record_of(data: Mapping[str, Any]) -> RequestRecord:
    """Read what `record_data` made; fields that a newer version added are left out."""
    raise NotImplementedError


def read_records(path: Path) -> Iterator[RequestRecord]:
    """Yield the records of a run's folder one by one, in the order in which they ended."""
    raise NotImplementedError


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a run's folder.

    Raises:
        RunFolderError: It is no run's folder, damaged, or of a newer version.
    """
    raise NotImplementedError


def read_run(path: Path) -> RecordedRun:
    """Read a run's folder, also one that is being written or whose writer was killed.

    Raises:
        RunFolderError: It is no run's folder, damaged, or of a newer version.
    """
    raise NotImplementedError
