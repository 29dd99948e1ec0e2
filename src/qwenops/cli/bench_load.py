"""`qwenops bench quick`, `latency`, `load` and `soak`: how fast, how steadily, for how long."""

from typing import Any

import click

from qwenops.cli.bench_run import Measurement, Wanted, bench_options, ladder, measure, measure_flags, target_argument
from qwenops.cli.help import Flag
from qwenops.text import say


@click.command(
    "quick",
    cls=Measurement,
    help=say(
        "Take a first look at a server: three prompts, ten requests one after the other, then two callers for half a "
        "minute. Works on any URL that speaks OpenAI's protocol, and on Ollama."
    ),
    examples=(
        ("qwenops bench quick http://127.0.0.1:8000", say("A server of ours, or anybody's.")),
        ("qwenops bench quick ollama:qwen3:0.6b", say("Ollama on this machine, with the timings it reports.")),
    ),
)
@target_argument()
@measure_flags("max_tokens", "thinking", "timeout_s", "record_text", "folder")
@click.pass_context
def quick(ctx: click.Context, /, target: str, **asked: Any) -> None:
    """Look."""
    from qwenops.bench.quick import quick as act

    measure(ctx, Wanted(verb="quick", targets={"": target}, options=bench_options(ctx), **asked), act)


@click.command(
    "latency",
    cls=Measurement,
    help=say(
        "Ask one request after the other and say how long answers take: where a prefix cache knows the beginning and "
        "where it finds nothing, with thinking off and on."
    ),
    examples=(
        ("qwenops bench latency http://127.0.0.1:8000", say("A hundred requests.")),
        ("qwenops bench latency openvino:random:0.6b --requests 30", say("Without a server, in this process.")),
    ),
)
@target_argument()
@measure_flags("requests", "warmup", "slo", asking=True)
@click.pass_context
def latency(ctx: click.Context, /, target: str, **asked: Any) -> None:
    """Ask one after the other."""
    from qwenops.bench.latency import latency as act

    measure(ctx, Wanted(verb="latency", targets={"": target}, options=bench_options(ctx), **asked), act)


@click.command(
    "load",
    cls=Measurement,
    help=say(
        "Send requests at a rate, whether or not answers are back, or keep a number of callers busy. Without either, "
        "five callers for a minute."
    ),
    examples=(
        ("qwenops bench load http://127.0.0.1:8000 --rate 0.5 --duration 5m", say("One request in two seconds.")),
        ("qwenops bench load http://127.0.0.1:8000 --users 1,2,4,8,16", say("More and more callers.")),
    ),
)
@target_argument()
@click.option(
    "--users",
    "users_text",
    cls=Flag,
    default="",
    metavar="N[,N...]",
    help=say("Callers that each wait for their answer; several numbers are tried one after the other."),
)
@measure_flags("rate", "arrivals", "duration_s", "requests", "warmup", "slo", asking=True)
@click.pass_context
def load(ctx: click.Context, /, target: str, users_text: str, **asked: Any) -> None:
    """Load it."""
    from qwenops.bench.load import check_loop
    from qwenops.bench.load import load as act

    users = ladder(users_text)
    options = bench_options(ctx, **({"users": users[0]} if len(users) == 1 else {}))
    check_loop(options, users)
    wanted = Wanted(verb="load", targets={"": target}, options=options, **asked)
    measure(ctx, wanted, lambda run: act(run, users=users) if len(users) > 1 else act(run))


@click.command(
    "soak",
    cls=Measurement,
    help=say(
        "Load a server for hours and say whether it stays the same: memory, open files, latency, each with the slope "
        "and how sure it is. Needs no more memory for a day than for a minute."
    ),
    examples=(
        ("qwenops bench soak http://127.0.0.1:8000 --duration 8h --users 2", say("Overnight.")),
        ("qwenops bench soak --resume runs/soak-1", say("Go on after an interruption.")),
    ),
)
@target_argument()
@measure_flags("rate", "users", "arrivals", "duration_s", "warmup", "slo", asking=True)
@click.pass_context
def soak(ctx: click.Context, /, target: str, **asked: Any) -> None:
    """Load it for long."""
    from qwenops.bench.load import check_loop
    from qwenops.bench.soak import soak as act

    options = bench_options(ctx)
    check_loop(options)
    measure(ctx, Wanted(verb="soak", targets={"": target}, options=options, **asked), act)
