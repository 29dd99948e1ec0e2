"""`qwenops demo-speed`: how fast a model of the true shape is here, from its weights to answers over HTTP."""

import asyncio
import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Verb
from qwenops.cli.models import NAME
from qwenops.cli.opening import prepare_model
from qwenops.cli.terminal import Report, Terminal, aligned, printable
from qwenops.options import show_bytes
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.config import Settings
    from qwenops.deploy.demo_speed import Answer, Outcome, Question
    from qwenops.deploy.prepare import Prepared

DEFAULT_MODEL = "random:0.6b"


@click.command(
    "demo-speed",
    cls=Verb,
    help=say(
        "See how fast this machine is. Converts a model, starts the real server on a free port of it, asks three "
        "prompts and six calls over HTTP, measures it with four callers, and prints what that took and where the page "
        "of the measurement is. Nothing is left running; the model stays in the "
        "store. Without --model the weights are random, of the true shape of Qwen3-0.6B, and no hub is contacted."
    ),
    examples=(
        ("qwenops demo-speed", say("Random weights: real speed, meaningless text.")),
        ("qwenops demo-speed --model qwen3:0.6b", say("The published model, fetched first.")),
    ),
)
@click.option("--model", cls=Flag, default=DEFAULT_MODEL, show_default=True, metavar="NAME", help=NAME)
@option_flags("model", without=("model.fallback",))
@json_flag
@click.pass_context
def demo_speed(ctx: click.Context, /, model: str, *, as_json: bool) -> None:
    """Run the demo and print what it took."""
    terminal = ctx.ensure_object(Terminal)
    if as_json:
        terminal = dataclasses.replace(terminal, verbosity=-1)
    made = settings(ctx)
    stage = Stage(terminal=terminal)
    stage.greet(model, made)
    prepared, outcome = asyncio.run(perform(model, made, stage))
    if as_json:
        terminal.show_json("qwenops.demo-speed/1", as_data(model, made, prepared, outcome))
    else:
        stage.show_outcome(prepared, outcome)
        stage.show_next(model)


