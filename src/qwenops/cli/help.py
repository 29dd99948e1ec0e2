"""Help pages: in the user's language, wrapped by the width that a terminal needs, two examples at the end.

`Verb` is a command, `Tree` a group of commands that are imported when they are called, `Flag` and `Operand` their
options and arguments. Texts are English sentences (`say`); they are translated when a page is printed.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Never, cast

import click

from qwenops.cli.terminal import Terminal, cell_width, padded
from qwenops.text import Text, say

Example = tuple[str, str]
"""What to type, and what it does."""

_BREAKABLE = re.compile(r"[\u2e80-\u9fff\uff00-\uffef]|[^\s\u2e80-\u9fff\uff00-\uffef]+\s*|\s+")
_NOT_AT_START = frozenset("，。；：、！？）》」』”’")  # noqa: RUF001 -- Chinese punctuation is meant


def translate_for(ctx: click.Context) -> Callable[[str], str]:
    """Return what says a sentence in the language of this call."""
    terminal = ctx.find_root().obj
    return terminal.said if isinstance(terminal, Terminal) else str


def wrapped(text: str, width: int) -> list[str]:
    """Break a paragraph into lines of at most `width` columns: at spaces, and between Chinese characters."""
    lines = [""]
    # Punctuation that may not begin a line hangs over the end of one; its two columns are kept free.
    limit = width - 2 if _NOT_AT_START & set(text) else width
    for piece in _BREAKABLE.findall(text):
        fits = cell_width(lines[-1]) + cell_width(piece.rstrip()) <= limit
        if lines[-1] and not fits and piece not in _NOT_AT_START:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return [line.rstrip() for line in lines]


class HelpPage(click.HelpFormatter):
    """A help page that counts columns instead of characters."""

    def write_text(self, text: str) -> None:
        """Write paragraphs, indented."""
        indent = " " * self.current_indent
        for number, paragraph in enumerate(text.split("\n\n")):
            if number:
                self.write("\n")
            for line in wrapped(" ".join(paragraph.split("\n")), max(self.width - self.current_indent, 20)):
                self.write(f"{indent}{line}\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names with their descriptions in two columns."""
        rows = list(rows)
        indent = " " * self.current_indent
        widths = [width for width in (cell_width(name) for name, _ in rows) if width <= col_max]
        first = max(widths, default=0) + col_spacing
        room = max(self.width - self.current_indent - first, 20)
        for name, description in rows:
            lines = wrapped(description, room) if description else []
            if cell_width(name) > first - col_spacing:
                for part in _name_lines(name, self.width - self.current_indent):
                    self.write(f"{indent}{part}\n")
                name = ""  # noqa: PLW2901 -- the name has a line of its own
            elif not lines:
                self.write(f"{indent}{name}\n")
            for line in lines:
                self.write(f"{indent}{padded(name, first)}{line}".rstrip() + "\n")
                name = ""  # noqa: PLW2901 -- it stands on the first line only


def _name_lines(name: str, width: int) -> list[str]:
    """Break what is too long for a line: `--flag [one|other|...]` between values, an example as a shell goes on."""
    lines: list[str] = []
    values = name.find("[") + 1
    between, margin, end = ("|", " " * values, "|") if values else (" ", "    ", " \\")
    while cell_width(name) > width and (at := name.rfind(between, len(margin), width - len(end) + 1)) > 0:
        lines.append(name[:at] + end)
        name = margin + name[at + 1 :]
    return [*lines, name]


class PageContext(click.Context):
    """A context that makes our help page."""

    formatter_class = HelpPage


class Flag(click.Option):
    """An option whose help is translated when it is printed."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the row of the help page."""
        spoken = copy.copy(self)
        spoken.help = translate_for(ctx)(self.help) if self.help else self.help
        return click.Option.get_help_record(spoken, ctx)


class Operand(click.Argument):
    """An argument whose help is translated when it is printed."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the row of the help page."""
        return self.make_metavar(ctx), translate_for(ctx)(self.help) if self.help else ""


class Verb(click.Command):
    """A command whose help ends with examples."""

    context_class = PageContext

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        """Keep the examples."""
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and tell a flag of the whole program apart from one that does not exist."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            explain_option(ctx, error)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return `--help` in the language of this call; click keeps the first it made."""
        return _spoken_help(ctx, super().get_help_option(ctx))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(translate_for(ctx)(self.help or ""))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        format_examples(ctx, formatter, self.examples)


def _spoken_help(ctx: click.Context, option: click.Option | None) -> click.Option | None:
    if option is not None:
        option.help = translate_for(ctx)(say("Show this message and exit."))
    return option


def format_examples(ctx: click.Context, formatter: click.HelpFormatter, examples: Sequence[Example]) -> None:
    """Write the examples at the end of a help page."""
    say_it = translate_for(ctx)
    if examples:
        with formatter.section(say_it(say("Examples"))):
            formatter.write_dl([(line, say_it(what)) for line, what in examples], col_max=46)


def explain_option(ctx: click.Context, error: click.NoSuchOption) -> Never:
    """Say where an option of the whole program belongs; raise any other unknown option again."""
    root = ctx.find_root().command
    if ctx.parent is not None and any(error.option_name in param.opts for param in root.params):
        line = f"qwenops {error.option_name} … {ctx.info_name}"
        sentence = say("{option} goes before the command: {line}", option=error.option_name, line=line)
        raise click.UsageError(translate_for(ctx)(sentence), ctx) from None
    raise error


class Tree(click.Group):
    """A group of commands; `table` maps a name to where the command is defined and what it does, in one line."""

    context_class = PageContext

    def __init__(
        self,
        *args: Any,
        table: Mapping[str, tuple[str, Text]] | None = None,
        examples: Sequence[Example] = (),
        **kwargs: Any,
    ) -> None:
        """Keep the table; nothing is imported."""
        super().__init__(*args, **kwargs)
        self.table = dict(table or {})
        self.examples = tuple(examples)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in self.table:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.table[cmd_name][0].partition(":")
        return cast("click.Command", getattr(import_module(module), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one offers the nearest."""
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return `--help` in the language of this call; click keeps the first it made."""
        return _spoken_help(ctx, super().get_help_option(ctx))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the group is for."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(translate_for(ctx)(self.help or ""))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each command without importing those of the table."""
        say_it = translate_for(ctx)
        rows = [(name, say_it(line)) for name, (_, line) in self.table.items()]
        rows += [
            (name, say_it(command.short_help or command.help or "")) for name, command in sorted(self.commands.items())
        ]
        with formatter.section(say_it("Commands")):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        format_examples(ctx, formatter, self.examples)
