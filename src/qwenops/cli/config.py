"""`qwenops config`: every value and where it came from; check, write and describe the file."""

import json
from pathlib import Path

import click

from qwenops.cli.flags import json_flag, settings
from qwenops.cli.help import Flag, Operand, Tree, Verb
from qwenops.cli.terminal import Terminal
from qwenops.config import FILE_NAME, Settings, all_options, dump, explain, load, schema
from qwenops.errors import ConfigError
from qwenops.options import plain_value
from qwenops.text import say


@click.group(
    "config",
    cls=Tree,
    help=say("Show, check and write the configuration."),
    examples=(
        ("qwenops config show", say("Every value and where it came from.")),
        ("qwenops config init", say("Write qwenops.toml with every option.")),
    ),
)
def config() -> None:
    """Hold the commands."""


@config.command(
    "show",
    cls=Verb,
    help=say("Show every option, its value and where the value came from."),
    examples=(
        ("qwenops config show", say("What would be used here and now.")),
        ("QWENOPS_SERVE_PORT=9000 qwenops config show", say("A variable goes before the file.")),
    ),
)
@json_flag
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> None:
    """Print the settings."""
    terminal = ctx.ensure_object(Terminal)
    rows = explain(settings(ctx))
    if as_json:
        data = {
            each.option.key: {
                "value": each.shown if each.option.spec.secret else plain_value(each.value, each.option.spec),
                "origin": each.origin.kind,
                "where": each.origin.where,
            }
            for each in rows
        }
        terminal.show_json("qwenops.config/1", {"options": data})
        return
    words = {
        "default": say("default"),
        "file": say("file {where}"),
        "environment": say("variable {where}"),
        "flag": say("flag {where}"),
    }
    cells = [
        (each.option.key, each.shown, terminal.said(words[each.origin.kind]).format(where=each.origin.where))
        for each in rows
    ]
    terminal.show_table((say("Option"), say("Value"), say("From")), cells)


@config.command(
    "check",
    cls=Verb,
    help=say("Check a configuration file, with the environment, and say what is wrong."),
    examples=(
        ("qwenops config check", say("Check the file that would be used.")),
        ("qwenops config check site.toml", say("Check another one.")),
    ),
)
@click.argument("file", cls=Operand, required=False, type=click.Path(path_type=Path), help=say("The file."))
@json_flag
@click.pass_context
def check(ctx: click.Context, file: Path | None, *, as_json: bool) -> None:
    """Load the settings and say how many options were set."""
    terminal = ctx.ensure_object(Terminal)
    made = load(environ=terminal.environ, file=file or terminal.config_file)
    if as_json:
        terminal.show_json("qwenops.config-check/1", {"ok": True, "file": made.file, "set": sorted(made.origins)})
    elif made.file is None:
        terminal.show(say("There is no file; {count} options are set by variables.", count=len(made.origins)))
    else:
        terminal.show(say("{file} is fine; {count} options are set.", file=made.file, count=len(made.origins)))


@config.command(
    "init",
    cls=Verb,
    help=say("Write a configuration file that lists every option with its default, commented out."),
    examples=(
        ("qwenops config init", say("Write ./qwenops.toml.")),
        ("qwenops config init -o ~/.config/qwenops/qwenops.toml", say("Write the user's own.")),
    ),
)
@click.option(
    "-o",
    "--output",
    cls=Flag,
    type=click.Path(path_type=Path),
    default=FILE_NAME,
    metavar="FILE",
    help=say("The file."),
)
@click.option("--force", cls=Flag, is_flag=True, help=say("Replace a file that exists."))
@click.pass_obj
def init(terminal: Terminal, output: Path, *, force: bool) -> None:
    """Write the file."""
    if output.exists() and not force:
        raise ConfigError(
            say("{path} exists already.", path=output),
            hint=say("Choose another with --output, or replace it with --force."),
        )
    dump(Settings(), output, everything=True)
    terminal.tell(say("{path} lists {count} options.", path=output, count=len(all_options())))


@config.command(
    "schema",
    cls=Verb,
    help=say("Print the JSON schema of the configuration file, for editors and pipelines."),
    examples=(
        ("qwenops config schema > qwenops.schema.json", say("Save it.")),
        ("qwenops config schema | jq .properties.serve", say("Look at one section.")),
    ),
)
@click.pass_obj
def show_schema(terminal: Terminal) -> None:
    """Print the schema."""
    terminal.show(json.dumps(schema(), ensure_ascii=False, indent=2))
