"""Files without some calls: what is about them is taken out, and everything else stays as it was.

Lines of JSON, JSON arrays and CSV are known by what their keys and columns are called, as the readers know them. A file
is replaced as a whole or not at all, and what stands beside it and names it by its hash (a manifest, a journal) names
the new one then. Files of other kinds, and those that cannot be read, are only looked into: `mentions` says whether a
person has to.
"""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwenops.atomic import whole_file, write_text
from qwenops.calls.lines import HEAD_BYTES, Encoding, encoding_of
from qwenops.calls.readers.columns import HEADER_ROWS, Column, columns_of
from qwenops.calls.readers.rows import LONGEST_CELL, delimiter_of
from qwenops.models.checkpoint import file_sha256

LINES = frozenset({".jsonl", ".ndjson"})
TABLES = frozenset({".csv", ".tsv"})
WORKBOOKS = frozenset({".xlsx", ".xlsm"})
TEXTS = frozenset({".json", ".txt", ".log", ".md", ".html", ".xml", ".yaml", ".yml", ".toml"})
LARGEST_WHOLE_BYTES = 512 * 2**20
"""A larger JSON document, table or text is not read as a whole; a person has to look at it."""
_LARGEST_NOTE_BYTES = 16 * 2**20
_UTF_16 = frozenset({Encoding.UTF_16_LE, Encoding.UTF_16_BE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """Calls that shall be nowhere."""

    customer_id: str
    conversations: frozenset[str] = frozenset()

    def covers(self, ids: "Ids") -> bool:
        """Whether something is about one of them."""
        conversation, customer = ids
        return customer == self.customer_id or conversation in self.conversations


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A file that something was taken out of."""

    path: Path
    num_entries: int
    """Lines, rows or objects that went."""
    old_sha256: str
    new_sha256: str
    """Empty where the whole file went."""


Ids = tuple[str | None, str | None]
"""Of a conversation and of a customer; None where they are not said."""
Entry = tuple[Ids, bytes]
"""Part of a file, and whom it is about."""

_NOBODY: Ids = (None, None)


class _BrokenTableError(Exception):
    """A quotation mark that never closes would make one row of everything behind it."""


def conversations_in(path: Path, customer_id: str) -> set[str]:
    """Return the calls of a customer that a file knows.

    Raises:
        OSError: It cannot be read.
    """
    try:
        return {ids[0] for ids, _ in _entries(path) if ids[1] == customer_id and ids[0] is not None}
    except _BrokenTableError:
        return set()


def rewrite_without(path: Path, gone: Gone) -> Rewritten | None:
    """Take what is about some calls out of a file; None where nothing was, or where that cannot be done.

    A file that is named by the id of one of the calls, or is one of them, goes as a whole.

    Raises:
        OSError: It cannot be read or written; it is as it was.
    """
    if path.stem in gone.conversations:
        return _removed(path)
    try:
        document = _document(path)
        if document is not None:
            return _rewrite_document(path, document, gone)
        num_entries = sum(gone.covers(ids) for ids, _ in _entries(path))
        if not num_entries:
            return None
        kept = (raw for ids, raw in _entries(path) if not gone.covers(ids))
        return _replaced(path, kept, num_entries)
    except _BrokenTableError:
        return None


def mentions(path: Path, gone: Gone) -> bool:
    """Whether a file still speaks of the customer or of one of the calls, as far as that can be told.

    Raises:
        OSError: It cannot be read.
    """
    suffix = path.suffix.lower()
    named = _named(gone)
    if suffix in WORKBOOKS:
        return _workbook_mentions(path, named)
    if suffix not in TEXTS | TABLES | LINES:
        return False
    if path.stat().st_size > LARGEST_WHOLE_BYTES and suffix not in LINES:
        return True
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(0)
        if encoding_of(head) in _UTF_16:
            text = file.read().decode("utf-16", "replace").encode("utf-8", "replace")
            return named.search(text) is not None
        return any(named.search(line) for line in file)


def _named(gone: Gone) -> re.Pattern[bytes]:
    """Return what finds one of the ids as a word of its own; `a2` stands in no `data2`."""
    ids = (gone.customer_id, *sorted(gone.conversations))
    spelt = {each.encode(codec, "replace") for each in ids if each for codec in ("utf-8", "gb18030")}
    return re.compile(rb"(?<![\w-])(?:" + b"|".join(map(re.escape, sorted(spelt))) + rb")(?![\w-])")


def _workbook_mentions(path: Path, named: re.Pattern[bytes]) -> bool:
    try:
        with zipfile.ZipFile(path) as book:
            parts = (book.read(name) for name in book.namelist() if name.endswith(".xml"))
            return any(named.search(part) for part in parts)
    except zipfile.BadZipFile:
        return True


def _removed(path: Path) -> Rewritten:
    old = file_sha256(path)
    path.unlink()
    return Rewritten(path=path, num_entries=1, old_sha256=old, new_sha256="")


def _replaced(path: Path, parts: Iterable[bytes], num_entries: int) -> Rewritten:
    old, digest = file_sha256(path), hashlib.sha256()
    with whole_file(path, mode=path.stat().st_mode & 0o777) as out:
        for raw in parts:
            digest.update(raw)
            out.write(raw)
        new = digest.hexdigest()
        # Before the file has its new name: after a crash in between the same is done once more.
        _rename_in_notes(path, old, new)
    return Rewritten(path=path, num_entries=num_entries, old_sha256=old, new_sha256=new)


def _rewrite_document(path: Path, document: Any, gone: Gone) -> Rewritten | None:
    if gone.covers(_ids_of(document)):
        return _removed(path)
    left, num_entries = _scrubbed(document, gone)
    if not num_entries:
        return None
    text = json.dumps(left, ensure_ascii=False, indent=1) + "\n"
    return _replaced(path, [text.encode("utf-8", "backslashreplace")], num_entries)


def _scrubbed(tree: Any, gone: Gone) -> tuple[Any, int]:
    """Return a JSON value without the objects that are about the calls, and without their ids in lists and as keys."""
    if isinstance(tree, list):
        kept = [each for each in tree if not (gone.covers(_ids_of(each)) or gone.covers((_plain(each), _plain(each))))]
        inner = [_scrubbed(each, gone) for each in kept]
        return [each for each, _ in inner], len(tree) - len(kept) + sum(count for _, count in inner)
    if isinstance(tree, dict):
        left = {key: value for key, value in tree.items() if not gone.covers((key, key))}
        found = {key: _scrubbed(value, gone) for key, value in left.items()}
        count = len(tree) - len(left) + sum(count for _, count in found.values())
        return {key: value for key, (value, _) in found.items()}, count
    return tree, 0


def _document(path: Path) -> Any:
    """Return a file that is one JSON value; None where it is none, is too large, or holds several."""
    if path.suffix.lower() != ".json" or path.stat().st_size > LARGEST_WHOLE_BYTES:
        return None
    raw = path.read_bytes()
    encoding = encoding_of(raw[:HEAD_BYTES])
    found = None if encoding in _UTF_16 else _parsed(raw, _codec(encoding))
    return found if isinstance(found, dict | list) else None


def _entries(path: Path) -> Iterator[Entry]:
    """Yield a file in the parts that can be left out, each with whom it is about; nothing of a file of another kind."""
    suffix = path.suffix.lower()
    document = _document(path)
    if document is not None:
        elements = document if isinstance(document, list) else [document]
        yield from ((_ids_of(each), b"") for each in elements)
        return
    with path.open("rb") as file:
        encoding = encoding_of(file.read(HEAD_BYTES))
    if encoding in _UTF_16:
        return
    if suffix in LINES or suffix == ".json":
        yield from _lines(path, _codec(encoding))
    elif suffix in TABLES and path.stat().st_size <= LARGEST_WHOLE_BYTES:
        yield from _rows(path.read_bytes().decode(_codec(encoding), "surrogateescape"), _codec(encoding))


def _codec(encoding: Encoding | None) -> str:
    return "gb18030" if encoding is Encoding.GB18030 else "utf-8"


def _lines(path: Path, codec: str) -> Iterator[Entry]:
    with path.open("rb") as file:
        for raw in file:
            yield _ids_of(_parsed(raw, codec)), raw


def _rows(text: str, codec: str) -> Iterator[Entry]:
    """Yield the rows of a table, each as the lines that it was written in."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    columns: Sequence[Column | None] = ()
    for number, cells in enumerate(_cells(lines(), delimiter_of(text[:HEAD_BYTES], {}))):
        raw = "".join(taken).encode(codec, "surrogateescape")
        taken.clear()
        ids = _NOBODY
        if columns:
            named = {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if column is not None}
            ids = named.get(Column.ID), named.get(Column.CUSTOMER)
        elif number < HEADER_ROWS:
            found = columns_of([cell.lstrip("\ufeff") for cell in cells], {})
            columns = found if Column.ID in found or Column.CUSTOMER in found else ()
        yield ids, raw


def _cells(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    try:
        yield from csv.reader(lines, delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise _BrokenTableError from error


def _ids_of(found: Any) -> Ids:
    if not isinstance(found, dict):
        return _NOBODY
    named = dict(zip(_columns(tuple(found)), found.values(), strict=True))
    return _plain(named.get(Column.ID)), _plain(named.get(Column.CUSTOMER))


def _plain(value: Any) -> str | None:
    return str(value).strip() if isinstance(value, str | int) else None


@lru_cache(maxsize=1024)
def _columns(keys: tuple[str, ...]) -> tuple[Column | None, ...]:
    return columns_of(keys, {})


def _parsed(raw: bytes, codec: str) -> Any:
    try:
        return json.loads(raw.decode(codec, "surrogateescape").lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None


def _rename_in_notes(path: Path, old: str, new: str) -> None:
    """Let the small files beside a file, and those above it, name it by its new hash."""
    for folder in (path.parent, path.parent.parent):
        for note in (*folder.glob("*.json"), folder / "journal.jsonl"):
            if note == path or note.is_symlink() or not note.is_file() or note.stat().st_size > _LARGEST_NOTE_BYTES:
                continue
            raw = note.read_bytes()
            if old.encode() in raw:
                text = raw.decode("utf-8").replace(old, new)
                write_text(note, text, mode=note.stat().st_mode & 0o777)
