"""`qwenops finetune export`: a trained adapter to a classifier that serves, or to a model for another engine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from qwenops.cli.finetune_data import base_of
from qwenops.cli.flags import json_flag, option_flags, settings
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.models import NAME
from qwenops.cli.terminal import Terminal
from qwenops.errors import ConfigError
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.classify.export import ExportData, Exported
    from qwenops.classify.train.adapter import AdapterFolder
    from qwenops.classify.train.gathering import DataFiles
    from qwenops.text import Report

FORMS = ("openvino", "gguf", "ollama", "vllm")
SCHEMES = ("auto", "w8a8", "int8", "bf16")
KINDS = ("q8_0", "f16")


@click.command(
    "export",
    cls=Verb,
    help=say(
        "Make a classifier of a trained adapter: merged into its model, compressed, compared with the uncompressed one "
        "on the test calls, calibrated on the validation calls. What differs too much is refused. For other engines it "
        "writes the merged model alone."
    ),
    examples=(
        (
            (
                "qwenops finetune export run/adapter --calls calls.jsonl --labels labels.jsonl --splits splits.json "
                "--out classifier"
            ),
            say("For `qwenops registry register`, the smallest form that says what the trained model says."),
        ),
        ("qwenops finetune export run/adapter --to ollama --out for-ollama", say("A GGUF file with its Modelfile.")),
    ),
)
@click.argument(
    "adapter",
    cls=Operand,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help=say("Folder of the adapter, as `qwenops finetune train` wrote it."),
)
@click.option("--to", "form", cls=Flag, type=click.Choice(FORMS), default="openvino", help=say("For which engine."))
@click.option("--model", cls=Flag, default="", metavar="MODEL", help=NAME)
@click.option(
    "--calls",
    cls=Flag,
    type=click.Path(path_type=Path, exists=True),
    default=None,
    metavar="PATH",
    help=say("File or folder of calls."),
)
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
    default=None,
    metavar="PATH",
    help=say("What `qwenops calls split` wrote."),
)
@click.option(
    "--unredacted", cls=Flag, is_flag=True, help=say("Take calls from which nothing has removed personal data.")
)
@click.option(
    "--scheme",
    cls=Flag,
    type=click.Choice(SCHEMES),
    default="auto",
    help=say("How weights are stored; auto takes the smallest form that says what bf16 says."),
)
@click.option(
    "--precision",
    cls=Flag,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=None,
    help=say(
        "The share of calls filed without a person that shall be right at least; what calibrate chose, else 0.95."
    ),
)
@click.option(
    "--kind", cls=Flag, type=click.Choice(KINDS), default="q8_0", help=say("How a GGUF file stores matrices.")
)
@click.option(
    "--out", cls=Flag, type=click.Path(path_type=Path), required=True, metavar="FOLDER", help=say("Where to write.")
)
@option_flags("hub")
@json_flag
@click.pass_context
def export(  # noqa: PLR0913 -- click hands over one argument for each flag
    ctx: click.Context,
    /,
    *,
    adapter: Path,
    form: str,
    model: str,
    calls: Path | None,
    labels: Path | None,
    splits: Path | None,
    unredacted: bool,
    scheme: str,
    precision: float | None,
    kind: str,
    out: Path,
    as_json: bool,
) -> None:
    """Open, gather, export, print."""
    from qwenops.classify.export import ExportOptions
    from qwenops.classify.export import export as act
    from qwenops.classify.meaning import chosen_precision
    from qwenops.classify.train.adapter import open_adapter
    from qwenops.classify.train.gathering import DataFiles

    terminal = ctx.ensure_object(Terminal)
    opened = open_adapter(adapter)
    base = base_of(adapter, model, terminal, settings(ctx))
    if form != "openvino":
        _publish(terminal, adapter, base, out, form, kind)
        return
    if calls is None or splits is None:
        raise ConfigError(
            say("A classifier is compared and calibrated on labelled calls, and none were given."),
            hint=say("Give --calls and --splits, those that it was trained with."),
        )
    files = DataFiles(calls=calls, splits=splits, labels=labels, unredacted=unredacted)
    options = ExportOptions(
        base=base,
        out=out.absolute(),
        scheme=cast("Literal['auto', 'w8a8', 'int8', 'bf16']", scheme),
        target_precision=precision if precision is not None else chosen_precision(adapter),
    )
    with terminal.progress() as report:
        data = _gathered(opened, files, base, report)
        found = act(adapter, data, options, report=report, now=lambda: datetime.now(tz=UTC), tell=terminal.tell)
    _show(terminal, found, as_json=as_json)


def _gathered(adapter: "AdapterFolder", files: "DataFiles", base: Path, report: "Report") -> "ExportData":
    """Read the calls in the form in which the adapter was trained."""
    from qwenops.calls.split import Part
    from qwenops.calls.taxonomy import TAXONOMY, load
    from qwenops.classify.export import ExportData
    from qwenops.classify.train.gathering import gather_parts
    from qwenops.models.tokenizer import open_tokenizer

    prompt = adapter.manifest["prompt"]
    found = gather_parts(
        files,
        (Part.TRAIN, Part.VAL, Part.TEST),
        load(adapter.folder / TAXONOMY),
        open_tokenizer(base),
        budget_tokens=int(prompt["budget_tokens"]),
        legend=str(prompt["legend"]),
        report=report,
    )
    return ExportData(
        train=found.parts[Part.TRAIN],
        val=found.parts[Part.VAL],
        test=found.parts[Part.TEST],
        customers=found.customers,
        sources=found.sources,
    )


def _publish(terminal: Terminal, adapter: Path, base: Path, out: Path, form: str, kind: str) -> None:
    from qwenops.classify.publish import Format, publish
    from qwenops.models.gguf import GgufType

    with terminal.progress() as report:
        publish(adapter, base, out.absolute(), Format(form), kind=GgufType(kind), report=report)
    terminal.show_facts(((say("Folder"), str(out)),))
    if form == Format.OLLAMA:
        terminal.tell(say("`ollama create NAME -f {path}` makes a model of it.", path=str(out / "Modelfile")))


def _show(terminal: Terminal, found: "Exported", *, as_json: bool) -> None:
    parity, filed = found.parity, found.filed
    if as_json:
        from qwenops.classify.parity import parity_data
        from qwenops.classify.plain import to_plain

        body = {"folder": str(found.folder), "scheme": found.scheme.value, "macro_f1": found.macro_f1}
        told = {"parity": parity_data(parity), "filed": to_plain(filed)}
        terminal.show_json("qwenops.finetune.export/1", {**body, **told})
        return
    terminal.show_facts(
        (
            (say("Classifier"), str(found.folder)),
            (say("Weights"), found.scheme.value),
            (say("Same class as bf16"), f"{parity.agreement:.2%}"),
            (say("Macro-F1 on the test calls"), f"{found.macro_f1:.3f}"),
            (say("Filed under a class without a person"), f"{filed.auto:.1%}"),
            (say("Filed under a group of classes"), f"{filed.parent:.1%}"),
        )
    )
