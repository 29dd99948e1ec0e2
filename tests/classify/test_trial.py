from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from qwenops.calls.schema import Call, Recognition, Redaction, Role, Turn
from qwenops.classify.answers import answers_of
from qwenops.classify.calibrate import Temperature
from qwenops.classify.evaluate import Outcome
from qwenops.classify.hierarchy import hierarchy_of
from qwenops.classify.linear import Kind
from qwenops.classify.meaning import Meaning, meaning_of
from qwenops.classify.prediction import DecisionKind, dump_prediction, parse_prediction
from qwenops.classify.trial import (
    Cost,
    Facts,
    Said,
    TrialCalls,
    band,
    facts_of,
    hold_trial,
    predictions_of,
    sentences,
    slices_of_calls,
    trial_data,
)
from qwenops.statistics.samples import Array
from tests.classify.made import TAXONOMY

HIERARCHY = hierarchy_of(TAXONOMY)
SIZE = len(TAXONOMY.leaves)
COUNT = 400
FACTS = Facts(
    conversation_id="", customer="", lang="zh", channel="", month="", recognition=None, redaction="zh-1", more={}
)


def truth_of(count: int = COUNT) -> tuple[str, ...]:
    return tuple(TAXONOMY.leaves[number % SIZE] for number in range(count))


def calls_of(count: int = COUNT) -> TrialCalls:
    facts = tuple(replace(FACTS, conversation_id=f"c-{number}", customer=f"p-{number}") for number in range(count))
    return TrialCalls(facts=facts, truth=truth_of(count), tokens=tuple(range(100, 100 + count)))


def saying(right: float, *, seed: int, sure: float = 0.85, count: int = COUNT) -> Array:
    """Probabilities of who is right so often, and says `sure` each time."""
    rng = np.random.default_rng(seed)
    places = np.arange(count) % SIZE
    wrong = (places + rng.integers(1, SIZE, count)) % SIZE
    said = np.where(rng.random(count) < right, places, wrong)
    found: Array = np.full((count, SIZE), (1 - sure) / (SIZE - 1))
    found[np.arange(count), said] = sure
    return found


def meaning(right: float) -> Meaning:
    fitted = answers_of(truth_of(), saying(right, seed=50), TAXONOMY.leaves)
    return meaning_of(fitted, HIERARCHY, target_precision=0.8)


def said_of(model: float, baseline: float) -> Said:
    return Said(
        model=saying(model, seed=1),
        baselines={Kind.LOGISTIC: saying(baseline, seed=2), Kind.PRIOR: saying(0.25, seed=3, sure=0.3)},
        best=Kind.LOGISTIC,
    )


@pytest.mark.parametrize(
    ("model", "baseline", "outcome", "use", "advice"),
    [
        (0.9, 0.6, Outcome.BETTER, True, "Use model"),
        (0.6, 0.9, Outcome.WORSE, False, "Do not use model: it is worse"),
        (0.8, 0.8, Outcome.UNDECIDED, False, "Do not use model: there is no evidence"),
    ],
)
def test_the_verdict_is_about_the_baseline_that_has_to_be_beaten(
    model: float,
    baseline: float,
    outcome: Outcome,
    use: bool,  # noqa: FBT001 -- a case
    advice: str,
) -> None:
    trial = hold_trial(calls_of(), said_of(model, baseline), meaning(model), HIERARCHY, seed=0)
    assert trial.verdict.outcome is outcome
    assert trial.use_model is use
    assert sentences(trial)[0].startswith(advice)
    assert trial.evaluation.leaves.accuracy.value == pytest.approx(model, abs=0.06)
    assert trial.baselines[Kind.LOGISTIC].leaves.accuracy.value == pytest.approx(baseline, abs=0.06)


def test_a_model_must_beat_every_baseline() -> None:
    said = said_of(0.8, 0.5)
    beaten = replace(said, baselines={**said.baselines, Kind.COMPLEMENT: saying(0.95, seed=9)})
    trial = hold_trial(calls_of(), beaten, meaning(0.8), HIERARCHY, seed=0)
    assert trial.verdicts[Kind.LOGISTIC].use_ours
    assert not trial.use_model
    assert trial.verdict.theirs == "complement", "the advice is about the one that it does not beat"
    assert sentences(trial)[0].startswith("Do not use model")


def test_probabilities_are_put_right_and_how_wrong_they_were_is_told() -> None:
    trial = hold_trial(calls_of(), said_of(0.6, 0.6), meaning(0.6), HIERARCHY, seed=0)
    assert isinstance(meaning(0.6).calibration.scaling, Temperature)
    assert trial.uncalibrated.ece == pytest.approx(0.25, abs=0.06)
    assert trial.evaluation.reliability.ece < 0.07


