"""`qwenops pull`, `list`, `show` and `rm`: the models on this machine."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Report, Terminal
from qwenops.errors import ConfigError, ModelNotFoundError
from qwenops.options import show_bytes
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.config import Settings
    from qwenops.models.hub import HubOptions
    from qwenops.models.progress import Progress
    from qwenops.models.spec import ModelSpec
    from qwenops.models.store import Store, StoredModel, Variant
    from qwenops.serve.runfile import RunFile

NAME = say("A name such as qwen3:0.6b, hf:OWNER/NAME, ms:OWNER/NAME, random:0.6b, or a folder.")


def open_store(terminal: Terminal) -> "Store":
    """Return the store of this user."""
    from qwenops.models.store import Store, default_root

    return Store(root=default_root(terminal.environ), environ=dict(terminal.environ))


def hub_options(terminal: Terminal, made: "Settings") -> "HubOptions":
    """Return where models come from, with what the hubs' own variables say."""
    from pathlib import Path

    from qwenops.models.hub import with_environment

    return with_environment(made.hub, terminal.environ, Path.home())


def fetch_report(report: Report) -> Any:
    """Return what tells a bar how far a download is."""

    def tell(progress: "Progress") -> None:
        detail = ""
        if progress.total_bytes:
            detail = f"{show_bytes(progress.done_bytes)} / {show_bytes(progress.total_bytes)}"
        if progress.bytes_per_s:
            detail += f"  {show_bytes(progress.bytes_per_s)}/s"
        report(progress.fraction, progress.what, detail)

    return tell


@click.command(
    "pull",
    cls=Verb,
    help=say(
        "Download a model into the store. What has arrived is kept when it breaks off, every file is checked against "
        "its published hash, and a model that is complete is not fetched again."
    ),
    examples=(
        ("qwenops pull qwen3:0.6b", say("From Hugging Face, else from ModelScope.")),
        ("qwenops pull ms:Qwen/Qwen3-1.7B", say("From ModelScope.")),
    ),
)
@click.argument("model", cls=Operand, help=NAME)
@option_flags("hub")
@json_flag
@click.pass_context
def pull(ctx: click.Context, model: str, *, as_json: bool) -> None:
    """Fetch it."""
    terminal = ctx.ensure_object(Terminal)
    hub = hub_options(terminal, settings(ctx))
    with terminal.progress() as report:
        stored = asyncio.run(open_store(terminal).pull(model, hub, fetch_report(report)))
    if as_json:
        terminal.show_json("qwenops.model/1", {"model": _as_json(stored)})
    else:
        terminal.tell(say("{name} is here: {size}.", name=stored.name, size=show_bytes(stored.num_bytes)))


@click.command(
    "list",
    cls=Verb,
    help=say("List the models in the store, with the formats that they have been converted to."),
    examples=(("qwenops list", say("Names and sizes.")), ("qwenops list --json", say("For scripts."))),
)
@json_flag
@click.pass_obj
def list_models(terminal: Terminal, *, as_json: bool) -> None:
    """Print what is there."""
    store = open_store(terminal)
    found = [(stored, _variants(store, stored)) for stored in store.list()]
    if as_json:
        terminal.show_json("qwenops.models/1", {"models": [_as_json(stored, variants) for stored, variants in found]})
    elif not found:
        terminal.tell(say("The store is empty. `qwenops pull qwen3:0.6b` fills it."))
    else:
        headings = (say("Name"), say("Size"), say("Converted to"), say("Stored"), say("Revision"))
        rows = [
            (
                stored.name,
                show_bytes(stored.num_bytes),
                ", ".join(f"{each.scheme.value} ({show_bytes(each.num_bytes)})" for each in variants),
                _when(stored).date().isoformat(),
                stored.revision[:12],
            )
            for stored, variants in found
        ]
        terminal.show_table(headings, rows)


def _variants(store: "Store", stored: "StoredModel") -> "tuple[Variant, ...]":
    """Return the converted forms; none for a folder that has moved away."""
    from qwenops.errors import QwenOpsError

    try:
        return store.show(stored.name)[1]
    except QwenOpsError:
        return ()


@click.command(
    "show",
    cls=Verb,
    help=say("Show what a model is: its shape, its files, and what it needs on this machine."),
    examples=(
        ("qwenops show qwen3:0.6b", say("Shape, memory, hashes.")),
        ("qwenops show ./folder --json", say("The same of a folder, for scripts.")),
    ),
)
@click.argument("model", cls=Operand, help=NAME)
@click.option("--verify", cls=Flag, is_flag=True, help=say("Hash every file again and compare."))
@json_flag
@click.pass_context
def show(ctx: click.Context, model: str, *, verify: bool, as_json: bool) -> None:
    """Print it."""
    from qwenops.models.checkpoint import read_json
    from qwenops.models.spec import ModelSpec

    terminal = ctx.ensure_object(Terminal)
    store = open_store(terminal)
    if verify:
        store.verify(model)
    stored, variants = store.show(model)
    spec = ModelSpec.from_config(read_json(stored.checkpoint / "config.json"))
    if as_json:
        shape = {
            "parameters": spec.num_parameters,
            "layers": spec.num_layers,
            "context_tokens": spec.max_context_tokens,
            "kv_bytes_per_token": spec.kv_bytes_per_token("u8"),
        }
        body = _as_json(stored, variants) | {"shape": shape, "verified": verify}
        terminal.show_json("qwenops.model/1", {"model": body})
        return
    _show_shape(terminal, stored, spec)
    _show_needs(terminal, spec, {each.scheme.value: each for each in variants}, settings(ctx))
    if verify:
        terminal.tell(say("Every file has its published hash."))