async def perform(model: str, made: "Settings", stage: "Stage") -> tuple["Prepared", "Outcome"]:
    """Prepare the model here, so that its progress can be seen; then serve it from a process of its own."""
    from qwenops.deploy.demo_speed import load_options, server_argv, server_environ, show_serving

    terminal = stage.terminal
    with stage.progress() as report:
        prepared = await prepare_model(model, made, terminal, report, report)
    stage.prepared(prepared, made)
    argv = server_argv(model, engine=made.model.engine, scheme=made.model.scheme)
    with tempfile.TemporaryDirectory(prefix="qwenops-demo-") as folder:
        environ = server_environ(terminal.environ, Path(folder)) | {"QWENOPS_LANG": terminal.language}
        log = Path(folder) / "server.log"
        outcome = await show_serving(argv, environ, log, stage, load_options(made.bench))
    return prepared, outcome


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where the demo is shown: everything on standard error but the figures at the end."""

    terminal: Terminal
    _streaming: bool = field(default=False, init=False)
    """Whether the line of the streamed answer is still open."""

    def greet(self, model: str, made: "Settings") -> None:
        """Say what is about to be seen."""
        from qwenops.hardware import detect_machine, plan_threads

        machine = detect_machine()
        threads = plan_threads(machine)
        tell = self.terminal.tell
        tell()
        tell(say("qwenops demo-speed: a Qwen3 model, served by the processor of this machine"))
        tell()
        facts = [
            (say("Model"), model),
            (say("Weights"), made.model.scheme),
            (say("Processor"), machine.processor.model),
            (say("Threads"), f"{threads.value}  ({self.terminal.said(threads.reason)})"),
        ]
        for line in aligned([("  " + self.terminal.said(name), value) for name, value in facts]):
            tell(line)
        tell()
        if model.startswith("random:"):
            tell(
                say(
                    "  The weights are random, so the text below means nothing. The shape, the tokenizer,\n"
                    "  the server and the speed are real."
                )
            )
            tell()

    def progress(self) -> AbstractContextManager[Report]:
        """Show how far one step is."""
        if self._streaming:
            self._streaming = False
            self.terminal.tell("\n")
        return self.terminal.progress()

    def prepared(self, prepared: "Prepared", made: "Settings") -> None:
        """Say that the model is there."""
        size = show_bytes(prepared.stored.num_bytes)
        self._done(say("Weights"), say("{size} in the store", size=size), prepared.fetched_s)
        if prepared.artefact is not None:
            what = say(
                "{scheme}, {size}, every tensor checked",
                scheme=made.model.scheme,
                size=show_bytes(sum(path.stat().st_size for path in prepared.folder.iterdir())),
            )
            self._done(say("Conversion"), what, prepared.converted_s)

    def _done(self, name: str, what: str, took_s: float) -> None:
        took = f"{took_s:.1f} s" if took_s else self.terminal.said(say("was there already"))
        self.terminal.tell(_columns(self.terminal.said(name), self.terminal.said(what), took))

    def started(self, url: str, load_s: float) -> None:
        """Say that the server is ready."""
        self._done(say("Server"), say("ready at {url}", url=url), load_s)
        self.terminal.tell()

    def piece(self, question: "Question", text: str) -> None:
        """Show a piece of the one answer that is streamed visibly."""
        if self.terminal.verbosity < 0:
            return
        if not text:
            self._streaming = True
            self.terminal.tell(say("  Streamed over HTTP, token by token:"))
            self.terminal.tell()
            print(f"    {question.messages[-1]['content']}\n    > ", end="", file=sys.stderr, flush=True)
        print(printable(text).replace("\n", "\n      "), end="", file=sys.stderr, flush=True)

    def show_outcome(self, prepared: "Prepared", outcome: "Outcome") -> None:
        """Print the figures."""
        headings = (say("Request"), say("Prompt tokens"), say("Answer tokens"), say("TTFT"), say("Tokens/s"))
        self.terminal.show_table(headings, [self._row(answer) for answer in outcome.answers])
        self.terminal.show()
        facts = [
            (
                say("The calls were asked all at once"),
                say("{rate:.1f} tokens/s together", rate=outcome.calls_tokens_per_s),
            ),
            (say("Memory of the API process"), show_bytes(outcome.api_memory_bytes)),
            (say("Memory of the engine's process"), show_bytes(outcome.engine_memory_bytes)),
            (say("Conversion"), _seconds(prepared.converted_s)),
            (say("Start until ready"), _seconds(outcome.load_s)),
        ]
        self.terminal.show_facts([(self.terminal.said(name), self.terminal.said(value)) for name, value in facts])
        self.terminal.show()
        for sentence in outcome.load.sentences:
            self.terminal.show(sentence)
        self.terminal.show(say("Report: {path}", path=outcome.report))

    def _row(self, answer: "Answer") -> tuple[str, ...]:
        return (
            self.terminal.said(answer.question.name),
            str(answer.prompt_tokens),
            str(answer.completion_tokens),
            f"{answer.ttft_s:.2f} s",
            f"{answer.tokens_per_s:.1f}",
        )

    def show_next(self, model: str) -> None:
        """Say where to go next."""
        tell, program = self.terminal.tell, self.terminal.program
        tell()
        tell(say("Nothing is left running; the model stays in the store. Next:"))
        tell()
        steps = [
            (f"{program} serve qwen3:0.6b", say("the published model, at http://127.0.0.1:8000")),
            (f'{program} run qwen3:0.6b "…"', say("one answer on this terminal")),
            (f"{program} bench quick URL", say("how fast any server is")),
            (f"{program} doctor", say("what this machine can do, and what to mend")),
            (f"{program} rm {model}", say("give the disk space back")),
        ]
        for line in aligned([(f"  {command}", self.terminal.said(what)) for command, what in steps]):
            tell(line)
        tell()


def _columns(name: str, what: str, took: str) -> str:
    from qwenops.cli.terminal import padded

    return f"  {padded(name, 12)}{padded(what, 46)}{took}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds else "-"


def as_data(model: str, made: "Settings", prepared: "Prepared", outcome: "Outcome") -> Mapping[str, Any]:
    """Return the figures for scripts."""
    return {
        "model": model,
        "scheme": made.model.scheme,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "fetched_s": round(prepared.fetched_s, 2),
        "converted_s": round(prepared.converted_s, 2),
        "load_s": round(outcome.load_s, 2),
        "api_memory_bytes": outcome.api_memory_bytes,
        "engine_memory_bytes": outcome.engine_memory_bytes,
        "calls_tokens_per_s": round(outcome.calls_tokens_per_s, 2),
        "load": outcome.load.data,
        "report": str(outcome.report),
        "requests": [
            {
                "name": str(answer.question.name),
                "text": answer.text,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "ttft_s": round(answer.ttft_s, 4),
                "total_s": round(answer.total_s, 4),
                "tokens_per_s": round(answer.tokens_per_s, 2),
            }
            for answer in outcome.answers
        ],
    }
