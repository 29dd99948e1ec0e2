"""`qwenops serve`: fetch, convert and serve a model over HTTP, listening from the first moment."""

import asyncio
import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.flags import option_flags, settings, typed_flags
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.keys import key_database
from qwenops.cli.models import NAME, open_store
from qwenops.cli.opening import engine_options, open_tokenizer, prepare_model, served_name, wanted_model
from qwenops.cli.terminal import Report, Terminal
from qwenops.config import Settings, all_options, load, value_of
from qwenops.errors import ConfigError, ModelNotFoundError
from qwenops.text import say, translator

if TYPE_CHECKING:
    from qwenops.deploy.prepare import Prepared
    from qwenops.engines.options import EngineOptions
    from qwenops.engines.resilient import ResilientEngine
    from qwenops.engines.seam import Engine
    from qwenops.models.tokenizer import Tokenizer
    from qwenops.serve.champion import Desk
    from qwenops.serve.lifecycle import Phase
    from qwenops.serve.lifecycle import Report as ReportPhase
    from qwenops.serve.options import Difference, ServeOptions
    from qwenops.serve.reload import Wanted
    from qwenops.serve.serving import ServedModel


@click.command(
    "serve",
    cls=Verb,
    help=say(
        "Serve a model over HTTP: OpenAI's API and a smaller one. The model is fetched and converted first where that "
        "is needed; the server answers its probes meanwhile. With a classifier it files calls, too, or does only that "
        "where no model is named. Listens on this machine only, unless told otherwise; a public address needs an API "
        "key. Ctrl-C or SIGTERM let the requests in flight finish."
    ),
    examples=(
        ("qwenops serve qwen3:0.6b", say("At http://127.0.0.1:8000.")),
        ("qwenops serve --classifier complaints", say("Classify calls; follow whatever is promoted.")),
    ),
)
@click.argument("model", cls=Operand, required=False, help=NAME)
@click.option(
    "--name", cls=Flag, default="", metavar="TEXT", help=say("What `qwenops ps` and `stop` call it; else its port.")
)
@option_flags("model", "engine", "serve", "hub")
@option_flags(
    "classify", "state", "calls", only=("classify.model", "classify.registry", "state.database", "calls.secret_file")
)
@click.pass_context
def serve(ctx: click.Context, /, model: str | None, name: str) -> None:
    """Serve until asked to stop."""
    from qwenops.serve.run import Surroundings, run
    from qwenops.serve.runfile import run_folder

    terminal = ctx.ensure_object(Terminal)
    made = settings(ctx)
    classifies_only = bool(made.classify.model) and not (model or made.model.name)
    wanted = made.classify.model if classifies_only else wanted_model(model, made)
    surroundings = Surroundings(
        model=wanted if classifies_only else known_model(wanted, terminal, made),
        engine="classifier" if classifies_only else made.model.engine,
        name=name,
        run_folder=run_folder(terminal.environ),
        read_options=reader(terminal, made, typed_flags(ctx), but=("model.name",) if model else ()),
        watched=(made.file,) if made.file else (),
        translate=lambda language, template: translator("zh" if language.startswith("zh") else "en")(template),
    )
    bar = made.serve.log.format == "text" and sys.stderr.isatty()
    shown = terminal if bar else dataclasses.replace(terminal, verbosity=-1)
    with open_desk(terminal, made) as desk, ExitStack() as bars:
        opening = Opening(wanted=wanted, made=made, terminal=terminal, report=bars.enter_context(shown.progress()))

        def ready(url: str) -> None:
            bars.close()
            if bar:
                greet(terminal, url, classifies_only=classifies_only)

        surroundings = dataclasses.replace(surroundings, on_ready=ready, desk=desk)
        open_engine = opening.open if desk is None or not classifies_only else classifying(desk)
        run(open_engine, with_key_database(made.serve, terminal, made), surroundings)


