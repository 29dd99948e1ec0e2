"""`qwenops bench compare`, `noise`, `gate`, `report`, `import` and `selftest`: what results mean."""

import time
from pathlib import Path
from typing import Any, Literal

import click

from qwenops.cli.bench_run import (
    TARGET,
    Measured,
    Measurement,
    Wanted,
    bench_options,
    leave,
    measure,
    measure_flags,
    run_loop,
    show_conclusion,
    target_argument,
)
from qwenops.cli.flags import json_flag, settings
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Terminal
from qwenops.errors import ConfigError
from qwenops.text import say

_PAIRS = click.option(
    "--pairs",
    cls=Flag,
    type=click.IntRange(min=6, max=1000),
    default=8,
    show_default=True,
    help=say("Blocks of each side; --requests says how many requests are in a block."),
)
RESULT = click.Path(path_type=Path, exists=True)
RESULT_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
RUN_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(
    "compare",
    cls=Measurement,
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
    cls=Measurement,
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
@click.argument("runs", cls=Operand, nargs=-1, required=True, type=RESULT, help=say("Folder of the run; or several."))
@click.option(
    "--baseline",
    "baselines",
    cls=Flag,
    type=RESULT,
    required=True,
    multiple=True,
    metavar="DIR",
    help=say("Run to hold it against, or its summary.json; may be repeated."),
)
@click.option("--max-regress", cls=Flag, default="5%", show_default=True, metavar="SHARE", help=say("Allowed loss."))
@click.option("--slo", cls=Flag, default="", metavar="TEXT", help=say("Objective that the run must keep too."))
@click.option(
    "--inconclusive",
    cls=Flag,
    type=click.Choice(("fail", "pass")),
    default="fail",
    show_default=True,
    help=say("What an answer that the data do not give counts as."),
)
@click.option("--force", cls=Flag, is_flag=True, help=say("Accept a baseline of another machine or workload."))
@click.option("--junit", cls=Flag, type=click.Path(path_type=Path), metavar="FILE", help=say("Write JUnit XML."))
@click.option("--markdown", cls=Flag, type=click.Path(path_type=Path), metavar="FILE", help=say("Write Markdown."))
@json_flag
@click.pass_context
def gate(  # noqa: PLR0913 -- one parameter for each flag; click calls it by name
    ctx: click.Context,
    /,
    runs: tuple[Path, ...],
    baselines: tuple[Path, ...],
    max_regress: str,
    slo: str,
    inconclusive: Literal["fail", "pass"],
    *,
    force: bool,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Judge."""
    from qwenops.atomic import write_text
    from qwenops.bench import gate as gates
    from qwenops.bench.objective import parse_slo

    terminal = ctx.ensure_object(Terminal)
    gated = gates.gate(
        [gates.read_side(each) for each in runs],
        [gates.read_side(each) for each in baselines],
        gates.Threshold(max_regress=parse_share(max_regress), inconclusive=inconclusive),
        slo=parse_slo(slo) if slo else None,
        force=force,
    )
    if junit is not None:
        write_text(junit, gates.junit(gated))
    if markdown is not None:
        write_text(markdown, gates.markdown(gated, terminal.translate))
    measured = Measured(verb="gate", conclusion=gates.gate_conclusion(gated), folder=runs[0])
    show_conclusion(terminal, measured, None, as_json=as_json)
    ctx.exit(measured.conclusion.exit_code)


def parse_share(text: str) -> float:
    """Read a share: `5%`, or `0.05`.

    Raises:
        ConfigError: It is none between 0 and 1.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share <= 1:
        raise ConfigError(say("{text!r} is no share.", text=text), hint=say("Write 5% or 0.05, for example."))
    return share


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
    path = write_report(run, language=terminal.language)
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
    from qwenops.bench.foreign import import_results

    terminal = ctx.ensure_object(Terminal)
    folder = out or settings(ctx).bench.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-import"
    conclusion = import_results(file, folder, wall_ns=time.time_ns())
    leave(ctx, terminal, Measured(verb="import", conclusion=conclusion, folder=folder), as_json=as_json)


@click.command(
    "selftest",
    cls=Verb,
    help=say(
        "Measure a server whose true figures are known, on this machine, and hold the results against them: says "
        "whether measurements here can be believed."
    ),
    examples=(
        ("qwenops bench selftest", say("About a minute.")),
        ("qwenops bench selftest --json", say("For scripts.")),
    ),
)
@json_flag
@click.pass_context
def selftest(ctx: click.Context, /, *, as_json: bool) -> None:
    """Measure what is known."""
    from qwenops.bench.selftest import selftest as act

    terminal = ctx.ensure_object(Terminal)
    with terminal.progress() as report_progress:
        conclusion = run_loop(act(tell=report_progress))
    measured = Measured(verb="selftest", conclusion=conclusion)
    show_conclusion(terminal, measured, None, as_json=as_json)
    ctx.exit(conclusion.exit_code)
