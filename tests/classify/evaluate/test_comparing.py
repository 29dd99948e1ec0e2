import json

import numpy as np
import pytest

from qwenops.classify.answers import Answers
from qwenops.classify.evaluate.comparing import (
    Outcome,
    Verdict,
    compare,
    compare_all,
    verdict_sentences,
)
from qwenops.classify.plain import from_plain, to_plain
from qwenops.errors import InvalidDataError
from qwenops.text import Text
from tests.classify.simulated import Random, answers, one_hot
from tests.statistics.proportions import binomial_interval


def systems(rng: Random, num: int, chances: list[float], size: int = 4, calls_each: int = 1) -> list[Answers]:
    """Return answers of several classifiers of the same calls, each right with its own chance."""
    truth = np.repeat(rng.integers(0, size, num), calls_each)
    customers = np.repeat(np.arange(num), calls_each)
    found = []
    for chance in chances:
        right = np.repeat(rng.random(num) < chance, calls_each)
        wrong = (truth + np.repeat(rng.integers(1, size, num), calls_each)) % size
        found.append(answers(truth, one_hot(np.where(right, truth, wrong), size), customers))
    return found


def compared(pair: list[Answers], seed: int = 1, resamples: int = 1000) -> Verdict:
    return compare(pair[0], pair[1], name="qwen", their_name="tfidf", seed=seed, resamples=resamples)


def test_a_better_classifier_is_called_better_and_a_worse_one_worse() -> None:
    pair = systems(np.random.default_rng(1), 800, [0.85, 0.75])
    found, mirrored = compared(pair), compared(pair[::-1])
    assert found.outcome is Outcome.BETTER
    assert found.use_ours
    assert found.p < 0.01
    assert found.difference.value == pytest.approx(found.macro_f1 - found.their_macro_f1)
    assert found.difference.value == pytest.approx(0.1, abs=0.05)
    assert mirrored.outcome is Outcome.WORSE
    assert (mirrored.ahead, mirrored.behind) == (found.behind, found.ahead)
    assert mirrored.difference.value == pytest.approx(-found.difference.value)


def test_without_evidence_the_language_model_is_not_used() -> None:
    found = compared(systems(np.random.default_rng(2), 200, [0.80, 0.80]))
    assert found.outcome is Outcome.UNDECIDED
    assert not found.use_ours
    sentences = verdict_sentences(found)
    assert sentences[0].startswith("Do not use qwen: there is no evidence")
    assert all(isinstance(each, Text) for each in sentences)
    assert "McNemar" in sentences[2]


def test_two_equal_classifiers_are_told_apart_as_rarely_as_is_said() -> None:
    runs, alarms = 200, 0
    for each in range(runs):
        pair = systems(np.random.default_rng(each), 200, [0.8, 0.8])
        alarms += compared(pair, resamples=500).outcome is not Outcome.UNDECIDED
    assert binomial_interval(alarms, runs, 0.99).low <= 0.05


def test_a_customer_counts_once() -> None:
    single = systems(np.random.default_rng(3), 60, [0.85, 0.75])
    fourfold = systems(np.random.default_rng(3), 60, [0.85, 0.75], calls_each=4)
    once, often = compared(single), compared(fourfold)
    assert (once.ahead, once.behind, once.p) == (often.ahead, often.behind, often.p)
    assert once.difference.low is not None
    assert often.difference.low is not None
    assert often.difference.low == pytest.approx(once.difference.low, abs=0.01)
    assert often.num_calls == 240
    assert often.num_groups == 60


def test_the_same_answers_differ_by_nothing() -> None:
    (one,) = systems(np.random.default_rng(4), 50, [0.8])
    found = compared([one, one])
    assert (found.difference.value, found.p, found.ahead) == (0, 1, 0)
    assert found.outcome is Outcome.UNDECIDED


def test_a_single_customer_proves_nothing() -> None:
    truth = np.array([0, 1, 0, 1])
    right, wrong = (answers(truth, one_hot(said, 2), np.zeros(4)) for said in (truth, 1 - truth))
    found = compared([right, wrong])
    assert found.outcome is Outcome.UNDECIDED
    assert found.difference.low is None
    assert "too few customers" in verdict_sentences(found)[1]


def test_macro_f1_and_accuracy_that_contradict_each_other_prove_nothing() -> None:
    # Ours knows the rare class and pays for it with many calls of the frequent one.
    truth = np.array([0] * 900 + [1] * 100)
    ours = truth.copy()
    ours[:120] = 1
    theirs = np.zeros(1000, dtype=np.int64)
    theirs[900:920] = 1
    found = compared([answers(truth, one_hot(said, 2)) for said in (ours, theirs)])
    assert found.difference.low is not None
    assert found.difference.low > 0
    assert found.p < 0.05
    assert found.behind > found.ahead
    assert found.outcome is Outcome.UNDECIDED


def test_several_comparisons_share_what_may_go_wrong() -> None:
    one, two, three, base = systems(np.random.default_rng(5), 500, [0.85, 0.8, 0.75, 0.75])
    verdicts = compare_all({"tfidf": base, "a": one, "b": two, "c": three}, "tfidf", seed=1, resamples=500)
    assert [each.ours for each in verdicts] == ["a", "b", "c"]
    assert all(each.confidence == pytest.approx(1 - 0.05 / 3) for each in verdicts)
    assert all(each.p <= each.p_adjusted <= min(1, 3 * each.p + 1e-12) for each in verdicts)
    assert verdicts[0].outcome is Outcome.BETTER
    alone = compared([one, base], resamples=500)
    assert alone.difference.low is not None
    assert verdicts[0].difference.low is not None
    assert verdicts[0].difference.low < alone.difference.low
    assert compare_all({"tfidf": base}, "tfidf", seed=1) == ()


def test_different_calls_or_customers_are_not_compared() -> None:
    one, two = systems(np.random.default_rng(6), 20, [0.8, 0.8])
    other = systems(np.random.default_rng(7), 20, [0.8])[0]
    moved = Answers(
        classes=two.classes, truth=two.truth, probabilities=two.probabilities, groups=np.zeros(20, dtype=np.int64)
    )
    for wrong in (other, moved):
        with pytest.raises(InvalidDataError, match="different calls"):
            compared([one, wrong])


def test_a_verdict_is_the_same_after_json() -> None:
    found = compared(systems(np.random.default_rng(8), 50, [0.8, 0.7]), resamples=100)
    assert from_plain(Verdict, json.loads(json.dumps(to_plain(found)))) == found
