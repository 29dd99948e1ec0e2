"""`qwenops calls redact`, `dedupe`, `split` and `synth`: files of calls that are made from others, or of nothing."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.readers.entries import ReadOptions
from qwenops.cli.calls_look import (
    calls_argument,
    labels_flag,
    open_labels_of,
    open_taxonomy,
    refuse_all_wrong,
    taxonomy_flag,
    tell_problems,
)
from qwenops.cli.classifying import redaction_secret
from qwenops.cli.flags import json_flag, option_flags, own_flags, own_options, settings
from qwenops.cli.help import Flag, Verb
from qwenops.cli.terminal import Report, Terminal
from qwenops.errors import ConfigError
from qwenops.text import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qwenops.calls.classes import Taxonomy
    from qwenops.calls.problems import Problem
    from qwenops.calls.readers.entries import Entry, LabelEntry, Reading
    from qwenops.calls.schema import Label
    from qwenops.calls.split import Shares, Splits

_OUT = click.Path(path_type=Path, dir_okay=False)


def _read(file: Path, taxonomy: "Taxonomy | None", options: ReadOptions, report: Report) -> "Reading[Entry]":
    from qwenops.calls.readers import open_calls

    if str(file) == "-":
        return open_calls(file, taxonomy=taxonomy, options=options)
    return open_calls(file, taxonomy=taxonomy, options=options, report=report)


def _refuse_same(file: Path, out: Path | None) -> None:
    """Refuse to write over what is read: what is left out would be lost.

    Raises:
        ConfigError: Both are one file.
    """
    if out is not None and out.exists() and file.exists() and out.samefile(file):
        raise ConfigError(
            say("{path} would be written over what is read from it.", path=str(out)),
            hint=say("Give --out another name; the original calls stay as they are."),
        )


def _refuse_stdin(file: Path) -> None:
    """Refuse standard input where calls are gone through more than once.

    Raises:
        ConfigError: It is standard input.
    """
    if str(file) == "-":
        raise ConfigError(say("Standard input can be read once only."), hint=say("Give a file."))


@click.command(
    "redact",
    cls=Verb,
    help=say(
        "Take personal data out of calls: numbers, also spoken ones and those split over turns, plates, addresses, "
        "names. The same value gets the same token within a call. Any format comes in, lines of JSON go out; labels "
        "that stand in the file go into a file of their own."
    ),
    examples=(
        ("qwenops calls redact calls.csv --out calls.jsonl --taxonomy telecom-cn", say("A table with categories.")),
        ("qwenops calls redact calls.jsonl --out clean.jsonl --strict", say("Amounts and dates go, too.")),
    ),
)
@calls_argument
@click.option("--out", cls=Flag, type=_OUT, required=True, metavar="FILE", help=say("Where redacted calls go."))
@click.option("--strict", cls=Flag, is_flag=True, help=say("Take out also what helps to tell classes apart."))
@taxonomy_flag
@own_flags(ReadOptions)
@option_flags("calls")
@json_flag
@click.pass_context
def redact(ctx: click.Context, /, file: Path, out: Path, taxonomy_name: str, *, strict: bool, as_json: bool) -> None:
    """Redact and write."""
    from collections import Counter

    from qwenops.atomic import whole_file
    from qwenops.calls.problems import write_rejected
    from qwenops.calls.redact import redact as take_out
    from qwenops.calls.schema import dump

    _refuse_same(file, out)
    terminal = ctx.ensure_object(Terminal)
    secret = redaction_secret(terminal, settings(ctx))
    labels: list[Label] = []
    counts: Counter[str] = Counter()
    twice: list[Problem] = []
    num_calls = 0
    with terminal.progress() as report:
        reading = _read(file, open_taxonomy(taxonomy_name), own_options(ctx, ReadOptions), report)
        with whole_file(out, mode=0o600) as target:
            for entry in _first_of_each(reading, twice):
                done = take_out(entry.call, secret=secret, strict=strict)
                target.write(f"{dump(done.call)}\n".encode("utf-8", "replace"))
                counts.update(span.kind.value for span in done.spans)
                labels += [each for each in (entry.label, *entry.further) if each is not None]
                num_calls += 1
            refuse_all_wrong(reading, num_calls)
    labels_out = _write_labels(out.with_name(f"{out.stem}.labels.jsonl"), labels)
    rejected = out.with_name(f"{out.name}.rejected.jsonl")
    rejected.unlink(missing_ok=True)
    problems = [*reading.problems, *twice]
    if problems:
        write_rejected(rejected, problems)
    if as_json:
        told = {"calls": num_calls, "found": dict(counts), "labels": str(labels_out) if labels_out else None}
        terminal.show_json("qwenops.redacted/1", told | {"out": str(out), "problems": len(problems)})
        return
    terminal.tell(say("{count} calls without personal data: {path}", count=num_calls, path=str(out)))
    for kind, count in counts.most_common():
        terminal.tell(f"  {kind}: {count}")
    if labels_out is not None:
        terminal.tell(say("{count} labels: {path}", count=len(labels), path=str(labels_out)))
    if problems:
        terminal.tell(say("What is wrong with the input: {path}", path=str(rejected)))


def _first_of_each(reading: "Reading[Entry]", twice: "list[Problem]") -> "Iterator[Entry]":
    """Yield the first call of each id; the others are noted with the place of the first."""
    from qwenops.calls.problems import Problem

    first: dict[str, str] = {}
    for entry in reading:
        name, place = entry.call.conversation_id, f"{entry.source}:{entry.line}"
        if name not in first:
            first[name] = place
            yield entry
            continue
        told = say("There is a call of this id already: {place}.", place=first[name])
        twice.append(
            Problem(what=told, field="conversation_id", source=entry.source, line=entry.line, conversation_id=name)
        )


def _write_labels(path: Path, labels: "list[Label]") -> Path | None:
    from qwenops.atomic import write_text
    from qwenops.calls.schema import dump

    if not labels:
        return None
    write_text(path, "".join(f"{dump(each)}\n" for each in labels), mode=0o600)
    return path


@click.command(
    "dedupe",
    cls=Verb,
    help=say(
        "Find calls that are nearly the same text: written down twice, or spoken from one script. Splits keep them "
        "together by themselves; with --out the first of each group is kept and the others are left out."
    ),
    examples=(
        ("qwenops calls dedupe calls.jsonl", say("List the groups.")),
        ("qwenops calls dedupe calls.jsonl --out once.jsonl", say("Keep one of each.")),
    ),
)
@calls_argument
@click.option("--out", cls=Flag, type=_OUT, default=None, metavar="FILE", help=say("Where one of each goes."))
@own_flags(ReadOptions)
@json_flag
@click.pass_context
def dedupe(ctx: click.Context, /, file: Path, out: Path | None, *, as_json: bool) -> None:
    """Find and print, or write."""
    from qwenops.atomic import whole_file
    from qwenops.calls.dedupe import clusters
    from qwenops.calls.schema import dump

    _refuse_stdin(file)
    _refuse_same(file, out)
    terminal = ctx.ensure_object(Terminal)
    options = own_options(ctx, ReadOptions)
    with terminal.progress() as report:
        reading = _read(file, None, options, report)
        found = clusters(entry.call for entry in reading)
        left_out = {each for cluster in found for each in cluster[1:]}
        if out is not None:
            with whole_file(out, mode=0o600) as target:
                for entry in _read(file, None, options, report):
                    if entry.call.conversation_id not in left_out:
                        target.write(f"{dump(entry.call)}\n".encode("utf-8", "replace"))
    if as_json:
        terminal.show_json("qwenops.duplicates/1", {"clusters": found, "out": str(out) if out else None})
    else:
        for cluster in found:
            terminal.show("  ".join(cluster))
        terminal.tell(
            say(
                "{groups} groups of calls that are nearly the same; {count} beyond the first of each.",
                groups=len(found),
                count=len(left_out),
            )
        )
    tell_problems(terminal, reading.problems)


@click.command(
    "split",
    cls=Verb,
    help=say(
        "Divide labelled calls for training, validation and test. Calls of one customer and calls that are nearly the "
        "same stay together; where times are known, the test lies after the training. Then every leak is looked for, "
        "and one that would flatter a model is an error."
    ),
    examples=(
        ("qwenops calls split calls.jsonl --labels labels.jsonl --out splits.json", say("As it should be.")),
        ("qwenops calls split calls.jsonl --labels labels.jsonl --out splits.json --anytime", say("Without time.")),
    ),
)
@calls_argument
@labels_flag
@taxonomy_flag
@click.option("--out", cls=Flag, type=_OUT, required=True, metavar="FILE", help=say("Where the parts are written."))
@click.option(
    "--shares",
    cls=Flag,
    default="train=0.7,val=0.15,test=0.15",
    show_default=True,
    metavar="TEXT",
    help=say("How much each of train, val, calibration and test gets."),
)
@click.option(
    "--by-time/--anytime", "by_time", cls=Flag, default=None, help=say("Whether parts follow one another in time.")
)
@click.option(
    "--key",
    "keys",
    cls=Flag,
    multiple=True,
    type=click.Choice(("customer", "duplicate", "agent")),
    default=("customer", "duplicate"),
    show_default=True,
    help=say("What keeps calls together; may be repeated."),
)
@click.option("--seed", cls=Flag, type=click.IntRange(min=0), default=0, show_default=True, help=say("Of chance."))
@own_flags(ReadOptions)
@json_flag
@click.pass_context
def split(  # noqa: PLR0913, PLR0917 -- click hands over one argument for each flag
    ctx: click.Context,
    /,
    file: Path,
    labels_file: Path | None,
    taxonomy_name: str,
    out: Path,
    shares: str,
    by_time: bool | None,  # noqa: FBT001 -- click calls it by name
    keys: tuple[str, ...],
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Divide, prove, write."""
    from qwenops.calls.leaks import leaks
    from qwenops.calls.problems import refuse
    from qwenops.calls.split import Key, write_splits
    from qwenops.calls.split import split as divide

    _refuse_stdin(file)
    _refuse_same(file, out)
    terminal = ctx.ensure_object(Terminal)
    options, taxonomy = own_options(ctx, ReadOptions), open_taxonomy(taxonomy_name)
    with terminal.progress() as report:
        labels = _labels(file, labels_file, taxonomy, options, report)
        wanted = [Key(key) for key in keys]
        reading = _read(file, taxonomy, options, report)
        calls = (entry.call for entry in reading)
        splits = divide(
            calls, labels, keys=wanted, by_time=by_time, shares=_shares(shares), seed=seed, taxonomy=taxonomy
        )
        again = (entry.call for entry in _read(file, taxonomy, options, report))
        found = leaks(splits, again, labels, taxonomy=taxonomy)
    refuse(found, say("The parts know something of one another."))
    write_splits(out, splits)
    _show_splits(terminal, out, splits, as_json=as_json)
    for each in (*splits.problems, *found):
        terminal.tell(f"  {terminal.said(each.what)}")
    tell_problems(terminal, reading.problems)


