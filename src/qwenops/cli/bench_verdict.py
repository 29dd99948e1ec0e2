"""`qwenops bench compare`, `noise`, `gate`, `report`, `import` and `selftest`: what results mean."""

from pathlib import Path
from typing import Any

import click

from qwenops.cli.bench_run import TARGET, Wanted, bench_options, measure, measure_flags, target_argument
from qwenops.cli.flags import json_flag
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Terminal
from qwenops.text import say

_PAIRS = click.option(
    "--pairs",
    cls=Flag,
    type=click.IntRange(min=6, max=1000),
    default=8,
    show_default=True,
    help=say("Blocks of each side; --requests says how many requests are in a block."),
)
RESULT_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
RUN_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(
    "compare",
    cls=Verb,
    help=say(
        "Send the same requests to two targets in randomised, interleaved blocks and say by how much B differs from "
        "A: IMPROVED, REGRESSED, EQUIVALENT or INCONCLUSIVE, with an interval. Two .toml files are two configurations; "
        "a server is started with each."
    ),
    examples=(
        ("qwenops bench compare http://127.0.0.1:8000 http://127.0.0.1:8001", say("Two servers.")),
        (
            "qwenops bench compare openvino:random:0.6b 'openvino:random:0.6b?scheme=int4'",
            say("int8 and int4, in this process."),
        ),
    ),
)
@click.argument("a", cls=Operand, help=TARGET)
@click.argument("b", cls=Operand, help=say("The same; what is compared with the first."))
@_PAIRS
@measure_flags("users", "rate", "arrivals", "requests", asking=True)
@click.pass_context
def compare(ctx: click.Context, /, a: str, b: str, *, pairs: int, **asked: Any) -> None:
    """Compare."""
    wanted = Wanted(verb="compare", targets={"A": a, "B": b}, options=bench_options(ctx), **asked)
    compared(ctx, wanted, pairs)


def compared(ctx: click.Context, wanted: Wanted, pairs: int) -> None:
    """Compare the two targets, or the only one with itself."""
    from qwenops.bench.comparing import Plan, compare_targets
    from qwenops.bench.comparing import noise as against_itself

    plan = Plan(pairs=pairs, requests=wanted.options.requests or Plan().requests)
    act = compare_targets if len(wanted.targets) > 1 else against_itself
    measure(ctx, wanted, lambda run: act(run, plan))


@click.command(
    "noise",
    cls=Verb,
    help=say(
        "Compare a target with itself: how much results differ here when nothing changed, and which difference a "
        "comparison could find."
    ),
    examples=(
        ("qwenops bench noise http://127.0.0.1:8000", say("Before a comparison.")),
        ("qwenops bench noise openvino:random:0.6b --users 4", say("With four callers.")),
    ),
)
@target_argument()
@_PAIRS
@measure_flags("users", "rate", "arrivals", "requests", asking=True)
@click.pass_context
def noise(ctx: click.Context, /, target: str, *, pairs: int, **asked: Any) -> None:
    """Compare it with itself."""
    compared(ctx, Wanted(verb="noise", targets={"": target}, options=bench_options(ctx), **asked), pairs)


@click.command(
    "gate",
    cls=Verb,
    help=say(
        "Hold a run against a baseline. Exit codes for continuous integration: 0 good, 10 regression, 11 objective "
        "missed, 12 inconclusive, 13 a run that proves nothing."
    ),
    examples=(
        ("qwenops bench gate runs/new --baseline runs/main", say("Did it become slower?")),
        (
            "qwenops bench gate runs/new --baseline runs/main --junit gate.xml",
            say("With a report for the CI."),
        ),
    ),
)
@click.argument("run", cls=Operand, type=RUN_FOLDER, help=say("Folder of the run."))
@click.option(
    "--baseline", cls=Flag, type=RUN_FOLDER, required=True, metavar="DIR", help=say("Folder it is held against.")
)
@click.option("--max-regress", cls=Flag, default="5%", show_default=True, metavar="SHARE", help=say("Allowed loss."))
@click.option("--slo", cls=Flag, default="", metavar="TEXT", help=say("Objective that the run must keep too."))
@click.option("--force", cls=Flag, is_flag=True, help=say("Accept a baseline of another machine or workload."))
@click.option("--junit", cls=Flag, type=click.Path(path_type=Path), metavar="FILE", help=say("Write JUnit XML."))
@click.option("--markdown", cls=Flag, type=click.Path(path_type=Path), metavar="FILE", help=say("Write Markdown."))
@json_flag
@click.pass_context
def gate(ctx: click.Context, /, run: Path, **asked: Any) -> None:
    """Judge."""


@click.command(
    "report",
    cls=Verb,
    help=say("Write the page of a run again: one HTML file with everything in it, in English and Chinese."),
    examples=(
        ("qwenops bench report runs/load-1", say("Into the folder of the run.")),
        ("qwenops bench report runs/load-1 --json", say("Print where it is, for scripts.")),
    ),
)
@click.argument("run", cls=Operand, type=RUN_FOLDER, help=say("Folder of the run."))
@json_flag
@click.pass_context
def report(ctx: click.Context, /, run: Path, *, as_json: bool) -> None:
    """Write it."""
    from qwenops.bench.report.write import write_report

    terminal = ctx.ensure_object(Terminal)
    path = write_report(run)
    if as_json:
        terminal.show_json("qwenops.bench-report/1", {"folder": str(run), "report": str(path)})
    else:
        terminal.show(str(path))


@click.command(
    "import",
    cls=Verb,
    help=say("Make a run's folder from results of `vllm bench serve` or GuideLLM, to compare and to report them."),
    examples=(
        ("qwenops bench import vllm.json", say("Into a new folder under ./runs.")),
        ("qwenops bench import guidellm.json --out runs/before", say("Into a folder of that name.")),
    ),
)
@click.argument("file", cls=Operand, type=RESULT_FILE, help=say("What that program wrote."))
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=say("Folder of this run, instead of a new one under --runs."),
)
@json_flag
@click.pass_context
def import_run(ctx: click.Context, /, file: Path, *, out: Path | None, as_json: bool) -> None:
    """Take it over."""


@click.command(
    "selftest",
    cls=Verb,
    help=say(
        "Measure a server whose true figures are known, on this machine, and hold the results against them: says "
        "whether measurements here can be believed."
    ),
    examples=(
        ("qwenops bench selftest", say("About half a minute.")),
        ("qwenops bench selftest --json", say("For scripts.")),
    ),
)
@json_flag
@click.pass_context
def selftest(ctx: click.Context, /, *, as_json: bool) -> None:
    """Measure what is known."""
