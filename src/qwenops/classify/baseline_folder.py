"""The folder of the baselines: classifiers of words that learnt from a model's own calls, to be beaten by it.

    logistic/, complement/, prior/    the classifiers (`linear`)
    suspicious.jsonl                  labels to look at again, the most doubtful first
    metrics.json                      how good each is, out of fold and on the validation calls
    manifest.json                     what they were trained on

The test calls have no part in it: `trial` shows them to baselines and model alike.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from qwenops.atomic import write_text
from qwenops.calls.classes import Taxonomy
from qwenops.calls.split import Part
from qwenops.classify.answers import Answers, answers_of
from qwenops.classify.evaluate.counts import ACCURACY, MACRO, headlines, tallies
from qwenops.classify.labelled import LabelledCalls, WordedPart, worded_part
from qwenops.classify.linear import Baseline, Kind, load, predict, save
from qwenops.classify.mislabelled import Suspicion, suspicious
from qwenops.classify.plain import of_schema
from qwenops.errors import InvalidDataError, MissingPartError, ModelLoadError
from qwenops.models.artefact import MANIFEST
from qwenops.models.folders import new_folder
from qwenops.text import Report, Text, say

SCHEMA, METRICS_SCHEMA = "qwenops.baselines/1", "qwenops.baselines.metrics/1"
METRICS, SUSPICIOUS = "metrics.json", "suspicious.jsonl"
FOLDER = "baseline"
"""What it is called beside the adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """Baselines that were trained and written."""

    folder: Path
    best: Kind
    """The one that is best out of fold: chosen without the test."""
    out_of_fold: Mapping[Kind, float]
    """Macro-F1 of each on training calls that it did not see."""
    val: Mapping[Kind, float]
    """Macro-F1 on the validation calls; empty where there are none."""
    num_calls: int
    num_suspicious: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """Baselines that were read."""

    by_kind: Mapping[Kind, Baseline]
    best: Kind
    manifest: Mapping[str, Any]


def check_installed() -> None:
    """Raise MissingPartError unless the baselines can be trained."""
    if importlib.util.find_spec("sklearn") is None:
        raise MissingPartError(
            say("Training a baseline needs scikit-learn, which is not installed."),
            hint=say("Install the train extra: pip install 'qwenops[train]'."),
        )


def teach(labelled: LabelledCalls, out: Path, *, seed: int, report: Report, now: Callable[[], datetime]) -> Taught:
    """Train the baselines on the training calls and write their folder, whole or not at all.

    Args:
        labelled: Where the calls are.
        out: The folder; takes the place of what is there.
        seed: Of the folds.
        report: Is told how far it is.
        now: The time, for the manifest.

    Raises:
        MissingPartError: scikit-learn is not installed.
        InvalidDataError: Something is wrong with the files, or nothing can be learnt from them.
        InsufficientDiskError: There is no room.
    """
    from qwenops.classify.baseline import train

    check_installed()
    has_val = bool(labelled.splits.val)
    taught_by = worded_part(labelled, Part.TRAIN, lambda fraction, doing: report(0.1 * fraction, doing))
    shown = worded_part(labelled, Part.VAL, lambda _fraction, doing: report(0.1, doing)) if has_val else None
    labelled.finish(Part.TRAIN, *((Part.VAL,) if has_val else ()))
    leaves = labelled.taxonomy.leaves
    training = train(
        taught_by.texts,
        taught_by.labels,
        seed=seed,
        classes=leaves,
        groups=taught_by.customers,
        weights=taught_by.weights,
        report=lambda fraction, doing: report(0.1 + 0.85 * fraction, doing),
    )
    out_of_fold = {kind: headline(answers) for kind, answers in training.out_of_fold.items()}
    val: dict[Kind, dict[str, float]] = {}
    if shown is not None:
        val = {kind: headline(_answers(each, shown)) for kind, each in training.baselines.items()}
    best = max(out_of_fold, key=lambda kind: out_of_fold[kind]["macro_f1"])
    doubted = suspicious(training.out_of_fold[best])
    metrics = {
        "schema": METRICS_SCHEMA,
        "best": best.value,
        "out_of_fold": {kind.value: each for kind, each in out_of_fold.items()},
        "val": {kind.value: each for kind, each in val.items()},
        "suspicious": len(doubted),
    }
    manifest = _manifest(labelled, taught_by, best, seed, now)
    _write_folder(out, training.baselines, [_suspicion_data(each, taught_by) for each in doubted], metrics, manifest)
    report(1.0, say("Done"))
    return Taught(
        folder=out,
        best=best,
        out_of_fold={kind: each["macro_f1"] for kind, each in out_of_fold.items()},
        val={kind: each["macro_f1"] for kind, each in val.items()},
        num_calls=len(taught_by.ids),
        num_suspicious=len(doubted),
    )


