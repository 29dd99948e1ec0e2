import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from qwenops.classify.linear import Baseline, Kind, load, logits, predict, save, terms_of
from qwenops.errors import ModelLoadError

TEXTS = ["我的话费多扣了", "宽带断网了", "\uff42\uff49\uff4c\uff4c  is Wrong", "话费话费话费"]
"""One has full-width letters."""


def of_texts(texts: list[str]) -> tuple[Baseline, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Return a classifier with weights by chance, and what scikit-learn makes of the texts."""
    theirs = TfidfVectorizer(analyzer=terms_of, sublinear_tf=True)
    matrix = theirs.fit_transform(texts)
    weights = np.random.default_rng(1).normal(0, 1, (matrix.shape[1], 3)).astype(np.float32)
    intercepts = np.array([0.1, 0.0, -0.1])
    terms = sorted(theirs.vocabulary_, key=lambda term: theirs.vocabulary_[term])
    baseline = Baseline(
        kind=Kind.LOGISTIC,
        classes=("a", "b", "c"),
        places={term: row for row, term in enumerate(terms)},
        idf=theirs.idf_.astype(np.float32),
        weights=weights,
        intercepts=intercepts,
        temperature=2.0,
        facts={"seed": 1},
    )
    return baseline, (matrix @ weights + intercepts) / 2.0


def test_terms_are_all_runs_of_up_to_four_characters() -> None:
    assert sorted(terms_of("话费多")) == sorted(["话", "费", "多", "话费", "费多", "话费多"])
    assert terms_of("\uff21\uff22") == terms_of(" ab ") == ["a", "b", "ab"]
    assert "a b" in terms_of("a \n\t b")
    assert terms_of("  ") == []


def test_logits_are_those_of_scikit_learns_tf_idf() -> None:
    baseline, expected = of_texts(TEXTS)
    assert logits(baseline, TEXTS) == pytest.approx(expected, abs=1e-5)
    assert predict(baseline, TEXTS).sum(axis=1) == pytest.approx(np.ones(4))


def test_a_text_of_unknown_terms_gets_what_nothing_gets() -> None:
    baseline, _ = of_texts(TEXTS)
    assert logits(baseline, ["", "zzz", "\ud800"]) == pytest.approx(np.tile([0.05, 0.0, -0.05], (3, 1)))
    assert predict(baseline, []).shape == (0, 3)


@given(st.text(max_size=50))
def test_any_text_is_answered(text: str) -> None:
    baseline, _ = of_texts(TEXTS)
    found = predict(baseline, [text])
    assert np.isfinite(found).all()
    assert math.isclose(found.sum(), 1)


def test_a_classifier_is_the_same_after_its_folder(tmp_path: Path) -> None:
    odd = [*TEXTS, "nul\x00 tab\ud800", '"quoted"']
    baseline, _ = of_texts(odd)
    save(baseline, tmp_path / "baseline")
    save(baseline, tmp_path / "baseline")  # takes the place of the first
    read = load(tmp_path / "baseline")
    assert read.places == baseline.places
    assert (read.kind, read.classes, read.facts) == (baseline.kind, baseline.classes, baseline.facts)
    assert np.array_equal(predict(read, odd), predict(baseline, odd))
    assert sorted(path.name for path in (tmp_path / "baseline").iterdir()) == ["baseline.json", "baseline.npz"]


def test_a_folder_that_was_changed_is_refused(tmp_path: Path) -> None:
    baseline, _ = of_texts(TEXTS)
    folder = tmp_path / "baseline"
    save(baseline, folder)
    numbers, header = folder / "baseline.npz", folder / "baseline.json"
    whole, told = numbers.read_bytes(), json.loads(header.read_text("utf-8"))
    numbers.write_bytes(bytes([*whole[:-1], whole[-1] ^ 1]))
    with pytest.raises(ModelLoadError, match="was changed"):
        load(folder)
    numbers.write_bytes(whole)
    for change, why in (
        ({"schema": "qwenops.baseline/2"}, "not of the kind"),
        ({"terms": told["terms"][1:]}, "do not fit"),
        ({"classes": ["a", "b"]}, "do not fit"),
        ({"kind": "magic"}, "magic"),
        ({"temperature": 0}, "do not fit"),
    ):
        header.write_text(json.dumps({**told, **change}), "utf-8")
        with pytest.raises(ModelLoadError, match=why):
            load(folder)
    header.write_text("[1]", "utf-8")
    with pytest.raises(ModelLoadError, match="not of the kind"):
        load(folder)
    header.write_text("{", "utf-8")
    with pytest.raises(ModelLoadError, match="JSONDecodeError"):
        load(folder)
    numbers.unlink()
    header.write_text(json.dumps(told), "utf-8")
    with pytest.raises(ModelLoadError, match=r"baseline\.npz is missing"):
        load(folder)
    with pytest.raises(ModelLoadError, match=r"baseline\.json is missing"):
        load(tmp_path / "nothing")
