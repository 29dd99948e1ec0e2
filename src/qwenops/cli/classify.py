"""`qwenops classify FILE`: calls of a file, or of standard input, classified exactly once."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qwenops.calls.lines import STDIN
from qwenops.calls.readers.entries import ReadOptions
from qwenops.cli.classifying import (
    open_classifier,
    open_registry,
    open_state,
    redaction_secret,
    wanted_classifier,
)
from qwenops.cli.flags import json_flag, option_flags, own_flags, own_options, settings
from qwenops.cli.help import Flag, Operand, Verb
from qwenops.cli.terminal import Report, Terminal
from qwenops.config import Settings
from qwenops.errors import ConfigError
from qwenops.options import format_seconds, show_number
from qwenops.text import say

if TYPE_CHECKING:
    from qwenops.calls.classes import Taxonomy
    from qwenops.calls.schema import Call
    from qwenops.classify.batch import BatchSummary, Finish, Judged
    from qwenops.classify.prediction import Prediction
    from qwenops.classify.registry import Registered
    from qwenops.classify.score import Classifier, Form
    from qwenops.classify.shards import Seen, ShardFolder
    from qwenops.state.review import Candidate

LINES = frozenset({".jsonl", ".ndjson"})
TABLES = frozenset({".csv", ".xlsx"})
MOST_TOLD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What one call of the command does."""

    source: Path
    out: Path | None
    """None prints predictions on standard output."""
    read: ReadOptions
    review: bool
    terminal: Terminal
    made: Settings

    @property
    def rejected(self) -> Path | None:
        """Where what cannot be classified is named."""
        return self.out.with_name(f"{self.out.name}.rejected.jsonl") if self.out else None


@click.command(
    "classify",
    cls=Verb,
    help=say(
        "Classify the calls of a file of any size: lines of JSON, CSV, .xlsx, transcripts of speech recognition. Each "
        "call is redacted first and classified exactly once: broken off in whatever way, the same command goes on "
        "where it was. What cannot be classified is named in a side file with its line and the reason."
    ),
    examples=(
        ("qwenops classify calls.csv --classifier complaints --out filed.xlsx", say("A table that Excel opens.")),
        ("cat calls.jsonl | qwenops classify - --classifier complaints", say("Lines of JSON, in and out.")),
    ),
)
@click.argument(
    "file",
    cls=Operand,
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, allow_dash=True),
    help=say("File or folder of calls; - is standard input."),
)
@click.option(
    "--out",
    cls=Flag,
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help=say("Where predictions go: .jsonl, .csv or .xlsx. FILE.predictions.jsonl beside the calls when left out."),
)
@click.option(
    "--review", cls=Flag, is_flag=True, help=say("Put the calls that a person should look at into the review queue.")
)
@option_flags(
    "classify", "state", "calls", only=("classify.model", "classify.registry", "state.database", "calls.secret_file")
)
@own_flags(ReadOptions)
@json_flag
@click.pass_context
def classify(ctx: click.Context, /, file: Path, out: Path | None, *, review: bool, as_json: bool) -> None:
    """Open the classifier, go through the file, print what was done."""
    terminal = ctx.ensure_object(Terminal)
    made = settings(ctx)
    job = _Job(
        source=file,
        out=_checked(file, out),
        read=own_options(ctx, ReadOptions),
        review=review,
        terminal=terminal,
        made=made,
    )
    found = open_registry(terminal, made).open(wanted_classifier(made))
    with terminal.progress() as report, _kept(job):
        summary = asyncio.run(_classify(job, found, report))
    _show(job, found.ref, summary, as_json=as_json)


@contextlib.contextmanager
def _kept(job: _Job) -> Iterator[None]:
    """Tell who breaks off that nothing is lost by that."""
    try:
        yield
    except KeyboardInterrupt:
        if job.out is not None:
            job.terminal.tell(say("What is done is kept; the same command goes on where it was."))
        raise


def _checked(file: Path, out: Path | None) -> Path | None:
    """Return where predictions go.

    Raises:
        ConfigError: It is a kind of file that is not written.
    """
    if out is None:
        whole = file if file.name else file.absolute()
        return None if str(file) == STDIN else whole.with_name(f"{whole.name}.predictions.jsonl")
    if out.suffix.lower() not in LINES | TABLES:
        raise ConfigError(
            say("{path} is no file that predictions are written into.", path=str(out)),
            hint=say("Let its name end in {possible}.", possible=", ".join(sorted(LINES | TABLES))),
        )
    return out


async def _classify(job: _Job, found: "Registered", report: Report) -> "BatchSummary":
    classifier = await open_classifier(found, job.made, redaction_secret(job.terminal, job.made))
    try:
        if classifier.form.warning is not None:
            job.terminal.tell(classifier.form.warning)
        with contextlib.ExitStack() as stack:
            offer = stack.enter_context(_offering(job, classifier))
            if job.out is None:
                return await _to_stdout(job, classifier, offer, report)
            return await _to_file(job, job.out, classifier, offer, report)
    finally:
        await classifier.aclose()


async def _to_file(job: _Job, out: Path, classifier: "Classifier", offer: "Finish", report: Report) -> "BatchSummary":
    from qwenops.classify.shards import open_folder

    with open_folder(out.with_name(f"{out.name}.parts"), model=classifier.ref) as folder:

        def finish(judged: "Judged") -> None:
            offer(judged)  # before the shard counts as done: to offer a call twice changes nothing
            folder.finish(judged.predictions, judged.problems)

        summary = await _go(job, classifier, folder.seen, finish, report)
        report(1.0, say("Writing {path}", path=out.name))
        _assemble(folder, out, classifier.form.taxonomy)
        if job.rejected is not None:
            folder.assemble_rejected(job.rejected)
    return summary


