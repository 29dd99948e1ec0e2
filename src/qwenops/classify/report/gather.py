"""Records out of the folders that commands leave: of a trial, of an exported classifier, or one written before.

    run/evaluation/     the trial: metrics.json, answers.npz, manifest.json, taxonomy.yaml
    run/calibration/    what its probabilities mean, fitted to other calls
    run/baseline/       labels to look at again

A classifier of the registry carries its own test in it (metrics.json), with calibration and thresholds beside it.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from qwenops.calls.classes import Taxonomy
from qwenops.calls.taxonomy import load
from qwenops.classify.calibrate import Calibration, calibration_of
from qwenops.classify.decide import Filed, thresholds_of
from qwenops.classify.evaluate.comparing import Verdict
from qwenops.classify.evaluate.evaluation import Evaluation, Reliability
from qwenops.classify.mislabelled import Suspicion
from qwenops.classify.plain import from_plain
from qwenops.classify.report.record import (
    Cost,
    DoubtedLabel,
    OperatingPoint,
    PartFacts,
    Provenance,
    Record,
    Rival,
    critical_of,
    names_of,
    read_record,
    unreadable,
)
from qwenops.classify.trial import MODEL

RECORD = "evaluation.json"
METRICS, ANSWERS, SUSPICIOUS = "metrics.json", "answers.npz", "suspicious.jsonl"
_CALIBRATION, _BASELINE = "calibration", "baseline"
"""Folders beside a trial's."""


def record_of(folder: Path, name: str = MODEL) -> Record:
    """Return what is known about a classifier whose folder it is.

    Args:
        folder: Of a trial, of an exported classifier, or one with a record.
        name: What the classifier is called, where the folder does not say.

    Raises:
        InvalidDataError: There is no evaluation in it that this version can read.
    """
    if (folder / RECORD).is_file():
        return read_record(folder / RECORD)
    try:
        metrics, manifest = _json(folder / METRICS), _part(_json_if(folder / "manifest.json"))
        taxonomy = load(folder / "taxonomy.yaml")
        if "verdicts" in metrics:
            return _of_trial(folder, metrics, manifest, taxonomy)
        return _of_classifier(folder, name, metrics, manifest, taxonomy)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(folder, error) from error


def _of_trial(folder: Path, metrics: Mapping[str, Any], manifest: Mapping[str, Any], taxonomy: Taxonomy) -> Record:
    evaluation = from_plain(Evaluation, metrics["test"])
    filed = from_plain(Filed, metrics["filed"])
    best = metrics["best_baseline"]
    rivals = {kind: from_plain(Evaluation, each) for kind, each in metrics["baselines"].items()}
    kept = _own_calibration(folder, manifest)
    points: tuple[OperatingPoint, ...] = ()
    if kept is not None:
        chosen = thresholds_of(_json(kept / "thresholds.json"))
        points = (OperatingPoint(thresholds=chosen, filed=filed),)
    doubted, num_labels = _doubted(folder.parent / _BASELINE, manifest)
    return Record(
        name=MODEL,
        made_at=_moment(manifest.get("created_at")),
        evaluation=evaluation,
        before=from_plain(Reliability, metrics["uncalibrated"]),
        calibration=calibration_of(_json(kept / "calibration.json")) if kept is not None else None,
        verdicts=tuple(from_plain(Verdict, each) for each in metrics["verdicts"].values()),
        rivals=tuple(
            Rival(name=kind, evaluation=rivals[kind]) for kind in sorted(rivals, key=lambda each: each != best)
        ),
        points=points,
        doubted=doubted,
        num_labels=num_labels,
        ids=_example_ids(folder / ANSWERS, evaluation),
        names=names_of(taxonomy),
        critical=critical_of(taxonomy),
        cost=_cost(_part(metrics, "cost"), filed),
        provenance=_of_trial_manifest(manifest, taxonomy, evaluation),
    )


def _own_calibration(folder: Path, manifest: Mapping[str, Any]) -> Path | None:
    """Return the folder of the calibration that a trial used; None where it is not there, or another one is."""
    found = folder.parent / _CALIBRATION
    theirs = _part(_json_if(found / "manifest.json"))
    adapter = manifest.get("adapter_sha256")
    return found if adapter and theirs.get("adapter_sha256") == adapter else None


def _doubted(folder: Path, manifest: Mapping[str, Any]) -> tuple[tuple[DoubtedLabel, ...], int | None]:
    """Return the labels that baselines of the same splits doubt, and of how many; nothing where there are none."""
    theirs = _part(_part(_json_if(folder / "manifest.json")), "data")
    splits = manifest.get("splits_sha256")
    if not splits or theirs.get("splits_sha256") != splits or not (folder / SUSPICIOUS).is_file():
        return (), None
    with (folder / SUSPICIOUS).open("rb") as lines:
        found = tuple(_doubted_label(row, json.loads(line)) for row, line in enumerate(lines) if line.strip())
    return found, _number(_part(theirs, "train").get("calls")) or len(found)


