"""`qwenops calls label`, `erase` and `audit`: what people said, what nobody shall know any more, and who did what."""

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.calls_look import open_taxonomy, taxonomy_flag
from qwenops.cli.classifying import actor, open_registry, open_state, redaction_secret, wanted_classifier
from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Verb
from qwenops.cli.terminal import Terminal
from qwenops.errors import ConfigError
from qwenops.options import format_seconds
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.calls.classes import Taxonomy
    from qwenops.calls.erase import Erasure
    from qwenops.calls.label_review import LabelFile, Reviewed
    from qwenops.classify.registry import Registry
    from qwenops.config import Settings

_STATE = ("state.database", "classify.registry", "classify.model")


@click.command(
    "label",
    cls=Verb,
    help=say(
        "Write what people said in review and feedback as the next version of a file of labels, how far they agree "
        "(Cohen's kappa) and how often they follow the model. Where a critical class is at stake two must agree."
    ),
    examples=(
        ("qwenops calls label --from-review --out labels --classifier complaints", say("By the classes that serve.")),
        ("qwenops calls label --from-review --out labels --taxonomy telecom-cn", say("By those of a preset.")),
    ),
)
@click.option("--from-review", cls=Flag, is_flag=True, help=say("Take what people said about calls."))
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help=say("Where the versions are."),
)
@taxonomy_flag
@click.option("--since", cls=Flag, default="", metavar="DATE", help=say("Only what was said from that day on (UTC)."))
@click.option("--until", cls=Flag, default="", metavar="DATE", help=say("Only what was said before that day (UTC)."))
@option_flags("classify", "state", only=_STATE)
@json_flag
@click.pass_context
def label(
    ctx: click.Context,
    /,
    out: Path,
    taxonomy_name: str,
    since: str,
    until: str,
    *,
    from_review: bool,
    as_json: bool,
) -> None:
    """Settle, write, print."""
    from qwenops.calls.label_review import label_from_review

    if not from_review:
        raise ConfigError(
            say("Nothing says where labels shall come from."), hint=say("Say --from-review; there is nothing else yet.")
        )
    terminal, made = ctx.ensure_object(Terminal), settings(ctx)
    taxonomy = open_taxonomy(taxonomy_name) or _of_classifier(terminal, made)
    with open_state(terminal, made) as database:
        written, found = label_from_review(
            database, out, taxonomy, actor=actor(terminal), since=_day(since), until=_day(until)
        )
    _show_labels(terminal, written, found, as_json=as_json)


def _of_classifier(terminal: Terminal, made: "Settings") -> "Taxonomy":
    """Return the classes of the classifier that was named."""
    from qwenops.calls.taxonomy import TAXONOMY, load

    return load(open_registry(terminal, made).find(wanted_classifier(made)).folder / TAXONOMY)


def _day(text: str) -> datetime | None:
    """Return when a day begins, in UTC.

    Raises:
        ConfigError: It is no day.
    """
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            say("{text!r} is no day.", text=text), hint=say("Write it as year, month and day: 2026-01-31.")
        ) from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _show_labels(terminal: Terminal, written: "LabelFile", found: "Reviewed", *, as_json: bool) -> None:
    from qwenops.calls.label_review import agreement_data

    if as_json:
        body: dict[str, Any] = {
            "path": str(written.path),
            "version": written.version,
            "sha256": written.sha256,
            "is_new": written.is_new,
            "labels": len(found.labels),
            "open": len(found.open),
            "disputed": list(found.disputed),
            "left_out": len(found.problems),
            "agreement": agreement_data(found.agreement),
            "followed": {"shown": found.shown.share, "blind": found.blind.share},
        }
        terminal.show_json("qwenops.labelled/1", body)
        return
    new = say("{count} labels: {path}", count=len(found.labels), path=str(written.path))
    old = say("Nothing has come since {path} with its {count} labels.", count=len(found.labels), path=str(written.path))
    terminal.tell(new if written.is_new else old)
    facts = [
        (say("Waiting for another person"), str(len(found.open))),
        (say("Disputed"), str(len(found.disputed))),
        (say("Left out by a change of the taxonomy"), str(len(found.problems))),
        (say("Time that people took"), format_seconds(float(round(found.seconds)))),
        *_agreements(found),
        *((name, f"{100 * share:.1f} %") for name, share in _followed(found) if share is not None),
    ]
    terminal.show_facts(facts)


