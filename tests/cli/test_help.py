"""Help pages: complete, in both languages, never wider than the terminal, two examples at the end."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from qwenops.cli.door import spoken
from qwenops.cli.help import HelpPage, Tree, Verb
from qwenops.cli.root import COMMANDS, root
from qwenops.cli.terminal import Terminal, cell_width
from qwenops.text import LANGUAGES, Language


def contexts(language: Language = "en") -> Iterator[click.Context]:
    """Yield a context for every command and every group."""
    terminal = Terminal(environ={}, language=language)
    waiting = [click.Context(root, info_name="qwenops", obj=terminal, help_option_names=["-h", "--help"])]
    while waiting:
        ctx = waiting.pop()
        yield ctx
        if isinstance(ctx.command, click.Group):
            commands = ((name, ctx.command.get_command(ctx, name)) for name in ctx.command.list_commands(ctx))
            waiting += [click.Context(each, info_name=name, parent=ctx) for name, each in commands if each]


def page(ctx: click.Context, width: int = 80) -> str:
    formatter = HelpPage(width=width)
    ctx.command.format_help(ctx, formatter)
    return formatter.getvalue()


ALL = [(ctx.command_path, ctx) for ctx in contexts()]


@pytest.mark.parametrize(("path", "ctx"), ALL, ids=[path for path, _ in ALL])
def test_no_command_has_two_meanings_for_one_flag(path: str, ctx: click.Context) -> None:
    names = [name for each in ctx.command.get_params(ctx) for name in (*each.opts, *each.secondary_opts)]
    assert len(set(names)) == len(names), path


@pytest.mark.parametrize(("path", "ctx"), ALL, ids=[path for path, _ in ALL])
def test_every_help_page_ends_with_two_examples_that_parse(path: str, ctx: click.Context) -> None:
    command = ctx.command
    assert isinstance(command, Verb | Tree)
    assert len(command.examples) == 2
    text = page(ctx)
    assert text.rstrip().splitlines()[-1].startswith("  ")
    assert "\nExamples:\n" in text
    for line, _ in command.examples:
        if "|" in line or "$(" in line or ">" in line:
            continue
        words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
        assert words[0] == "qwenops"
        assert path.split()[1:] == words[1 : len(path.split())]
        root.make_context("qwenops", words[1:], resilient_parsing=False, obj=Terminal(environ={})).close()


@pytest.mark.parametrize(("path", "ctx"), ALL, ids=[path for path, _ in ALL])
def test_every_option_and_argument_says_what_it_is(path: str, ctx: click.Context) -> None:
    for param in ctx.command.get_params(ctx):
        assert getattr(param, "help", None), f"{path} {param.name}"


def test_no_help_page_is_wider_than_the_terminal_in_either_language() -> None:
    for language in LANGUAGES:
        with spoken(language):
            for ctx in contexts(language):
                for line in page(ctx).splitlines():
                    assert cell_width(line) <= 80, (language, line)


def test_a_chinese_help_page_has_no_english_sentence_left() -> None:
    with spoken("zh"):
        for ctx in contexts("zh"):
            text = page(ctx)
            assert "用法：" in text
            for english in ("Usage:", "Options:", "Commands:", "Examples:", "Show this message", "default:"):
                assert english not in text, ctx.command_path


def test_the_line_in_the_list_of_commands_belongs_to_a_command_that_is_there() -> None:
    ctx = next(contexts())
    assert isinstance(root, Tree)
    for name in COMMANDS:
        command = root.get_command(ctx, name)
        assert command is not None
        assert command.name == name
