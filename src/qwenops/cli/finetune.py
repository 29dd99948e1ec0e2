"""`qwenops finetune`: teach a model to classify calls. Under torchrun `train` trains with several processes."""

import asyncio
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Operand, Tree, Verb
from qwenops.cli.models import NAME, fetch_report, hub_options, open_store
from qwenops.cli.opening import wanted_model
from qwenops.cli.terminal import Terminal
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.classify.train.adapter import AdapterFolder
    from qwenops.classify.train.options import TrainOptions
    from qwenops.config import Settings
    from qwenops.models.store import StoredModel


MOST_TOLD = 20
"""So many warnings about the files are shown."""

FINETUNE = {
    "baseline": ("qwenops.cli.finetune_baseline:baseline", say("Train classifiers of words, to be beaten by a model.")),
    "train": ("qwenops.cli.finetune:train", say("Train an adapter on labelled calls.")),
    "evaluate": ("qwenops.cli.finetune_evaluate:evaluate", say("Judge a trained model, and say whether to use it.")),
    "calibrate": ("qwenops.cli.finetune_calibrate:calibrate", say("Choose from which probability on calls are filed.")),
    "export": ("qwenops.cli.finetune_export:export", say("Make a classifier that serves of a trained adapter.")),
}
"""Name to `module:command` and what it does in one line, in the order in which they are used."""


@click.group(
    "finetune",
    cls=Tree,
    table=FINETUNE,
    help=say("Teach a model to classify calls."),
    examples=(
        (
            (
                "qwenops finetune train calls.jsonl --labels labels.jsonl --splits splits.json --taxonomy telecom-cn "
                "--out run"
            ),
            say("Train; a second time, go on where it was ended."),
        ),
        (
            "qwenops finetune evaluate run/adapter --calls calls.jsonl --labels labels.jsonl --splits splits.json",
            say("Say whether it is worth its cost."),
        ),
    ),
)
def finetune() -> None:
    """Hold the commands."""


@click.command(
    "train",
    cls=Verb,
    help=say(
        "Train an adapter on labelled calls. Says first how long it takes, fits a linear model as a first answer, "
        "keeps a checkpoint, and goes on exactly where it was when it is started again. The test calls are not looked "
        "at."
    ),
    examples=(
        (
            (
                "qwenops finetune train calls.jsonl --labels labels.jsonl --splits splits.json --taxonomy telecom-cn "
                "--out run"
            ),
            say("All layers of the configured model."),
        ),
        (
            "qwenops finetune train calls.jsonl --splits splits.json --taxonomy my.yaml --out run --top-layers 8",
            say("The last eight layers only, several times faster; labels stand in the file."),
        ),
    ),
)
@click.argument(
    "calls", cls=Operand, type=click.Path(path_type=Path, exists=True), help=say("File or folder of calls.")
)
@click.option("--model", cls=Flag, default="", metavar="MODEL", help=NAME)
@click.option(
    "--labels",
    cls=Flag,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    metavar="PATH",
    help=say("File of labels; without it the calls' own file has them."),
)
@click.option(
    "--splits",
    cls=Flag,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    metavar="PATH",
    help=say("What `qwenops calls split` wrote."),
)
@click.option("--taxonomy", cls=Flag, required=True, metavar="NAME|PATH", help=say("The classes: a preset or a file."))
@click.option(
    "--out", cls=Flag, type=click.Path(path_type=Path), required=True, metavar="FOLDER", help=say("Folder of the run.")
)
@click.option(
    "--unredacted", cls=Flag, is_flag=True, help=say("Take calls from which nothing has removed personal data.")
)
@option_flags("finetune")
@json_flag
@click.pass_context
def train(  # noqa: PLR0913 -- click hands over one argument for each flag
    ctx: click.Context,
    /,
    *,
    calls: Path,
    model: str,
    labels: Path | None,
    splits: Path,
    taxonomy: str,
    out: Path,
    unredacted: bool,
    as_json: bool,
) -> None:
    """Fetch, gather, train, print."""
    from qwenops.calls.taxonomy import load
    from qwenops.classify.train.deciding import check_installed
    from qwenops.classify.train.gathering import DataFiles, gather
    from qwenops.classify.train.training import train as act
    from qwenops.models.tokenizer import open_tokenizer

    check_installed()
    terminal = ctx.ensure_object(Terminal)
    made = settings(ctx)
    files = DataFiles(calls=calls, splits=splits, labels=labels, unredacted=unredacted)
    stored = _fetched(wanted_model(model, made), terminal, made)
    options = _options(terminal, made, stored, out)
    with terminal.progress() as report:
        data = gather(files, load(taxonomy), open_tokenizer(options.model_dir), options, report)
        for each in data.warnings[:MOST_TOLD]:
            terminal.tell(each.said(terminal.said))
        if (more := len(data.warnings) - MOST_TOLD) > 0:
            terminal.tell(say("and {count} more warnings; `qwenops calls validate` lists all of them.", count=more))
        adapter = act(
            options,
            data,
            report=report,
            now=lambda: datetime.now(tz=UTC),
            tell=terminal.tell,
            environ=terminal.environ,
        )
    _show(terminal, adapter, as_json=as_json)


def _fetched(name: str, terminal: Terminal, made: "Settings") -> "StoredModel":
    with terminal.progress() as report:
        return asyncio.run(open_store(terminal).pull(name, hub_options(terminal, made), fetch_report(report)))


def _options(terminal: Terminal, made: "Settings", stored: "StoredModel", out: Path) -> "TrainOptions":
    """Return the settings' options with what only this call knows."""
    from qwenops.models.store import default_root

    chosen = made.finetune
    cache = chosen.cache_dir if chosen.cache_dir != Path() else default_root(terminal.environ).parent / "activations"
    return dataclasses.replace(
        chosen, model_dir=stored.checkpoint, model_name=stored.name, out=out.absolute(), cache_dir=cache
    )


def _show(terminal: Terminal, adapter: "AdapterFolder", *, as_json: bool) -> None:
    metrics = adapter.manifest["metrics"]
    if as_json:
        body = {"folder": str(adapter.folder), "metrics": metrics, "time": adapter.manifest["time"]}
        terminal.show_json("qwenops.finetune.train/1", body)
        return
    terminal.show_facts(
        (
            (say("Adapter"), str(adapter.folder)),
            (say("Best epoch"), str(metrics["best_epoch"])),
            (say("Macro-F1 on the validation calls"), f"{metrics['macro_f1']:.3f}"),
        )
    )
    terminal.tell(say("That is what training chose by; the test calls say how good it is."))