def reader(
    terminal: Terminal, made: Settings, typed: Mapping[str, str], *, but: Collection[str]
) -> "Callable[[], Wanted]":
    """Return what reads the configuration again.

    Args:
        terminal: Knows the environment and the file.
        made: The settings that the server was started with.
        typed: What was typed, which goes before file and environment.
        but: Keys that the command line overrides in another way.
    """
    from qwenops.serve.reload import Wanted

    def read_options() -> Wanted:
        again = load(environ=terminal.environ, flags=typed, file=terminal.config_file)
        elsewhere = changed_elsewhere(made, again, but=but)
        return Wanted(serve=with_key_database(again.serve, terminal, again), elsewhere=elsewhere)

    return read_options


@contextmanager
def open_desk(terminal: Terminal, made: Settings) -> "Iterator[Desk | None]":
    """Yield what the routes about calls need; None where no classifier is wanted.

    Raises:
        ModelNotFoundError: There is no such classifier in the registry.
    """
    if not made.classify.model:
        yield None
        return
    from qwenops.cli.classifying import RegistrySource, open_registry, redaction_secret, state_database
    from qwenops.serve.champion import Champion, Desk
    from qwenops.state.database import open_database

    registry = open_registry(terminal, made)
    registry.find(made.classify.model)  # refused before anything listens, with what there is
    source = RegistrySource(registry, made.classify.model, made, redaction_secret(terminal, made))
    with open_database(state_database(terminal, made)) as database:
        yield Desk(champion=Champion(source, name=source.name), database=database, options=made.state)


def classifying(desk: "Desk") -> "Callable[[ReportPhase], Awaitable[ServedModel]]":
    """Return what opens a server that classifies and does not write."""

    async def open_it(tell: "ReportPhase") -> "ServedModel":
        from qwenops.serve.classifies_only import ClassifiesOnly
        from qwenops.serve.lifecycle import Phase
        from qwenops.serve.serving import ServedModel

        tell(Phase.LOADING, 0.0, say("Loading the classifier"))
        await desk.champion.look()
        if desk.champion.about is None:
            raise desk.champion.failure or ModelNotFoundError(
                say("{name} has no champion.", name=desk.champion.name),
                hint=say("`qwenops registry promote {name}` makes the candidate one.", name=desk.champion.name),
            )
        engine = ClassifiesOnly(desk.champion)
        return ServedModel(engine=engine, tokenizer=engine, since_s=time.time())

    return open_it


def known_model(wanted: str, terminal: Terminal, made: Settings) -> str:
    """Return the one spelling of a model; a name that means nothing is refused before anything listens.

    Raises:
        ModelNotFoundError: It means nothing, and there is no fallback that could serve.
    """
    try:
        return open_store(terminal).name_of(wanted).text
    except ModelNotFoundError:
        if made.model.fallback:
            return wanted
        raise


def greet(terminal: Terminal, url: str, *, classifies_only: bool = False) -> None:
    """Say that requests are taken, how to make one, and how to stop."""
    path = "/v1/chat/completions"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": terminal.said(say("Who are you?"))}]}
    if classifies_only:
        path = "/v1/classify"
        asked = {"input": terminal.said(say("customer: My line has been dead for three days."))}
    question = json.dumps(asked, ensure_ascii=False)
    terminal.tell()
    terminal.tell(say("Ready at {url}", url=url))
    terminal.tell()
    terminal.tell(f"  curl {url}{path} -H 'Content-Type: application/json' \\\n    -d {shlex.quote(question)}")
    terminal.tell()
    terminal.tell(say("Where there are API keys, add -H 'Authorization: Bearer …'. Ctrl-C stops the server."))
    terminal.tell()


def with_key_database(options: "ServeOptions", terminal: Terminal, made: Settings) -> "ServeOptions":
    """Return options that know the user's own keys, so that the first one works without a restart."""
    keys = dataclasses.replace(options.keys, database=key_database(terminal, made))
    return dataclasses.replace(options, keys=keys)


