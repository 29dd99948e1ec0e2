"""What a model's answers mean: calibration, thresholds and sets, fitted to calls of a known class and kept.

    calibration.json    what turns the model's logits into probabilities that mean what they say
    thresholds.json     from which probability on a call is filed without a person
    conformal.json      which classes stay possible
    manifest.json       which adapter they belong to, and which calls they were fitted to

The files are those of an exported classifier. They are fitted to validation calls, or to a part that was kept for
calibration; never to the test's, which could then no longer say what they are worth, and never to training calls, of
which a model is far too sure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenops.atomic import write_text
from qwenops.calls.split import Part, Splits
from qwenops.classify.answers import Answers
from qwenops.classify.calibrate import Calibration, calibrate, calibration_of, logits_of, scale
from qwenops.classify.conformal import Conformal, fit_conformal
from qwenops.classify.decide import Thresholds, choose_thresholds, thresholds_of
from qwenops.classify.hierarchy import Hierarchy
from qwenops.classify.plain import from_plain, of_schema, to_plain
from qwenops.classify.score import CALIBRATION, CONFORMAL, THRESHOLDS
from qwenops.errors import ConfigError, ModelLoadError
from qwenops.models.artefact import MANIFEST
from qwenops.models.folders import new_folder
from qwenops.text import say

SCHEMA = "qwenops.calibration/1"
FOLDER = "calibration"
"""What the folder is called beside the adapter."""
PARTS = (Part.CALIBRATION, Part.VAL)
"""What may be fitted to, the better one first."""
TARGET_PRECISION = 0.95
COVERAGE = 0.95
"""How often the true class is in the set of a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a model's answers mean."""

    calibration: Calibration
    thresholds: Thresholds
    conformal: Conformal


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What was read from a folder."""

    meaning: Meaning
    manifest: Mapping[str, Any]

    def belongs(self, adapter_sha256: str, splits_sha256: str | None) -> bool:
        """Say whether it was fitted to this adapter's answers, and under these splits where they are named."""
        same = self.manifest.get("adapter_sha256") == adapter_sha256
        return same and splits_sha256 in {None, self.manifest.get("splits_sha256")}


def check_part(part: Part) -> None:
    """Refuse to fit anything to calls that are for something else.

    Raises:
        ConfigError: They are the test's or the training's.
    """
    if part is Part.TEST:
        raise ConfigError(
            say("Nothing is calibrated on test calls: the test would no longer say what it is worth."),
            hint=say("Use the part val, or split the calls with a part for calibration."),
        )
    if part not in PARTS:
        raise ConfigError(
            say("Nothing is calibrated on training calls: a model is far too sure of what it has learnt."),
            hint=say("Use the part val, or split the calls with a part for calibration."),
        )


def part_of(splits: Splits) -> Part:
    """Return the part to fit to: the one that is for nothing else, where there is one."""
    return next((part for part in PARTS if splits.parts()[part]), Part.VAL)


def meaning_of(
    answers: Answers,
    hierarchy: Hierarchy,
    *,
    target_precision: float = TARGET_PRECISION,
    coverage: float = COVERAGE,
    seed: int = 0,
    part: Part = Part.VAL,
) -> Meaning:
    """Find out what a model's answers mean; used anew whenever the model or its calls change.

    Args:
        answers: What the model says of calls whose class is known.
        hierarchy: The classes and what stands above them.
        target_precision: The share of filed calls that shall be right at least.
        coverage: How often the true class shall be in the set of a call.
        seed: Of folds, and of which call of a customer counts.
        part: What the calls are for.

    Raises:
        ConfigError: The precision is no share, or the calls are for something else.
    """
    check_part(part)
    logits = logits_of(answers.probabilities)
    calibration = calibrate(logits, answers, seed=seed)
    calibrated = replace(answers, probabilities=scale(logits, calibration.scaling))
    return Meaning(
        calibration=calibration,
        thresholds=choose_thresholds(calibrated, hierarchy, target_precision=target_precision, part=part),
        conformal=fit_conformal(calibrated, coverage=coverage, seed=seed),
    )


def write_meaning(folder: Path, meaning: Meaning, manifest: Mapping[str, Any]) -> None:
    """Write the folder, whole or not at all.

    Args:
        folder: Takes the place of what is there.
        meaning: What was fitted.
        manifest: `adapter_sha256`, `splits_sha256`, and whatever else is to be said.

    Raises:
        InsufficientDiskError: There is no room.
    """
    told = {
        CALIBRATION: to_plain(meaning.calibration),
        THRESHOLDS: to_plain(meaning.thresholds),
        CONFORMAL: to_plain(meaning.conformal),
        MANIFEST: {"schema": SCHEMA, **manifest},
    }
    with new_folder(folder) as inside:
        for name, data in told.items():
            write_text(inside / name, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_meaning(folder: Path) -> Kept | None:
    """Read what `write_meaning` wrote; None where there is no such folder.

    Raises:
        ModelLoadError: A file is missing, damaged or of another version.
    """
    if not (folder / MANIFEST).exists():
        return None
    try:
        names = (CALIBRATION, THRESHOLDS, CONFORMAL, MANIFEST)
        told = {name: json.loads((folder / name).read_bytes()) for name in names}
        manifest = of_schema(told[MANIFEST], SCHEMA)
        meaning = Meaning(
            calibration=calibration_of(told[CALIBRATION]),
            thresholds=thresholds_of(told[THRESHOLDS]),
            conformal=from_plain(Conformal, told[CONFORMAL]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            say("The calibration in {folder} cannot be read: {reason}.", folder=str(folder), reason=str(error)),
            hint=say("Make it again with `qwenops finetune calibrate`."),
        ) from error
    return Kept(meaning=meaning, manifest=manifest)


def chosen_precision(adapter: Path, default: float = TARGET_PRECISION) -> float:
    """Return the precision that was chosen for an adapter's thresholds; `default` where none was.

    Raises:
        ModelLoadError: What was chosen cannot be read.
    """
    kept = read_meaning(adapter.absolute().parent / FOLDER)
    return kept.meaning.thresholds.target_precision if kept is not None else default
