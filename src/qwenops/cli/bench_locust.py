"""`qwenops bench locust`: callers of Locust, in as many processes as wanted, with our records."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.bench_run import Measurement, Wanted, bench_options, measure, measure_flags
from qwenops.cli.flags import settings
from qwenops.cli.help import Flag, Operand
from qwenops.cli.terminal import Terminal
from qwenops.errors import ConfigError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.bench.options import BenchOptions


@click.command(
    "locust",
    cls=Measurement,
    help=say(
        "Measure a URL with Locust: writes a locustfile whose callers stream, runs it with workers as processes of "
        "their own, and puts every request into the run's folder, unrounded. With --rate the workers share one "
        "schedule."
    ),
    examples=(
        ("qwenops bench locust http://127.0.0.1:8000 --users 8 --duration 2m", say("Eight callers in two workers.")),
        (
            "qwenops bench locust http://127.0.0.1:8000 --write locustfile.py",
            say("Only write the file, for Locust's own command and pages."),
        ),
    ),
)
@click.argument("url", cls=Operand, help=say("A server that speaks OpenAI's protocol."))
@click.option("--spawn-rate", cls=Flag, type=click.FloatRange(min=0.01), help=say("Callers added a second; else all."))
@click.option(
    "--workers", cls=Flag, type=click.IntRange(1, 256), default=2, show_default=True, help=say("Locust's processes.")
)
@click.option(
    "--write",
    cls=Flag,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=say("Write the locustfile there and run nothing."),
)
@click.option("--force", cls=Flag, is_flag=True, help=say("Write over a file that --write finds there."))
@measure_flags("users", "rate", "arrivals", "duration_s", "requests", "slo", asking=True, resume=False)
@click.pass_context
def locust(
    ctx: click.Context,
    /,
    url: str,
    spawn_rate: float | None,
    *,
    workers: int,
    write: Path | None,
    force: bool,
    **asked: Any,
) -> None:
    """Run Locust."""
    from qwenops.bench.locust.drive import locust as act
    from qwenops.bench.locust.drive import plan_for

    options = bench_options(ctx)
    if write is not None:
        if write.exists() and not force:
            raise ConfigError(
                say("{path} exists already.", path=write),
                hint=say("Give another name, or --force to write over it."),
            )
        write_file(ctx.ensure_object(Terminal), write, url, asked["model"], options)
        return
    wanted = Wanted(verb="locust", targets={"": url}, options=options, calibrate_s=0.0, **asked)
    key = settings(ctx).engine.api_key
    measure(ctx, wanted, lambda run: act(run, plan_for(run, spawn_rate=spawn_rate, workers=workers), api_key=key))


def write_file(terminal: Terminal, path: Path, url: str, model: str, options: "BenchOptions") -> None:
    """Write the locustfile and say how to run it."""
    from qwenops.atomic import write_text
    from qwenops.bench.locust.plan import locustfile, plan_of

    plan = plan_of(url, model, options)
    write_text(path, locustfile(plan, path.name))
    terminal.show(str(path))
    terminal.tell(
        say(
            "Run it: locust -f {path} --headless --users {users} --spawn-rate {rate:g} --run-time {seconds}s",
            path=path,
            users=plan.users,
            rate=plan.spawn_rate,
            seconds=plan.whole_run_time_s,
        )
    )