async def _to_stdout(job: _Job, classifier: "Classifier", offer: "Finish", report: Report) -> "BatchSummary":
    from qwenops.classify.prediction import dump_prediction
    from qwenops.classify.shards import Seen

    num_told = 0

    def finish(judged: "Judged") -> None:
        nonlocal num_told
        offer(judged)
        for prediction in judged.predictions:
            job.terminal.show(dump_prediction(prediction))
        for problem in judged.problems[: max(0, MOST_TOLD - num_told)]:
            job.terminal.tell(f"{problem.place}: {job.terminal.said(problem.what)}")
        num_told += len(judged.problems)

    with contextlib.closing(Seen()) as seen:
        return await _go(job, classifier, seen, finish, report)


async def _go(job: _Job, classifier: "Classifier", seen: "Seen", finish: "Finish", report: Report) -> "BatchSummary":
    from qwenops.calls.readers import open_calls
    from qwenops.classify.batch import SoFar, classify_all, portions

    so_far = SoFar()
    reading = open_calls(job.source, options=job.read, report=so_far.note)
    size = job.made.classify.shard_calls
    waiting = portions(reading, classifier, seen, size=size, so_far=so_far)
    return await classify_all(waiting, classifier, finish, so_far=so_far, report=report)


@contextlib.contextmanager
def _offering(job: _Job, classifier: "Classifier") -> "Iterator[Finish]":
    """Yield what puts calls into the review queue that belong there; nothing where that is not wanted."""
    if not job.review:
        yield lambda _judged: None
        return
    from qwenops.state.review import offer

    with open_state(job.terminal, job.made) as database:

        def put(judged: "Judged") -> None:
            pairs = zip(judged.calls, judged.predictions, strict=True)
            candidates = [_candidate(call, told, classifier.form) for call, told in pairs]
            offer(database, candidates, job.made.state.review)

        yield put


def _candidate(call: "Call", told: "Prediction", form: "Form") -> "Candidate":
    from qwenops.classify.prediction import DecisionKind
    from qwenops.state.review import Candidate

    return Candidate(
        conversation_id=call.conversation_id,
        customer_id=call.customer_id,
        model=told.model,
        taxonomy=form.taxonomy.ref,
        predicted=told.primary,
        confidence=told.p,
        probabilities=told.probs,
        turns=[{"role": turn.role.value, "text": turn.text} for turn in call.turns],
        is_unsure=told.decision is DecisionKind.REVIEW,
        is_critical=told.primary in form.critical,
    )


COLUMNS: Mapping[str, str] = {
    "conversation_id": "conversation_id",
    "primary": "category",
    "zh": "category_zh",
    "en": "category_en",
    "path": "path",
    "p": "confidence",
    "decision": "decision",
    "second": "second_category",
    "second_p": "second_confidence",
    "model": "model",
    "tokens": "tokens",
    "ts": "classified_at",
}


def _assemble(folder: "ShardFolder", out: Path, taxonomy: "Taxonomy") -> None:
    """Write all predictions into the file that was asked for."""
    from qwenops.calls.tables import write_table

    if out.suffix.lower() in LINES:
        folder.assemble(out)
    else:
        write_table(out, (_row(json.loads(line), taxonomy) for line in folder.lines()), COLUMNS)


def _row(told: Mapping[str, Any], taxonomy: "Taxonomy") -> dict[str, Any]:
    """Return a prediction as a row that people read."""
    others = [(p, leaf) for leaf, p in told["probs"].items() if leaf != told["primary"]]
    second_p, second = max(others, default=(None, ""))
    name = taxonomy.class_of(told["primary"]).name
    return {
        "conversation_id": told["conversation_id"],
        "primary": told["primary"],
        "zh": name.zh,
        "en": name.en,
        "path": " / ".join(told.get("path", ())),
        "p": told["p"],
        "decision": told["decision"],
        "second": second,
        "second_p": second_p,
        "model": told["model"],
        "tokens": told.get("tokens"),
        "ts": told.get("ts", ""),
    }


def _show(job: _Job, ref: str, summary: "BatchSummary", *, as_json: bool) -> None:
    terminal = job.terminal
    rejected = str(job.rejected) if job.rejected is not None and summary.rejected + summary.warnings else None
    if as_json and job.out is not None:
        terminal.show_json(
            "qwenops.classified/1",
            {
                "model": ref,
                "out": str(job.out),
                "classified": summary.classified,
                "passed_over": summary.passed_over,
                "rejected": summary.rejected,
                "warnings": summary.warnings,
                "rejected_file": rejected,
                "decisions": summary.decisions,
                "tokens": summary.tokens,
                "elapsed_s": summary.elapsed_s,
                "calls_per_s": summary.calls_per_s,
            },
        )
        return
    terminal.tell(
        say(
            "{count} calls classified in {time}, {speed} a second; {before} were classified before.",
            count=summary.classified,
            time=format_seconds(float(round(summary.elapsed_s))),
            speed=show_number(summary.calls_per_s),
            before=summary.passed_over,
        )
    )
    for kind, count in sorted(summary.decisions.items()):
        terminal.tell(f"  {kind}: {count}")
    if summary.rejected:
        terminal.tell(say("{count} could not be classified.", count=summary.rejected))
    if rejected is not None:
        terminal.tell(say("What is wrong with the input: {path}", path=rejected))
    if job.out is not None:
        terminal.tell(say("Predictions: {path}", path=str(job.out)))
