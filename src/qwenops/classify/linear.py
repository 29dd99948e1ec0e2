"""A classifier of words: how often runs of one to four characters occur, times a weight for each class.

It needs no segmentation of Chinese, bears what speech recognition does to words, and answers in a millisecond with
nothing but numpy. `baseline` trains it; here it is used, written and read. Its folder holds `baseline.json` (what it
is, its
terms) and `baseline.npz` (its numbers), no pickle.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenops.atomic import write_text
from qwenops.classify.calibrate import softmax
from qwenops.errors import ModelLoadError
from qwenops.models.checkpoint import file_sha256
from qwenops.models.folders import new_folder
from qwenops.statistics.samples import Array
from qwenops.text import say

BASELINE_SCHEMA = "qwenops.baseline/1"
LONGEST_TERM = 4
_HEADER, _NUMBERS = "baseline.json", "baseline.npz"
_SPACES = re.compile(r"\s+")

Floats = npt.NDArray[np.float32]


class Kind(StrEnum):
    """Which classifier it is."""

    LOGISTIC = "logistic"
    """TF-IDF with logistic regression: the one to beat."""
    COMPLEMENT = "complement"
    """TF-IDF with complement naive Bayes: sometimes better where a class has few calls."""
    PRIOR = "prior"
    """Says how frequent each class is, whatever the call says."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """A trained classifier of words."""

    kind: Kind
    classes: tuple[str, ...]
    places: Mapping[str, int]
    """The row of each term."""
    idf: Floats
    """How much rarer than others each term is, shape (terms,)."""
    weights: Floats
    """Shape (terms, classes)."""
    intercepts: Array
    """Shape (classes,)."""
    temperature: float = 1.0
    """What its logits are divided by, so that its probabilities mean what they say."""
    facts: Mapping[str, Any]
    """How it was trained: seed, calls, choices, versions; plain data."""


def terms_of(text: str) -> list[str]:
    """Return all runs of one to four characters of a text, after width, case and spaces are made alike."""
    plain = _SPACES.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()
    return [
        plain[first : first + length]
        for length in range(1, LONGEST_TERM + 1)
        for first in range(len(plain) - length + 1)
    ]


def logits(baseline: Baseline, texts: Sequence[str]) -> Array:
    """Return the calibrated logits of texts; shape (texts, classes)."""
    found = np.empty((len(texts), len(baseline.classes)))
    for row, text in enumerate(texts):
        found[row] = _weighed(baseline, text) + baseline.intercepts
    return found / baseline.temperature


def predict(baseline: Baseline, texts: Sequence[str]) -> Array:
    """Return the probabilities of texts; shape (texts, classes)."""
    return softmax(logits(baseline, texts))


def save(baseline: Baseline, folder: Path) -> None:
    """Write a classifier into a folder of its own, which appears whole or not at all.

    Raises:
        InsufficientDiskError: There is no room for it.
    """
    with new_folder(folder) as inside:
        numbers = inside / _NUMBERS
        with numbers.open("wb") as out:
            np.savez_compressed(
                out, idf=baseline.idf, weights=baseline.weights, intercepts=baseline.intercepts, allow_pickle=False
            )
        header = {
            "schema": BASELINE_SCHEMA,
            "kind": baseline.kind.value,
            "classes": list(baseline.classes),
            "temperature": baseline.temperature,
            "facts": dict(baseline.facts),
            "sha256": file_sha256(numbers),
            "terms": list(baseline.places),
        }
        write_text(inside / _HEADER, json.dumps(header))


def load(folder: Path) -> Baseline:
    """Read what `save` wrote.

    Raises:
        ModelLoadError: It is not there, was changed, or is of another version.
    """
    try:
        header = json.loads((folder / _HEADER).read_text("utf-8"))
        sha256 = file_sha256(folder / _NUMBERS)
    except FileNotFoundError as error:
        raise _unreadable(folder, say("{name} is missing", name=Path(str(error.filename)).name)) from error
    except (ValueError, OSError) as error:
        raise _unreadable(folder, f"{type(error).__name__}: {error}") from error
    if not isinstance(header, dict) or header.get("schema") != BASELINE_SCHEMA:
        raise _unreadable(folder, say("{name} is not of the kind {wanted}", name=_HEADER, wanted=BASELINE_SCHEMA))
    if header.get("sha256") != sha256:
        raise _unreadable(folder, say("{name} was changed", name=_NUMBERS))
    try:
        with np.load(folder / _NUMBERS, allow_pickle=False) as numbers:
            baseline = _baseline(header, dict(numbers))
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _unreadable(folder, f"{type(error).__name__}: {error}") from error
    return _checked(folder, baseline)


def _baseline(header: Mapping[str, Any], numbers: Mapping[str, npt.NDArray[Any]]) -> Baseline:
    return Baseline(
        kind=Kind(header["kind"]),
        classes=tuple(header["classes"]),
        places={term: row for row, term in enumerate(header["terms"])},
        idf=numbers["idf"].astype(np.float32),
        weights=numbers["weights"].astype(np.float32),
        intercepts=numbers["intercepts"].astype(np.float64),
        temperature=float(header["temperature"]),
        facts=header["facts"],
    )


def _checked(folder: Path, baseline: Baseline) -> Baseline:
    terms, classes = len(baseline.places), len(baseline.classes)
    fits = (
        baseline.idf.shape == (terms,)
        and baseline.weights.shape == (terms, classes)
        and baseline.intercepts.shape == (classes,)
        and baseline.temperature > 0
    )
    if not fits:
        raise _unreadable(folder, say("its numbers do not fit its terms and classes"))
    return baseline


def _unreadable(folder: Path, why: str) -> ModelLoadError:
    return ModelLoadError(
        say("The baseline in {folder} cannot be read: {why}.", folder=str(folder), why=why),
        hint=say("Train it again with `qwenops finetune baseline`."),
    )


def _weighed(baseline: Baseline, text: str) -> Array:
    """Return the sum of a text's weights: TF-IDF with logarithmic counts, of length 1."""
    if not baseline.places:
        return np.zeros(len(baseline.classes))
    counts = Counter(term for term in terms_of(text) if term in baseline.places)
    if not counts:
        return np.zeros(len(baseline.classes))
    rows = np.fromiter((baseline.places[term] for term in counts), dtype=np.int64, count=len(counts))
    times = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
    values = (1 + np.log(times)) * baseline.idf[rows]
    weighed: Array = (values / np.sqrt(values @ values)) @ baseline.weights[rows]
    return weighed
