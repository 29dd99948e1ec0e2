"""What a file of calls is, and who reads it.

A file is known by its content; its name only helps where the content is plain text. A new format is one more file
beside this one, one sign and one line of the table.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar

from qwenops.calls.classes import Taxonomy
from qwenops.calls.lines import STDIN, Source, opened
from qwenops.calls.problems import FieldProblem, Problem
from qwenops.calls.readers.columns import Column, columns_of
from qwenops.calls.readers.documents import documents, each_object, first_object
from qwenops.calls.readers.entries import Entry, Format, Found, LabelEntry, Place, Reading, ReadOptions
from qwenops.calls.readers.records import Terms, label_entries_of, record_of, terms
from qwenops.calls.readers.rows import names_columns
from qwenops.calls.readers.tables import calls_of_csv, calls_of_workbook, labels_of_csv, labels_of_workbook
from qwenops.calls.readers.training import (
    entries_of_label_studio,
    entries_of_llama_factory,
    entries_of_ms_swift,
    entries_of_object,
)
from qwenops.calls.readers.transcripts import CLOUD, FUNASR, entries_of_transcript, sentences_of
from qwenops.calls.schema import parse_call, parse_label
from qwenops.errors import InvalidDataError
from qwenops.text import Report, say

_SUFFIXES = frozenset({".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".xlsx", ".xlsm"})
"""What is read of a folder."""
_TABLES = frozenset({".csv", ".tsv", ".txt"})
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_PDF = b"%PDF"
_BLANK = "\ufeff \t\r\n"
_LABEL_KEYS = frozenset({"taxonomy", "primary"})
_T = TypeVar("_T", Entry, LabelEntry)

_SIGNS: tuple[tuple[Format, frozenset[str]], ...] = (
    (Format.CALLS, frozenset({"conversation_id", "turns"})),
    (Format.TRAINING_DATA, frozenset({"input_text"})),
    (Format.LABEL_STUDIO, frozenset({"data", "annotations"})),
    (Format.LABEL_STUDIO, frozenset({"data", "completions"})),
    (Format.LABEL_STUDIO, frozenset({"annotation_id"})),
    (Format.MS_SWIFT, frozenset({"messages"})),
    (Format.MS_SWIFT, frozenset({"query", "response"})),
    (Format.LLAMA_FACTORY, frozenset({"conversations"})),
    (Format.LLAMA_FACTORY, frozenset({"instruction", "output"})),
)
"""Keys by which an object is known. Transcripts are known by their dialects."""
_CLOUD_KEYS = ("Sentences", "transcripts", "ResultDetail", "utterances", "recognizedPhrases", "Transcript", "segments")

_OBJECTS: Mapping[Format, Callable[[Mapping[str, Any], Place, Terms], Iterator[Found]]] = {
    Format.TRAINING_DATA: entries_of_object,
    Format.FUNASR: partial(entries_of_transcript, dialects=FUNASR),
    Format.CLOUD_TRANSCRIPT: partial(entries_of_transcript, dialects=CLOUD),
    Format.MS_SWIFT: entries_of_ms_swift,
    Format.LLAMA_FACTORY: entries_of_llama_factory,
    Format.LABEL_STUDIO: entries_of_label_studio,
}


def open_calls(
    path: Path,
    *,
    taxonomy: Taxonomy | None = None,
    options: ReadOptions | None = None,
    report: Report | None = None,
    stdin: BufferedIOBase | None = None,
) -> Reading[Entry]:
    """Open a file of calls, a folder of such files, or standard input (`-`); it is read as it is gone through.

    Args:
        path: The file or folder.
        taxonomy: What the categories in the file are to be found in; None takes them as they are.
        options: What the file does not say about itself.
        report: Is told what the file is written in and how far reading is.
        stdin: What `-` stands for; the process's own where not given.

    Raises:
        InvalidDataError: It cannot be opened, or is of no format that is known.
        ConfigError: An option cannot be read.
    """
    wishes = options or ReadOptions()
    known = terms(taxonomy, wishes)
    if path.is_dir():
        files = _files(path)
        kind = wishes.format or _format_of_folder(files)
        return Reading(_each_file(files, kind if wishes.format else None, known, report), kind, str(path))
    if str(path) != STDIN:
        kind = wishes.format or _format_of(path)
        return Reading(_file(path, kind, known, report), kind, str(path))
    with opened(path, report=report, stdin=stdin) as source:
        # Standard input is not ours to close, so that it can be read after this.
        kind = wishes.format or format_of(source)
        return Reading(_source(source, kind, known), kind, str(path))


def open_labels(
    path: Path,
    *,
    taxonomy: Taxonomy | None = None,
    options: ReadOptions | None = None,
    report: Report | None = None,
) -> Reading[LabelEntry]:
    """Open a file of labels: our lines of JSON, or a table with ids and categories.

    Args:
        path: The file.
        taxonomy: What the categories of a table are to be found in; None takes them as they are.
        options: What the file does not say about itself.
        report: Is told how far reading is.

    Raises:
        InvalidDataError: It cannot be opened, or is no such file.
        ConfigError: An option cannot be read.
    """
    wishes = options or ReadOptions()
    known = terms(taxonomy, wishes)
    if str(path) == STDIN:
        raise InvalidDataError(say("Labels cannot be read from standard input."), hint=say("Give a file."))
    with opened(path) as source:
        is_json = source.beginning.lstrip(_BLANK)[:1] in {"{", "["}
        kind = wishes.format or (Format.CALLS if is_json else format_of(source))
    match kind:
        case Format.TABLE_XLSX:
            found = labels_of_workbook(path, known, report)
        case Format.TABLE_CSV:
            found = _reading(path, report, lambda source: labels_of_csv(source, known))
        case _:
            found = _reading(path, report, lambda source: _own_labels(source, known))
    return Reading(found, kind, str(path))


def format_of(source: Source) -> Format:
    """Return what a file is.

    Raises:
        InvalidDataError: It is nothing that is known.
    """
    suffix = Path(source.name).suffix.lower()
    if source.head.startswith(_ZIP):
        return Format.TABLE_XLSX
    if source.head.startswith((_OLE, _PDF)):
        raise InvalidDataError(
            say("{name} is an old or a protected workbook, or no table at all.", name=source.name),
            hint=say("Save it as .xlsx without a password, or as CSV."),
        )
    beginning = source.beginning.lstrip(_BLANK)
    if not beginning:
        raise InvalidDataError(say("{name} is empty.", name=source.name), hint=say("Give a file that holds calls."))
    if beginning.startswith(("{", "[")) and (suffix not in _TABLES or beginning[:2] in {'{"', "[{"}):
        return _format_of_objects(source)
    if suffix in _TABLES or names_columns(source.beginning, {}):
        return Format.TABLE_CSV
    raise InvalidDataError(
        say(
            "{name} is none of the formats that are known: {formats}.",
            name=source.name,
            formats=", ".join(each.value for each in Format),
        ),
        hint=say("Say with --format what it is."),
    )


def _format_of(path: Path) -> Format:
    with opened(path) as source:
        return format_of(source)


def _format_of_folder(files: Sequence[Path]) -> Format:
    """Return what the first file is that is anything; the others are said when they are read."""
    *others, last = files
    for path in others:
        with suppress(InvalidDataError):
            return _format_of(path)
    return _format_of(last)


def _format_of_objects(source: Source) -> Format:
    found = first_object(source)
    if found is None:
        # The first object is longer than what is looked at, or is broken.
        keys = frozenset(re.findall(r'"(\w+)"\s*:', source.beginning))
        if "sentence_info" in keys or "stamp_sents" in keys:
            return Format.FUNASR
        is_cloud = any(key in keys for key in _CLOUD_KEYS)
    else:
        keys = frozenset(found)
        kind = _transcript(found)
        if kind is not None:
            return kind
        is_cloud = False
    for kind, signs in _SIGNS:
        if signs <= keys:
            return kind
    if is_cloud:
        return Format.CLOUD_TRANSCRIPT
    if Column.TEXT in columns_of(tuple(keys), {}):
        return Format.TRAINING_DATA
    if not keys:
        raise InvalidDataError(
            say("{name} begins like JSON and holds no object that can be read.", name=source.name),
            hint=say("Check whether the file is whole, and whether it is JSON."),
        )
    raise InvalidDataError(
        say(
            "{name} holds JSON objects of no format that is known; the first has the keys: {keys}.",
            name=source.name,
            keys=", ".join(sorted(keys)),
        ),
        hint=say("Say with --format what it is, or with --column text=KEY where the text is."),
    )


def _transcript(found: Mapping[str, Any]) -> Format | None:
    """Return which kind of transcript an object is; None where it is none."""
    for kind, dialects in ((Format.FUNASR, FUNASR), (Format.CLOUD_TRANSCRIPT, CLOUD)):
        try:
            if sentences_of(found, dialects) is not None:
                return kind
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            continue
    has_text = isinstance(found.get("text"), str)
    return Format.FUNASR if has_text and ("timestamp" in found or set(found) == {"key", "text"}) else None


def _files(folder: Path) -> list[Path]:
    files = sorted(
        each
        for each in folder.iterdir()
        if each.is_file() and each.suffix.lower() in _SUFFIXES and not each.name.startswith((".", "~$"))
    )
    if not files:
        raise InvalidDataError(
            say("{folder} holds no files of calls.", folder=str(folder)),
            hint=say("Possible are: {suffixes}.", suffixes=", ".join(sorted(_SUFFIXES))),
        )
    return files


def _each_file(files: list[Path], kind: Format | None, known: Terms, report: Report | None) -> Iterator[Found]:
    for number, path in enumerate(files):
        if report is not None:
            report(number / len(files), say("Reading {name}.", name=str(path)))
        try:
            yield from _file(path, kind or _format_of(path), known, None)
        except InvalidDataError as error:
            # One file that is none does not keep the others from being read.
            yield Problem(what=say("The file was not read: {reason}", reason=error.message), source=str(path))


def _file(path: Path, kind: Format, known: Terms, report: Report | None) -> Iterator[Found]:
    if kind is Format.TABLE_XLSX:
        return calls_of_workbook(path, known, report)
    return _reading(path, report, lambda source: _source(source, kind, known))


def _reading(
    path: Path, report: Report | None, read: Callable[[Source], Iterator[_T | Problem]]
) -> Iterator[_T | Problem]:
    """Yield what is read of a file, which is open only meanwhile."""
    with opened(path, report=report) as source:
        yield from read(source)


def _source(source: Source, kind: Format, known: Terms) -> Iterator[Found]:
    match kind:
        case Format.CALLS:
            return _own_calls(source)
        case Format.TABLE_CSV:
            return calls_of_csv(source, known)
        case Format.TABLE_XLSX:
            raise InvalidDataError(
                say("A workbook cannot be read from standard input."), hint=say("Give the file itself, or CSV.")
            )
        case _:
            return each_object(source, lambda found, place: _OBJECTS[kind](found, place, known))


def _own_calls(source: Source) -> Iterator[Found]:
    for each in documents(source):
        if isinstance(each, Problem):
            yield each
            continue
        try:
            call = parse_call(each.text)
        except FieldProblem as error:
            yield from error.problems(each.place.source, each.place.line)
            continue
        yield Entry(call=call, label=None, line=each.place.line, source=each.place.source)


def _own_labels(source: Source, known: Terms) -> Iterator[LabelEntry | Problem]:
    """Yield the labels of lines of JSON: our own, or objects with an id and a category."""
    for each in documents(source):
        if isinstance(each, Problem):
            yield each
            continue
        try:
            if _is_plain(each.text):
                yield from label_entries_of(record_of(json.loads(each.text), known.columns), each.place, known)
            else:
                yield LabelEntry(label=parse_label(each.text), line=each.place.line, source=each.place.source)
        except FieldProblem as error:
            yield from error.problems(each.place.source, each.place.line)


def _is_plain(text: str) -> bool:
    """Whether an object has an id and a category and nothing of our own label."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and not _LABEL_KEYS & set(found) and "schema" not in found
