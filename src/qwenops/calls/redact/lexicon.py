"""What redaction knows about names, places and the way people read numbers aloud, from `lexicon.toml`.

Read once, when it is first needed. Patterns are built from it in the modules that use them.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("lexicon.toml")

_END = ""
"""Marks where a word ends, in the tree of all words."""
_GUARD = "(?![a-z])"

HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
"""Chinese characters, for a class of a pattern."""


@cache
def _lexicon() -> Mapping[str, Any]:
    return tomllib.loads(_FILE.read_text("utf-8"))


@cache
def words(section: str, name: str) -> tuple[str, ...]:
    """Return the words of an entry, each once; of one that is text, what stands between its blanks."""
    entry: str | list[str] = _lexicon()[section][name]
    return tuple(dict.fromkeys(entry.split() if isinstance(entry, str) else entry))


@cache
def characters(section: str, name: str) -> str:
    """Return the characters of an entry, each once."""
    return "".join(dict.fromkeys("".join(words(section, name))))


@cache
def table(section: str, name: str) -> Mapping[str, str]:
    """Return an entry that maps texts to texts."""
    found: dict[str, str] = _lexicon()[section][name]
    return found


def alternatives(choices: Iterable[str], *, begins: bool = False) -> str:
    """Return a pattern of any of these words, the longest that fits; one that ends in a letter ends there.

    Common beginnings are told once: a list of a hundred words is tried at every character of a call.

    Args:
        choices: Words, as they stand in a script of small letters.
        begins: Whether no letter, digit or apostrophe may stand before them. That is asked after the first letter, for
            a pattern that begins with a letter is looked for faster than one that begins with a question.
    """
    tree: dict[str, Any] = {}
    for word in set(choices):
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[_END] = _GUARD if word[-1].isascii() and word[-1].isalpha() else ""
    patterns = _pattern_of(tree)
    if begins:
        patterns = [f"{each[0]}(?<![a-z0-9']{each[0]}){each[1:]}" for each in patterns]
    return "|".join(patterns)


def _pattern_of(node: Mapping[str, Any]) -> list[str]:
    """Return the patterns of all that goes on from a node, with the word that ends there last."""
    found = []
    for character in sorted(each for each in node if each != _END):
        after = _pattern_of(node[character])
        rest = after[0] if len(after) == 1 else f"(?:{'|'.join(after)})"
        found.append(re.escape(character) + rest)
    return [*found, node[_END]] if _END in node else found
