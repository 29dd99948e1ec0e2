"""`qwenops demo`: the whole way from calls to a classifier that serves, told command by command."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.flags import json_flag
from qwenops.cli.help import Flag, Verb
from qwenops.cli.terminal import Report, Terminal, aligned
from qwenops.deploy.demo_steps import CALLS
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.deploy.demo_story import Done, Story
    from qwenops.text import Text

FEWEST_CALLS = 300
"""With fewer a class of the tail has no example in one of the parts."""


@click.command(
    "demo",
    cls=Verb,
    help=say(
        "See all of it work, in a few minutes and without a model hub: makes synthetic calls, takes personal data out, "
        "divides them, trains a tiny Qwen3 against a baseline, evaluates, calibrates, exports, promotes and serves it, "
        "classifies new calls over HTTP and from a file, and measures. Each step shows the command that does it, so "
        "that you can do it with calls of your own. Nothing is left running, and all files lie in one folder."
    ),
    examples=(
        ("qwenops demo", say("In a new folder under runs.")),
        ("qwenops demo --out demo --calls 4000", say("More calls, and so a better model; it takes longer.")),
    ),
)
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="FOLDER",
    help=say("New folder for everything; one under runs when left out."),
)
@click.option(
    "--calls",
    "num_calls",
    cls=Flag,
    type=click.IntRange(min=FEWEST_CALLS),
    default=CALLS,
    show_default=True,
    metavar="N",
    help=say("How many calls to learn from."),
)
@json_flag
@click.pass_context
def demo(ctx: click.Context, /, out: Path | None, num_calls: int, *, as_json: bool) -> None:
    """Go the whole way and tell it."""
    from qwenops.classify.train.deciding import check_installed
    from qwenops.deploy.demo_story import tell_story

    check_installed()
    terminal = ctx.ensure_object(Terminal)
    if as_json:
        terminal = dataclasses.replace(terminal, verbosity=-1)
    folder = out or Path("runs") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-demo"
    show = Show(terminal=terminal)
    show.greet(folder)
    story = tell_story(folder, terminal.environ, terminal.language, show, num_calls=num_calls)
    if as_json:
        terminal.show_json("qwenops.demo/2", as_data(story, num_calls))
    else:
        show.finish(story)


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Where the story is told: the steps on standard error, reports and times at the end on standard output."""

    terminal: Terminal

    def greet(self, folder: Path) -> None:
        """Say what is about to be seen, and how to do the same by hand."""
        tell = self.terminal.tell
        tell()
        tell(say("qwenops demo: from calls to a classifier that serves, on the processor of this machine"))
        tell()
        tell(
            say(
                "  The calls are made up and the model is tiny, so its figures say that the way works, and nothing\n"
                "  about yours. Each command can be typed as it stands, after:"
            )
        )
        tell()
        tell(f"    cd {folder} && export QWENOPS_HOME=$PWD/home")

    @contextmanager
    def begins(self, title: "Text", typed: str) -> "Iterator[Report]":
        """Show the command of a step, and then how far it is."""
        self.terminal.tell()
        self.terminal.tell(f"$ {typed}")
        with self.terminal.progress() as report:
            report(0.0, title)
            yield report

    def ends(self, done: "Done") -> None:
        """Show what came out, and how long it took."""
        self.terminal.tell(f"  {self.terminal.said(done.came_out)}  ({done.took_s:.1f} s)")

    def finish(self, story: "Story") -> None:
        """Print times, reports, and where to go next."""
        terminal = self.terminal
        terminal.tell()
        rows = [(each.title, f"{each.took_s:.1f} s") for each in story.done]
        terminal.show_facts([*rows, (say("Together"), f"{story.took_s:.0f} s")])
        for path in story.reports:
            terminal.show(say("Report: {path}", path=path))
        tell, program = terminal.tell, terminal.program
        tell()
        tell(say("Nothing is left running; everything lies in {folder}. Next:", folder=str(story.folder)))
        tell()
        steps = [
            (f"{program} calls validate YOURS.csv --taxonomy telecom-cn", say("what your own calls lack")),
            (f"{program} calls redact YOURS.csv --out calls.jsonl", say("your calls without personal data")),
            (f"{program} demo-speed", say("how fast a model of the true shape is here")),
        ]
        for line in aligned([(f"  {command}", terminal.said(what)) for command, what in steps]):
            tell(line)
        tell(say("  docs/tutorial/classify.md goes on from here with calls of your own."))
        tell()


def as_data(story: "Story", num_calls: int) -> Mapping[str, Any]:
    """Return the story for scripts."""
    return {
        "folder": str(story.folder),
        "calls": num_calls,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "took_s": round(story.took_s, 2),
        "reports": [str(path) for path in story.reports],
        "steps": [
            {
                "name": each.name,
                "command": each.typed,
                "took_s": round(each.took_s, 2),
                "said": str(each.came_out),
                "answer": each.answer,
            }
            for each in story.done
        ],
    }
