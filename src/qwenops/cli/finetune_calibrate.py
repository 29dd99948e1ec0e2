"""`qwenops finetune calibrate`: what a trained model's probabilities mean, and from which one on a call is filed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qwenops.cli.finetune_data import adapter_argument, base_of, calls_flag, data_flags
from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Verb
from qwenops.cli.terminal import Terminal
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.classify.decide import Cut
    from qwenops.classify.trying import Calibrated

PARTS = ("val", "calibration")
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command(
    "calibrate",
    cls=Verb,
    help=say(
        "Make the probabilities of a trained model mean what they say, and choose from which one on a call is filed "
        "without a person, for a precision that you name. That is fitted to validation calls, or to a part of its own, "
        "and never to the test's. `finetune export` does it again for the compressed model, with the precision chosen "
        "here."
    ),
    examples=(
        (
            "qwenops finetune calibrate run/adapter --calls calls.jsonl --labels labels.jsonl --splits splits.json",
            say("So that 95 of 100 calls that are filed without a person are right."),
        ),
        (
            "qwenops finetune calibrate run/adapter --calls calls.jsonl --splits splits.json --precision 0.98",
            say("Fewer calls, filed more surely; the model is not asked again."),
        ),
    ),
)
@adapter_argument
@calls_flag
@data_flags
@click.option(
    "--part",
    cls=Flag,
    type=click.Choice(PARTS),
    default=None,
    help=say("Calls to fit to; a part for calibration where the splits have one, else the validation calls."),
)
@click.option(
    "--precision",
    cls=Flag,
    type=_SHARE,
    default=0.95,
    show_default=True,
    help=say("The share of calls filed without a person that shall be right at least."),
)
@click.option(
    "--coverage",
    cls=Flag,
    type=_SHARE,
    default=0.95,
    show_default=True,
    help=say("How often the true class shall be among the candidates of a call."),
)
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="FOLDER",
    help=say("Where to write; `calibration` beside the adapter when left out, where the other commands look."),
)
@click.option("--seed", cls=Flag, type=click.IntRange(min=0), default=0, show_default=True, help=say("Of chance."))
@option_flags("hub")
@json_flag
@click.pass_context
def calibrate(  # noqa: PLR0913 -- click hands over one argument for each flag
    ctx: click.Context,
    /,
    *,
    adapter: Path,
    model: str,
    calls: Path,
    labels: Path | None,
    splits: Path,
    unredacted: bool,
    part: str | None,
    precision: float,
    coverage: float,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Score, fit, write, print."""
    from qwenops.calls.split import Part
    from qwenops.classify.labelled import DataFiles
    from qwenops.classify.trying import CalibrateOptions, calibrate_adapter

    terminal = ctx.ensure_object(Terminal)
    options = CalibrateOptions(
        adapter=adapter,
        base=base_of(adapter, model, terminal, settings(ctx)),
        out=out.absolute() if out is not None else None,
        part=Part(part) if part is not None else None,
        target_precision=precision,
        coverage=coverage,
        seed=seed,
    )
    files = DataFiles(calls=calls, splits=splits, labels=labels, unredacted=unredacted)
    with terminal.progress() as report:
        found = calibrate_adapter(files, options, report=report, now=lambda: datetime.now(tz=UTC), tell=terminal.tell)
    _show(terminal, found, as_json=as_json)


def _show(terminal: Terminal, found: "Calibrated", *, as_json: bool) -> None:
    calibration, thresholds = found.meaning.calibration, found.meaning.thresholds
    if as_json:
        from qwenops.classify.plain import to_plain

        terminal.show_json(
            "qwenops.finetune.calibrate/1",
            {
                "folder": str(found.folder),
                "part": found.part.value,
                "calls": found.num_calls,
                "calibration": to_plain(calibration),
                "thresholds": to_plain(thresholds),
            },
        )
        return
    after = "-" if calibration.after is None else f"{calibration.after.ece:.3f}"
    terminal.show_facts(
        (
            (say("Calibration"), str(found.folder)),
            (say("Fitted to"), say("{count} calls of {part}", count=found.num_calls, part=found.part.value)),
            (say("Calibration error before"), f"{calibration.before.ece:.3f}"),
            (say("Calibration error after"), after),
            (say("Filed under a class"), _cut(terminal, thresholds.leaf)),
            (say("Filed under a group of classes"), _cut(terminal, thresholds.parent)),
        )
    )
    if thresholds.leaf is None:
        terminal.tell(
            say(
                "No threshold keeps a precision of {precision:.0%}: a person looks at every call, or a lower precision "
                "has to do. More labelled calls help as well.",
                precision=thresholds.target_precision,
            )
        )


def _cut(terminal: Terminal, cut: "Cut | None") -> str:
    if cut is None:
        return "-"
    return terminal.said(
        say(
            "from {threshold:.3f} on: {coverage:.1%} of calls, right in {precision:.1%}, at least {low:.1%}",
            threshold=cut.threshold,
            coverage=cut.coverage,
            precision=cut.precision,
            low=cut.precision_low,
        )
    )
