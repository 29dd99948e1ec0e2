"""`qwenops registry`: the classifiers there are, which of them serves, and changing that."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.classify_pages import report
from qwenops.cli.classifying import actor, open_registry, open_state
from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Operand, Tree, Verb
from qwenops.cli.terminal import Terminal
from qwenops.options import show_bytes, show_number
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.classify.aliases import Change
    from qwenops.classify.registry import Registered, Registry
    from qwenops.config import Settings
    from qwenops.state.audit import Action

REF = say("NAME, NAME@ALIAS or NAME@VERSION, such as complaints@3.")
_WHERE = ("classify.registry",)
_LONGEST_VALUE = 48
_DETAIL = re.compile(r"\[|sha256|fingerprint|prompt\.json: hash|: files\.|^[^:]*$|parity\.json: most_different")
"""Where things differ that say nothing to a person: single classes and points of curves, hashes, sizes of files."""


@click.group(
    "registry",
    cls=Tree,
    help=say(
        "Show classifiers and say which of them serves. A version never changes: a byte that did is noticed. Running "
        "servers follow the champion within seconds and lose no request."
    ),
    examples=(
        ("qwenops registry promote complaints", say("Let the candidate serve.")),
        ("qwenops registry rollback complaints", say("Go back to the one before.")),
    ),
)
def registry() -> None:
    """Hold the commands."""


registry.add_command(report)


@registry.command(
    "list",
    cls=Verb,
    help=say("List classifiers with their versions, and which of them is champion and candidate."),
    examples=(
        ("qwenops registry list", say("All of them.")),
        ("qwenops registry list complaints --json", say("Of one name, for scripts.")),
    ),
)
@click.argument("name", cls=Operand, required=False, help=say("Name of a classifier."))
@option_flags("classify", only=_WHERE)
@json_flag
@click.pass_context
def list_versions(ctx: click.Context, name: str | None, *, as_json: bool) -> None:
    """Print them."""
    terminal = ctx.ensure_object(Terminal)
    found = open_registry(terminal, settings(ctx))
    if name and name not in found.names():
        found.find(name)  # raises, and says what there is
    names = (name,) if name else found.names()
    rows = [row for each in names for row in _rows(found, each)]
    if as_json:
        terminal.show_json("qwenops.registry/1", {"classifiers": rows})
    elif not rows:
        terminal.tell(say("The registry is empty. `qwenops finetune export` fills it."))
    else:
        headings = (say("Name"), say("Version"), say("Aliases"), say("Taxonomy"), say("Macro-F1"), say("Size"))
        terminal.show_table(headings, [_cells(terminal, row) for row in rows])


def _rows(found: "Registry", name: str) -> list[dict[str, Any]]:
    """Return the versions of a name; one whose record is damaged is among them, without its facts."""
    from qwenops.classify.registry import describe
    from qwenops.errors import ModelLoadError

    pointers = found.aliases(name).pointers
    rows = []
    for key in found.keys(name):
        row: dict[str, Any] = {
            "name": name,
            "key": key,
            "aliases": sorted(alias for alias, pointer in pointers.items() if pointer.now == key),
        }
        try:
            registered = found.find(f"{name}@{key}")
            told = describe(registered)
        except ModelLoadError as error:
            rows.append(row | {"damaged": error.message})
            continue
        manifest = told.get("manifest.json")
        metrics = told.get("metrics.json")
        rows.append(
            row
            | {
                "ref": registered.ref,
                "version": registered.version,
                "sha256": registered.sha256,
                "bytes": registered.num_bytes,
                "taxonomy": _at(manifest, "taxonomy", "ref"),
                "macro_f1": _at(metrics, "test", "leaves", "macro_f1", "value"),
            }
        )
    return rows


def _at(tree: Any, *keys: str) -> Any:
    """Return what nested objects hold at a path; None where the path ends before."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _cells(terminal: Terminal, row: dict[str, Any]) -> tuple[str, ...]:
    if "damaged" in row:
        return (row["name"], row["key"], ", ".join(row["aliases"]), terminal.said(say("damaged")), "-", "-")
    macro_f1 = row["macro_f1"]
    return (
        row["name"],
        row["ref"].partition("@")[2],
        ", ".join(row["aliases"]) or "-",
        row["taxonomy"] or "-",
        f"{macro_f1:.3f}" if isinstance(macro_f1, float) else "-",
        show_bytes(row["bytes"]),
    )