def _agreements(found: "Reviewed") -> "list[tuple[str, str]]":
    if found.agreement is None:
        return [(say("Agreement"), say("unknown: no call was labelled by two people"))]
    kappa, interval = found.agreement.kappa, found.agreement.interval()
    told: list[tuple[str, str]] = [(say("Calls labelled by two"), str(found.agreement.num))]
    told.append((say("They agree on"), f"{100 * found.agreement.observed:.1f} %"))
    if kappa is not None and interval is not None:
        told.append((say("Cohen's kappa"), f"{kappa:.3f} ({interval.low:.3f} … {interval.high:.3f})"))
    return told


def _followed(found: "Reviewed") -> list[tuple[str, float | None]]:
    return [
        (say("Said what the model had said, where they saw it"), found.shown.share),
        (say("The same, where it was hidden"), found.blind.share),
    ]


@click.command(
    "erase",
    cls=Verb,
    help=say(
        "Remove everything about a customer: calls, labels, predictions and ids in all files below the folders, "
        "the review queue and the feedback. Says which data sets have changed and which classifiers were trained on "
        "them, for those cannot forget. Broken off, the same command goes on."
    ),
    examples=(
        ("qwenops calls erase --customer h:9f3a --data data --yes", say("Below one folder, without asking.")),
        ("qwenops calls erase --customer h:9f3a --data data --data runs", say("Below two.")),
    ),
)
@click.option(
    "--customer",
    "customers",
    cls=Flag,
    multiple=True,
    required=True,
    metavar="ID",
    help=say("The id as files have it, or as it was before it became a hash; may be repeated."),
)
@click.option(
    "--data",
    "folders",
    cls=Flag,
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help=say("Folder with data sets and predictions, or a file; may be repeated."),
)
@click.option("-y", "--yes", cls=Flag, is_flag=True, help=say("Do not ask."))
@option_flags("classify", "state", "calls", only=("state.database", "classify.registry", "calls.secret_file"))
@json_flag
@click.pass_context
def erase(
    ctx: click.Context, /, customers: tuple[str, ...], folders: tuple[Path, ...], *, yes: bool, as_json: bool
) -> None:
    """Ask, erase, print."""
    from qwenops.calls.erase import erase as remove

    terminal, made = ctx.ensure_object(Terminal), settings(ctx)
    secret = redaction_secret(terminal, made)
    wanted = dict.fromkeys(each for given in customers for each in (given.strip(), _hashed(given, secret)))
    _ask(terminal, folders, yes=yes)
    models = _trained_on(open_registry(terminal, made))
    with open_state(terminal, made) as database, terminal.progress() as report:
        done = [remove(database, each, folders, models=models, actor=actor(terminal), report=report) for each in wanted]
    _show_erased(terminal, done, as_json=as_json)


def _hashed(customer_id: str, secret: bytes) -> str:
    """Return an id as redacted files have it."""
    from qwenops.calls.redact import redact
    from qwenops.calls.schema import Call

    call = Call(conversation_id="-", turns=(), customer_id=customer_id.strip())
    return redact(call, secret=secret).call.customer_id


