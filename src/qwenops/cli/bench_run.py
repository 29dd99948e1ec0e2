"""What every measurement of the command line shares: from the words that were typed to the exit code.

    words -> settings -> targets, clock, collectors, live view -> a verb of `qwenops.bench` -> tables, report, code

Ctrl-C once stops sending and gives what is in flight a moment: the folder and the report are complete and say that
they are partial. Ctrl-C twice leaves at once; what was recorded so far stays.
"""

import asyncio
import dataclasses
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qwenops.cli.bench_live import view_for
from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import NAME, Terminal
from qwenops.config import load
from qwenops.errors import ConfigError
from qwenops.options import show_number
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.bench.clock import Clock
    from qwenops.bench.collect.collector import Collector
    from qwenops.bench.conclusion import Cell, Conclusion, Finding, Table
    from qwenops.bench.options import BenchOptions
    from qwenops.bench.run import Run
    from qwenops.bench.target import Target

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])

INTERRUPTED = 130
CLOSE_TIMEOUT_S = 30.0
MOST_USERS = 100_000
SIMULATED = "simulated:"
HIDDEN = "***"
"""What stands for a secret in a command line that was written down."""
CONFIGURATION = ".toml"
TARGET = say("A URL, ollama:MODEL, ENGINE:MODEL such as openvino:random:0.6b, or simulated:.")
ASKING = (
    "workload",
    "prompt_tokens",
    "max_tokens",
    "force_length",
    "cache",
    "thinking",
    "timeout_s",
    "seed",
    "record_text",
    "folder",
)
"""Options of every measurement that asks a workload."""


class Measurement(Verb):
    """A command that measures; `--resume DIR` alone takes the rest of the command line from that run's folder."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Complete the words by those that the run was begun with, and remember them for the manifest."""
        folder, rest = _resumed(args)
        if folder is not None and not [word for word in rest if word != "--json"]:
            args = [*_begun_with(Path(folder), ctx.info_name or ""), *args]
        ctx.meta[_WORDS] = tuple(_resumed(args)[1])
        return super().parse_args(ctx, args)


_WORDS = "qwenops.words"


def _resumed(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return what follows `--resume`, and the other words."""
    rest, folder, words = [], None, iter(args)
    for word in words:
        if word == "--resume":
            folder = next(words, None)
        elif word.startswith("--resume="):
            folder = word.partition("=")[2]
        else:
            rest.append(word)
    return folder, rest


def _begun_with(folder: Path, verb: str) -> list[str]:
    """Return the words after the verb that a run was begun with.

    Raises:
        RunFolderError: It is no run's folder.
        ConfigError: It is one of another verb, or does not say how it was begun.
    """
    from qwenops.bench.continuing import how_to_continue
    from qwenops.bench.folder import read_manifest

    manifest = read_manifest(folder)
    other = str(manifest.get("verb", verb))
    if other != verb:
        raise ConfigError(
            say(
                "The run in {folder} is one of `bench {other}`, not of `bench {verb}`.",
                folder=folder,
                other=other,
                verb=verb,
            ),
            hint=how_to_continue(other, folder),
        )
    command = [str(word) for word in manifest.get("command", ())]
    if verb not in command:
        raise ConfigError(
            say("{folder} is no run of `bench {verb}` that was begun on a command line.", folder=folder, verb=verb),
            hint=say("Give the target and the flags that it was begun with, together with --resume."),
        )
    words = command[command.index(verb) + 1 :]
    if any(HIDDEN in word for word in words):
        raise ConfigError(
            say("The run in {folder} was begun with a secret on its command line, which was not kept.", folder=folder),
            hint=say("Give the target and the flags that it was begun with, together with --resume."),
        )
    out = [number for number, word in enumerate(words) if word == "--out"]
    return [word for number, word in enumerate(words) if number not in out and number - 1 not in out]


def measure_flags(*names: str, asking: bool = False, resume: bool = True) -> Callable[[Function], Function]:
    """Add the flags of a measurement: options of `[bench]` by name, where the run goes, and `--json`.

    Args:
        names: Which options mean something to the command.
        asking: Whether it asks a workload, so that all of `ASKING` do too.
        resume: Whether a run can be continued.
    """
    keys = tuple(f"bench.{name}" for name in (*names, *(ASKING if asking else ())))

    def add(function: Function) -> Function:
        for decorate in (json_flag, *((_RESUME,) if resume else ()), _OUT, option_flags("bench", only=keys), _MODEL):
            function = decorate(function)
        return function

    return add


_RESUME = click.option(
    "--resume",
    cls=Flag,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=say("Continue the run in this folder; nothing else has to be given."),
)
_OUT = click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=say("Folder of this run, instead of a new one under --runs."),
)
_MODEL = click.option(
    "--model", cls=Flag, default="", metavar="NAME", help=say("Model to ask for; else the server's first.")
)


def ladder(text: str) -> tuple[int, ...]:
    """Read numbers of callers: `4`, or `1,2,4,8`.

    Raises:
        ConfigError: There is something else.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and 0 < int(word) <= MOST_USERS for word in words):
        raise ConfigError(
            say("--users: {text!r} is not possible.", text=text),
            hint=say("Give whole numbers from 1 to {most} with commas between them, such as 1,2,4,8.", most=MOST_USERS),
        )
    return tuple(int(word) for word in words)


