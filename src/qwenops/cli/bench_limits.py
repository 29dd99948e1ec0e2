"""`qwenops bench stress`, `slo` and `startup`: where a server's limits are."""

import dataclasses
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.bench_run import Measurement, Wanted, bench_options, ladder, measure, measure_flags, target_argument
from qwenops.cli.flags import settings
from qwenops.cli.help import Flag, Operand
from qwenops.cli.terminal import NAME, Terminal
from qwenops.errors import ConfigError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.bench.options import BenchOptions
    from qwenops.bench.startup import Launch

PORT = "{port}"
URL = f"http://127.0.0.1:{PORT}"
_ADDRESS = re.compile(r"\s*([a-z][a-z0-9+.-]*://|simulated:)", re.IGNORECASE)
"""A target that is no command."""


@click.command(
    "stress",
    cls=Measurement,
    help=say(
        "Raise the number of callers up to and past saturation, then look whether the server recovers. Says where the "
        "knee is, by how much callers slow one another, and confirms it at a steady rate."
    ),
    examples=(
        ("qwenops bench stress http://127.0.0.1:8000", say("1, 2, 4, ... callers until more bring nothing.")),
        (
            "qwenops bench stress 'qwenops serve qwen3:0.6b --port {port}' --under cpu=1",
            say("A server that is started here, with one core."),
        ),
    ),
)
@target_argument()
@click.option(
    "--users",
    "users_text",
    cls=Flag,
    default="",
    metavar="N[,N...]",
    help=say("Steps of the ladder instead of doubling."),
)
@click.option(
    "--under",
    cls=Flag,
    multiple=True,
    metavar="LIMITS",
    help=say("Start the target, a command, with so much of the machine (cpu=1,memory=3GiB); may be repeated."),
)
@measure_flags("duration_s", "warmup", asking=True)
@click.pass_context
def stress(ctx: click.Context, /, target: str, users_text: str, under: tuple[str, ...], **asked: Any) -> None:
    """Find the knee."""
    from qwenops.bench.stress import stress as act
    from qwenops.bench.under import parse_limits

    options, limits, users = bench_options(ctx), [parse_limits(text) for text in under], ladder(users_text)
    if limits and _ADDRESS.match(target):
        raise ConfigError(
            say("{target} runs already, and what runs already cannot be limited.", target=target),
            hint=say("Give the command that starts it as the target, with {port} for its port.", port=PORT),
        )
    launch = launch_of(ctx, target, URL, options, asked["model"]) if under or PORT in target else None
    wanted = Wanted(
        verb="stress",
        targets={} if launch else {"": target},
        options=options,
        **asked,
    )
    measure(ctx, wanted, lambda run: act(run, users=users, launch=launch, under=limits))


@click.command(
    "slo",
    cls=Measurement,
    help=say(
        "Find the highest rate at which a server keeps an objective, with proof: PASS, FAIL, or UNDECIDED and how many "
        "more requests would decide. With --rate it judges that rate alone."
    ),
    examples=(
        ("qwenops bench slo http://127.0.0.1:8000 --slo 'ttft p95 < 2s'", say("How much it can take.")),
        (
            "qwenops bench slo http://127.0.0.1:8000 --slo 'e2e p95 < 9s' --rate 0.2",
            say("Does it keep this at 0.2 requests per second?"),
        ),
    ),
)
@target_argument()
@measure_flags("rate", "arrivals", "duration_s", "requests", "warmup", "slo", asking=True)
@click.pass_context
def slo(ctx: click.Context, /, target: str, **asked: Any) -> None:
    """Find the capacity."""
    from qwenops.bench.objective import objective_of
    from qwenops.bench.slo import slo as act

    options, tell = bench_options(ctx), ctx.ensure_object(Terminal).tell
    objective_of(options.slo)
    wanted = Wanted(verb="slo", targets={"": target}, options=options, **asked)
    measure(ctx, wanted, lambda run: act(run, budget_s=options.duration_s, announce=tell))


@click.command(
    "startup",
    cls=Measurement,
    help=say(
        "Start a server several times and say when it listens, when it is ready and when its first token comes, with "
        "a warm and a cold page cache, and how much memory it took."
    ),
    examples=(
        ("qwenops bench startup 'qwenops serve random:0.6b --port {port}'", say("A server of ours.")),
        (
            "qwenops bench startup 'llama-server -m q.gguf --port {port}' --starts 5",
            say("Any other; {port} stands for a free port."),
        ),
    ),
)
@click.argument("command", cls=Operand, help=say("How to start the server; {port} stands for a free port."))
@click.option("--starts", cls=Flag, type=click.IntRange(1, 100), default=3, show_default=True, help=say("How often."))
@click.option("--url", cls=Flag, default=URL, show_default=True, help=say("Where it answers."))
@click.option(
    "--files",
    cls=Flag,
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    metavar="PATH",
    help=say("Files of the model, or their folder, which a cold start reads from the disk; may be repeated."),
)
@click.option("--drop-caches", cls=Flag, is_flag=True, help=say("Drop the whole page cache before cold starts (root)."))
@measure_flags("timeout_s", "folder", resume=False)
@click.pass_context
def startup(
    ctx: click.Context,
    /,
    command: str,
    starts: int,
    url: str,
    files: tuple[Path, ...],
    *,
    drop_caches: bool,
    **asked: Any,
) -> None:
    """Start it."""
    from qwenops.bench.startup import startup as act

    options = bench_options(ctx)
    wanted = Wanted(verb="startup", targets={}, options=options, calibrate_s=0.0, **asked)
    launch = launch_of(ctx, command, url, options, wanted.model)
    launch = dataclasses.replace(launch, files=files, drop_all=drop_caches)
    ctx.ensure_object(Terminal).tell(
        say(
            "Starting the server again and again, cold and warm, and waiting each time until it answers at {url}, for "
            "up to {seconds:g} s ...",
            url=url,
            seconds=launch.timeout_s,
        )
    )
    measure(ctx, wanted, lambda run: act(run, launch, rounds=starts))


def launch_of(ctx: click.Context, command: str, url: str, options: "BenchOptions", model: str) -> "Launch":
    """Return how a server is started here, from the command that starts it."""
    from qwenops.bench.startup import Launch
    from qwenops.bench.targets import open_target

    if PORT in url and PORT not in command:
        raise ConfigError(
            say("The command has no {port}: the server would not learn where it is asked.", port=PORT),
            hint=say("Write {port} where the command names its port, for example --port {port}.", port=PORT),
        )

    key = settings(ctx).engine.api_key
    return Launch(
        argv=typed_program(command),
        open_target=lambda address: open_target(address, options, model=model, api_key=key),
        url=url,
    )


def typed_program(command: str) -> list[str]:
    """Return the words of a command; `qwenops` is this program, wherever it is installed.

    Raises:
        ConfigError: It has no words, or an open quote.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise ConfigError(
            say("{command!r} is no command.", command=command), hint=say("Give the program and its arguments.")
        )
    return [sys.executable, "-m", NAME, *words[1:]] if words[0] == NAME else words
