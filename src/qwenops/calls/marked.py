"""YAML of which every value knows its line, so that all that is wrong with a file is said at once and in its place.

Only what data needs: texts, lists and mappings. Aliases, tags and further documents are refused, for they let a short
file be an endless one. Everything is text until somebody asks for a number or a truth value, so `no` is a word and
12315 may be a name. Reading goes event by event and never calls itself, however deep a file nests.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenops.calls.problems import Problem, Severity
from qwenops.errors import InvalidDataError
from qwenops.options import FALSE, TRUE
from qwenops.text import Text, say

DEEPEST = 32
"""Lists and mappings within one another."""
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})
"""What stands for no value where it is not quoted."""
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Marked:
    """A value and its line in the file, from 1."""

    value: "str | list[Marked] | dict[str, Marked] | None"
    line: int


@dataclass(slots=True, kw_only=True)
class MarkedFile:
    """A file that is being read, and everything that was found wrong with it so far.

    The methods take a value and the name of its field; what is missing (None) gives the empty value without a word,
    because `fields` says what is missing.
    """

    source: str
    sha256: str
    """Of the bytes of the file, as hex."""
    root: Marked
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, what: Text, at: Marked, where: str, severity: Severity = Severity.ERROR) -> None:
        """Note a problem at a value."""
        self.problems.append(Problem(what=what, source=self.source, line=at.line, field=where, severity=severity))

    def fields(
        self, node: Marked | None, where: str, *, known: Sequence[str], required: Sequence[str] = ()
    ) -> dict[str, Marked]:
        """Return the fields of a mapping; note which are unknown and which are missing."""
        if node is not None and node.value is None:
            self.wrong(say("Fields and their values belong here."), node, where)
        found = self.mapping(node, where)
        for name, value in found.items():
            if name not in known:
                told = say("There is no such field; there are {fields}.", fields=", ".join(known))
                self.wrong(told, value, f"{where}.{name}" if where else name)
        if node is not None and isinstance(node.value, dict):
            for name in required:
                if name not in found:
                    self.wrong(say("The field {name} is missing.", name=name), node, where)
        return found

    def mapping(self, node: Marked | None, where: str) -> dict[str, Marked]:
        """Return a mapping, whatever its keys."""
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.wrong(say("Fields and their values belong here."), node, where)
            return {}
        return node.value

    def items(self, node: Marked | None, where: str) -> Iterator[tuple[str, Marked]]:
        """Yield what stands in a list, each with the name of its field."""
        if node is None or node.value is None:
            return
        if not isinstance(node.value, list):
            self.wrong(say("A list belongs here."), node, where)
            return
        for number, item in enumerate(node.value):
            yield f"{where}[{number}]", item

    def text(self, node: Marked | None, where: str) -> str:
        """Return a text without the blanks around it; an empty one is a problem."""
        if node is None:
            return ""
        if not isinstance(node.value, str) or not node.value.strip():
            self.wrong(say("A text belongs here."), node, where)
            return ""
        return node.value.strip()

    def texts(self, node: Marked | None, where: str) -> tuple[str, ...]:
        """Return a list of texts."""
        found = (self.text(item, place) for place, item in self.items(node, where))
        return tuple(text for text in found if text)

    def number(self, node: Marked | None, where: str) -> int | None:
        """Return a whole number that is not negative."""
        if node is None:
            return None
        if not isinstance(node.value, str) or _WHOLE_NUMBER.fullmatch(node.value) is None:
            self.wrong(say("A whole number belongs here."), node, where)
            return None
        return int(node.value)

    def flag(self, node: Marked | None, where: str) -> bool | None:
        """Return a truth value."""
        if node is None:
            return None
        said = node.value.lower() if isinstance(node.value, str) else ""
        if said not in TRUE | FALSE:
            self.wrong(say("true or false belongs here."), node, where)
            return None
        return said in TRUE


def read_marked(path: Path) -> MarkedFile:
    """Read a file of YAML.

    Raises:
        InvalidDataError: It cannot be read, is no UTF-8 or no YAML; the message names the line. What can be said
            together with other problems (a field that stands there twice, an alias) is in `problems` instead.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidDataError(
            say("{path} cannot be read: {reason}.", path=str(path), reason=error.strerror or type(error).__name__),
            hint=say("Check the path and who may read the file."),
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, data.count(b"\n", 0, error.start) + 1, say("This is no UTF-8.")) from error
    file = MarkedFile(source=str(path), sha256=hashlib.sha256(data).hexdigest(), root=Marked(None, 1))
    _parse(text, file, path)
    return file


