"""`qwenops keys`: who may call the server. The file of keys is shared with running servers, which notice changes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.flags import json_flag, settings
from qwenops.cli.help import Flag, Operand, Tree, Verb
from qwenops.cli.terminal import Terminal
from qwenops.config import Settings
from qwenops.options import parse_seconds
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.state.keys import ApiKey


def key_database(terminal: Terminal, made: Settings) -> Path:
    """Return the file of API keys: the configured one, else the user's own."""
    if made.serve.keys.database is not None:
        return made.serve.keys.database
    from qwenops.models.store import default_root

    return default_root(terminal.environ).parent / "keys.sqlite"


@click.group(
    "keys",
    cls=Tree,
    help=say("Create, list and revoke API keys. With one valid key, every request needs one."),
    examples=(
        ("qwenops keys create callcentre", say("Make a key and print its secret, once.")),
        ("qwenops keys revoke callcentre", say("Make it useless, also for running servers.")),
    ),
)
def keys() -> None:
    """Hold the commands."""


@keys.command(
    "create",
    cls=Verb,
    help=say("Create a key and print its secret. The secret is shown once; only its hash is kept."),
    examples=(
        ("qwenops keys create callcentre", say("A key for inference.")),
        ("qwenops keys create ops --scope admin --scope metrics", say("A key for operating the server.")),
    ),
)
@click.argument("name", cls=Operand, help=say("What the key is called, in logs and lists."))
@click.option(
    "--scope",
    "scopes",
    cls=Flag,
    multiple=True,
    type=click.Choice(("inference", "review", "metrics", "admin")),
    default=("inference",),
    show_default=True,
    help=say("What it opens; may be repeated."),
)
@click.option("--expires", cls=Flag, metavar="DURATION", help=say("Time after which it opens nothing, such as 90d."))
@click.option("--concurrency", cls=Flag, type=click.IntRange(min=0), default=0, help=say("Requests open at once."))
@click.option("--requests-per-min", cls=Flag, type=click.IntRange(min=0), default=0, help=say("Requests a minute."))
@click.option("--tokens-per-min", cls=Flag, type=click.IntRange(min=0), default=0, help=say("Tokens a minute."))
@json_flag
@click.pass_context
def create(
    ctx: click.Context,
    /,
    name: str,
    scopes: tuple[str, ...],
    expires: str | None,
    *,
    as_json: bool,
    **limits: int,
) -> None:
    """Create it."""
    from qwenops.state.database import open_database
    from qwenops.state.keys import KeyLimits, Scope

    terminal = ctx.ensure_object(Terminal)
    expires_at = datetime.now(UTC) + timedelta(seconds=parse_seconds(expires)) if expires else None
    path = key_database(terminal, settings(ctx))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_database(path) as database:
        is_first = not database.list_keys()
        made = database.create_key(
            name,
            scopes=[Scope(scope) for scope in scopes],
            limits=KeyLimits(models=(), **limits),
            expires_at=expires_at,
        )
    if as_json:
        terminal.show_json("qwenops.key/1", {"key": _as_json(made.key) | {"secret": made.secret}})
        return
    terminal.tell(say("The secret of {name}; it is not shown again:", name=name))
    terminal.show(made.secret)
    terminal.tell(say("Send it as `Authorization: Bearer …`."))
    if is_first:
        terminal.tell(say("This is the first key: from now on every request needs one, on loopback too."))


@keys.command(
    "list",
    cls=Verb,
    help=say("List all keys, those that expired or were revoked included. Secrets are not known."),
    examples=(("qwenops keys list", say("Names, scopes, state.")), ("qwenops keys list --json", say("For scripts."))),
)
@json_flag
@click.pass_context
def list_keys(ctx: click.Context, *, as_json: bool) -> None:
    """Print them."""
    terminal = ctx.ensure_object(Terminal)
    path = key_database(terminal, settings(ctx))
    found: list[ApiKey] = []
    if path.exists():
        from qwenops.state.database import open_database

        with open_database(path) as database:
            found = database.list_keys()
    if as_json:
        terminal.show_json("qwenops.keys/1", {"keys": [_as_json(key) for key in found]})
    elif not found:
        terminal.tell(say("There are no keys; a server on this machine's loopback address is open."))
    else:
        headings = (say("Name"), say("Id"), say("Scopes"), say("State"), say("Created"), say("Expires"))
        terminal.show_table(headings, [_row(terminal, key) for key in found])


def _row(terminal: Terminal, key: "ApiKey") -> tuple[str, ...]:
    now = datetime.now(UTC)
    state = say("valid") if key.is_valid(now) else say("revoked") if key.revoked_at else say("expired")
    return (
        key.name,
        key.id,
        ", ".join(sorted(scope.value for scope in key.scopes)),
        terminal.said(state),
        key.created_at.date().isoformat(),
        key.expires_at.date().isoformat() if key.expires_at else "-",
    )


@keys.command(
    "revoke",
    cls=Verb,
    help=say("Make a key useless. Running servers notice within seconds."),
    examples=(
        ("qwenops keys revoke callcentre", say("By its name.")),
        ("qwenops keys revoke 3f9c0a1b2c4d", say("By its id.")),
    ),
)
@click.argument("name", cls=Operand, help=say("Name or id of the key."))
@json_flag
@click.pass_context
def revoke(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Revoke it."""
    from qwenops.state.database import open_database

    terminal = ctx.ensure_object(Terminal)
    path = key_database(terminal, settings(ctx))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_database(path) as database:
        key = database.revoke_key(name)
    if as_json:
        terminal.show_json("qwenops.key/1", {"key": _as_json(key)})
    else:
        terminal.tell(say("{name} opens nothing any more.", name=key.name))


def _as_json(key: "ApiKey") -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "limits": {
            "concurrency": key.limits.concurrency,
            "requests_per_min": key.limits.requests_per_min,
            "tokens_per_min": key.limits.tokens_per_min,
            "models": list(key.limits.models),
        },
        "created": key.created_at.isoformat(),
        "expires": key.expires_at.isoformat() if key.expires_at else None,
        "revoked": key.revoked_at.isoformat() if key.revoked_at else None,
    }
