"""What frozen layers gave for each prompt, on disk: computed once, read in every epoch and by every later run.

    <folder>/<hash of the facts>/about.json      what was computed, by what
                                 rows            numbers, one prompt after the other
                                 index           for each prompt: hash of its tokens, place, rows, checksum

A prompt is known by its tokens, so a call that comes back in another file, or more calls, cost only what is new. The
index is written after the rows that it names are on the disk: whoever is killed loses the last half minute, and what
an index promises is there. Rows are mapped into memory, not read into it.
"""

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qwenops.atomic import write_text
from qwenops.errors import RunFolderError
from qwenops.models.folders import DISK_FULL, disk_full, require_disk
from qwenops.text import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
KINDS: Mapping[str, type[Any]] = {"bf16": np.uint16, "f32": np.float32}
_RECORD = struct.Struct("<32sQII")
"""Hash of the tokens, first byte, rows, checksum of the bytes."""


@dataclass(frozen=True, slots=True)
class _Place:
    begin: int
    rows: int
    checksum: int


@dataclass(slots=True, kw_only=True)
class Activations:
    """An opened store. One process writes at a time; `models.locks` sees to that."""

    folder: Path
    width: int
    kind: Literal["bf16", "f32"]
    _data: int
    _index: int
    _end: int
    _places: dict[bytes, _Place]
    _waiting: list[bytes] = field(default_factory=list)
    _map: mmap.mmap | None = None

    @property
    def row_bytes(self) -> int:
        """The size of one row."""
        return self.width * np.dtype(KINDS[self.kind]).itemsize

    def __contains__(self, digest: bytes) -> bool:
        """Whether a prompt is known."""
        return digest in self._places

    def __len__(self) -> int:
        """How many prompts are known."""
        return len(self._places)

    def reserve(self, rows: int) -> None:
        """Refuse when so many rows more have no room.

        Raises:
            InsufficientDiskError: They do not fit on the disk.
        """
        require_disk(self.folder, rows * self.row_bytes)

    def add(self, digest: bytes, rows: "NDArray[Any]") -> None:
        """Append what was computed for a prompt, [tokens, width]; it is kept for good after `sync`.

        Raises:
            InsufficientDiskError: The disk is full.
        """
        if digest in self._places:
            return
        raw = np.ascontiguousarray(rows, dtype=KINDS[self.kind]).reshape(-1, self.width).tobytes()
        self._write(self._data, raw, self._end)
        self._places[digest] = _Place(self._end, len(raw) // self.row_bytes, zlib.crc32(raw))
        self._waiting.append(digest)
        self._end += len(raw)

    def sync(self) -> None:
        """Make what was added durable: first the rows, then the index that names them.

        Raises:
            InsufficientDiskError: The disk is full.
        """
        if not self._waiting:
            return
        os.fdatasync(self._data)
        named = b"".join(
            _RECORD.pack(digest, place.begin, place.rows, place.checksum)
            for digest, place in ((digest, self._places[digest]) for digest in self._waiting)
        )
        self._write(self._index, named, os.fstat(self._index).st_size)
        os.fdatasync(self._index)
        self._waiting.clear()

    def read(self, digest: bytes) -> "NDArray[Any]":
        """Return the rows of a prompt, [tokens, width]; bf16 as its bits in uint16. A view that must not outlive this.

        Raises:
            RunFolderError: They are not what was written.
            KeyError: The prompt is not known.
        """
        place = self._places[digest]
        size = place.rows * self.row_bytes
        if self._map is None or place.begin + size > len(self._map):
            self._map = mmap.mmap(self._data, 0, access=mmap.ACCESS_READ)
        raw = memoryview(self._map)[place.begin : place.begin + size]
        if zlib.crc32(raw) != place.checksum:
            raise RunFolderError(
                say("What frozen layers gave, in {folder}, is damaged.", folder=str(self.folder)),
                hint=say("Remove that folder; it is computed again."),
            )
        return np.frombuffer(raw, dtype=KINDS[self.kind]).reshape(place.rows, self.width)

    def close(self) -> None:
        """Close the files. What was not synced is computed again by whoever opens the store next."""
        os.close(self._data)
        os.close(self._index)

    def _write(self, file: int, raw: bytes, at: int) -> None:
        left = memoryview(raw)
        try:
            while left:
                count = os.pwrite(file, left, at)
                left, at = left[count:], at + count
        except OSError as error:
            if error.errno in DISK_FULL:
                raise disk_full(self.folder, len(raw)) from error
            raise


def open_activations(root: Path, facts: Mapping[str, Any], *, width: int, kind: Literal["bf16", "f32"]) -> Activations:
    """Open the store for some facts, or make it.

    Args:
        root: The folder of all stores.
        facts: All that the numbers depend on besides the tokens: weights, layers, arithmetic, versions.
        width: Numbers in a row.
        kind: Their format.
    """
    about = {"format": FORMAT, "width": width, "kind": kind, **facts}
    text = json.dumps(about, sort_keys=True, indent=1)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "about.json").exists():
        write_text(folder / "about.json", text + "\n", mode=0o600)
    data, index = (os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in ("rows", "index"))
    row_bytes = width * np.dtype(KINDS[kind]).itemsize
    places = _read_index(index, os.fstat(data).st_size, row_bytes)
    end = max((place.begin + place.rows * row_bytes for place in places.values()), default=0)
    return Activations(folder=folder, width=width, kind=kind, _data=data, _index=index, _end=end, _places=places)


def _read_index(file: int, data_bytes: int, row_bytes: int) -> dict[bytes, _Place]:
    """Read the index; what a crash left of its end is cut off, what points past the rows is left out."""
    size = os.fstat(file).st_size
    whole = size - size % _RECORD.size
    if whole != size:
        os.ftruncate(file, whole)
    raw = b""
    while len(raw) < whole:
        raw += os.pread(file, whole - len(raw), len(raw))
    found = {}
    for digest, begin, rows, checksum in _RECORD.iter_unpack(raw):
        if begin + rows * row_bytes <= data_bytes:
            found[digest] = _Place(begin, rows, checksum)
    return found
