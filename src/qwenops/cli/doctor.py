"""`qwenops doctor`: what this machine can do, what is wrong with it, and what to do about that."""

import shutil
import sys
from typing import TYPE_CHECKING

import click

from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Verb, wrapped
from qwenops.cli.terminal import Terminal, cell_width, padded
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.deploy.doctor import Check, Report

NARROWEST, WIDEST = 50, 110
COLOURS = {"ok": "32", "warn": "33", "fail": "31"}


@click.command(
    "doctor",
    cls=Verb,
    help=say(
        "Look at this machine: cores that may really be used, instruction sets, memory, speed, disk, engines, the port "
        "and which models fit. Says what to do about each thing that is not right; exit code 1 when nothing can be "
        "served here."
    ),
    examples=(
        ("qwenops doctor", say("Look and measure; takes a few seconds.")),
        ("qwenops doctor --fast --json", say("Without measuring, for scripts.")),
    ),
)
@click.option("--fast", cls=Flag, is_flag=True, help=say("Leave measuring out."))
@option_flags(
    "serve",
    only=("serve.host", "serve.port"),
)
@json_flag
@click.pass_context
def doctor(ctx: click.Context, /, *, fast: bool, as_json: bool) -> int:
    """Examine and print; the exit code says whether models can be served."""
    from qwenops.deploy.doctor import examine, look_around
    from qwenops.models.store import default_root

    terminal = ctx.ensure_object(Terminal)
    made = settings(ctx)
    around = look_around(
        store=default_root(terminal.environ), host=made.serve.host, port=made.serve.port, measuring=not fast
    )
    with terminal.progress() as report:
        found = examine(around, report)
    if as_json:
        data = found.to_json()
        terminal.show_json(data.pop("schema"), data)
    else:
        show_report(terminal, found)
    return found.exit_code


def show_report(terminal: Terminal, found: "Report") -> None:
    """Print one paragraph for each finding, and what it comes to."""
    colour = sys.stdout.isatty() and not terminal.environ.get("NO_COLOR")
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST) if sys.stdout.isatty() else WIDEST
    words = {"ok": terminal.said(say("ok")), "warn": terminal.said(say("warn")), "fail": terminal.said(say("fail"))}
    mark_width = max(cell_width(word) for word in words.values())
    title_width = max(cell_width(terminal.said(check.title)) for check in found.checks)
    for check in found.checks:
        mark = padded(words[check.status.value], mark_width)
        if colour:
            mark = f"\x1b[{COLOURS[check.status.value]}m{mark}\x1b[0m"
        lines = _lines(terminal, check, max(width - mark_width - title_width - 4, NARROWEST // 2))
        terminal.show(f"{mark}  {padded(terminal.said(check.title), title_width)}  {lines[0]}")
        for line in lines[1:]:
            terminal.show(f"{' ' * (mark_width + title_width + 4)}{line}")
    terminal.show()
    ends = {
        "ok": say("This machine is ready."),
        "warn": say("This machine can serve; see the lines marked {word}.", word=words["warn"]),
        "fail": say("This machine cannot serve a model yet; see the lines marked {word}.", word=words["fail"]),
    }
    terminal.show(ends[found.worst.value])


def _lines(terminal: Terminal, check: "Check", width: int) -> list[str]:
    """Return what was seen and what to do, wrapped."""
    seen = wrapped(terminal.said(check.what), width)
    todo = wrapped(terminal.said(check.todo), width - 2) if check.todo else []
    return [*seen, *(f"{'→ ' if not number else '  '}{line}" for number, line in enumerate(todo))]
