"""Reads a page as a strict reader would: what it loads, what it names, what it carries."""

import base64
import gzip
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})
OPTIONAL_END = frozenset({"tr", "td", "th", "thead", "tbody", "li"})
FETCHING = frozenset({"src", "href", "data", "poster", "action", "srcset", "xlink:href", "background", "formaction"})


@dataclass
class Read:
    """What was found in a page."""

    num_bytes: int = 0
    ids: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    """Ids that something in the page refers to."""
    addresses: list[str] = field(default_factory=list)
    """Everything that a browser would fetch."""
    handlers: list[str] = field(default_factory=list)
    """Attributes that the policy forbids: styles and event handlers."""
    headings: list[str] = field(default_factory=list)
    languages: set[str] = field(default_factory=set)
    raw: dict[str, Any] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    policy: str = ""
    unclosed: list[str] = field(default_factory=list)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.read = Read()
        self.open: list[str] = []
        self.attributes: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.attributes = given
        found = self.read
        if tag not in VOID | OPTIONAL_END:
            self.open.append(tag)
        if given.get("id"):
            found.ids.append(str(given["id"]))
        if given.get("lang"):
            found.languages.add(str(given["lang"]))
        if tag in {"h1", "h2", "h3"}:
            found.headings.append(tag)
        if given.get("http-equiv") == "Content-Security-Policy":
            found.policy = str(given["content"])
        for name, value in given.items():
            if name == "style" or name.startswith("on"):
                found.handlers.append(f"{tag} {name}={value}")
            if name in {"aria-labelledby", "aria-describedby"}:
                found.references += str(value).split()
            if name in FETCHING:
                (found.references if str(value).startswith("#") else found.addresses).append(str(value).lstrip("#"))

    def handle_endtag(self, tag: str) -> None:
        if tag in OPTIONAL_END:
            return
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.read.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "style":
            self.read.styles.append(data)
            self.read.addresses += re.findall(r"url\(|@import", data)
        elif inside == "script" and self.attributes.get("type"):
            self.read.raw[str(self.attributes["id"])] = json.loads(gzip.decompress(base64.b64decode(data)))
        elif inside == "script":
            self.read.scripts.append(data)


def read(html: str) -> Read:
    """Return what is in a page."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    parser.read.num_bytes = len(html.encode())
    parser.read.unclosed += parser.open
    return parser.read