def target_argument(name: str = "target") -> Callable[[Function], Function]:
    """Add the argument that names what is measured."""
    return click.argument(name, cls=Operand, help=TARGET)


Act = Callable[["Run"], Awaitable["Conclusion"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One measurement as it was asked for."""

    verb: str
    targets: Mapping[str, str]
    """Name within the run to the text that names the target; a single one has the name ''."""
    options: "BenchOptions"
    model: str = ""
    out: Path | None = None
    resume: Path | None = None
    as_json: bool = False
    calibrate_s: float = 3.0
    """How long this process measures itself first; 0 where others send."""
    command: tuple[str, ...] = field(default=())

    @property
    def about(self) -> str:
        """What is measured, in a few words."""
        return "  /  ".join(self.targets.values())

    @property
    def virtual(self) -> bool:
        """Whether every target lives in virtual time."""
        return bool(self.targets) and all(is_virtual(text) for text in self.targets.values())


def is_virtual(text: str) -> bool:
    """Whether a target is a simulated server in virtual time."""
    if not text.startswith(SIMULATED):
        return False
    from qwenops.bench.simulated.options import parse_simulated

    return parse_simulated(text).server.virtual


def typed_command(ctx: click.Context) -> tuple[str, ...]:
    """Return the command line as it was typed, for the manifest, with `***` for the secrets in it."""
    from qwenops.command import masked

    terminal = ctx.find_root().obj
    assert isinstance(terminal, Terminal)  # noqa: S101 -- the root command put it there
    config = ("--config", str(terminal.config_file)) if terminal.config_file else ()
    return (NAME, *config, *ctx.command_path.split()[1:], *masked(ctx.meta.get(_WORDS, ())))


def bench_options(ctx: click.Context, **changes: Any) -> "BenchOptions":
    """Return how to measure: the settings, with what this verb decides."""
    made = settings(ctx).bench
    return dataclasses.replace(made, **changes)


def measure(ctx: click.Context, wanted: Wanted, act: Act) -> None:
    """Measure, print, write the report, and leave with the exit code."""
    terminal = ctx.ensure_object(Terminal)
    wanted = dataclasses.replace(wanted, command=typed_command(ctx))
    over = _over(wanted)
    if over is not None:
        terminal.tell(say("The run in {folder} is finished: nothing is left to do.", folder=over.folder))
        show_conclusion(terminal, over, None, as_json=wanted.as_json)
        ctx.exit(over.conclusion.exit_code)
    measured = run_loop(_measured(ctx, terminal, wanted, act), virtual=wanted.virtual)
    leave(ctx, terminal, measured, as_json=wanted.as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a measurement left behind."""

    verb: str
    conclusion: "Conclusion"
    folder: Path | None = None
    interrupted: bool = False


def _over(wanted: Wanted) -> Measured | None:
    """Return what the run that is to be continued came to, if it is this one and nothing is left to do in it."""
    if wanted.resume is None:
        return None
    from qwenops.bench.conclusion import conclusion_of
    from qwenops.bench.folder import read_manifest, read_summary
    from qwenops.bench.resume import is_finished

    manifest, summary = read_manifest(wanted.resume), read_summary(wanted.resume)
    if not summary or not is_finished(manifest, wanted.verb, wanted.targets, wanted.options):
        return None
    return Measured(verb=wanted.verb, conclusion=conclusion_of(summary), folder=wanted.resume)


def leave(ctx: click.Context, terminal: Terminal, measured: Measured, *, as_json: bool) -> None:
    """Write the report, print, and leave with the exit code."""
    from qwenops.bench.continuing import how_to_continue
    from qwenops.bench.report.write import write_report

    report = None if measured.folder is None else write_report(measured.folder, language=terminal.language)
    show_conclusion(terminal, measured, report, as_json=as_json)
    if measured.interrupted:
        terminal.tell(say("Interrupted: the result is partial."))
        if measured.folder is not None:
            terminal.tell(how_to_continue(measured.verb, measured.folder))
    ctx.exit(INTERRUPTED if measured.interrupted else measured.conclusion.exit_code)


def run_loop(main: Coroutine[Any, Any, Result], *, virtual: bool = False) -> Result:
    """Run a coroutine: in virtual time, or with the fast event loop."""
    if virtual:
        from qwenops.bench.simulated.loop import run

        return run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _measured(ctx: click.Context, terminal: Terminal, wanted: Wanted, act: Act) -> Measured:
    from qwenops.bench.resume import Opening
    from qwenops.bench.run import add_findings, begin, finish

    clock = running_clock(virtual=wanted.virtual)
    view = view_for(terminal, wanted.about, slo_limits(wanted.options.slo))
    opening = Opening(
        out=wanted.out,
        resume_from=wanted.resume,
        command=wanted.command,
        calibrate_s=wanted.calibrate_s,
        announce=lambda: terminal.tell(say("Measuring this client first ...")),
        stop=asyncio.Event(),
    )
    async with AsyncExitStack() as stack:
        targets = await stack.enter_async_context(opened_targets(ctx, terminal, wanted))
        stack.enter_context(view.showing())
        stack.enter_context(stopping(opening.stop or asyncio.Event()))
        run = await stack.enter_async_context(
            begin(
                wanted.verb,
                targets,
                wanted.options,
                clock=clock,
                listen=view,
                collectors=collectors(clock, targets, wanted.options),
                opening=opening,
            )
        )
        if run.continued is not None:
            terminal.tell(run.continued)
        conclusion = await act(run)
        conclusion = finish(run, conclusion)  # first of all: whatever becomes of the rest, the result is kept
        if not wanted.virtual:
            found = await asyncio.to_thread(_looked_around, run.folder.path)
            conclusion = add_findings(run, conclusion, found, live_view_cores=round(view.cpu_share, 5))
        return Measured(verb=wanted.verb, conclusion=conclusion, folder=run.folder.path, interrupted=run.interrupted)


def _looked_around(folder: Path) -> Sequence["Finding"]:
    """Return what the host's samples and the requests show together."""
    from qwenops.bench.collect.findings import findings
    from qwenops.bench.folder import read_run
    from qwenops.bench.thinning import Bounds

    return findings(read_run(folder, thin=Bounds()))


def running_clock(*, virtual: bool) -> "Clock":
    """Return the clock of this run."""
    if virtual:
        from qwenops.bench.simulated.loop import VirtualClock

        return VirtualClock()
    from qwenops.bench.clock import RealClock

    return RealClock()


def collectors(clock: "Clock", targets: Mapping[str, "Target"], options: "BenchOptions") -> Sequence["Collector"]:
    """Return what looks at the host and at the engines; nothing does in virtual time."""
    if clock.virtual:
        return ()
    from qwenops.bench.collect.engine import EngineWatch
    from qwenops.bench.collect.host import HostWatch

    def process_ids() -> tuple[int, ...]:
        return tuple(dict.fromkeys(each for target in targets.values() for each in target.process_ids()))

    return (
        HostWatch(process_ids, clock, every_s=options.sample_every_s),
        EngineWatch(targets, clock),
    )


@contextmanager
def stopping(stop: asyncio.Event) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) set `stop`, and the second end this task at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def opened_targets(
    ctx: click.Context, terminal: Terminal, wanted: Wanted
) -> AsyncIterator[Mapping[str, "Target"]]:
    """Open every target; close them in the end, whatever happened. A `.toml` file is a server that is started here."""
    from qwenops.bench.targets import open_target
    from qwenops.cli.bench_local import local_opener

    made = settings(ctx)
    for text in wanted.targets.values():
        if text.endswith(CONFIGURATION):  # each is right before the first server is started
            load(environ=terminal.environ, file=Path(text))
    keys = keys_of(wanted.targets, made.engine.api_key, made.bench.second_api_key)
    found: dict[str, Target] = {}
    async with AsyncExitStack() as stack:
        for name, text in wanted.targets.items():
            is_file = text.endswith(CONFIGURATION)
            target = await open_target(
                await stack.enter_async_context(_served(terminal, text)) if is_file else text,
                wanted.options,
                model=wanted.model,
                api_key=keys[name],
                open_local=local_opener(terminal, made),
            )
            stack.push_async_callback(_closed, target)
            found[name] = dataclasses.replace(target, text=text) if is_file else target
        yield found


def keys_of(targets: Mapping[str, str], first: str, second: str) -> dict[str, str]:
    """Return the key of each target by name: a server is never sent the key of another one.

    `first` is for the first target on a network, for what is the same server, and for servers started here; `second`
    for any other.
    """
    from qwenops.bench.targets import server_of

    servers = {name: server_of(text) for name, text in targets.items()}
    mine = next((server for server in servers.values() if server), "")
    return {name: first if server in {"", mine} else second for name, server in servers.items()}


async def _closed(target: "Target") -> None:
    await asyncio.wait_for(target.engine.aclose(), CLOSE_TIMEOUT_S)


@asynccontextmanager
async def _served(terminal: Terminal, file: str) -> AsyncIterator[str]:
    """Serve what a configuration file says, on a free port of this machine, and yield the address."""
    from qwenops.bench.spawned import spawned_server

    argv = [
        *(sys.executable, "-m", NAME, "--config", file, "-q", "serve", "--host", "127.0.0.1", "--port", "{port}"),
        *("--log-destination", "off"),
    ]
    terminal.tell(say("Starting a server with {path} ...", path=file))
    async with spawned_server(argv, url="http://127.0.0.1:{port}") as server:
        yield server.url


def slo_limits(text: str) -> dict[str, float]:
    """Return the bounds of `ttft` and `e2e` in an objective, for the dotted lines of the live view."""
    if not text:
        return {}
    from qwenops.bench.objective import parse_slo

    return {bound.metric: bound.limit_s for bound in parse_slo(text).bounds if bound.metric in {"ttft", "e2e"}}


def show_conclusion(terminal: Terminal, measured: Measured, report: Path | None, *, as_json: bool) -> None:
    """Print a conclusion: tables and sentences as data; findings and the path of the report as remarks."""
    from qwenops.bench.collect.energy import UNAVAILABLE

    conclusion = measured.conclusion
    if as_json:
        terminal.show_json("qwenops.bench/1", plain_conclusion(measured, report))
        return
    for table in conclusion.tables:
        show_result_table(terminal, table)
        terminal.show()
    for sentence in conclusion.sentences:
        terminal.show(sentence)
    for finding in conclusion.findings:
        if finding.text not in UNAVAILABLE:
            terminal.tell(finding.text)
    if measured.folder is not None and measured.verb != "gate":
        terminal.tell(say("Folder: {path}", path=measured.folder))
    if report is not None:
        terminal.tell(say("Report: {path}", path=report))


def show_result_table(terminal: Terminal, table: "Table") -> None:
    """Print one table under its title."""
    terminal.show(table.title)
    terminal.show_table(table.headings, [[cell_text(cell) for cell in row] for row in table.rows])


def cell_text(cell: "Cell") -> str:
    """Write a cell: numbers with four digits that count, a dash for nothing."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return show_number(cell, 4)
    return str(cell) if isinstance(cell, int) else cell


def plain_conclusion(measured: Measured, report: Path | None) -> Mapping[str, Any]:
    """Return a conclusion for scripts; its sentences are English."""
    conclusion = measured.conclusion
    return {
        "verb": measured.verb,
        "outcome": conclusion.outcome.value,
        "exit_code": conclusion.exit_code,
        "interrupted": measured.interrupted,
        "sentences": [str(sentence) for sentence in conclusion.sentences],
        "findings": [{"severity": each.severity, "text": str(each.text)} for each in conclusion.findings],
        "data": conclusion.data,
        "folder": None if measured.folder is None else str(measured.folder),
        "report": None if report is None else str(report),
    }
