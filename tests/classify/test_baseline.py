import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from qwenops.classify.baseline import REGULARISATIONS, Training, _path, _turned, train
from qwenops.classify.evaluate import evaluate
from qwenops.classify.evaluate.reliability import calibration_error, nll
from qwenops.classify.linear import Kind, load, predict, save, terms_of
from qwenops.classify.mislabelled import suspicious
from qwenops.command import run
from qwenops.errors import InvalidDataError
from tests.classify.worded import WORDS, Worded, worded


def trained(given: Worded, seed: int = 1) -> Training:
    return train(given.texts, given.labels, groups=given.customers, seed=seed)


@pytest.fixture(scope="module")
def known() -> tuple[Worded, Training]:
    given = worded(400, seed=1)
    return given, trained(given)


def macro_f1(given: Worded, training: Training, kind: Kind) -> float:
    found = training.baselines[kind]
    told = predict(found, given.texts)
    return evaluate(given.labels, told, found.classes, seed=1, resamples=20).leaves.macro_f1.value


def test_words_are_learnt_and_the_shares_of_classes_are_not_enough(known: tuple[Worded, Training]) -> None:
    fresh = worded(400, seed=2)
    # A word tells the class of 0.8 of the texts, and of a quarter of the others by chance: 0.85.
    assert macro_f1(fresh, known[1], Kind.LOGISTIC) == pytest.approx(0.85, abs=0.06)
    assert macro_f1(fresh, known[1], Kind.COMPLEMENT) > 0.75
    assert macro_f1(fresh, known[1], Kind.PRIOR) < 0.2


def test_what_is_said_out_of_fold_is_what_is_said_of_fresh_texts(known: tuple[Worded, Training]) -> None:
    fresh = worded(2000, seed=3)
    for kind in (Kind.LOGISTIC, Kind.COMPLEMENT):
        baseline, held_out = known[1].baselines[kind], known[1].out_of_fold[kind]
        told, raw = (predict(each, fresh.texts) for each in (baseline, replace(baseline, temperature=1.0)))
        right = told.argmax(axis=1) == np.array([baseline.classes.index(each) for each in fresh.labels])
        assert held_out.right.mean() == pytest.approx(right.mean(), abs=0.06)
        assert told.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.05)
        # 400 texts leave some words to chance, which no temperature mends; it takes away what is off on average.
        assert calibration_error(told.max(axis=1), right) < 0.12
        assert calibration_error(told.max(axis=1), right) < calibration_error(raw.max(axis=1), right) - 0.02
    assert nll(known[1].out_of_fold[Kind.LOGISTIC]) < nll(known[1].out_of_fold[Kind.PRIOR]) - 0.5


def test_the_turned_calls_have_the_same_solution() -> None:
    given = worded(120, seed=4)
    matrix = TfidfVectorizer(analyzer=terms_of, sublinear_tf=True).fit_transform(given.texts)
    truth = np.array([list(WORDS).index(each) for each in given.labels])
    rows, back = _turned(matrix)
    ((coefficients, intercepts, seen),) = _path(rows, truth, np.ones(120), (4.0,))
    direct = LogisticRegression(C=4.0, class_weight="balanced", max_iter=5000, tol=1e-8).fit(matrix, truth)
    theirs = direct.decision_function(matrix)
    ours = matrix @ back(coefficients) + intercepts
    assert seen.tolist() == [0, 1, 2, 3]
    centred = [each - each.mean(axis=1, keepdims=True) for each in (ours, theirs)]
    assert centred[0] == pytest.approx(centred[1], abs=0.05)
    assert rows.shape == (120, 120)


def test_many_calls_are_solved_straight_with_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    given, fresh = worded(200, seed=5), worded(50, seed=6)
    turned = trained(given)
    monkeypatch.setattr("qwenops.classify.baseline._TURNED", 10)
    monkeypatch.setattr("qwenops.classify.baseline._VOCABULARY_CALLS", 150)
    straight = trained(given)
    one, other = (predict(each.baselines[Kind.LOGISTIC], fresh.texts) for each in (turned, straight))
    assert one.argmax(axis=1).tolist() == pytest.approx(other.argmax(axis=1).tolist())
    assert len(straight.baselines[Kind.LOGISTIC].places) < len(turned.baselines[Kind.LOGISTIC].places)


def test_classes_keep_the_order_that_was_asked_for_and_strange_ones_get_next_to_nothing() -> None:
    given = worded(120, seed=7)
    order = ("other", "nobody", *(name for name in WORDS if name != "other"))
    found = train(given.texts, given.labels, classes=order, groups=given.customers, seed=1)
    for kind in Kind:
        told = predict(found.baselines[kind], given.texts)
        assert told.shape == (120, 5)
        assert told[:, 1].max() < 1e-3
    logistic = predict(found.baselines[Kind.LOGISTIC], given.texts)
    right = [order[each] for each in logistic.argmax(axis=1)]
    assert np.mean([one == other for one, other in zip(right, given.labels, strict=True)]) > 0.8


def test_a_class_with_one_call_and_two_classes_can_be_trained() -> None:
    given = worded(60, seed=8, size=2)
    two = trained(given)
    assert two.out_of_fold[Kind.LOGISTIC].right.mean() > 0.7
    single = train([*given.texts, "完全不同的一通电话"], [*given.labels, "rare"], seed=1)
    assert single.baselines[Kind.LOGISTIC].classes == ("fees", "network", "rare")
    # Its one call was never seen out of fold, which must not make everything else unsure.
    assert single.baselines[Kind.LOGISTIC].temperature < 3
    assert single.out_of_fold[Kind.LOGISTIC].confidence.mean() > 0.6


