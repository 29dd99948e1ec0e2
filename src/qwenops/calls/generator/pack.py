"""Packs: everything one author wrote in one language, and what there must be in it.

Authors write independently of one another, so that a model can be judged on words of somebody whom it never read. A
pack is YAML with the schema `qwenops.pack/1`: a frame that fits any call, words for each leaf of the taxonomy, and
calls that are no complaint (`none`) or belong nowhere (`other`).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenops.calls.generator.facts import SLOTS
from qwenops.calls.generator.line import Line, LineError, parse_line
from qwenops.calls.problems import Problem, refuse
from qwenops.text import Text, say

PACK_SCHEMA = "qwenops.pack/1"
IDENTITIES = ("phone", "name", "id_card", "address", "bank_card", "email", "account")
"""What an agent asks for."""
PERSONAL_SLOTS = frozenset({*IDENTITIES, "landline", "surname", "plate", "order"})
MATTERS = ("said", "felt", "agent", "short", "asks", "fix")
FRAME = (
    "ivr",
    "greeting",
    "opening",
    "acknowledge",
    "hold",
    "sympathy",
    "objection",
    "threat",
    "anger",
    "calm",
    "backchannel",
    "filler",
    "promise",
    "accept",
    "refuse",
    "wrapup",
    "goodbye",
    "only_asking",
    "past",
    "besides",
    "decoy",
    "for_someone",
    "sarcasm",
)
_WITH_SHORT = frozenset({"past", "besides", "decoy"})
"""Parts of the frame in which {short} stands for a matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Two lines that belong together."""

    first: Line
    second: Line

    def has(self, texts: tuple[str, ...]) -> bool:
        """Say whether one of these stands in either of them."""
        return self.first.has(texts) or self.second.has(texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matter:
    """What can be said about one leaf; of `none` and `other` only `said` and `detail` are there."""

    said: tuple[Line, ...]
    """The customer, in the usual words."""
    felt: tuple[Line, ...] = ()
    """The customer, in words that do not name it."""
    detail: tuple[Exchange, ...] = ()
    """The agent asks, the customer answers."""
    agent: tuple[Line, ...] = ()
    short: tuple[Line, ...] = ()
    asks: tuple[Line, ...] = ()
    """Somebody who does not complain."""
    fix: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """One author in one language."""

    author: str
    lang: str
    frame: Mapping[str, tuple[Line, ...]]
    identity: Mapping[str, tuple[Exchange, ...]]
    chatter: tuple[Exchange, ...]
    """The customer says something off the point, the agent answers."""
    leaves: Mapping[str, Matter]
    none: Matter
    other: Matter
    sha256: str
    """Of the file."""

    def lines(self) -> Iterator[Line]:
        """Yield every line."""
        for several in self.frame.values():
            yield from several
        exchanges = [*self.chatter, *(each for several in self.identity.values() for each in several)]
        for matter in (*self.leaves.values(), self.none, self.other):
            exchanges.extend(matter.detail)
            for name in MATTERS:
                yield from getattr(matter, name)
        for exchange in exchanges:
            yield exchange.first
            yield exchange.second


def read_yaml(path: Path) -> tuple[Any, str]:
    """Return what a YAML file of ours holds, and the hash of its bytes."""
    import yaml

    raw = path.read_bytes()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(raw, Loader=loader), hashlib.sha256(raw).hexdigest()  # noqa: S506 -- both are safe loaders


def load_pack(path: Path, leaves: Sequence[str]) -> Pack:
    """Read a pack and check that everything is there.

    Args:
        path: The file.
        leaves: Codes of the leaves that it must have words for.

    Raises:
        InvalidDataError: Something is missing or cannot be read; everything that is wrong is listed.
    """
    data, sha256 = read_yaml(path)
    reading = _Reading(path=path, data=data if isinstance(data, dict) else {})
    pack = reading.pack(leaves, sha256)
    refuse(reading.problems, say("{path} is no pack of words for calls.", path=path.name))
    return pack


@dataclass(slots=True, kw_only=True)
class _Reading:
    """A pack while it is read, and what is wrong with it so far."""

    path: Path
    data: Mapping[str, Any]
    problems: list[Problem] = field(default_factory=list)

    def pack(self, leaves: Sequence[str], sha256: str) -> Pack:
        """Return the pack; what is missing in it is empty, and a problem."""
        if self.data.get("schema") != PACK_SCHEMA:
            self.wrong("schema", say("It must be {schema}.", schema=PACK_SCHEMA))
        frame, written = self.part(self.data, "frame"), self.part(self.data, "leaves")
        for code in written:
            if code not in leaves:
                self.wrong(f"leaves.{code}", say("The taxonomy has no such leaf."))
        identity = self.part(frame, "identity", "frame.")
        return Pack(
            author=str(self.data.get("author", "")),
            lang=str(self.data.get("lang", "")),
            frame={name: self.lines(frame, name, "frame", short=name in _WITH_SHORT) for name in FRAME},
            identity={name: self.exchanges(identity, name, "frame.identity", ("ask", "answer")) for name in IDENTITIES},
            chatter=self.exchanges(frame, "chatter", "frame", ("a", "b")),
            leaves={
                code: self.matter(self.part(written, code, "leaves."), f"leaves.{code}", MATTERS) for code in leaves
            },
            none=self.matter(self.part(self.data, "none"), "none", ("said",)),
            other=self.matter(self.part(self.data, "other"), "other", ("said",)),
            sha256=sha256,
        )

    def part(self, within: Mapping[str, Any], name: str, above: str = "") -> Mapping[str, Any]:
        """Return a mapping that must be there."""
        found = within.get(name)
        if isinstance(found, dict):
            return found
        self.wrong(f"{above}{name}", say("Fields and their values belong here."))
        return {}

    def matter(self, within: Mapping[str, Any], where: str, names: Sequence[str]) -> Matter:
        """Return what can be said about one leaf."""
        told = {name: self.lines(within, name, where) for name in names}
        return Matter(**told, detail=self.exchanges(within, "detail", where, ("ask", "answer")))

    def lines(self, within: Mapping[str, Any], name: str, where: str, *, short: bool = False) -> tuple[Line, ...]:
        """Return a list of lines that must not be empty."""
        found = within.get(name)
        if not isinstance(found, list) or not found:
            self.wrong(f"{where}.{name}", say("A list of texts belongs here."))
            return ()
        read = [self.line(text, f"{where}.{name}.{number}", short=short) for number, text in enumerate(found)]
        return tuple(each for each in read if each is not None)

    def exchanges(
        self, within: Mapping[str, Any], name: str, where: str, keys: tuple[str, str]
    ) -> tuple[Exchange, ...]:
        """Return a list of pairs that must not be empty."""
        found = within.get(name)
        if not isinstance(found, list) or not found:
            self.wrong(f"{where}.{name}", say("A list of pairs belongs here."))
            return ()
        read: list[Exchange] = []
        for number, pair in enumerate(found):
            place = f"{where}.{name}.{number}"
            told = pair if isinstance(pair, dict) else {}
            first, second = (self.line(told.get(key), f"{place}.{key}") for key in keys)
            if first is not None and second is not None:
                read.append(Exchange(first=first, second=second))
        return tuple(read)

    def line(self, text: Any, where: str, *, short: bool = False) -> Line | None:
        """Return a line; None, and a problem, if it is none."""
        if not isinstance(text, str):
            self.wrong(where, say("A text belongs here."))
            return None
        try:
            line = parse_line(text.strip(), f"{self.data.get('author')}/{self.data.get('lang')}/{where}")
        except LineError as error:
            self.wrong(where, error.reason)
            return None
        unknown = line.slots - SLOTS - PERSONAL_SLOTS - ({"short"} if short else set())
        if unknown:
            self.wrong(where, say("There are no slots {slots}.", slots=", ".join(sorted(unknown))))
            return None
        return line

    def wrong(self, where: str, what: Text) -> None:
        """Note a problem."""
        self.problems.append(Problem(what=what, source=self.path.name, field=where))
