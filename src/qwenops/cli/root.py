"""The command `qwenops` itself: its flags, and the table of commands, which are imported when they are called."""

import dataclasses
from pathlib import Path

import click

from qwenops import __version__
from qwenops.cli.help import Flag, Tree
from qwenops.cli.terminal import Terminal
from qwenops.text import LANGUAGES, say

COMMANDS = {
    "demo": ("qwenops.cli.demo:demo", say("See it work: from calls to a classifier that serves.")),
    "demo-speed": ("qwenops.cli.demo_speed:demo_speed", say("See how fast it is: convert, serve, ask, measure.")),
    "doctor": ("qwenops.cli.doctor:doctor", say("Check this machine and say what to do.")),
    "pull": ("qwenops.cli.models:pull", say("Download a model into the store.")),
    "list": ("qwenops.cli.models:list_models", say("List the models in the store.")),
    "show": ("qwenops.cli.models:show", say("Show a model's size, memory and files.")),
    "rm": ("qwenops.cli.models:remove", say("Remove a model from the store.")),
    "run": ("qwenops.cli.run:run", say("Ask a model once, or chat with it.")),
    "serve": ("qwenops.cli.serve:serve", say("Serve a model over HTTP.")),
    "bench": ("qwenops.cli.bench:bench", say("Measure a server: how fast, how much, how steadily.")),
    "calls": ("qwenops.cli.calls:calls", say("Prepare transcripts of calls, and take labels from review.")),
    "finetune": ("qwenops.cli.finetune:finetune", say("Teach a model to classify calls.")),
    "registry": ("qwenops.cli.registry:registry", say("Show classifiers and say which of them serves.")),
    "classify": ("qwenops.cli.classify:classify", say("Classify the calls of a file.")),
    "ps": ("qwenops.cli.servers:ps", say("List the servers that run here.")),
    "stop": ("qwenops.cli.servers:stop", say("Stop a server.")),
    "keys": ("qwenops.cli.keys:keys", say("Create, list and revoke API keys.")),
    "config": ("qwenops.cli.config:config", say("Show, check and write the configuration.")),
    "completion": ("qwenops.cli.completion:completion", say("Print the completion script for a shell.")),
}
"""Name to `module:command` and what it does in one line, in the order of the help page."""


@click.group(
    cls=Tree,
    table=COMMANDS,
    help=say("Qwen3-0.6B and Qwen3-1.7B on machines without a GPU."),
    examples=(
        ("qwenops demo", say("See all of it work, without contacting a model hub.")),
        ("qwenops serve qwen3:0.6b", say("Download, convert and serve a model.")),
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.option("--lang", cls=Flag, type=click.Choice(LANGUAGES), help=say("Language of what is printed."))
@click.option(
    "--config",
    "config_file",
    cls=Flag,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=say("Configuration file instead of ./qwenops.toml."),
)
@click.option("-v", "--verbose", cls=Flag, count=True, help=say("Say more; -vv shows where an error arose."))
@click.option("-q", "--quiet", cls=Flag, is_flag=True, help=say("Print only data and errors."))
@click.version_option(__version__, "--version", message="%(prog)s %(version)s", cls=Flag)
@click.pass_context
def root(ctx: click.Context, lang: str | None, config_file: Path | None, verbose: int, quiet: bool) -> None:  # noqa: FBT001 -- click calls it by name
    """Remember the flags for the command that follows; `--lang` was read before anything was printed."""
    del lang
    ctx.obj = dataclasses.replace(
        ctx.ensure_object(Terminal), config_file=config_file, verbosity=-1 if quiet else verbose
    )
    if ctx.invoked_subcommand is None:
        ctx.obj.show(ctx.get_help())