def test_predictions_say_what_would_be_done_with_each_call() -> None:
    calls, fitted = calls_of(), meaning(0.95)
    trial = hold_trial(calls, said_of(0.95, 0.6), fitted, HIERARCHY, seed=0)
    found = predictions_of(trial, calls, fitted, TAXONOMY, HIERARCHY, model="adapter:x")
    assert [each.conversation_id for each in found] == [each.conversation_id for each in calls.facts]
    assert all(parse_prediction(dump_prediction(each)) == each for each in found)
    shares = {kind: sum(each.decision is kind for each in found) / COUNT for kind in DecisionKind}
    assert shares[DecisionKind.AUTO] == pytest.approx(trial.filed.auto)
    assert shares[DecisionKind.AUTO] > 0.3
    assert shares[DecisionKind.REVIEW] == pytest.approx(trial.filed.review)
    inquiries = [each for each in found if each.primary == "inquiry"]
    assert inquiries
    assert all(each.decision is not DecisionKind.AUTO for each in inquiries), "a person looks at them"


def test_a_call_says_what_it_can_be_told_apart_by() -> None:
    call = Call(
        conversation_id="a",
        turns=(Turn(role=Role.CUSTOMER, text="x", conf=0.5), Turn(role=Role.AGENT, text="y", conf=0.7)),
        started_at=datetime(2026, 2, 3, tzinfo=UTC),
        redaction=Redaction(version="zh-1"),
        meta={"shift": "night", "queue": 7},
    )
    found = facts_of(call, ("shift", "queue", "author", "nothing"), {"author": "pine", "shift": "day"})
    assert found.recognition == pytest.approx(0.6)
    assert (found.month, found.redaction) == ("2026-02", "zh-1")
    assert found.more == {"shift": "day", "queue": 7.0, "author": "pine"}
    heard = facts_of(replace(call, asr=Recognition(mean_conf=0.9)))
    assert heard.recognition == 0.9


def test_calls_are_divided_by_what_tells_them_apart() -> None:
    rows = [
        replace(FACTS, recognition=0.7, more={"author": "pine", "rate": 0.0}),
        replace(FACTS, recognition=0.85, more={"author": "stone", "rate": 0.1}),
        replace(FACTS, recognition=None, more={"rate": 0.2}),
        replace(FACTS, recognition=0.95, more={"author": "pine", "rate": 0.3}),
    ]
    calls = TrialCalls(facts=tuple(rows), truth=truth_of(4), tokens=(255, 256, 900, 4000))
    found = slices_of_calls(calls, ("author", "rate", "absent"))
    assert found["length"] == ["0000-0256", "0256-0512", "0512-1024", "1024+"]
    assert found["recognition"] == ["0.00-0.80", "0.80-0.90", "", "0.90+"]
    assert found["author"] == ["pine", "stone", "", "pine"]
    assert len(set(found["rate"])) == 3
    assert set(found) == {"length", "recognition", "author", "rate"}, "all calls are Chinese, and of no month"


def test_bands_begin_at_their_limits() -> None:
    assert [band(value, (0.5, 1.0), ".1f") for value in (0.49, 0.5, 0.99, 1.0, 7.0)] == [
        "0.0-0.5",
        "0.5-1.0",
        "0.5-1.0",
        "1.0+",
        "1.0+",
    ]


def test_cost_is_of_a_thousand_calls() -> None:
    cost = Cost(calls=200, tokens=1, seconds=36.0, threads=4, price_per_hour=2.0)
    assert cost.seconds_per_1000_calls == pytest.approx(180.0)
    assert cost.price_per_1000_calls == pytest.approx(0.1)
    assert replace(cost, price_per_hour=None).price_per_1000_calls is None


def test_the_data_say_what_an_exported_classifier_says() -> None:
    trial = hold_trial(calls_of(), said_of(0.9, 0.6), meaning(0.9), HIERARCHY, seed=0)
    told = trial_data(trial, Cost(calls=COUNT, tokens=1, seconds=1.0, threads=1))
    assert told["test"]["leaves"]["macro_f1"]["value"] == trial.evaluation.leaves.macro_f1.value
    assert told["filed"]["auto"] == trial.filed.auto
    assert set(told["verdicts"]) == set(told["baselines"]) == {"logistic", "prior"}
    assert told["use_model"] is True
