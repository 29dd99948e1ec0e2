"""`qwenops finetune baseline`: the classifiers of words that every model has to beat."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qwenops.cli.finetune_data import data_flags
from qwenops.cli.flags import json_flag
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Terminal
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.classify.baseline_folder import Taught


@click.command(
    "baseline",
    cls=Verb,
    help=say(
        "Train classifiers of words in seconds, on the calls that a model would be trained on: what every model has to "
        "beat to be worth its cost. Labels that are probably wrong are listed on the way. The test calls are not "
        "looked at."
    ),
    examples=(
        (
            (
                "qwenops finetune baseline calls.jsonl --labels labels.jsonl --splits splits.json "
                "--taxonomy telecom-cn --out run/baseline"
            ),
            say("Where `finetune evaluate` looks for it."),
        ),
        (
            "qwenops finetune baseline calls.csv --splits splits.json --taxonomy my.yaml --out run/baseline --json",
            say("For scripts; labels stand in the file."),
        ),
    ),
)
@click.argument(
    "calls", cls=Operand, type=click.Path(path_type=Path, exists=True), help=say("File or folder of calls.")
)
@data_flags
@click.option("--taxonomy", cls=Flag, required=True, metavar="NAME|PATH", help=say("The classes: a preset or a file."))
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help=say("Where to write; beside the adapter it is found by itself."),
)
@click.option("--seed", cls=Flag, type=click.IntRange(min=0), default=0, show_default=True, help=say("Of chance."))
@json_flag
@click.pass_context
def baseline(  # noqa: PLR0913 -- click hands over one argument for each flag
    ctx: click.Context,
    /,
    *,
    calls: Path,
    labels: Path | None,
    splits: Path,
    unredacted: bool,
    taxonomy: str,
    out: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Read, train, print."""
    from qwenops.calls.taxonomy import load
    from qwenops.classify.baseline_folder import check_installed, teach
    from qwenops.classify.labelled import DataFiles, open_labelled

    check_installed()
    terminal = ctx.ensure_object(Terminal)
    files = DataFiles(calls=calls, splits=splits, labels=labels, unredacted=unredacted)
    with terminal.progress() as report:
        found = teach(
            open_labelled(files, load(taxonomy)),
            out.absolute(),
            seed=seed,
            report=report,
            now=lambda: datetime.now(tz=UTC),
        )
    _show(terminal, found, as_json=as_json)


def _show(terminal: Terminal, found: "Taught", *, as_json: bool) -> None:
    if as_json:
        terminal.show_json(
            "qwenops.finetune.baseline/1",
            {
                "folder": str(found.folder),
                "best": found.best.value,
                "out_of_fold": {kind.value: score for kind, score in found.out_of_fold.items()},
                "val": {kind.value: score for kind, score in found.val.items()},
                "calls": found.num_calls,
                "suspicious": found.num_suspicious,
            },
        )
        return
    rows = [
        (kind.value, f"{score:.3f}", f"{found.val[kind]:.3f}" if kind in found.val else "-")
        for kind, score in found.out_of_fold.items()
    ]
    terminal.show_table((say("Baseline"), say("Macro-F1 out of fold"), say("On the validation calls")), rows)
    terminal.tell(say("{count} labels are probably wrong; suspicious.jsonl lists them.", count=found.num_suspicious))
    terminal.tell(say("Baselines: {path}", path=str(found.folder)))
