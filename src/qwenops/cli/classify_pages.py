"""`qwenops registry report` and `qwenops calls trends`: pages about a classifier, and about what calls were about."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qwenops.cli.classifying import open_registry
from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Report, Terminal
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.calls.classes import Words
    from qwenops.classify.report.told import About
    from qwenops.classify.report.trends import Shown

TRENDS = "trends.html"


@click.command(
    "report",
    cls=Verb,
    help=say(
        "Write the page about a classifier: how good it is on its test calls, how far its confidence can be trusted, "
        "what may be filed without a person. One HTML file in English and Chinese."
    ),
    examples=(
        ("qwenops registry report complaints", say("Of the champion, as complaints.html in this folder.")),
        ("qwenops registry report complaints@3 --out v3.html", say("Of a version.")),
    ),
)
@click.argument(
    "ref", cls=Operand, metavar="CLASSIFIER", help=say("NAME, NAME@ALIAS or NAME@VERSION, such as complaints@3.")
)
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help=say("Where to write it; NAME.html when left out."),
)
@option_flags("classify", only=("classify.registry",))
@json_flag
@click.pass_context
def report(ctx: click.Context, /, ref: str, out: Path | None, *, as_json: bool) -> None:
    """Find the classifier, write its page, print where it is."""
    from qwenops.classify.report import write_page
    from qwenops.classify.report.gather import record_of

    terminal = ctx.ensure_object(Terminal)
    found = open_registry(terminal, settings(ctx)).find(ref)
    record = record_of(found.folder, found.ref)
    path = write_page(out or Path(f"{found.name}.html"), record, language=terminal.language)
    if as_json:
        body = {"classifier": found.ref, "report": str(path), "macro_f1": record.evaluation.leaves.macro_f1.value}
        terminal.show_json("qwenops.registry-report/1", body)
    else:
        terminal.show(str(path))


@click.command(
    "trends",
    cls=Verb,
    help=say(
        "Write a page about what calls were about week by week: shares with intervals, what surely rose or fell, how "
        "much was left to people. Reads what `qwenops classify` wrote; with the calls, weeks are those of the calls."
    ),
    examples=(
        ("qwenops calls trends filed --calls calls.jsonl", say("Of a folder, by the times of the calls.")),
        (
            "qwenops calls trends filed.csv --taxonomy telecom-cn --out weeks.html",
            say("With the names of the classes."),
        ),
    ),
)
@click.argument(
    "predictions",
    cls=Operand,
    type=click.Path(path_type=Path, exists=True),
    help=say("File or folder of predictions: .jsonl, .csv or .xlsx."),
)
@click.option(
    "--calls",
    cls=Flag,
    type=click.Path(path_type=Path, exists=True),
    default=None,
    metavar="PATH",
    help=say("File or folder of the calls, for their times and customers."),
)
@click.option(
    "--taxonomy",
    "taxonomy_name",
    cls=Flag,
    default="",
    metavar="NAME|FILE",
    help=say("What the classes are called: a preset such as telecom-cn, or a file."),
)
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(TRENDS),
    metavar="FILE",
    help=say("Where to write it; trends.html when left out."),
)
@json_flag
@click.pass_context
def trends(
    ctx: click.Context, /, predictions: Path, calls: Path | None, taxonomy_name: str, out: Path, *, as_json: bool
) -> None:
    """Read, count, write the page, print where it is."""
    from qwenops.classify.report import write_trends

    terminal = ctx.ensure_object(Terminal)
    with terminal.progress() as told:
        shown = _shown(predictions, calls, taxonomy_name, told)
    path = write_trends(out, shown, language=terminal.language)
    if as_json:
        terminal.show_json("qwenops.trends/1", {"page": str(path), **_told(shown)})
    else:
        terminal.show(str(path))


def _shown(predictions: Path, calls: Path | None, taxonomy_name: str, report: Report) -> "Shown":
    from qwenops.classify.report.told import read_predictions
    from qwenops.classify.report.trends import Shown
    from qwenops.classify.report.weekly import trends_of

    found = read_predictions(predictions, calls=_abouts(calls, report), report=report)
    return Shown(
        trends=trends_of(found.told),
        names=_names(taxonomy_name),
        source=predictions.name or str(predictions),
        files=found.files,
        passed_over=found.passed_over,
        num_problems=len(found.problems),
        repeated=found.repeated,
        without_call=found.without_call,
        by_call_time=found.by_call_time,
    )


def _abouts(calls: Path | None, report: Report) -> "dict[str, About] | None":
    if calls is None:
        return None
    from qwenops.calls.readers import open_calls
    from qwenops.classify.report.told import abouts_of

    return abouts_of(entry.call for entry in open_calls(calls, report=report))


def _names(taxonomy_name: str) -> "dict[str, Words]":
    if not taxonomy_name:
        return {}
    from qwenops.calls.taxonomy import load
    from qwenops.classify.report.record import names_of

    return names_of(load(taxonomy_name))


def _told(shown: "Shown") -> dict[str, object]:
    """Return counts and what surely changed, for scripts."""
    trends = shown.trends
    return {
        "num_calls": trends.num_calls,
        "by_call_time": shown.by_call_time,
        "num_problems": shown.num_problems,
        "weeks": [
            {
                "begins": week.begins.isoformat(),
                "num_calls": week.num_calls,
                "models": list(week.models),
                "review": None if week.review is None else week.review.share.value,
                "confidence": None if week.confidence is None else week.confidence.value,
                "categories": {
                    code: {"count": each.count, "share": each.share.value, "p": each.p, "move": each.move.value}
                    for code, each in week.portions.items()
                    if each.count or each.p is not None
                },
            }
            for week in trends.weeks
        ],
    }
