"""`qwenops bench stress`, `slo` and `startup`: where a server's limits are."""

from typing import Any

import click

from qwenops.cli.bench_run import Wanted, bench_options, measure, measure_flags, target_argument
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.text import say


@click.command(
    "stress",
    cls=Verb,
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


@click.command(
    "slo",
    cls=Verb,
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
    from qwenops.bench.capacity import BUDGET_S
    from qwenops.bench.capacity import slo as act

    options = bench_options(ctx)
    budget_s = options.duration_s or BUDGET_S
    wanted = Wanted(verb="slo", targets={"": target}, options=options, **asked)
    measure(ctx, wanted, lambda run: act(run, budget_s=budget_s))


@click.command(
    "startup",
    cls=Verb,
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
@click.option("--starts", cls=Flag, type=click.IntRange(min=1), default=3, show_default=True, help=say("How often."))
@click.option("--url", cls=Flag, default="http://127.0.0.1:{port}", show_default=True, help=say("Where it answers."))
@measure_flags("timeout_s", "folder")
@click.pass_context
def startup(ctx: click.Context, /, command: str, starts: int, url: str, **asked: Any) -> None:
    """Start it."""
