"""JSON lines of requests and of the system, written off the event loop, that never stop the server.

    logs/requests_20300102.jsonl        today
    logs/requests_20300102.1.jsonl.gz   today as well: the first file grew over its size
    logs/requests_20300101.jsonl.gz     archived

Days are those of the machine's time zone (TZ), and so are the timestamps, which name it.

A line is put into a bounded queue and written by one thread. When the disk is full or hangs, lines are lost and
counted, and the next line tries again.
"""

import gzip
import json
import logging
import os
import queue
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from qwenops.observe.options import LogOptions

_SECRET = re.compile(r"\bqo-[0-9a-zA-Z_\-]{8,}")
_LONGEST_QUEUE = 10_000
_LARGEST_BATCH = 256
_NAME = re.compile(r"(?P<log>[a-z]+)_(?P<day>\d{8})(?:\.(?P<part>\d+))?\.jsonl(?P<gz>\.gz)?")


def without_secrets(text: str) -> str:
    """Return `text` with everything that looks like an API key of ours blotted out."""
    return _SECRET.sub("qo-***", text)


class DailyFile:
    """The file of one log: appends, begins anew with a new day or beyond a size. Raises OSError as files do."""

    def __init__(self, folder: Path, log: str, *, rotate_bytes: int) -> None:
        """Open nothing yet."""
        self.rotate_bytes = rotate_bytes
        self._folder = folder
        self._log = log
        self._day: date | None = None
        self._descriptor: int | None = None
        self._torn = False

    def append(self, lines: bytes, today: date) -> bool:
        """Write whole lines; return whether a file was finished by that and waits to be archived."""
        finished = self._turn_over(today)
        descriptor = self._opened(today)
        if self._torn:
            lines = b"\n" + lines
        written = 0
        try:
            while written < len(lines):
                written += os.write(descriptor, lines[written:])
                self._torn = written < len(lines)
        except OSError:
            self._torn = self._torn or written > 0
            self.close()
            raise
        return finished

    def close(self) -> None:
        """Give the file back; the next line opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def _path(self, today: date) -> Path:
        return self._folder / f"{self._log}_{today:%Y%m%d}.jsonl"

    def _opened(self, today: date) -> int:
        """Return the descriptor; opens the file anew where somebody else moved it away."""
        path = self._path(today)
        if self._descriptor is not None:
            try:
                if os.path.samestat(os.fstat(self._descriptor), path.stat()):
                    return self._descriptor
            except FileNotFoundError:
                pass
            self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return self._descriptor

    def _turn_over(self, today: date) -> bool:
        finished = self._day is not None and self._day != today
        if finished:
            self.close()
            self._torn = False
        self._day = today
        path = self._path(today)
        if self._descriptor is None or os.fstat(self._descriptor).st_size < self.rotate_bytes:
            return finished
        self.close()
        path.rename(path.with_suffix(f".{self._last_part(path) + 1}.jsonl"))
        return True

    def _last_part(self, path: Path) -> int:
        """Return the number of the last finished part of a day's file; 0 when there is none."""
        last = 0
        for each in self._folder.glob(f"{path.stem}.*.jsonl*"):
            if found := _NAME.fullmatch(each.name):
                last = max(last, int(found["part"] or 0))
        return last


def archive(folder: Path, *, today: date, compress: bool, retention_days: int) -> None:
    """Compress the finished files of a folder and remove those that are too old. Other files are left alone."""
    for path in sorted(folder.iterdir()):
        found = _NAME.fullmatch(path.name)
        if found is None:
            continue
        try:
            day = datetime.strptime(found["day"], "%Y%m%d").replace(tzinfo=UTC).date()
        except ValueError:
            continue
        if retention_days and day < today - timedelta(days=retention_days):
            path.unlink(missing_ok=True)
        elif compress and not found["gz"] and (day < today or found["part"]):
            _compress(path)


def _compress(path: Path) -> None:
    """Replace a file by its compressed form; a crash in between leaves one of them whole."""
    new = path.with_name(f".{path.name}.gz.{os.getpid()}")
    try:
        with path.open("rb") as source, gzip.open(new, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target)
        new.replace(path.with_name(path.name + ".gz"))
        path.unlink()
    finally:
        new.unlink(missing_ok=True)


