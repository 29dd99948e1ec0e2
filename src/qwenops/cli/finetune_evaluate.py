"""`qwenops finetune evaluate`: a trained model and the baselines before the test calls, and which of them to use."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.cli.finetune_data import adapter_argument, base_of, calls_flag, data_flags
from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Verb
from qwenops.cli.terminal import Terminal
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.classify.evaluate import Estimate
    from qwenops.classify.trying import Tried

GATE_NOT_MET = 3


@click.command(
    "evaluate",
    cls=Verb,
    help=say(
        "Show the test calls to a trained model and to the baselines, and say which of them to use: macro-F1 with its "
        "interval, what is mistaken for what, whether probabilities mean what they say, how much can be filed without "
        "a person, on which calls it does worse. The model is asked once; what it said is kept. A report is written "
        "that any browser opens."
    ),
    examples=(
        (
            "qwenops finetune evaluate run/adapter --calls calls.jsonl --labels labels.jsonl --splits splits.json",
            say("With the baselines and the calibration that lie beside the adapter."),
        ),
        (
            "qwenops finetune evaluate run/adapter --calls calls.jsonl --splits splits.json --gate --json",
            say("For pipelines: exit code 3 unless the model is worth its cost."),
        ),
    ),
)
@adapter_argument
@calls_flag
@data_flags
@click.option(
    "--baseline",
    cls=Flag,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=None,
    metavar="FOLDER",
    help=say("What `qwenops finetune baseline` wrote; `baseline` beside the adapter when left out."),
)
@click.option(
    "--slice",
    "by",
    cls=Flag,
    multiple=True,
    metavar="NAME",
    help=say("A further fact to divide the calls by, of their meta or of --facts; may be repeated."),
)
@click.option(
    "--facts",
    cls=Flag,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    metavar="PATH",
    help=say("Lines of JSON with a conversation_id that say more about calls, such as truth.jsonl."),
)
@click.option(
    "--other-calls",
    cls=Flag,
    is_flag=True,
    help=say("Take other splits than those of training; you vouch that the model never had these calls."),
)
@click.option(
    "--price-per-hour",
    cls=Flag,
    type=click.FloatRange(min=0),
    default=None,
    metavar="N",
    help=say("What an hour of this machine costs, for the cost of 1,000 calls."),
)
@click.option("--gate", cls=Flag, is_flag=True, help=say("End with exit code 3 unless the model beats every baseline."))
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="FOLDER",
    help=say("Where to write; `evaluation` beside the adapter when left out."),
)
@click.option("--seed", cls=Flag, type=click.IntRange(min=0), default=0, show_default=True, help=say("Of chance."))
@option_flags("hub")
@json_flag
@click.pass_context
def evaluate(  # noqa: PLR0913 -- click hands over one argument for each flag
    ctx: click.Context,
    /,
    *,
    adapter: Path,
    model: str,
    calls: Path,
    labels: Path | None,
    splits: Path,
    unredacted: bool,
    baseline: Path | None,
    by: tuple[str, ...],
    facts: Path | None,
    other_calls: bool,
    price_per_hour: float | None,
    gate: bool,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Score, judge, write, print."""
    from qwenops.classify.labelled import DataFiles
    from qwenops.classify.report import write_report
    from qwenops.classify.trying import TrialOptions, try_adapter

    terminal = ctx.ensure_object(Terminal)
    options = TrialOptions(
        adapter=adapter,
        base=base_of(adapter, model, terminal, settings(ctx)),
        baseline=baseline,
        out=out.absolute() if out is not None else None,
        by=by,
        facts=facts,
        other_calls=other_calls,
        price_per_hour=price_per_hour,
        seed=seed,
    )
    files = DataFiles(calls=calls, splits=splits, labels=labels, unredacted=unredacted)
    with terminal.progress() as report:
        found = try_adapter(files, options, report=report, now=lambda: datetime.now(tz=UTC), tell=terminal.tell)
        report(1.0, say("Writing the report"))
        page = write_report(found.folder, found.folder, language=terminal.language)
    _show(terminal, found, page, as_json=as_json)
    if gate and not found.trial.use_model:
        ctx.exit(GATE_NOT_MET)


def _show(terminal: Terminal, found: "Tried", page: Path, *, as_json: bool) -> None:
    from qwenops.classify.trial import sentences

    trial = found.trial
    if as_json:
        terminal.show_json("qwenops.finetune.evaluate/1", {**_data(found), "report": str(page)})
        return
    test, filed = trial.evaluation, trial.filed
    best = trial.baselines[trial.best].leaves.macro_f1
    price = found.cost.price_per_1000_calls
    facts = [
        (say("Macro-F1 on the test calls"), _estimate(test.leaves.macro_f1)),
        (say("Macro-F1 of the best baseline"), f"{_estimate(best)} ({trial.best.value})"),
        (say("Accuracy"), _estimate(test.leaves.accuracy)),
        (say("Calibration error before"), f"{trial.uncalibrated.ece:.3f}"),
        (say("Calibration error after"), f"{test.reliability.ece:.3f}"),
        (say("Filed under a class without a person"), f"{filed.auto:.1%}"),
        (say("Filed under a group of classes"), f"{filed.parent:.1%}"),
        (say("Seconds for 1,000 calls, not compressed"), f"{found.cost.seconds_per_1000_calls:.1f}"),
        *([(say("Cost of 1,000 calls, not compressed"), f"{price:.4f}")] if price is not None else []),
        (say("Report"), str(page)),
    ]
    terminal.show_facts(facts)
    for sentence in sentences(trial):
        terminal.tell(sentence)


def _data(found: "Tried") -> dict[str, Any]:
    from qwenops.classify.plain import to_plain

    trial = found.trial
    return {
        "folder": str(found.folder),
        "use_model": trial.use_model,
        "best_baseline": trial.best.value,
        "decided_by": trial.verdict.theirs,
        "macro_f1": to_plain(trial.evaluation.leaves.macro_f1),
        "accuracy": to_plain(trial.evaluation.leaves.accuracy),
        "ece": {"before": trial.uncalibrated.ece, "after": trial.evaluation.reliability.ece},
        "filed": to_plain(trial.filed),
        "verdicts": {kind.value: to_plain(each) for kind, each in trial.verdicts.items()},
        "seconds_per_1000_calls": found.cost.seconds_per_1000_calls,
        "price_per_1000_calls": found.cost.price_per_1000_calls,
    }


def _estimate(found: "Estimate") -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"