def _parse(text: str, file: MarkedFile, path: Path) -> None:
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events: Iterable[Any] = yaml.parse(text, Loader=loader)
    growing = _Growing(file)
    try:
        for event in events:
            line = event.start_mark.line + 1
            if getattr(event, "tag", None) is not None:
                growing.wrong(say("Tags such as {tag!r} are not possible here.", tag=event.tag), line)
            match event:
                case yaml.CollectionStartEvent() if len(growing.parts) == DEEPEST:
                    raise _unreadable(path, line, say("Nothing nests deeper than {deepest} levels.", deepest=DEEPEST))
                case yaml.CollectionStartEvent():
                    growing.parts.append(_Part(line, is_mapping=isinstance(event, yaml.MappingStartEvent)))
                case yaml.CollectionEndEvent():
                    growing.close()
                case yaml.ScalarEvent():
                    empty = not event.style and event.value in _NOTHING
                    growing.add(Marked(None if empty else event.value, line))
                case yaml.AliasEvent():
                    growing.wrong(say("Aliases are not possible here; write it out."), line)
                    growing.add(Marked(None, line))
                case _:  # where streams and documents begin and end
                    pass
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        told = say("This is no YAML: {reason}.", reason=" ".join(str(reason).split()))
        raise _unreadable(path, mark.line + 1 if mark else None, told) from error


@dataclass(slots=True)
class _Part:
    """A list or a mapping whose end has not come."""

    line: int
    is_mapping: bool
    values: list[Marked] = field(default_factory=list)
    """Of a mapping, keys and values in turn."""


@dataclass(slots=True)
class _Growing:
    """What has been read so far."""

    file: MarkedFile
    parts: list[_Part] = field(default_factory=list)
    """From the outermost to the innermost."""
    is_whole: bool = False

    def wrong(self, what: Text, line: int) -> None:
        """Note a problem at a line."""
        self.file.wrong(what, Marked(None, line), "")

    def add(self, value: Marked) -> None:
        """Put a value where it belongs."""
        if self.parts:
            self.parts[-1].values.append(value)
        elif self.is_whole:
            self.wrong(say("Only one document may stand in the file."), value.line)
        else:
            self.file.root = value
            self.is_whole = True

    def close(self) -> None:
        """Finish the innermost list or mapping."""
        part = self.parts.pop()
        self.add(Marked(self._paired(part) if part.is_mapping else part.values, part.line))

    def _paired(self, part: _Part) -> dict[str, Marked]:
        found: dict[str, Marked] = {}
        for key, value in zip(part.values[::2], part.values[1::2], strict=True):
            if not isinstance(key.value, str):
                self.wrong(say("The name of a field must be a text."), key.line)
            elif key.value in found:
                first = found[key.value].line
                told = say("The field {name} stands here again, after line {first}.", name=key.value, first=first)
                self.wrong(told, key.line)
            else:
                found[key.value] = value
        return found


def _unreadable(path: Path, line: int | None, what: Text) -> InvalidDataError:
    problem = Problem(what=what, source=str(path), line=line)
    return InvalidDataError(
        say("{place}: {what}", place=problem.place, what=what),
        hint=say("Mend the file there; the presets of `qwenops` show how one is written."),
        problems=(problem,),
    )