def changed_elsewhere(before: Settings, after: Settings, *, but: Collection[str] = ()) -> tuple["Difference", ...]:
    """Return the options outside the server's own section that differ: whoever reads them does so at the start only.

    Args:
        before: As the server was started.
        after: As it would be started now.
        but: Keys that the command line overrides.
    """
    from qwenops.serve.options import Difference

    found = []
    for each in all_options():
        if each.path[0] == "serve" or each.key in but:
            continue
        old, new = value_of(before, each), value_of(after, each)
        if old != new:
            if each.spec.secret:
                old = new = "***"
            found.append(Difference(key=each.key, old=old, new=new, live=False))
    return tuple(found)


def check_same_tokens(name: str, tokenizer: "Tokenizer", first: "Tokenizer") -> None:
    """Refuse a model that would read other texts in the tokens that requests were turned into by another.

    What the tokens stand for is compared, not the files: tools write the same vocabulary in different ways.

    Raises:
        ConfigError: They are not the same.
    """
    if tokenizer.vocab_size == first.vocab_size and all(
        tokenizer.token_bytes(token_id) == first.token_bytes(token_id) for token_id in range(first.vocab_size)
    ):
        return
    raise ConfigError(
        say("The tokens of {name} are not those of the model whose place it would take.", name=name),
        hint=say("Choose a model and a fallback with the same tokenizer, such as two sizes of Qwen3."),
    )


@dataclass(slots=True, kw_only=True)
class Opening:
    """Opens the wanted model, or its fallback, behind the listening server."""

    wanted: str
    made: Settings
    terminal: Terminal
    report: Report
    _preparing: set["asyncio.Task[Prepared]"] = field(default_factory=set, init=False)
    _first: "asyncio.Future[Any] | None" = field(default=None, init=False)
    """The tokenizer of the first model that is there; any other model must have the same tokens."""
    _tell: "ReportPhase | None" = field(default=None, init=False)
    _revisions: dict[str, str] = field(default_factory=dict, init=False)
    """Of the models that were prepared, by the names they are served under."""

    async def open(self, tell: "ReportPhase") -> "ServedModel":
        """Return the model and its tokenizer as soon as one is prepared; the engine goes on loading."""
        from qwenops.engines.resilient import Candidate, ResilientEngine
        from qwenops.serve.serving import ServedModel

        self._tell = tell
        self._first = asyncio.get_running_loop().create_future()
        fallback = self.made.model.fallback

        def candidate(name: str, served: str) -> Candidate:
            async def open_it(options: "EngineOptions") -> "Engine":
                return await self._open_one(name, options)

            options = dataclasses.replace(self.made.engine, model_name=served)
            return Candidate(name=self.made.model.engine, open=open_it, options=options)

        names = {self.wanted: self.made.engine.model_name or served_name(self.wanted)}
        if fallback:
            names.setdefault(fallback, served_name(fallback))
        engine = ResilientEngine(*(candidate(name, served) for name, served in names.items()))
        engine.start()
        try:
            tokenizer = await self._first_tokenizer(engine)
        except BaseException:
            for task in self._preparing:
                task.cancel()
            await engine.aclose()
            raise
        return ServedModel(
            engine=engine, tokenizer=tokenizer, since_s=time.time(), aliases=names, revisions=self._revisions
        )

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
        if self._first is not None and self._first.done():
            await asyncio.to_thread(check_same_tokens, name, tokenizer, self._first.result())
        elif self._first is not None:
            self._first.set_result(tokenizer)
        self._hearing(Phase.LOADING)(0.0, say("Loading the model"))
        told = engine_options(dataclasses.replace(self.made, engine=options), prepared)
        self._revisions[told.model_name] = prepared.stored.revision
        return await open_engine(self.made.model.engine, told)

    def _hearing(self, phase: "Phase") -> Report:
        """Return what tells the terminal and the probes how far a phase is."""

        def heard(fraction: float, doing: str, detail: str = "", /) -> None:
            self.report(fraction, doing, detail)
            if self._tell is not None:
                self._tell(phase, fraction, doing)

        return heard
