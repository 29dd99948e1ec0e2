"""Commands as documentation shows them, held against the command line that there is: parsed, and not run."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from qwenops.cli.flags import typed_flags
from qwenops.cli.root import root
from qwenops.cli.terminal import Terminal
from qwenops.config import load

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_BETWEEN = frozenset({"|", "||", "&&", ";", "&"})


def shell_lines(page: Path) -> list[str]:
    """Return the commands of all shell blocks of a page, joined over continued lines."""
    text = "".join(_BLOCK.findall(page.read_text("utf-8")))
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def typed_commands(page: Path, program: str = "qwenops") -> list[tuple[str, ...]]:
    """Return the words of each command of that program on a page, in their order."""
    return [words for line in shell_lines(page) for words in _commands(line) if words[0] == program]


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    command: list[str] = []
    for word in words:
        if word in _BETWEEN:
            yield from [tuple(command)] if command else []
            command = []
        else:
            command.append(word)
    if command:
        yield tuple(command)


def parsed(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, home: Path) -> click.Context:
    """Parse a command as the command line does, files that are not there included; raises where it would refuse it."""
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _param, _ctx: Path(value))
    environ = {"XDG_CONFIG_HOME": str(home), "QWENOPS_HOME": str(home)}
    ctx = click.Context(root, info_name="qwenops", obj=Terminal(environ=environ))
    command: click.Command = root
    program, *rest = words
    assert program == "qwenops"
    name = program
    while isinstance(command, click.Group):
        name = rest.pop(0)
        found = command.get_command(ctx, name)
        assert found is not None, f"there is no command {name}: {shlex.join(words)}"
        command = found
        if isinstance(command, click.Group):
            ctx = click.Context(command, parent=ctx, info_name=name)
    made = command.make_context(name, rest, parent=ctx)
    load(environ=environ, flags=typed_flags(made), file=None)
    return made