def _show_shape(terminal: Terminal, stored: "StoredModel", spec: "ModelSpec") -> None:
    terminal.show_facts(
        (
            (say("Model"), stored.name),
            (say("Revision"), stored.revision or "-"),
            (say("Folder"), str(stored.checkpoint)),
            (say("Files"), show_bytes(stored.num_bytes)),
            ("SHA-256", stored.sha256),
            (say("Parameters"), f"{spec.num_parameters / 1e6:,.0f} M"),
            (say("Layers"), str(spec.num_layers)),
            (say("Longest context"), say("{count} tokens", count=f"{spec.max_context_tokens:,}")),
            (say("KV cache"), say("{size} for each token", size=show_bytes(spec.kv_bytes_per_token("u8")))),
        )
    )


def _show_needs(terminal: Terminal, spec: "ModelSpec", variants: "dict[str, Variant]", made: "Settings") -> None:
    """Print what serving needs in each format, and whether this machine has it."""
    from qwenops.hardware import detect_machine
    from qwenops.models.spec import Scheme

    limit_bytes = detect_machine().memory_limit.value
    rows = []
    for scheme in (Scheme.INT8, Scheme.INT4, Scheme.BF16, Scheme.F32):
        needed_bytes = spec.estimate_memory(scheme, kv_tokens=made.engine.context_tokens).total_bytes
        fits = say("yes") if needed_bytes < limit_bytes else say("no")
        here = variants.get(scheme.value)
        rows.append(
            (
                scheme.value,
                show_bytes(spec.weight_bytes(scheme)),
                show_bytes(needed_bytes),
                terminal.said(fits),
                show_bytes(here.num_bytes) if here else "-",
            )
        )
    terminal.show()
    headings = (say("Format"), say("Weights"), say("Memory to serve"), say("Fits here"), say("Converted"))
    terminal.show_table(headings, rows)
    terminal.tell(
        say(
            "Memory for a KV cache of {tokens} tokens; this process may use {limit}.",
            tokens=f"{made.engine.context_tokens:,}",
            limit=show_bytes(limit_bytes),
        )
    )


@click.command(
    "rm",
    cls=Verb,
    help=say("Remove a model and everything that was made of it. A folder of your own is never touched."),
    examples=(
        ("qwenops rm qwen3:1.7b", say("Ask first, on a terminal.")),
        ("qwenops rm random:0.6b --yes", say("Do not ask.")),
    ),
)
@click.argument("model", cls=Operand, help=NAME)
@click.option("-y", "--yes", cls=Flag, is_flag=True, help=say("Do not ask."))
@click.option("--force", cls=Flag, is_flag=True, help=say("Remove it even while a server serves it."))
@json_flag
@click.pass_obj
def remove(terminal: Terminal, model: str, *, yes: bool, force: bool, as_json: bool) -> None:
    """Remove it."""
    import sys

    from qwenops.serve.runfile import run_folder, running

    store = open_store(terminal)
    wanted = store.find(model).text
    if not force:
        refuse_served(wanted, running(run_folder(terminal.environ)))
    if not yes and not sys.stdin.isatty():
        raise ConfigError(
            say("Nobody can be asked whether {name} should go.", name=model), hint=say("Say so with --yes.")
        )
    if not yes and not click.confirm(terminal.said(say("Remove {name}?", name=model)), err=True):
        raise click.Abort
    freed_bytes = store.remove(model)
    if as_json:
        terminal.show_json("qwenops.removed/1", {"name": model, "freed_bytes": freed_bytes})
    else:
        terminal.tell(say("{name} is gone; {size} are free again.", name=model, size=show_bytes(freed_bytes)))


def refuse_served(name: str, servers: "Iterable[RunFile]") -> None:
    """Refuse to touch a model that a server of this user has open.

    Raises:
        ConfigError: One has.
    """
    from qwenops.models.names import parse_name

    for run in servers:
        try:
            served = parse_name(run.model).text
        except ModelNotFoundError:
            served = run.model
        if served == name:
            port = run.url.rpartition(":")[2]
            raise ConfigError(
                say("{name} is served on port {port} (pid {pid}).", name=name, port=port, pid=run.pid),
                hint=say("Run `qwenops stop {port}` first, or remove it all the same with --force.", port=port),
            )


def _when(stored: "StoredModel") -> datetime:
    return datetime.fromtimestamp(stored.manifest.stored_at_s, UTC)


def _as_json(stored: "StoredModel", variants: "tuple[Variant, ...]" = ()) -> dict[str, Any]:
    return {
        "name": stored.name,
        "revision": stored.revision,
        "sha256": stored.sha256,
        "bytes": stored.num_bytes,
        "folder": str(stored.checkpoint),
        "stored": _when(stored).isoformat(timespec="seconds"),
        "converted": {each.scheme.value: {"folder": str(each.folder), "bytes": each.num_bytes} for each in variants},
    }