def open_baselines(folder: Path, taxonomy: Taxonomy) -> Baselines:
    """Read the baselines.

    Raises:
        ModelLoadError: They are not there, were changed, or are of another version.
        InvalidDataError: They are about other classes.
    """
    try:
        manifest = of_schema(json.loads((folder / MANIFEST).read_bytes()), SCHEMA)
        best, ref = Kind(manifest["best"]), str(manifest["taxonomy"]["ref"])
    except FileNotFoundError as error:
        raise _unreadable(folder, say("{name} is missing", name=MANIFEST)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder, say("its manifest is incomplete ({reason})", reason=repr(error))) from error
    found = {kind: load(folder / kind.value) for kind in Kind}
    if ref != taxonomy.ref or any(each.classes != taxonomy.leaves for each in found.values()):
        raise InvalidDataError(
            say(
                "The baselines in {folder} are about {ref}, and the model is about {ours}.",
                folder=str(folder),
                ref=ref,
                ours=taxonomy.ref,
            ),
            hint=say("Train them again with `qwenops finetune baseline` and the model's taxonomy."),
        )
    return Baselines(by_kind=found, best=best, manifest=manifest)


def headline(answers: Answers) -> dict[str, float]:
    """Return macro-F1 and accuracy without intervals, for a first look."""
    rows = np.zeros(answers.num_calls, dtype=np.int64)
    counted = tallies(answers.truth, answers.said, rows, num_classes=len(answers.classes), num_rows=1)
    figures = headlines(counted)[0]
    return {"macro_f1": float(figures[MACRO]), "accuracy": float(figures[ACCURACY])}


def _answers(baseline: Baseline, part: WordedPart) -> Answers:
    return answers_of(part.labels, predict(baseline, part.texts), baseline.classes, groups=part.customers)


def _suspicion_data(found: Suspicion, part: WordedPart) -> dict[str, Any]:
    return {
        "conversation_id": part.ids[found.row],
        "given": found.given,
        "likely": found.likely,
        "p_given": round(found.p_given, 6),
        "p_likely": round(found.p_likely, 6),
    }


def _manifest(
    labelled: LabelledCalls, part: WordedPart, best: Kind, seed: int, now: Callable[[], datetime]
) -> dict[str, Any]:
    taxonomy = labelled.taxonomy
    return {
        "schema": SCHEMA,
        "created_at": now().isoformat(timespec="seconds"),
        "best": best.value,
        "taxonomy": {"ref": taxonomy.ref, "sha256": taxonomy.sha256},
        "redaction": sorted(labelled.redactions),
        "data": {
            "sources": labelled.files.hashes(),
            "splits_sha256": labelled.files.splits_sha256(),
            "calls": len(part.ids),
        },
        "seed": seed,
    }


def _write_folder(
    out: Path,
    baselines: Mapping[Kind, Baseline],
    doubted: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> None:
    with new_folder(out) as folder:
        for kind, baseline in baselines.items():
            save(baseline, folder / kind.value)
        lines = [json.dumps(each, ensure_ascii=False) for each in doubted]
        write_text(folder / SUSPICIOUS, "".join(f"{line}\n" for line in lines), mode=0o600)
        _write(folder / METRICS, metrics)
        _write(folder / MANIFEST, manifest)


def _write(path: Path, data: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _unreadable(folder: Path, why: Text) -> ModelLoadError:
    return ModelLoadError(
        say("There are no baselines that can be used in {folder}: {why}.", folder=str(folder), why=why),
        hint=say("Train them with `qwenops finetune baseline`, on the calls that the model was trained on."),
    )
