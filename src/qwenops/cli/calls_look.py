"""`qwenops calls validate` and `stats`: looking at calls without changing them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.calls.readers.entries import ReadOptions
from qwenops.calls.validate import ValidateOptions
from qwenops.cli.flags import Function, json_flag, own_flags, own_options
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Report, Terminal
from qwenops.errors import InvalidDataError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.calls.classes import Taxonomy
    from qwenops.calls.problems import Problem
    from qwenops.calls.readers.entries import Entry, LabelEntry, Reading

_EXIT_INVALID = 2
_MOST_ALIKE = 3
"""How many warnings that say the same are shown."""


def calls_argument(function: Function) -> Function:
    """Add the file of calls."""
    return click.argument(
        "file",
        cls=Operand,
        metavar="CALLS",
        type=click.Path(path_type=Path, exists=True, allow_dash=True),
        help=say("File or folder of calls; - is standard input."),
    )(function)


def labels_flag(function: Function) -> Function:
    """Add `--labels`."""
    return click.option(
        "--labels",
        "labels_file",
        cls=Flag,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        default=None,
        metavar="FILE",
        help=say("File of labels; without it those that the file of calls has."),
    )(function)


def taxonomy_flag(function: Function) -> Function:
    """Add `--taxonomy`."""
    return click.option(
        "--taxonomy",
        "taxonomy_name",
        cls=Flag,
        default="",
        metavar="NAME|FILE",
        help=say("The classes: a preset such as telecom-cn, or a file."),
    )(function)


def open_taxonomy(name: str) -> "Taxonomy | None":
    """Return the taxonomy of that name; None where none was named."""
    from qwenops.calls.taxonomy import load

    return load(name) if name else None


def open_labels_of(path: Path | None, taxonomy: "Taxonomy | None", report: Report) -> "Reading[LabelEntry] | None":
    """Open a file of labels; None where none was named."""
    from qwenops.calls.readers import open_labels

    return open_labels(path, taxonomy=taxonomy, report=report) if path is not None else None


@click.command(
    "validate",
    cls=Verb,
    help=say(
        "Say everything that is wrong with calls and labels: what cannot be read, ids that come twice, odd classes, "
        "calls in which nobody speaks; and what a person should judge: classes with few examples, personal data, one "
        "text with two labels. Exit code 2 where something is an error."
    ),
    examples=(
        ("qwenops calls validate calls.csv --taxonomy telecom-cn", say("A table with categories.")),
        ("qwenops calls validate calls.jsonl --labels labels.jsonl --training", say("As training data.")),
    ),
)
@calls_argument
@labels_flag
@taxonomy_flag
@own_flags(ValidateOptions)
@own_flags(ReadOptions)
@json_flag
@click.pass_context
def validate(ctx: click.Context, /, file: Path, labels_file: Path | None, taxonomy_name: str, *, as_json: bool) -> None:
    """Look at everything, print what is wrong."""
    from qwenops.calls.problems import Severity
    from qwenops.calls.readers import open_calls
    from qwenops.calls.redact import find
    from qwenops.calls.validate import validate as look

    terminal = ctx.ensure_object(Terminal)
    taxonomy = open_taxonomy(taxonomy_name)
    with terminal.progress() as report:
        reading = open_calls(file, taxonomy=taxonomy, options=own_options(ctx, ReadOptions), report=report)
        labels = open_labels_of(labels_file, taxonomy, report)
        found = look(
            reading, labels or (), taxonomy, now=datetime.now(UTC), find=find, options=own_options(ctx, ValidateOptions)
        )
        problems = _in_order([*reading.problems, *(labels.problems if labels is not None else ()), *found])
    errors = sum(each.severity is Severity.ERROR for each in problems)
    if as_json:
        listed = [_data(each) for each in problems]
        terminal.show_json("qwenops.problems/1", {"errors": errors, "problems": listed})
    else:
        shown = _without_repeats(problems)
        for each in shown:
            severity = say("error") if each.severity is Severity.ERROR else say("warning")
            said = (each.place, terminal.said(severity), terminal.said(each.what))
            terminal.show(": ".join(part for part in said if part))
        if hidden := len(problems) - len(shown):
            terminal.tell(say("{count} more warnings of kinds that are shown; --json lists all.", count=hidden))
        terminal.tell(say("Errors: {errors}; warnings: {warnings}.", errors=errors, warnings=len(problems) - errors))
    if errors:
        ctx.exit(_EXIT_INVALID)


def _in_order(problems: "Sequence[Problem]") -> "list[Problem]":
    """Return problems file by file and line by line; what is about all of the files comes last."""
    files = {name: number for number, name in enumerate(dict.fromkeys(each.source for each in problems if each.source))}
    return sorted(problems, key=lambda each: (files.get(each.source, len(files)), each.line or 0))


def _without_repeats(problems: "Sequence[Problem]") -> "list[Problem]":
    """Return every error, and of warnings that say the same the first few: hundreds of them would hide the errors."""
    from qwenops.calls.problems import Severity

    seen: Counter[str] = Counter()
    shown = []
    for each in problems:
        kind = each.what.template
        seen[kind] += each.severity is Severity.WARNING and each.line is not None
        if seen[kind] <= _MOST_ALIKE or each.severity is Severity.ERROR or each.line is None:
            shown.append(each)
    return shown


def _data(problem: "Problem") -> dict[str, Any]:
    return {
        "source": problem.source,
        "line": problem.line,
        "field": problem.field,
        "severity": problem.severity.value,
        "conversation_id": problem.conversation_id,
        "problem": str(problem.what),
    }


@click.command(
    "stats",
    cls=Verb,
    help=say("Say what a set of calls is like: classes, languages, months, lengths, speakers, speech recognition."),
    examples=(
        ("qwenops calls stats calls.jsonl --labels labels.jsonl", say("In sentences.")),
        ("qwenops calls stats calls.csv --json", say("All figures, for scripts.")),
    ),
)
@calls_argument
@labels_flag
@taxonomy_flag
@own_flags(ReadOptions)
@json_flag
@click.pass_context
def stats(ctx: click.Context, /, file: Path, labels_file: Path | None, taxonomy_name: str, *, as_json: bool) -> None:
    """Count and print."""
    from qwenops.calls.readers import open_calls
    from qwenops.calls.stats import sentences
    from qwenops.calls.stats import stats as count

    terminal = ctx.ensure_object(Terminal)
    taxonomy = open_taxonomy(taxonomy_name)
    with terminal.progress() as report:
        reading = open_calls(file, taxonomy=taxonomy, options=own_options(ctx, ReadOptions), report=report)
        labels = open_labels_of(labels_file, taxonomy, report)
        found = count(reading, labels or ())
    problems = [*reading.problems, *(labels.problems if labels is not None else ())]
    if as_json:
        terminal.show_json(found["schema"], found)
    else:
        for sentence in sentences(found):
            terminal.show(terminal.said(sentence))
    tell_problems(terminal, problems)


def tell_problems(terminal: Terminal, problems: "Iterable[Problem]") -> None:
    """Say that a file had lines that were left out, and how to see them."""
    from qwenops.calls.problems import Severity

    errors = [each for each in problems if each.severity is Severity.ERROR]
    if errors:
        first = errors[0]
        terminal.tell(
            say(
                "Problems: {count}. The first: {place}: {what} `qwenops calls validate` lists all.",
                count=len(errors),
                place=first.place,
                what=first.what,
            )
        )


def refuse_all_wrong(reading: "Reading[Entry]", num_calls: int) -> None:
    """Refuse a file of which nothing could be read.

    Raises:
        InvalidDataError: There is no call.
    """
    if num_calls:
        return
    first = reading.problems[0] if reading.problems else None
    raise InvalidDataError(
        say("{source} holds no call that can be read.", source=reading.source),
        hint=say("{place}: {what}", place=first.place, what=first.what) if first else "",
        problems=tuple(reading.problems),
    )