def _labels(
    file: Path, labels_file: Path | None, taxonomy: "Taxonomy | None", options: ReadOptions, report: Report
) -> "list[Label]":
    """Return the labels of a file of their own, or those that stand with the calls.

    Raises:
        InvalidDataError: Some of them cannot be read.
    """
    from qwenops.calls.problems import refuse

    apart = open_labels_of(labels_file, taxonomy, report)
    if apart is not None:
        found = list(apart)
        lost = [] if taxonomy is None else [_lost(each, taxonomy) for each in found]
        refuse([*apart.problems, *filter(None, lost)], say("Not all labels can be used."))
        return [each.label for each in found]
    reading = _read(file, taxonomy, options, report)
    return [label for entry in reading for label in (entry.label, *entry.further) if label is not None]


def _lost(entry: "LabelEntry", taxonomy: "Taxonomy") -> "Problem | None":
    """Return why a label cannot be followed to a version of a taxonomy, with its place."""
    from dataclasses import replace

    from qwenops.calls.problems import Problem

    found = taxonomy.migrate(entry.label)
    return replace(found, source=entry.source, line=entry.line) if isinstance(found, Problem) else None


def _shares(text: str) -> "Shares":
    from qwenops.calls.split import PARTS, Shares

    given = dict(part.strip().partition("=")[::2] for part in text.split(",") if part.strip())
    known = {part.value for part in PARTS}
    if given and set(given) <= known:
        with contextlib.suppress(ValueError):
            return Shares(**{name: float(given.get(name, 0)) for name in known})
    raise ConfigError(
        say("{text!r} are no shares.", text=text), hint=say("Write for example train=0.7,val=0.15,test=0.15.")
    )


