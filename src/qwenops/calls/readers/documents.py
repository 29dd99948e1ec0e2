"""The values of a JSON file, one at a time: lines of JSON, one list however long, or objects one after the other.

A list of ten gigabytes in a single line is read as flat as lines are. In lines of JSON a bad one is said and the next
is read; where a list or an object is broken nobody knows where the next begins, so that reading ends there and says so.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar

from qwenops.calls.lines import STDIN, Encoding, Source, lines_of, mended, text_of
from qwenops.calls.problems import FieldProblem, Problem, Severity
from qwenops.calls.readers.entries import Place
from qwenops.text import say

LONGEST_VALUE = 64 * 2**20
"""Characters of one value."""

_SPACE = " \t\r\n\ufeff"
_OPEN_ENDS = ("{", "[", ",", ":")
"""What the first line of an object that is spread over several ends with."""
_NEAR_END = 16
"""So close to the end of what was read, an error may only mean that more is to come."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One value as text, and where it begins."""

    place: Place
    text: str


def documents(source: Source) -> Iterator[Document | Problem]:
    """Yield the values of a JSON file; one that is alone in it says so."""
    found = _documents(source)
    if source.name == STDIN:
        # Nobody waits here to see whether a second value comes.
        yield from found
        return
    first: Document | None = None
    is_alone = True
    for each in found:
        if isinstance(each, Problem):
            yield each
        elif first is None and is_alone:
            first = each
        else:
            if first is not None:
                yield first
            first, is_alone = None, False
            yield each
    if first is not None:
        yield replace(first, place=replace(first.place, is_alone=True))


def _documents(source: Source) -> Iterator[Document | Problem]:
    beginning = source.beginning.lstrip(_SPACE)
    if beginning.startswith("["):
        yield from _values(source, _SPACE + ",[]")
    elif _is_spread(beginning):
        yield from _values(source, _SPACE + ",")
    else:
        for line in lines_of(source):
            if line.problem is not None:
                yield line.problem
            if line.is_readable and line.text.strip():
                yield Document(place=Place(source=source.name, line=line.number), text=line.text)


def loads(text: str) -> Mapping[str, Any]:
    """Read one JSON object.

    Raises:
        FieldProblem: It is none.
    """
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        where = f" (character {error.pos + 1})" if isinstance(error, json.JSONDecodeError) else ""
        raise FieldProblem([{"type": "json_invalid", "loc": (), "msg": _reason(error) + where}]) from error
    if not isinstance(found, dict):
        raise FieldProblem([{"type": "json_invalid", "loc": (), "msg": f"{type(found).__name__}, no object"}])
    return found


def first_object(source: Source) -> Mapping[str, Any] | None:
    """Return the first object of a JSON file as far as the beginning holds it, to find out what the file is."""
    beginning = source.beginning.lstrip(_SPACE + "[")
    try:
        found, _ = json.JSONDecoder().raw_decode(beginning)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class _Text:
    """The text of a source, as much of it as is looked at."""

    def __init__(self, source: Source) -> None:
        self._blocks = text_of(source)
        self.text = ""
        self.at = 0
        self.line = 1  # where `at` is

    def more(self) -> bool:
        """Read as much again as is held, and forget what was passed; whether there was anything."""
        wanted, got = max(len(self.text) - self.at, 1), 0
        blocks = [""]
        while got < wanted and (block := next(self._blocks, None)) is not None:
            blocks.append(block)
            got += len(block)
        if not got:
            return False
        self.text = self.text[self.at :] + "".join(blocks)
        self.at = 0
        return True

    def skip(self, characters: str) -> str:
        """Pass over `characters`; return the last list bracket among them, or nothing."""
        bracket = ""
        while True:
            rest = self.text[self.at : self.at + _NEAR_END]
            passed = len(rest) - len(rest.lstrip(characters))
            brackets = [each for each in rest[:passed] if each in "[]"]
            bracket = brackets[-1] if brackets else bracket
            self.move(self.at + passed)
            if passed < len(rest):
                return bracket
            if not rest and not self.more():
                return bracket

    def move(self, end: int) -> None:
        """Go on to a place in the text."""
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def line_of(self, error: Exception) -> int:
        """Return where in the text a value is broken."""
        end = error.pos if isinstance(error, json.JSONDecodeError) else self.at
        return self.line + self.text.count("\n", self.at, end)

    @property
    def is_over(self) -> bool:
        return self.at >= len(self.text)


def _values(source: Source, between: str) -> Iterator[Document | Problem]:
    """Yield the values of a list, or objects one after the other; `between` is what stands between them."""
    text, is_list = _Text(source), "[" in between
    for number in itertools.count(1):
        last = text.skip(between)
        place = Place(source=source.name, line=text.line, number=number)
        if text.is_over:
            if is_list and last != "]":
                yield place.problem(say("The list is not closed: the file is cut off."))
            return
        try:
            value = _next(text)
        except (ValueError, RecursionError) as error:
            what = say("This is no JSON: {reason}. What follows was not read.", reason=_reason(error))
            yield Place(source=source.name, line=text.line_of(error)).problem(what)
            return
        whole, encoding = mended(source, value)
        if encoding is None:
            yield place.problem(say("The text is neither UTF-8 nor GB18030."))
            continue
        if whole is not value and encoding is not (source.encoding or encoding):
            yield _mixed(place, encoding, source)
        yield Document(place=place, text=whole)


def _next(text: _Text) -> str:
    """Return the next value as text and go behind it.

    Raises:
        ValueError: It is no JSON, or longer than a value may be.
    """
    decoder = json.JSONDecoder()
    while True:
        try:
            _, end = decoder.raw_decode(text.text, text.at)
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(text.text) - _NEAR_END
            if len(text.text) - text.at > LONGEST_VALUE or not is_cut or not text.more():
                raise
            continue
        if end == len(text.text) and text.text[end - 1] not in "}]" and text.more():
            continue
        value = text.text[text.at : end]
        text.move(end)
        return value


def _mixed(place: Place, encoding: Encoding, source: Source) -> Problem:
    what = say(
        "The text is written in {encoding}, the file in {usual}; it was read as what it is.",
        encoding=encoding.value,
        usual=source.encoding.value if source.encoding else "",
    )
    return place.problem(what, severity=Severity.WARNING)


def _is_spread(beginning: str) -> bool:
    """Whether an object goes over several lines."""
    first = beginning.partition("\n")[0].rstrip()
    return "\n" in beginning and first.startswith("{") and first.endswith(_OPEN_ENDS) and not _is_json(first)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def each_object(source: Source, read: Callable[[Mapping[str, Any], Place], Iterator[_T]]) -> Iterator[_T | Problem]:
    """Yield what `read` makes of each object of a JSON file, and what is wrong with the others."""
    for each in documents(source):
        if isinstance(each, Problem):
            yield each
            continue
        try:
            found = loads(each.text)
        except FieldProblem as error:
            yield from error.problems(each.place.source, each.place.line)
            continue
        yield from read(found, each.place)
