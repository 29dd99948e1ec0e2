"""`qwenops ps` and `qwenops stop`: the servers of this user on this machine."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import click

from qwenops.cli.flags import json_flag
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Terminal
from qwenops.errors import ConfigError, DeadlineError, QwenOpsError
from qwenops.options import format_seconds, parse_seconds
from qwenops.serve.runfile import RunFile, is_running, run_folder, running
from qwenops.text import say

POLL_S = 0.1


@click.command(
    "ps",
    cls=Verb,
    help=say("List the servers that this user runs on this machine."),
    examples=(("qwenops ps", say("Names, addresses, models.")), ("qwenops ps --json", say("For scripts."))),
)
@json_flag
@click.pass_obj
def ps(terminal: Terminal, *, as_json: bool) -> None:
    """Print what runs."""
    servers = running(run_folder(terminal.environ))
    if as_json:
        rows = [
            {
                "name": run.name,
                "pid": run.pid,
                "url": run.url,
                "model": run.model,
                "engine": run.engine,
                "version": run.version,
                "started": datetime.fromtimestamp(run.process_started_s, UTC).isoformat(timespec="seconds"),
            }
            for run in servers
        ]
        terminal.show_json("qwenops.servers/1", {"servers": rows})
    elif not servers:
        terminal.tell(say("No server runs. `qwenops serve MODEL` starts one."))
    else:
        now_s = time.time()
        headings = (say("Name"), say("Model"), say("Engine"), say("Address"), say("Pid"), say("Up"))
        terminal.show_table(
            headings,
            [
                (run.name, run.model, run.engine, run.url, str(run.pid), _age(now_s - run.process_started_s))
                for run in servers
            ],
        )


def _age(seconds: float) -> str:
    """Return an age with its two largest units."""
    step = 1 if seconds < 3600 else 60 if seconds < 86400 else 3600  # noqa: PLR2004 -- an hour, a day
    return format_seconds(int(seconds) // step * step)


@click.command(
    "stop",
    cls=Verb,
    help=say(
        "Stop a server. It becomes not ready, finishes the requests it has, and ends; `qwenops ps` shows the names."
    ),
    examples=(
        ("qwenops stop 8000", say("Stop the server on port 8000.")),
        ("qwenops stop --all --timeout 10s", say("Stop all of them, and wait no longer.")),
    ),
)
@click.argument("name", cls=Operand, required=False, help=say("Name, port or pid of the server."))
@click.option("--all", "everything", cls=Flag, is_flag=True, help=say("Stop every server of this user."))
@click.option(
    "--timeout",
    cls=Flag,
    default="90s",
    show_default=True,
    metavar="DURATION",
    help=say("Longest wait for requests in flight and for the end."),
)
@json_flag
@click.pass_obj
def stop(terminal: Terminal, name: str | None, timeout: str, *, everything: bool, as_json: bool) -> None:
    """Ask servers to end and wait until they have."""
    timeout_s = parse_seconds(timeout)
    servers = chosen(running(run_folder(terminal.environ)), name, everything=everything)
    for run in servers:
        with suppress(ProcessLookupError):  # it ended a moment ago
            os.kill(run.pid, signal.SIGTERM)
    for run in servers:
        terminal.tell(say("Waiting for {name} (pid {pid}) to finish …", name=run.name, pid=run.pid))
        wait_for_end(run, timeout_s)
    if as_json:
        terminal.show_json("qwenops.stopped/1", {"stopped": [run.name for run in servers]})
    else:
        terminal.tell(say("Stopped {count}.", count=len(servers)))


def chosen(servers: list[RunFile], name: str | None, *, everything: bool) -> list[RunFile]:
    """Return the servers that are meant; with one server and no name it is that one.

    Raises:
        ConfigError: Several run and none was named.
        QwenOpsError: None has that name.
    """
    if everything:
        return servers
    if not servers:
        raise QwenOpsError(
            say("There is no server called {name!r}; none runs.", name=name) if name else say("No server runs.")
        )
    known = ", ".join(run.name for run in servers)
    if name is None and len(servers) == 1:
        return servers
    if name is None:
        raise ConfigError(
            say("Several servers run: {known}.", known=known), hint=say("Name one, or stop all of them with --all.")
        )
    meant = [run for run in servers if name in {run.name, str(run.pid), run.url.rpartition(":")[2]}]
    if not meant:
        raise QwenOpsError(
            say("There is no server called {name!r}; running: {known}.", name=name, known=known),
            hint=say("`qwenops ps` lists them."),
        )
    return meant


def wait_for_end(
    run: RunFile,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a server has ended.

    Raises:
        DeadlineError: It still runs after `timeout_s`.
    """
    end_s = clock() + timeout_s
    while is_running(run):
        if clock() > end_s:
            raise DeadlineError(
                say(
                    "{name} (pid {pid}) still runs after {wait}.",
                    name=run.name,
                    pid=run.pid,
                    wait=format_seconds(timeout_s),
                ),
                hint=say(
                    "It finishes what it has begun; give it more time with --timeout, or `kill -9 {pid}`.", pid=run.pid
                ),
            )
        sleep(POLL_S)