def _ask(terminal: Terminal, folders: tuple[Path, ...], *, yes: bool) -> None:
    """Make sure that this is meant.

    Raises:
        ConfigError: Nobody can be asked.
        Abort: It is not.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(say("Nobody can be asked whether this is meant."), hint=say("Say so with --yes."))
    question = say("Erase for good, below {folders}?", folders=", ".join(str(each) for each in folders))
    if not click.confirm(terminal.said(question), err=True):
        raise click.Abort


def _trained_on(registry: "Registry") -> dict[str, frozenset[str]]:
    """Return what each classifier of the registry was trained on; one that is damaged cannot be asked."""
    from qwenops.classify.registry import trained_on
    from qwenops.errors import ModelLoadError

    found = {}
    for name in registry.names():
        for each in registry.versions(name):
            try:
                found[each.ref] = trained_on(each)
            except ModelLoadError:
                continue
    return found


def _show_erased(terminal: Terminal, done: "list[Erasure]", *, as_json: bool) -> None:
    files = [each for erasure in done for each in erasure.files]
    unreadable = sorted({str(path) for erasure in done for path in erasure.unreadable})
    models = sorted({name for erasure in done for name in erasure.models})
    if as_json:
        body = {
            "conversations": sum(each.num_conversations for each in done),
            "files": [
                {"path": str(each.path), "entries": each.num_entries, "old": each.old_sha256, "new": each.new_sha256}
                for each in files
            ],
            "unreadable": unreadable,
            "review": sum(each.rows.review for each in done),
            "feedback": sum(each.rows.feedback for each in done),
            "models": models,
            "is_scrubbed": all(each.is_scrubbed for each in done),
        }
        terminal.show_json("qwenops.erased/1", body)
        return
    terminal.show_facts(
        [
            (say("Calls"), str(sum(each.num_conversations for each in done))),
            (say("Rows of the review queue"), str(sum(each.rows.review for each in done))),
            (say("Rows of feedback"), str(sum(each.rows.feedback for each in done))),
            *((str(each.path), say("{count} entries went", count=each.num_entries)) for each in files),
        ]
    )
    for name in models:
        terminal.tell(say("{name} was trained on data that has lost calls; only training it again forgets.", name=name))
    for path in unreadable:
        terminal.tell(say("{path} still speaks of the customer; look at it yourself.", path=path))
    if not all(each.is_scrubbed for each in done):
        terminal.tell(say("Another process is reading the database; run this again when it has ended."))


@click.command(
    "audit",
    cls=Verb,
    help=say("Show who labelled, saw, promoted, rolled back and erased what, the latest first."),
    examples=(
        ("qwenops calls audit --subject c-17", say("Who saw or labelled a call.")),
        ("qwenops calls audit --actor wang --json", say("What a person did, for scripts.")),
    ),
)
@click.option("--subject", cls=Flag, default="", metavar="ID", help=say("Only what was done to this call or model."))
@click.option("--actor", "who", cls=Flag, default="", metavar="NAME", help=say("Only what this person did."))
@click.option("--since", cls=Flag, default="", metavar="DATE", help=say("Only what was done from that day on (UTC)."))
@click.option("--last", cls=Flag, type=click.IntRange(min=1), default=100, show_default=True, help=say("How many."))
@option_flags("state", only=("state.database",))
@json_flag
@click.pass_context
def audit(ctx: click.Context, /, subject: str, who: str, since: str, last: int, *, as_json: bool) -> None:
    """Print events."""
    from qwenops.state.audit import read_events

    terminal = ctx.ensure_object(Terminal)
    with open_state(terminal, settings(ctx)) as database:
        events = read_events(database, subject=subject, actor=who, since=_day(since), most=last)
    if as_json:
        listed = [
            {
                "at": each.at,
                "actor": each.actor,
                "key": each.key_name,
                "action": each.action.value,
                "kind": each.kind.value,
                "subject": each.subject,
                "detail": dict(each.detail),
            }
            for each in events
        ]
        terminal.show_json("qwenops.audit/1", {"events": listed})
    elif not events:
        terminal.tell(say("Nothing was done that the log knows of."))
    else:
        headings = (say("When"), say("Who"), say("What"), say("Kind"), say("Of what"))
        rows = [
            (f"{each.at:%Y-%m-%d %H:%M:%S}", each.actor, each.action.value, each.kind.value, each.subject)
            for each in events
        ]
        terminal.show_table(headings, rows)