@registry.command(
    "show",
    cls=Verb,
    help=say("Show what a classifier says of itself: what it was made from, how good it is, how it decides."),
    examples=(
        ("qwenops registry show complaints", say("The champion.")),
        ("qwenops registry show complaints@3 --verify", say("A version, after every byte was compared.")),
    ),
)
@click.argument("ref", cls=Operand, metavar="CLASSIFIER", help=REF)
@click.option("--verify", cls=Flag, is_flag=True, help=say("Hash every file again and compare."))
@option_flags("classify", only=_WHERE)
@json_flag
@click.pass_context
def show(ctx: click.Context, ref: str, *, verify: bool, as_json: bool) -> None:
    """Print it."""
    from qwenops.classify.aliases import change_data
    from qwenops.classify.registry import describe

    terminal = ctx.ensure_object(Terminal)
    registry_ = open_registry(terminal, settings(ctx))
    found = registry_.open(ref) if verify else registry_.find(ref)
    changes = registry_.aliases(found.name).changes
    if as_json:
        body = _data(found) | {
            "verified": verify,
            "says": describe(found),
            "changes": [change_data(each) for each in changes],
        }
        terminal.show_json("qwenops.classifier/1", {"classifier": body})
        return
    facts = [(say("Name"), found.ref), (say("Folder"), str(found.folder)), (say("Size"), show_bytes(found.num_bytes))]
    terminal.show_facts(facts)
    for where, value in _told(found):
        terminal.show(f"{where} = {_short(value)}")
    for each in changes:
        moved = f"{each.alias}: {each.old or '-'} -> {each.new}"
        terminal.tell(f"{each.at:%Y-%m-%d %H:%M}  {each.action}  {moved}  {each.by}")


def _data(found: "Registered") -> dict[str, Any]:
    return {
        "name": found.name,
        "ref": found.ref,
        "version": found.version,
        "sha256": found.sha256,
        "folder": str(found.folder),
        "bytes": found.num_bytes,
        "files": {path: {"bytes": each.num_bytes, "sha256": each.sha256} for path, each in found.files.items()},
    }


def _told(found: "Registered") -> list[tuple[str, Any]]:
    from qwenops.classify.registry import describe, leaves

    return list(leaves(describe(found)))


def _short(value: Any) -> str:
    text = show_number(value, 4) if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


@registry.command(
    "register",
    cls=Verb,
    help=say(
        "Copy an exported classifier into the registry as the next version; it is the candidate then. What is there "
        "already stays one version."
    ),
    examples=(
        ("qwenops registry register complaints ./classifier", say("What `qwenops finetune export` wrote.")),
        ("qwenops registry register complaints ./classifier --json", say("The same, for scripts.")),
    ),
)
@click.argument("name", cls=Operand, help=say("What it is called: lower-case letters, digits, . _ and -."))
@click.argument(
    "folder",
    cls=Operand,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help=say("Folder of the classifier."),
)
@option_flags("classify", "state", only=(*_WHERE, "state.database"))
@json_flag
@click.pass_context
def register(ctx: click.Context, name: str, folder: Path, *, as_json: bool) -> None:
    """Check that it can be used, and copy it."""
    from qwenops.classify.registry import CANDIDATE
    from qwenops.classify.score import open_form
    from qwenops.state.audit import Action

    terminal, made = ctx.ensure_object(Terminal), settings(ctx)
    open_form(folder)
    registry_ = open_registry(terminal, made)
    found = registry_.register(name, folder, by=actor(terminal))
    _log(terminal, made, name, {"alias": CANDIDATE, "new": found.key}, Action.REGISTERED)
    if as_json:
        terminal.show_json("qwenops.classifier/1", {"classifier": _data(found)})
    else:
        terminal.tell(say("{ref} is the {alias} now.", ref=found.ref, alias=CANDIDATE))


@registry.command(
    "promote",
    cls=Verb,
    help=say("Let a version be the champion, by default the candidate. Every byte of it is compared first."),
    examples=(
        ("qwenops registry promote complaints", say("The candidate.")),
        ("qwenops registry promote complaints@3", say("A version.")),
    ),
)
@click.argument("ref", cls=Operand, metavar="CLASSIFIER", help=REF)
@click.option(
    "--alias", cls=Flag, default="champion", show_default=True, metavar="TEXT", help=say("What shall point at it.")
)
@option_flags("classify", "state", only=(*_WHERE, "state.database"))
@json_flag
@click.pass_context
def promote(ctx: click.Context, ref: str, alias: str, *, as_json: bool) -> None:
    """Point at it."""
    from qwenops.state.audit import Action

    terminal, made = ctx.ensure_object(Terminal), settings(ctx)
    change = open_registry(terminal, made).promote(ref, by=actor(terminal), alias=alias)
    _moved(terminal, made, ref.partition("@")[0], change, Action.PROMOTED, as_json=as_json)