def _doubted_label(row: int, told: Mapping[str, Any]) -> DoubtedLabel:
    suspicion = Suspicion(
        row=row,
        given=str(told["given"]),
        likely=str(told["likely"]),
        p_given=float(told["p_given"]),
        p_likely=float(told["p_likely"]),
    )
    return DoubtedLabel(conversation_id=str(told["conversation_id"]), suspicion=suspicion)


def _example_ids(path: Path, evaluation: Evaluation) -> dict[int, str]:
    """Return the conversations of the evaluation's examples; nothing where nobody kept them."""
    if not path.is_file():
        return {}
    import numpy as np

    levels = (evaluation.leaves, *([evaluation.parents] if evaluation.parents else []))
    rows = {row for level in levels for pair in level.confused for row in pair.rows}
    with np.load(path, allow_pickle=False) as kept:
        ids = kept["ids"]
        return {row: str(ids[row]) for row in sorted(rows) if row < ids.size}


def _cost(told: Mapping[str, Any], filed: Filed) -> Cost | None:
    calls, seconds = told.get("calls"), told.get("seconds")
    if not calls or not seconds:
        return None
    threads = int(told.get("threads") or 0)
    where = f"{threads} threads" if threads else "GPU"
    return Cost(
        calls_per_s=calls / seconds,
        measured=f"{calls:,} calls, {told.get('tokens', 0):,} tokens, {seconds:.1f} s, {where}",
        machine_per_hour=told.get("price_per_hour"),
        review_share=filed.review,
    )


def _of_trial_manifest(manifest: Mapping[str, Any], taxonomy: Taxonomy, evaluation: Evaluation) -> Provenance:
    data = _part(manifest, "data")
    calls = _number(data.get("calls")) or evaluation.num_calls
    return Provenance(
        model={"adapter_sha256": str(manifest.get("adapter_sha256", "")), "seed": _number(manifest.get("seed"))},
        taxonomy=taxonomy.ref,
        taxonomy_sha256=taxonomy.sha256,
        prompt_sha256=str(_part(manifest, "prompt").get("sha256", "")),
        redaction=", ".join(map(str, manifest.get("redaction") or ())),
        sources={str(file): str(digest) for file, digest in _part(data, "sources").items()},
        parts={"test": PartFacts(calls=calls, sha256=str(data.get("sha256", "")))},
        split={"sha256": str(manifest.get("splits_sha256", "")), "other_calls": manifest.get("other_calls")},
    )


def _of_classifier(
    folder: Path, name: str, metrics: Mapping[str, Any], manifest: Mapping[str, Any], taxonomy: Taxonomy
) -> Record:
    """Return what an exported classifier says about its own test."""
    thresholds = thresholds_of(_json(folder / "thresholds.json"))
    calibration: Calibration = calibration_of(_json(folder / "calibration.json"))
    return Record(
        name=name,
        made_at=_moment(manifest.get("created_at")),
        evaluation=from_plain(Evaluation, metrics["test"]),
        calibration=calibration,
        points=(OperatingPoint(thresholds=thresholds, filed=from_plain(Filed, metrics["filed"])),),
        names=names_of(taxonomy),
        critical=critical_of(taxonomy),
        provenance=_of_manifest(name, manifest, taxonomy),
    )


def _of_manifest(name: str, manifest: Mapping[str, Any], taxonomy: Taxonomy) -> Provenance:
    """Return what the manifest of a classifier says about where it comes from."""
    data = _part(manifest, "data")
    parts = {part: _part(data, part) for part in ("train", "val", "test")}
    base, adapter = _part(manifest, "base"), _part(manifest, "adapter")
    return Provenance(
        model={
            "name": name,
            "base": str(base.get("name", "")),
            "base_sha256": str(base.get("sha256", "")),
            "adapter_sha256": str(adapter.get("sha256", "")),
            "scheme": str(manifest.get("scheme", "")),
            "seed": _number(_part(manifest, "options").get("seed")),
        },
        taxonomy=taxonomy.ref,
        taxonomy_sha256=taxonomy.sha256,
        prompt_sha256=str(_part(manifest, "prompt").get("sha256", "")),
        redaction=str(manifest.get("redaction", "")),
        sources={str(file): str(digest) for file, digest in _part(data, "sources").items()},
        parts={
            part: PartFacts(calls=int(facts["calls"]), sha256=str(facts.get("sha256", "")))
            for part, facts in parts.items()
            if "calls" in facts
        },
        machine={str(key): value for key, value in _part(manifest, "machine").items()},
    )


def _part(tree: Any, key: str = "") -> Mapping[str, Any]:
    """Return an object, or the one within it that is meant; an empty one where there is none."""
    found = tree.get(key) if key and isinstance(tree, Mapping) else tree
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _moment(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) and value else None


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _json_if(path: Path) -> Any:
    """Return what a file holds; nothing where there is no file."""
    return _json(path) if path.is_file() else None
