"""Training the classifier of words that every model must beat: TF-IDF of characters with logistic regression.

Three come out of one call, all of them `linear.Baseline`: logistic regression, complement naive Bayes, and the shares
of the classes. Regularisation is chosen by cross-validation in which no customer is on both sides. What each says about
calls that it did not see in training comes with it (out of fold): temperatures are fitted to that, wrong labels are
found with it (`mislabelled`), and it is a fair first answer to how good the baseline is. Terms and their rarity, which
know nothing of labels, are counted once for all folds.

With few calls and many terms, logistic regression is solved in as many dimensions as there are calls: the rows of a
Cholesky factor of the calls' inner products are the same calls, turned. The solution is the same, many times faster.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenops.calls.problems import Problem, refuse
from qwenops.classify.answers import Answers, answers_of
from qwenops.classify.calibrate import FOLDS, fit_temperature, softmax
from qwenops.classify.evaluate.counts import MACRO, headlines, tallies
from qwenops.classify.folds import grouped_folds
from qwenops.classify.linear import Baseline, Kind, terms_of
from qwenops.statistics.clusters import Codes
from qwenops.statistics.samples import Array
from qwenops.text import Report, say

REGULARISATIONS = (1.0, 4.0, 16.0)
"""Tried from strong to weak: scikit-learn's C."""
MOST_TERMS = 100_000
_VOCABULARY_CALLS = 5000
"""Terms are found in so many calls at most, so that memory stays flat."""
_TWICE = 100
"""From so many calls on, a term must occur in two of them."""
_TURNED = 4000
"""Up to so many calls are turned; beyond, that takes longer than it saves."""
_COMMON = 0.05
"""Terms in more than this share of calls are multiplied densely."""
_JITTER = 1e-6
_STEPS = 2000
_TOLERANCE = 1e-4
_SMOOTHING = 0.3
_NEVER = -30.0
"""The logit of a class that was not seen in training."""
_BINARY = 2
_CLOSE = 0.001
"""A weaker regularisation must gain more macro-F1 than this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """What came out."""

    baselines: Mapping[Kind, Baseline]
    out_of_fold: Mapping[Kind, Answers]
    """What each says about the training calls that it was not trained on, with their labels as truth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """The calls as numbers."""

    matrix: Any
    """Sparse TF-IDF, shape (calls, terms)."""
    places: Mapping[str, int]
    idf: Array
    labels: Answers
    """Truth and customers; the probabilities say nothing."""
    trust: Array
    """How far to trust each label, on average 1."""
    folds: Codes
    seed: int

    @property
    def size(self) -> int:
        return len(self.labels.classes)

    def splits(self) -> list[tuple[Codes, Codes]]:
        """Return for each fold the calls outside of it and those in it."""
        return [
            (np.flatnonzero(self.folds != each), np.flatnonzero(self.folds == each)) for each in np.unique(self.folds)
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitted:
    """A classifier before its temperature."""

    weights: Array
    """Shape (terms, classes)."""
    intercepts: Array
    out_of_fold: Array
    """Logits, shape (calls, classes)."""
    facts: Mapping[str, Any]


def train(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    seed: int,
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    report: Report | None = None,
) -> Training:
    """Train all baselines on labelled texts.

    Args:
        texts: Rendered calls, redacted.
        labels: The class of each.
        seed: Of the folds and, with many calls, of those that terms are found in.
        classes: All classes, in the order that probabilities shall have; the labels' in alphabetical order where it is
            None. One that no call has gets no probability to speak of.
        groups: The customer of each call; empty where not known.
        weights: How far to trust each label, above 0.
        report: Is told how far it is.

    Raises:
        InvalidDataError: The numbers do not fit together, a label is no class, all labels are the same, all calls are
            of one customer, or nothing is said in any of them.
    """
    known = tuple(sorted(set(labels))) if classes is None else tuple(classes)
    checked = _checked(texts, labels, known, groups, weights)
    told = report or _quiet
    told(0.0, say("Counting characters"))
    matrix, places, idf = _counted(texts, seed)
    trust = np.ones(len(texts)) if weights is None else np.asarray(weights, dtype=np.float64)
    task = _Task(
        matrix=matrix,
        places=places,
        idf=idf,
        labels=checked,
        trust=trust / trust.mean(),
        folds=grouped_folds(checked.truth, checked.groups, num=min(FOLDS, checked.num_groups), seed=seed),
        seed=seed,
    )
    fitted = {
        Kind.PRIOR: _prior(task),
        Kind.COMPLEMENT: _complement(task),
        Kind.LOGISTIC: _logistic(task, told),
    }
    finished = {kind: _finished(kind, each, task) for kind, each in fitted.items()}
    told(1.0, say("Done"))
    return Training(
        baselines={kind: baseline for kind, (baseline, _) in finished.items()},
        out_of_fold={kind: answers for kind, (_, answers) in finished.items()},
    )


def _quiet(_fraction: float, _what: str) -> None:
    pass


def _checked(
    texts: Sequence[str],
    labels: Sequence[str],
    classes: tuple[str, ...],
    groups: Sequence[str] | None,
    weights: Sequence[float] | None,
) -> Answers:
    nothing_known = np.full((len(labels), len(classes)), 1 / max(1, len(classes)))
    answers = answers_of(labels, nothing_known, classes, groups=groups)
    problems = []
    if len(texts) != len(labels):
        what = say("There are {texts} texts for {labels} labels.", texts=len(texts), labels=len(labels))
        problems.append(Problem(what=what, field="texts"))
    if not any(text.strip() for text in texts):
        problems.append(Problem(what=say("Nothing is said in any of the calls."), field="texts"))
    if len(set(labels)) < _BINARY:
        problems.append(Problem(what=say("All calls have the same label."), field="labels"))
    if answers.num_groups < _BINARY:
        problems.append(Problem(what=say("All calls are of one customer."), field="groups"))
    sound = weights is None or (len(weights) == len(labels) and all(0 < each < np.inf for each in weights))
    if not sound:
        problems.append(Problem(what=say("Each label needs a weight above 0."), field="weights"))
    refuse(problems, say("No baseline can be trained."))
    return answers


def _counted(texts: Sequence[str], seed: int) -> tuple[Any, dict[str, int], Array]:
    """Return TF-IDF of texts, the place of each term, and how rare each is."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

    num = len(texts)
    vectoriser = CountVectorizer(
        analyzer=terms_of, min_df=1 if num < _TWICE else 2, max_features=MOST_TERMS, dtype=np.float32
    )
    if num <= _VOCABULARY_CALLS:
        counts = vectoriser.fit_transform(texts)
    else:
        chosen = np.sort(np.random.default_rng(seed).choice(num, _VOCABULARY_CALLS, replace=False))
        counts = vectoriser.fit([texts[each] for each in chosen]).transform(texts)
    rarity = TfidfTransformer(sublinear_tf=True)
    matrix = rarity.fit_transform(counts)
    places = {str(term): int(row) for term, row in sorted(vectoriser.vocabulary_.items(), key=lambda item: item[1])}
    return matrix, places, np.asarray(rarity.idf_, dtype=np.float64)


def _prior(task: _Task) -> _Fitted:
    truth, trust = task.labels.truth, task.trust
    logits = np.empty((truth.size, task.size))
    for others, held in task.splits():
        logits[held] = _log_shares(truth[others], trust[others], task.size)
    return _Fitted(
        weights=np.zeros((0, task.size)),
        intercepts=_log_shares(truth, trust, task.size),
        out_of_fold=logits,
        facts={},
    )


def _log_shares(truth: Codes, trust: Array, size: int) -> Array:
    sums = np.bincount(truth, weights=trust, minlength=size)
    found: Array = np.log(sums / sums.sum(), out=np.full(size, _NEVER), where=sums > 0)
    return found


def _complement(task: _Task) -> _Fitted:
    truth, trust = task.labels.truth, task.trust
    logits = np.empty((truth.size, task.size))
    for others, held in task.splits():
        model = _complement_model(task.matrix[others], truth[others], trust[others])
        logits[held] = _logits(task.matrix[held], model.feature_log_prob_, np.zeros(1), model.classes_, task.size)
    model = _complement_model(task.matrix, truth, trust)
    return _Fitted(
        weights=_spread(model.feature_log_prob_, model.classes_, task.size, 0.0).T,
        intercepts=_spread(np.zeros((model.classes_.size, 1)), model.classes_, task.size, _NEVER)[:, 0],
        out_of_fold=logits,
        facts={"smoothing": _SMOOTHING},
    )


def _complement_model(rows: Any, truth: Codes, trust: Array) -> Any:
    from sklearn.naive_bayes import ComplementNB

    return ComplementNB(alpha=_SMOOTHING).fit(rows, truth, sample_weight=trust)


def _logistic(task: _Task, report: Report) -> _Fitted:
    truth = task.labels.truth
    rows, back = _turned(task.matrix) if truth.size <= _TURNED else (task.matrix, _straight)
    splits = task.splits()
    logits = np.empty((len(REGULARISATIONS), truth.size, task.size))
    for number, (others, held) in enumerate(splits):
        told = say("Cross-validation, fold {fold} of {folds}", fold=number + 1, folds=len(splits))
        report((number + 1) / (len(splits) + 2), told)
        for each, (coefficients, intercepts, seen) in enumerate(_path(rows[others], truth[others], task.trust[others])):
            logits[each, held] = _logits(rows[held], coefficients, intercepts, seen, task.size)
    scores = [_macro_f1(task.labels, each) for each in logits]
    best = 0
    for each in range(1, len(scores)):
        best = each if scores[each] > scores[best] + _CLOSE else best
    report((len(splits) + 1) / (len(splits) + 2), say("Training on all calls"))
    *_, (coefficients, intercepts, seen) = _path(rows, truth, task.trust, REGULARISATIONS[: best + 1])
    return _Fitted(
        weights=back(_spread(coefficients, seen, task.size, 0.0)),
        intercepts=_spread(intercepts[:, None], seen, task.size, _NEVER)[:, 0],
        out_of_fold=logits[best],
        facts={
            "regularisation": REGULARISATIONS[best],
            "macro_f1_by_regularisation": {
                f"{each:g}": score for each, score in zip(REGULARISATIONS, scores, strict=True)
            },
        },
    )


def _path(
    rows: Any, truth: Codes, trust: Array, regularisations: Sequence[float] = REGULARISATIONS
) -> list[tuple[Array, Array, Codes]]:
    """Fit from strong to weak regularisation, each from where the one before ended.

    Returns coefficients, intercepts and the classes that were seen, for each. Classes count alike, however many calls
    they have.
    """
    from sklearn.linear_model import LogisticRegression

    seen, places, counts = np.unique(truth, return_inverse=True, return_counts=True)
    if seen.size < _BINARY:
        return [(np.zeros((1, rows.shape[1])), np.zeros(1), seen.astype(np.int64))] * len(regularisations)
    balanced = trust * truth.size / (seen.size * counts[places])
    model = LogisticRegression(max_iter=_STEPS, tol=_TOLERANCE, warm_start=True)
    found = []
    for each in regularisations:
        model.set_params(C=each).fit(rows, truth, sample_weight=balanced)
        coefficients, intercepts = np.array(model.coef_), np.array(model.intercept_)
        if seen.size == _BINARY:  # one row stands for both
            coefficients = np.vstack((-coefficients, coefficients)) / 2
            intercepts = np.concatenate((-intercepts, intercepts)) / 2
        found.append((coefficients, intercepts, seen.astype(np.int64)))
    return found


def _turned(matrix: Any) -> tuple[Array, Callable[[Array], Array]]:
    """Return the calls in as many dimensions as there are calls, and what turns coefficients back to terms."""
    num = matrix.shape[0]
    common = np.bincount(matrix.indices, minlength=matrix.shape[1]) > _COMMON * num
    dense = matrix[:, np.flatnonzero(common)].toarray().astype(np.float64)
    rare = matrix[:, np.flatnonzero(~common)].astype(np.float64)
    inner = dense @ dense.T + (rare @ rare.T).toarray() + _JITTER * np.eye(num)
    lower = np.linalg.cholesky(inner)

    def back(coefficients: Array) -> Array:
        return np.asarray(matrix.T @ np.linalg.solve(lower.T, coefficients.T), dtype=np.float64)

    return lower, back


def _straight(coefficients: Array) -> Array:
    return coefficients.T


def _logits(rows: Any, coefficients: Array, intercepts: Array, seen: Codes, size: int) -> Array:
    """Return logits of all classes; of those that were not seen, hardly any."""
    found = np.full((rows.shape[0], size), _NEVER)
    found[:, seen] = np.asarray(rows @ coefficients.T) + intercepts
    return found


def _spread(of_seen: Array, seen: Codes, size: int, otherwise: float) -> Array:
    """Return rows for all classes from those of the classes that were seen."""
    found = np.full((size, of_seen.shape[1]), otherwise)
    found[seen] = of_seen
    return found


def _macro_f1(labels: Answers, logits: Array) -> float:
    said = logits.argmax(axis=1).astype(np.int64)
    rows = np.zeros(said.size, dtype=np.int64)
    counted = tallies(labels.truth, said, rows, num_classes=len(labels.classes), num_rows=1)
    return float(headlines(counted[0])[MACRO])


def _finished(kind: Kind, fitted: _Fitted, task: _Task) -> tuple[Baseline, Answers]:
    """Fit the temperature out of fold, to calls whose class was seen there."""
    import sklearn

    labels, logits = task.labels, fitted.out_of_fold
    seen = np.flatnonzero(logits[np.arange(labels.num_calls), labels.truth] > _NEVER)
    temperature = 1.0
    if kind is not Kind.PRIOR and seen.size:
        temperature = fit_temperature(logits[seen], labels.truth[seen], task.trust[seen]).value
    baseline = Baseline(
        kind=kind,
        classes=labels.classes,
        places={} if kind is Kind.PRIOR else task.places,
        idf=np.zeros(0, dtype=np.float32) if kind is Kind.PRIOR else task.idf.astype(np.float32),
        weights=fitted.weights.astype(np.float32),
        intercepts=fitted.intercepts,
        temperature=temperature,
        facts={
            **fitted.facts,
            "seed": task.seed,
            "num_calls": labels.num_calls,
            "num_customers": labels.num_groups,
            "folds": int(np.unique(task.folds).size),
            "macro_f1_out_of_fold": _macro_f1(labels, logits),
            "scikit_learn": str(sklearn.__version__),
        },
    )
    answers = Answers(
        classes=labels.classes,
        truth=labels.truth,
        probabilities=softmax(logits / temperature),
        groups=labels.groups,
    )
    return baseline, answers
