"""From an adapter and files to a trial and to a calibration: what `finetune evaluate` and `calibrate` do.

    run/adapter/        what training wrote
    run/baseline/       `baseline_folder`: trained on the same calls
    run/logits/         `part_logits`: what the model said, so that it is asked once
    run/calibration/    `meaning`: fitted to the part val, or to one that was kept for it
    run/evaluation/     the trial on the test calls
        metrics.json, predictions.jsonl, answers.npz    figures and verdicts, each call, numbers to compare with
        manifest.json                                   what was measured on what

A trial under other splits than those of training could have been trained for: it is refused unless somebody says that
the calls are others.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qwenops.atomic import write_text
from qwenops.calls.classes import Taxonomy
from qwenops.calls.render import render
from qwenops.calls.schema import Call, Label
from qwenops.calls.split import Part
from qwenops.calls.taxonomy import TAXONOMY, load
from qwenops.classify import baseline_folder
from qwenops.classify import meaning as meanings
from qwenops.classify.answers import answers_of
from qwenops.classify.baseline_folder import Baselines, open_baselines
from qwenops.classify.calibrate import softmax
from qwenops.classify.dataset import EncodedCalls, encode
from qwenops.classify.golden import fingerprint
from qwenops.classify.hierarchy import Hierarchy, hierarchy_of
from qwenops.classify.labelled import DataFiles, LabelledCalls, open_labelled
from qwenops.classify.linear import predict
from qwenops.classify.meaning import Meaning, check_part, meaning_of, part_of, read_meaning, write_meaning
from qwenops.classify.part_logits import OpenScore, PartLogits, Score, adapter_sha256, open_torch, part_logits
from qwenops.classify.prediction import dump_prediction
from qwenops.classify.prompt import prompt_hash
from qwenops.classify.train.adapter import AdapterFolder, open_adapter, verify_adapter
from qwenops.classify.train.deciding import versions
from qwenops.classify.trial import (
    Cost,
    Facts,
    Said,
    Trial,
    TrialCalls,
    facts_of,
    hold_trial,
    predictions_of,
    trial_data,
)
from qwenops.errors import InvalidDataError, ModelLoadError
from qwenops.hardware import detect_machine
from qwenops.models.artefact import MANIFEST
from qwenops.models.folders import new_folder
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from qwenops.statistics.samples import Array
from qwenops.text import Report, Text, say

SCHEMA = "qwenops.evaluation-folder/1"
FOLDER = "evaluation"
"""What the folder of a trial is called beside the adapter."""
METRICS, PREDICTIONS, ANSWERS = "metrics.json", "predictions.jsonl", "answers.npz"
_HASH_CHARS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """How to find out what an adapter's answers mean."""

    adapter: Path
    base: Path
    """The checkpoint that it was trained on."""
    out: Path | None = None
    """None puts it beside the adapter, where a trial looks for it."""
    part: Part | None = None
    """None takes the part that is for nothing else, else val."""
    target_precision: float = meanings.TARGET_PRECISION
    coverage: float = meanings.COVERAGE
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where it goes."""
        return self.out if self.out is not None else self.adapter.absolute().parent / meanings.FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOptions:
    """What to hold a trial of."""

    adapter: Path
    base: Path
    """The checkpoint that it was trained on."""
    baseline: Path | None = None
    """None looks beside the adapter."""
    out: Path | None = None
    """None puts it beside the adapter."""
    by: tuple[str, ...] = ()
    """Further facts by which calls are divided."""
    facts: Path | None = None
    """Lines of JSON with a conversation_id and such facts."""
    other_calls: bool = False
    """Whether somebody vouches that neither model nor baselines nor calibration ever had the calls."""
    price_per_hour: float | None = None
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where it goes."""
        return self.out if self.out is not None else self.adapter.absolute().parent / FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A calibration that was made."""

    folder: Path
    meaning: Meaning
    part: Part
    num_calls: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """A trial that was held and written."""

    folder: Path
    trial: Trial
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Held:
    """A trial that was held, and all that went into it."""

    calls: TrialCalls
    encoded: EncodedCalls
    said: Said
    meaning: Meaning
    trial: Trial
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Work:
    """What the steps share."""

    adapter: AdapterFolder
    taxonomy: Taxonomy
    tokenizer: Tokenizer
    labelled: LabelledCalls
    score: Callable[[], Score]
    report: Report
    tell: Callable[[Text], None]
    now: Callable[[], datetime]
    clock: Callable[[], float]

    @property
    def hierarchy(self) -> Hierarchy:
        return hierarchy_of(self.taxonomy)

    def encoded(self, part: Part, heard: Callable[[Call], None] = lambda _call: None) -> EncodedCalls:
        """Return a part in the form in which the model was trained; `heard` is given each of its calls in order."""
        prompt = self.adapter.manifest["prompt"]

        def each() -> Iterator[tuple[Call, Label]]:
            for call, label in self.labelled.pairs(part):
                heard(call)
                yield call, label

        found = encode(
            each(),
            taxonomy=self.taxonomy,
            tokenizer=self.tokenizer,
            budget_tokens=int(prompt["budget_tokens"]),
            legend=str(prompt["legend"]),
            total=len(self.labelled.splits.parts()[part]),
            report=self.report,
        )
        self.labelled.finish(part)
        return found

    def logits(self, part: Part, calls: EncodedCalls) -> PartLogits:
        """Return what the model says of a part."""
        return part_logits(self.adapter, part, calls, score=self.score, report=self.report, clock=self.clock)


def calibrate_adapter(
    files: DataFiles,
    options: CalibrateOptions,
    *,
    report: Report,
    now: Callable[[], datetime],
    tell: Callable[[Text], None] = lambda _sentence: None,
    clock: Callable[[], float] = time.monotonic,
    open_score: OpenScore = open_torch,
) -> Calibrated:
    """Find out what an adapter's answers mean, from calls that it did not learn from, and write it.

    Args:
        files: Where calls, labels and splits are.
        options: What was chosen.
        report: Is told how far it is.
        now: The time, for the manifest.
        tell: Is told what should stay readable.
        clock: Seconds from any point.
        open_score: Loads the model.

    Raises:
        ConfigError: The part is the test's or the training's, or the precision is no share.
        InvalidDataError: Something is wrong with the files, or the model was trained under other splits.
        ModelLoadError: Adapter and checkpoint do not belong together.
        InsufficientDiskError: There is no room.
    """
    if options.part is not None:
        check_part(options.part)
    work = _open(files, options.adapter, options.base, report, now, tell, clock, open_score)
    _check_splits(work)
    return _calibrated(work, options)


def try_adapter(
    files: DataFiles,
    options: TrialOptions,
    *,
    report: Report,
    now: Callable[[], datetime],
    tell: Callable[[Text], None] = lambda _sentence: None,
    clock: Callable[[], float] = time.monotonic,
    open_score: OpenScore = open_torch,
) -> Tried:
    """Hold a trial on the test calls and write its folder, whole or not at all.

    The arguments are those of `calibrate_adapter`. Where there is no calibration of this adapter yet, one is made.

    Raises:
        InvalidDataError: Something is wrong with the files, or model or baselines were trained under other splits.
        ModelLoadError: There are no baselines, or adapter and checkpoint do not belong together.
        InsufficientDiskError: There is no room.
    """
    work = _open(files, options.adapter, options.base, report, now, tell, clock, open_score)
    if not options.other_calls:
        _check_splits(work)
    baselines = open_baselines(
        options.baseline or options.adapter.absolute().parent / baseline_folder.FOLDER, work.taxonomy
    )
    if not options.other_calls:
        _check_baselines(work, baselines)
    meaning = _meaning(work, options)
    encoded, calls, texts = _test_calls(work, options)
    scored = work.logits(Part.TEST, encoded)
    report(0.0, say("Comparing with the baselines"))
    said = Said(
        model=softmax(scored.logits.astype(np.float64)),
        baselines={kind: predict(each, texts) for kind, each in baselines.by_kind.items()},
        best=baselines.best,
    )
    trial = hold_trial(calls, said, meaning, work.hierarchy, seed=options.seed, by=options.by)
    cost = Cost(
        calls=len(encoded),
        tokens=scored.tokens,
        seconds=scored.seconds,
        threads=scored.threads,
        price_per_hour=options.price_per_hour,
    )
    held = _Held(calls=calls, encoded=encoded, said=said, meaning=meaning, trial=trial, cost=cost)
    _write_trial(work, options, held)
    report(1.0, say("Done"))
    return Tried(folder=options.folder, trial=trial, cost=cost)


def _test_calls(work: _Work, options: TrialOptions) -> tuple[EncodedCalls, TrialCalls, list[str]]:
    """Return the test calls as tokens, with what is known of them, and as texts; all in one order."""
    more = read_facts(options.facts) if options.facts is not None else {}
    facts: list[Facts] = []
    texts: list[str] = []

    def heard(call: Call) -> None:
        facts.append(facts_of(call, options.by, more.get(call.conversation_id)))
        texts.append(render(call))

    encoded = work.encoded(Part.TEST, heard)
    calls = TrialCalls(
        facts=tuple(facts),
        truth=tuple(work.taxonomy.leaves[label] for label in encoded.labels),
        tokens=tuple(int(length) for length in encoded.lengths),
    )
    return encoded, calls, texts


def read_facts(path: Path) -> dict[str, dict[str, str | float]]:
    """Return the plain facts of lines of JSON, by conversation; lists and objects in them are left out.

    Raises:
        InvalidDataError: A line is none, or names no conversation.
    """
    found: dict[str, dict[str, str | float]] = {}
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                told = _fact_line(path, number, line)
                kept = {name: value for name, value in told.items() if isinstance(value, str | int | float)}
                found[str(told["conversation_id"])] = kept
    return found


def verdict_beside(adapter: Path) -> dict[str, Any] | None:
    """Return what the trial beside an adapter says of it, for whoever passes the adapter on; None where there is none.

    Args:
        adapter: The adapter's folder; a trial of another adapter that lies there does not count.
    """
    folder = adapter.absolute().parent / FOLDER
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        metrics = json.loads((folder / METRICS).read_bytes())
        if manifest["adapter_sha256"] != adapter_sha256(open_adapter(adapter)):
            return None
        return {
            "use_model": bool(metrics["use_model"]),
            "best_baseline": metrics["best_baseline"],
            "verdict": metrics["verdicts"][metrics["decided_by"]],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open(
    files: DataFiles,
    adapter: Path,
    base: Path,
    report: Report,
    now: Callable[[], datetime],
    tell: Callable[[Text], None],
    clock: Callable[[], float],
    open_score: OpenScore,
) -> _Work:
    """Open what the steps need; the model itself is loaded when it has to compute something."""
    opened = open_adapter(adapter)
    verify_adapter(opened)
    taxonomy = load(adapter / TAXONOMY)
    tokenizer = open_tokenizer(base)
    _check_form(opened, taxonomy, tokenizer)
    return _Work(
        adapter=opened,
        taxonomy=taxonomy,
        tokenizer=tokenizer,
        labelled=open_labelled(files, taxonomy),
        score=cache(lambda: open_score(opened, base, report)),
        report=report,
        tell=tell,
        now=now,
        clock=clock,
    )


def _check_form(adapter: AdapterFolder, taxonomy: Taxonomy, tokenizer: Tokenizer) -> None:
    """Refuse an adapter that was trained on prompts of another form than this program makes."""
    prompt = adapter.manifest["prompt"]
    budget_tokens, legend = int(prompt["budget_tokens"]), str(prompt["legend"])
    ours = (
        prompt_hash(budget_tokens=budget_tokens, legend=legend),
        fingerprint(tokenizer, budget_tokens=budget_tokens, legend=legend),
    )
    if ours != (prompt["sha256"], prompt["fingerprint"]) or taxonomy.leaves != adapter.leaves:
        raise ModelLoadError(
            say("The adapter in {folder} was trained on prompts of another form.", folder=str(adapter.folder)),
            hint=say("Give the checkpoint that it was trained on, or train it again with this version of qwenops."),
        )


def _check_splits(work: _Work) -> None:
    """Refuse calls that the model may have learnt from."""
    sources = work.adapter.manifest.get("data", {}).get("sources", {})
    if work.labelled.files.splits_sha256() not in sources.values():
        raise InvalidDataError(
            say(
                "The adapter was trained under other splits than {path}, so these calls may be among those that it "
                "learnt from.",
                path=str(work.labelled.files.splits),
            ),
            hint=say("Give the splits that it was trained with; --other-calls evaluates on calls it cannot have had."),
        )


def _check_baselines(work: _Work, baselines: Baselines) -> None:
    if baselines.manifest.get("data", {}).get("splits_sha256") != work.labelled.files.splits_sha256():
        raise InvalidDataError(
            say("The baselines were trained under other splits than {path}.", path=str(work.labelled.files.splits)),
            hint=say("Train them again with `qwenops finetune baseline`."),
        )


def _meaning(work: _Work, options: TrialOptions) -> Meaning:
    """Return what the answers mean: as it was calibrated, or calibrated now where nobody did."""
    wanted = CalibrateOptions(adapter=options.adapter, base=options.base, seed=options.seed)
    kept = read_meaning(wanted.folder)
    splits = None if options.other_calls else work.labelled.files.splits_sha256()
    if kept is not None and kept.belongs(adapter_sha256(work.adapter), splits):
        return kept.meaning
    if options.other_calls:
        raise ModelLoadError(
            say("There is no calibration of this adapter in {folder}.", folder=str(wanted.folder)),
            hint=say("Make one with `qwenops finetune calibrate` and the splits that it was trained with."),
        )
    if kept is not None:
        target = kept.meaning.thresholds.target_precision
        wanted = replace(wanted, target_precision=target)
    made = _calibrated(work, wanted)
    work.tell(
        say(
            "Calibrated on the part {part} for a precision of {precision:.0%}; `qwenops finetune calibrate` "
            "chooses anew.",
            part=made.part.value,
            precision=made.meaning.thresholds.target_precision,
        )
    )
    return made.meaning


def _calibrated(work: _Work, options: CalibrateOptions) -> Calibrated:
    part = options.part or part_of(work.labelled.splits)
    calls = work.encoded(part)
    logits = work.logits(part, calls).logits.astype(np.float64)
    leaves = work.taxonomy.leaves
    customers = [work.labelled.customers.get(name, "") for name in calls.ids]
    answers = answers_of([leaves[label] for label in calls.labels], softmax(logits), leaves, groups=customers)
    meaning = meaning_of(
        answers,
        work.hierarchy,
        target_precision=options.target_precision,
        coverage=options.coverage,
        seed=options.seed,
        part=part,
    )
    if part is Part.VAL and int(work.adapter.manifest.get("metrics", {}).get("best_epoch", 0)) > 0:
        work.tell(
            say(
                "Training chose its epoch by the same calls, so the model may look a little surer here than it is; a "
                "part of its own (`calls split --shares ...,calibration=0.1`) does not have that."
            )
        )
    write_meaning(
        options.folder,
        meaning,
        {
            "created_at": work.now().isoformat(timespec="seconds"),
            "adapter_sha256": adapter_sha256(work.adapter),
            "splits_sha256": work.labelled.files.splits_sha256(),
            "taxonomy": work.adapter.manifest["taxonomy"],
            "part": part.value,
            "data": {"calls": len(calls), "sha256": calls.sha256(), "sources": work.labelled.files.hashes()},
            "target_precision": options.target_precision,
            "coverage": options.coverage,
            "seed": options.seed,
        },
    )
    return Calibrated(folder=options.folder, meaning=meaning, part=part, num_calls=len(calls))


def _write_trial(work: _Work, options: TrialOptions, held: _Held) -> None:
    trial, calls, meaning = held.trial, held.calls, held.meaning
    splits, machine = work.labelled.splits, detect_machine()
    sha256 = adapter_sha256(work.adapter)
    told = predictions_of(trial, calls, meaning, work.taxonomy, work.hierarchy, model=f"adapter:{sha256[:_HASH_CHARS]}")
    metrics = {**trial_data(trial, held.cost), "training": work.adapter.manifest.get("metrics", {})}
    manifest = {
        "schema": SCHEMA,
        "created_at": work.now().isoformat(timespec="seconds"),
        "adapter_sha256": sha256,
        "splits_sha256": work.labelled.files.splits_sha256(),
        "taxonomy": work.adapter.manifest["taxonomy"],
        "base": work.adapter.manifest["base"],
        "prompt": {"sha256": work.adapter.manifest["prompt"]["sha256"]},
        "redaction": sorted(work.labelled.redactions),
        "data": {"calls": len(held.encoded), "sha256": held.encoded.sha256(), "sources": work.labelled.files.hashes()},
        "calibration": {"calls": meaning.calibration.num_calls, "seed": meaning.calibration.seed},
        "other_calls": options.other_calls,
        "by": list(options.by),
        "seed": options.seed,
        "split": {"keys": [key.value for key in splits.keys], "by_time": splits.by_time, "seed": splits.seed},
        "machine": {"processor": machine.processor.model, "cores": machine.usable_cores.value},
        "versions": versions(),
    }
    with new_folder(options.folder) as folder:
        (folder / TAXONOMY).write_bytes((work.adapter.folder / TAXONOMY).read_bytes())
        write_text(folder / PREDICTIONS, "".join(f"{dump_prediction(each)}\n" for each in told), mode=0o600)
        _write_answers(folder / ANSWERS, calls, trial, held.said, work.taxonomy.leaves)
        _write(folder / METRICS, metrics)
        _write(folder / MANIFEST, manifest)


def _write_answers(path: Path, calls: TrialCalls, trial: Trial, said: Said, leaves: Sequence[str]) -> None:
    """Keep what each said, so that a later model can be compared on the same calls."""
    arrays: dict[str, Any] = {
        "ids": np.array([each.conversation_id for each in calls.facts]),
        "classes": np.array(leaves),
        "truth": trial.answers.truth,
        "customers": trial.answers.groups,
        "model": _narrow(trial.answers.probabilities),
        "uncalibrated": _narrow(said.model),
        **{kind.value: _narrow(each) for kind, each in said.baselines.items()},
    }
    with path.open("wb") as out:
        np.savez_compressed(out, allow_pickle=False, **arrays)
    path.chmod(0o600)


def _narrow(values: Array) -> Any:
    return values.astype(np.float32)


def _fact_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise _no_facts(path, number) from error
    if not isinstance(told, dict) or "conversation_id" not in told:
        raise _no_facts(path, number)
    return told


def _no_facts(path: Path, number: int) -> InvalidDataError:
    return InvalidDataError(
        say("{path}:{line}: this is no JSON object with a conversation_id.", path=str(path), line=number),
        hint=say("Each line names a call and says more about it, as truth.jsonl of `qwenops calls synth` does."),
    )


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")