def _show_splits(terminal: Terminal, out: Path, splits: "Splits", *, as_json: bool) -> None:
    sizes = {part.value: len(ids) for part, ids in splits.parts().items()}
    sizes |= {"aside": len(splits.aside), "unlabelled": len(splits.unlabelled)}
    if as_json:
        terminal.show_json("qwenops.split/1", {"out": str(out), "by_time": splits.by_time, "calls": sizes})
        return
    terminal.show_facts([(name, str(count)) for name, count in sizes.items() if count])
    terminal.tell(say("Parts: {path}", path=str(out)))


@click.command(
    "synth",
    cls=Verb,
    help=say(
        "Make synthetic calls with labels and the whole truth about them. They show that a pipeline works, and say "
        "nothing about how good a model is on real calls."
    ),
    examples=(
        ("qwenops calls synth --out demo", say("A thousand calls.")),
        ("qwenops calls synth --out large --calls 100000 --seed 7", say("Many, and others.")),
    ),
)
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help=say("Where calls.jsonl, labels.jsonl and truth.jsonl go."),
)
@own_flags(GeneratorOptions)
@json_flag
@click.pass_context
def synth(ctx: click.Context, /, out: Path, *, as_json: bool) -> None:
    """Make them."""
    from qwenops.calls.generator.write import write

    terminal = ctx.ensure_object(Terminal)
    options = own_options(ctx, GeneratorOptions)
    with terminal.progress() as report:
        manifest = write(options, out, report=report)
    if as_json:
        terminal.show_json("qwenops.synthesised/1", {"folder": str(out), "manifest": str(manifest)})
    else:
        terminal.tell(say("{count} calls: {folder}", count=options.calls, folder=str(out)))