@registry.command(
    "rollback",
    cls=Verb,
    help=say("Let the champion be what it was before. Every byte of that version is compared first."),
    examples=(
        ("qwenops registry rollback complaints", say("The one before serves within seconds.")),
        ("qwenops registry rollback complaints --json", say("The same, for scripts.")),
    ),
)
@click.argument("name", cls=Operand, help=say("Name of a classifier."))
@click.option(
    "--alias", cls=Flag, default="champion", show_default=True, metavar="TEXT", help=say("What shall point back.")
)
@option_flags("classify", "state", only=(*_WHERE, "state.database"))
@json_flag
@click.pass_context
def rollback(ctx: click.Context, name: str, alias: str, *, as_json: bool) -> None:
    """Point back."""
    from qwenops.state.audit import Action

    terminal, made = ctx.ensure_object(Terminal), settings(ctx)
    change = open_registry(terminal, made).rollback(name, by=actor(terminal), alias=alias)
    _moved(terminal, made, name, change, Action.ROLLED_BACK, as_json=as_json)


def _log(terminal: Terminal, made: "Settings", name: str, detail: dict[str, str], action: "Action") -> None:
    """Write what was done to a classifier into the log."""
    from qwenops.state.audit import Event, Kind, record

    event = Event(action=action, kind=Kind.MODEL, subject=name, actor=actor(terminal), detail=detail)
    with open_state(terminal, made) as database:
        record(database, event)


def _moved(
    terminal: Terminal, made: "Settings", name: str, change: "Change", action: "Action", *, as_json: bool
) -> None:
    """Write a change into the log and print it."""
    from qwenops.classify.aliases import change_data

    if change.old != change.new:
        detail = {"alias": change.alias, "old": change.old, "new": change.new}
        _log(terminal, made, name, detail, action)
    if as_json:
        terminal.show_json("qwenops.alias/1", {"name": name, "change": change_data(change)})
    elif change.old == change.new:
        terminal.tell(say("{alias} of {name} pointed at {key} already.", alias=change.alias, name=name, key=change.new))
    else:
        terminal.tell(
            say(
                "{alias} of {name} is {new}; it was {old}.",
                alias=change.alias,
                name=name,
                new=change.new,
                old=change.old or "-",
            )
        )


@registry.command(
    "diff",
    cls=Verb,
    help=say("Show in what two classifiers differ: data, options, figures, thresholds, files."),
    examples=(
        ("qwenops registry diff complaints complaints@candidate", say("What a promotion would change.")),
        ("qwenops registry diff complaints@2 complaints@3 --json", say("Two versions, for scripts.")),
    ),
)
@click.argument("old", cls=Operand, metavar="CLASSIFIER", help=REF)
@click.argument("new", cls=Operand, metavar="OTHER", help=REF)
@option_flags("classify", only=_WHERE)
@json_flag
@click.pass_context
def diff(ctx: click.Context, old: str, new: str, *, as_json: bool) -> None:
    """Print the differences."""
    from qwenops.classify.registry import diff as compare

    terminal = ctx.ensure_object(Terminal)
    found = open_registry(terminal, settings(ctx))
    one, other = found.find(old), found.find(new)
    differences = compare(one, other)
    if as_json:
        listed = [{"where": each.where, "old": each.old, "new": each.new} for each in differences]
        terminal.show_json("qwenops.registry-diff/1", {"old": one.ref, "new": other.ref, "differences": listed})
    elif not differences:
        terminal.tell(say("{old} and {new} are the same.", old=one.ref, new=other.ref))
    else:
        telling = [each for each in differences if not _DETAIL.search(each.where)] or differences
        rows = [(each.where, _short(each.old), _short(each.new)) for each in telling]
        terminal.show_table((say("What"), one.ref, other.ref), rows)
        if hidden := len(differences) - len(telling):
            terminal.tell(
                say("{count} more: single classes, points of curves, hashes; --json shows all.", count=hidden)
            )
