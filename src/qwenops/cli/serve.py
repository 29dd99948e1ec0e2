"""`qwenops serve`: fetch, convert and serve a model over HTTP, listening from the first moment."""

import asyncio
import dataclasses
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.flags import option_flags, settings, typed_flags
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.keys import key_database
from qwenops.cli.models import NAME
from qwenops.cli.opening import engine_options, open_tokenizer, prepare_model, wanted_model
from qwenops.cli.terminal import Report, Terminal
from qwenops.config import Settings, load
from qwenops.text import say, translator

if TYPE_CHECKING:
    from qwenops.deploy.prepare import Prepared
    from qwenops.engines.options import EngineOptions
    from qwenops.engines.resilient import ResilientEngine
    from qwenops.engines.seam import Engine
    from qwenops.serve.lifecycle import Phase
    from qwenops.serve.lifecycle import Report as ReportPhase
    from qwenops.serve.options import ServeOptions
    from qwenops.serve.serving import ServedModel


@click.command(
    "serve",
    cls=Verb,
    help=say(
        "Serve a model over HTTP: OpenAI's API and a smaller one. The model is fetched and converted first where that "
        "is needed; the server answers its probes meanwhile. Listens on this machine only, unless told otherwise; a "
        "public address needs an API key. Ctrl-C or SIGTERM let the requests in flight finish."
    ),
    examples=(
        ("qwenops serve qwen3:0.6b", say("At http://127.0.0.1:8000.")),
        ("qwenops serve ./folder --port 9000 --scheme int4", say("A model of your own, smaller and faster.")),
    ),
)
@click.argument("model", cls=Operand, required=False, help=NAME)
@click.option(
    "--name", cls=Flag, default="", metavar="TEXT", help=say("What `qwenops ps` and `stop` call it; else its port.")
)
@option_flags("model", "engine", "serve", "hub")
@click.pass_context
def serve(ctx: click.Context, /, model: str | None, name: str) -> None:
    """Serve until asked to stop."""
    from qwenops.serve.run import Surroundings, run
    from qwenops.serve.runfile import run_folder

    terminal = ctx.ensure_object(Terminal)
    made = settings(ctx)
    typed = typed_flags(ctx)
    wanted = wanted_model(model, made)

    def read_options() -> "ServeOptions":
        again = load(environ=terminal.environ, flags=typed, file=terminal.config_file)
        return with_key_database(again.serve, terminal, again)

    surroundings = Surroundings(
        model=wanted,
        engine=made.model.engine,
        name=name,
        run_folder=run_folder(terminal.environ),
        read_options=read_options,
        watched=(made.file,) if made.file else (),
        translate=lambda language, template: translator("zh" if language.startswith("zh") else "en")(template),
    )
    bar = made.serve.log.format == "text" and sys.stderr.isatty()
    shown = terminal if bar else dataclasses.replace(terminal, verbosity=-1)
    with shown.progress() as report:
        opening = Opening(wanted=wanted, made=made, terminal=terminal, report=report)
        surroundings = dataclasses.replace(surroundings, on_ready=opening.finished)
        run(opening.open, with_key_database(made.serve, terminal, made), surroundings)


def with_key_database(options: "ServeOptions", terminal: Terminal, made: Settings) -> "ServeOptions":
    """Return options that know the user's own keys, so that the first one works without a restart."""
    keys = dataclasses.replace(options.keys, database=key_database(terminal, made))
    return dataclasses.replace(options, keys=keys)


@dataclass(slots=True, kw_only=True)
class Opening:
    """Opens the wanted model, or its fallback, behind the listening server."""

    wanted: str
    made: Settings
    terminal: Terminal
    report: Report
    _preparing: set["asyncio.Task[Prepared]"] = field(default_factory=set, init=False)
    _first: "asyncio.Future[Any] | None" = field(default=None, init=False)
    """The tokenizer of the first model that is there; those of a model and its fallback are the same."""
    _tell: "ReportPhase | None" = field(default=None, init=False)

    async def open(self, tell: "ReportPhase") -> "ServedModel":
        """Return the model and its tokenizer as soon as one is prepared; the engine goes on loading."""
        from qwenops.engines.resilient import Candidate, ResilientEngine
        from qwenops.serve.serving import ServedModel

        self._tell = tell
        self._first = asyncio.get_running_loop().create_future()
        fallback = self.made.model.fallback

        def candidate(name: str) -> Candidate:
            async def open_it(options: "EngineOptions") -> "Engine":
                return await self._open_one(name, options)

            options = dataclasses.replace(self.made.engine, model_name=name)
            return Candidate(name=self.made.model.engine, open=open_it, options=options)

        engine = ResilientEngine(candidate(self.wanted), candidate(fallback) if fallback else None)
        engine.start()
        try:
            tokenizer = await self._first_tokenizer(engine)
        except BaseException:
            for task in self._preparing:
                task.cancel()
            await engine.aclose()
            raise
        return ServedModel(engine=engine, tokenizer=tokenizer, since_s=time.time())

    async def _first_tokenizer(self, engine: "ResilientEngine") -> Any:
        """Wait until a model is there, or until the engine has given up, which raises."""
        assert self._first is not None  # noqa: S101 -- `open` made it
        ready = asyncio.ensure_future(engine.ready())
        try:
            waiting: list[asyncio.Future[Any]] = [ready, self._first]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not self._first.done():
                await ready
            return await self._first
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _open_one(self, name: str, options: "EngineOptions") -> "Engine":
        from qwenops.engines import open_engine
        from qwenops.serve.lifecycle import Phase

        fetching, converting = self._hearing(Phase.DOWNLOADING), self._hearing(Phase.CONVERTING)
        task = asyncio.create_task(prepare_model(name, self.made, self.terminal, fetching, converting))
        self._preparing.add(task)
        try:
            prepared = await task
        finally:
            self._preparing.discard(task)
        tokenizer = await asyncio.to_thread(open_tokenizer, prepared)
        if self._first is not None and not self._first.done():
            self._first.set_result(tokenizer)
        self._hearing(Phase.LOADING)(0.0, say("Loading the model"))
        made = dataclasses.replace(self.made, engine=options)
        return await open_engine(self.made.model.engine, engine_options(made, prepared))

    def _hearing(self, phase: "Phase") -> Report:
        """Return what tells the terminal and the probes how far a phase is."""

        def heard(fraction: float, doing: str, detail: str = "", /) -> None:
            self.report(fraction, doing, detail)
            if self._tell is not None:
                self._tell(phase, fraction, doing)

        return heard

    def finished(self, url: str) -> None:
        """Clear the bar."""
        self.report(1.0, say("Ready at {url}", url=url))