class LineWriter:
    """Writes the lines of all logs in one thread. `write` never waits and never raises."""

    def __init__(
        self,
        options: LogOptions,
        *,
        on_failure: Callable[[str, int], None] = lambda _log, _num: None,
        today: Callable[[], date] = lambda: datetime.now(tz=UTC).astimezone().date(),
        stdout: int | None = None,
    ) -> None:
        """Start the thread.

        Args:
            options: Where to, and how long lines stay; `reconfigure` takes others over.
            on_failure: Told, from any thread, which log lost how many lines.
            today: The local date, by which files are named.
            stdout: File descriptor of standard output.
        """
        self._options = options
        self._on_failure = on_failure
        self._today = today
        self._stdout = stdout if stdout is not None else 1
        self._queue: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(_LONGEST_QUEUE)
        self._files: dict[str, DailyFile] = {}
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, log: str, fields: Mapping[str, Any]) -> None:
        """Hand a line over; it is lost, and counted, when the writer is too far behind."""
        if self._options.destination == "off":
            return
        try:
            self._queue.put_nowait((log, dict(fields)))
        except queue.Full:
            self._lost(log, 1, "the writer is too far behind")

    def reconfigure(self, options: LogOptions) -> None:
        """Take the live options over."""
        self._options = options

    def close(self, *, timeout_s: float = 5.0) -> bool:
        """Write what waits and stop; return whether that was done in time."""
        deadline_s = time.monotonic() + timeout_s
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        return not self._thread.is_alive()

    def _work(self) -> None:
        if self._options.destination in {"files", "both"}:
            self._archive()
        while True:
            batch, is_last = self._next_batch()
            by_log: dict[str, list[dict[str, Any]]] = {}
            for log, fields in batch:
                by_log.setdefault(log, []).append(fields)
            for log, lines in by_log.items():
                self._put(log, lines)
            if is_last:
                break
        for each in self._files.values():
            each.close()

    def _next_batch(self) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
        batch = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= _LARGEST_BATCH:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _put(self, log: str, lines: list[dict[str, Any]]) -> None:
        try:
            if self._options.destination in {"files", "both"}:
                self._to_file(log, b"".join(map(_line, lines)))
            if self._options.destination in {"stdout", "both"}:
                self._to_stdout(b"".join(_line({"log": log, **fields}) for fields in lines))
        except (OSError, TypeError, ValueError) as error:
            self._lost(log, len(lines), str(error))
        else:
            self._warned.discard(log)

    def _to_file(self, log: str, data: bytes) -> None:
        file = self._files.get(log)
        if file is None:
            file = self._files[log] = DailyFile(self._options.dir, log, rotate_bytes=self._options.rotate_bytes)
        file.rotate_bytes = self._options.rotate_bytes
        if file.append(data, self._today()):
            self._archive()

    def _to_stdout(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._stdout, data) :]

    def _archive(self) -> None:
        try:
            if self._options.dir.is_dir():
                archive(
                    self._options.dir,
                    today=self._today(),
                    compress=self._options.compress,
                    retention_days=self._options.retention_days,
                )
        except OSError as error:
            self._lost("archive", 0, str(error))

    def _lost(self, log: str, num_lines: int, why: str) -> None:
        """Count lost lines, and say so once until writing works again."""
        self._on_failure(log, num_lines)
        if log not in self._warned:
            self._warned.add(log)
            logging.getLogger(__name__).warning("lines of the log %r are lost: %s", log, why)


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


class JsonFormatter(logging.Formatter):
    """The server's own messages as JSON lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields = {
            "timestamp": datetime.fromtimestamp(record.created, tz=UTC).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The server's own messages for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and a traceback below it where there is one."""
        return without_secrets(super().format(record))


def configure_logging(options: LogOptions) -> None:
    """Send the messages of this process to standard error in the wanted form; a second call replaces the first."""
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name("qwenops")
    handler.setFormatter(
        JsonFormatter()
        if options.format == "json"
        else TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    for each in [each for each in root.handlers if each.get_name() == "qwenops"]:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(options.level.upper())