def test_a_fold_may_lack_a_class_altogether() -> None:
    found = train(["话费多扣", "信号断网", "信号不好"], ["a", "b", "b"], groups=["x", "y", "y"], seed=1)
    assert found.out_of_fold[Kind.LOGISTIC].probabilities.shape == (3, 2)
    assert np.isfinite(found.out_of_fold[Kind.LOGISTIC].probabilities).all()


def test_labels_that_are_not_trusted_weigh_less() -> None:
    clean, noise = worded(150, seed=9, told=1.0), worded(150, seed=10, told=1.0)
    flipped = ["fees" if each != "fees" else "network" for each in noise.labels]
    texts, labels = [*clean.texts, *noise.texts], [*clean.labels, *flipped]
    trust = [1.0] * 150 + [0.001] * 150
    fresh = worded(200, seed=11, told=1.0)
    trusting = train(texts, labels, seed=1)
    careful = train(texts, labels, weights=trust, seed=1)
    assert macro_f1(fresh, careful, Kind.LOGISTIC) > 0.95
    assert macro_f1(fresh, careful, Kind.LOGISTIC) > macro_f1(fresh, trusting, Kind.LOGISTIC) + 0.1


def test_flipped_labels_are_found_out_of_fold() -> None:
    given = worded(500, seed=12, told=1.0)
    rng = np.random.default_rng(1)
    flipped = set(rng.choice(500, 50, replace=False).tolist())
    names = list(WORDS)
    labels = [
        names[(names.index(label) + 1) % 4] if row in flipped else label for row, label in enumerate(given.labels)
    ]
    training = train(given.texts, labels, groups=given.customers, seed=1)
    found = {each.row for each in suspicious(training.out_of_fold[Kind.LOGISTIC])}
    assert len(found & flipped) / 50 > 0.9
    assert len(found & flipped) / len(found) > 0.8


def test_a_customer_is_never_on_both_sides() -> None:
    # Customers say one odd word, and their class is chance: only who saw the customer could know it.
    rng = np.random.default_rng(2)
    customers = [f"c{each}" for each in range(40) for _ in range(5)]
    words = {name: "".join(chr(0x4E00 + int(code)) for code in rng.integers(0, 5000, 6)) for name in set(customers)}
    labels_of = {name: str(rng.choice(["a", "b"])) for name in sorted(set(customers))}
    texts = [f"{words[name]}，{rng.choice(['对', '嗯', '好'])}" for name in customers]
    labels = [labels_of[name] for name in customers]
    grouped = train(texts, labels, groups=customers, seed=1)
    alone = train(texts, labels, seed=1)
    assert alone.out_of_fold[Kind.LOGISTIC].right.mean() > 0.9
    assert grouped.out_of_fold[Kind.LOGISTIC].right.mean() < 0.7


def test_the_same_seed_trains_the_same_and_says_how(known: tuple[Worded, Training]) -> None:
    given, training = known
    again = trained(given)
    for kind in Kind:
        one, other = training.baselines[kind], again.baselines[kind]
        assert np.array_equal(one.weights, other.weights)
        assert one.temperature == other.temperature
    facts = training.baselines[Kind.LOGISTIC].facts
    assert (facts["seed"], facts["num_calls"], facts["num_customers"], facts["folds"]) == (1, 400, 200, 5)
    assert facts["regularisation"] in REGULARISATIONS
    assert len(facts["macro_f1_by_regularisation"]) == len(REGULARISATIONS)


def test_progress_is_told_from_nothing_to_all() -> None:
    told: list[tuple[float, str]] = []
    given = worded(60, seed=13)
    train(given.texts, given.labels, seed=1, report=lambda fraction, what: told.append((fraction, what)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert any("fold 5 of 5" in what for _, what in told)


def test_a_trained_classifier_answers_without_scikit_learn(tmp_path: Path, known: tuple[Worded, Training]) -> None:
    save(known[1].baselines[Kind.LOGISTIC], tmp_path / "baseline")
    expected = predict(load(tmp_path / "baseline"), ["话费多扣"]).argmax()
    asked = (
        "import sys; sys.modules['sklearn'] = sys.modules['scipy'] = None; "
        "from pathlib import Path; from qwenops.classify.linear import load, predict; "
        f"print(predict(load(Path({str(tmp_path / 'baseline')!r})), ['话费多扣']).argmax())"
    )
    finished = run([sys.executable, "-c", asked], timeout_s=60)
    assert finished.stdout.strip() == str(expected)


@pytest.mark.parametrize(
    ("texts", "labels", "groups", "weights", "told"),
    [
        (["x"], ["a", "b"], None, None, "1 texts for 2 labels"),
        (["x", "y"], ["a", "a"], None, None, "classes, each once"),
        (["x", "y"], ["a", "b"], ["c", "c"], None, "one customer"),
        ([" ", ""], ["a", "b"], None, None, "Nothing is said"),
        (["x", "y"], ["a", "b"], None, [1.0, 0.0], "weight above 0"),
        (["x", "y"], ["a", "b"], None, [1.0, float("nan")], "weight above 0"),
        (["x", "y"], ["a", "b"], None, [1.0], "weight above 0"),
        ([], [], None, None, "classes, each once"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    texts: list[str], labels: list[str], groups: list[str] | None, weights: list[float] | None, told: str
) -> None:
    with pytest.raises(InvalidDataError, match=told):
        train(texts, labels, groups=groups, weights=weights, seed=1)


def test_labels_that_are_all_the_same_teach_nothing() -> None:
    with pytest.raises(InvalidDataError, match="same label"):
        train(["x", "y"], ["a", "a"], classes=["a", "b"], seed=1)
