import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenops.calls.redact import VERSION
from qwenops.calls.schema import Call, Role, Turn
from qwenops.classify.codes import assign
from qwenops.classify.conformal import Conformal, Score
from qwenops.classify.golden import fingerprint
from qwenops.classify.plain import to_plain
from qwenops.classify.prediction import DecisionKind, dump_prediction, parse_prediction
from qwenops.classify.score import MOST_PARTS, Classifier, check_tokenizer, open_form
from qwenops.errors import ModelLoadError
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from tests.classify.artefacts import BUDGET, WordScorer, call_of, write_artefact
from tests.classify.made import TAXONOMY

SECRET = b"a secret for tests only, of any length"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
Make = Callable[..., tuple[Classifier, WordScorer]]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return open_tokenizer(tiny_checkpoint)


@pytest.fixture
def make(tmp_path: Path, tokenizer: Tokenizer) -> Make:
    def build(**changes: Any) -> tuple[Classifier, WordScorer]:
        form = open_form(write_artefact(tmp_path / "artefact", **changes))
        scorer = WordScorer(tokenizer)
        clock = iter(range(1000)).__next__
        made = Classifier("made@1-abc", form, tokenizer, scorer, secret=SECRET, clock=clock, now=lambda: NOW)
        return made, scorer

    return build


async def test_a_call_becomes_a_prediction_with_everything_that_a_line_has(make: Make) -> None:
    classifier, _ = make()
    prepared = classifier.prepare([call_of("c-1", "您好", "多扣了钱")])
    (found,) = await classifier.judge(prepared)
    expected = np.exp([4.0, 0, 0, 0])
    expected /= expected.sum()
    assert list(found.probs) == list(TAXONOMY.leaves)
    assert list(found.probs.values()) == pytest.approx(expected, abs=1e-6)
    assert (found.primary, found.path, found.decision) == (
        "billing.fee",
        ("billing", "billing.fee"),
        DecisionKind.AUTO,
    )
    assert found.p == pytest.approx(expected[0])
    assert (found.model, found.threshold, found.redaction, found.at) == ("made@1-abc", 0.9, VERSION, NOW)
    assert found.tokens == len(prepared.prompts[0].ids)
    assert found.latency_s == 1.0
    assert parse_prediction(dump_prediction(found)) == found


async def test_what_the_model_cannot_tell_goes_to_a_person(make: Make) -> None:
    classifier, _ = make()
    (found,) = await classifier.judge(classifier.prepare([call_of("c-1", "您好", "多扣了钱，还断网")]))
    assert found.decision is DecisionKind.REVIEW
    assert found.p == pytest.approx(0.5, abs=0.02)


async def test_probabilities_are_calibrated(make: Make) -> None:
    classifier, _ = make(temperature=4.0)
    (found,) = await classifier.judge(classifier.prepare([call_of("c-1", "您好", "多扣了钱")]))
    expected = np.exp([1.0, 0, 0, 0])
    assert found.p == pytest.approx(float(expected[0] / expected.sum()), abs=1e-6)
    assert found.decision is DecisionKind.REVIEW


async def test_many_calls_are_scored_together_and_come_back_in_their_order(make: Make) -> None:
    classifier, scorer = make()
    calls = [call_of(f"c-{n}", "您好", ("多扣了钱", "断网了", "态度差")[n % 3] + "嗯" * n) for n in range(12)]
    found = await classifier.judge(classifier.prepare(calls))
    assert scorer.batches == [12]
    assert [each.conversation_id for each in found] == [call.conversation_id for call in calls]
    assert [each.primary for each in found] == ["billing.fee", "network.down", "service.rude"] * 4
    assert sum(each.latency_s or 0 for each in found) == pytest.approx(1.0)


def test_calls_are_redacted_before_the_model_sees_them(make: Make, tokenizer: Tokenizer) -> None:
    classifier, _ = make()
    prepared = classifier.prepare([call_of("c-1", "您好", "我的电话是12345678901", customer="12345678901")])
    (call,) = prepared.calls
    assert "12345678901" not in tokenizer.decode(prepared.prompts[0].ids)
    assert "12345678901" not in str(call)
    assert call.redaction is not None


def test_a_call_in_which_nobody_speaks_is_refused_alone(make: Make) -> None:
    classifier, _ = make()
    silent = Call(conversation_id="c-2", turns=(Turn(role=Role.IVR, text="请按一"), Turn(role=Role.AGENT, text=" ")))
    prepared = classifier.prepare([call_of("c-1", "您好", "断网"), silent, call_of("c-3", "您好", "断网")])
    assert [call.conversation_id for call in prepared.calls] == ["c-1", "c-3"]
    (refused,) = prepared.refused
    assert (refused.place, refused.call.conversation_id) == (1, "c-2")
    assert "Nobody says anything" in refused.reason


async def test_nothing_is_asked_of_the_engine_about_no_calls(make: Make) -> None:
    classifier, scorer = make()
    assert await classifier.judge(classifier.prepare([])) == []
    assert scorer.batches == []


async def test_a_call_of_a_hundred_thousand_tokens_is_cut_and_judged(make: Make) -> None:
    classifier, _ = make()
    long = call_of("c-1", "您好", "多扣了钱" + "嗯那个就是说" * 20_000 + "多扣")
    (found,) = await classifier.judge(classifier.prepare([long]))
    assert found.primary == "billing.fee"
    assert found.tokens is not None
    assert found.tokens <= BUDGET


async def test_the_turn_that_carried_a_prediction_is_the_one_without_which_it_falls(make: Make) -> None:
    classifier, scorer = make()
    (call,) = classifier.prepare([call_of("c-1", "您好", "嗯", "您说", "你们多扣了我的钱", "好的", "谢谢")]).calls
    first, *_ = await classifier.carried_by(call, "billing.fee")
    assert first.turns == (3,)
    assert first.drop == pytest.approx(np.exp(4) / (np.exp(4) + 3) - 0.25, abs=1e-6)
    assert scorer.batches == [7]


async def test_of_a_parent_the_leaves_below_it_count(make: Make) -> None:
    classifier, _ = make()
    (call,) = classifier.prepare([call_of("c-1", "您好", "多扣")]).calls
    assert await classifier.carried_by(call, "billing") == await classifier.carried_by(call, "billing.fee")


async def test_a_long_call_is_left_out_several_turns_at_a_time(make: Make) -> None:
    classifier, scorer = make()
    texts = [text for n in range(50) for text in ("嗯", f"第{n}句")]
    (call,) = classifier.prepare([call_of("c-1", *texts, "您好", "多扣了钱")]).calls
    first, *_ = await classifier.carried_by(call, "billing.fee")
    assert scorer.batches[0] <= MOST_PARTS + 1
    assert len(call.turns) - 1 in first.turns


async def test_closing_closes_the_scorer(make: Make) -> None:
    classifier, scorer = make()
    await classifier.aclose()
    assert scorer.is_closed


async def test_sets_that_hold_the_truth_come_with_the_prediction(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = write_artefact(tmp_path / "artefact")
    sets = Conformal(score=Score.LAC, coverage=0.95, by_class=False, limits=(0.6,) * 4)
    (folder / "conformal.json").write_text(json.dumps(to_plain(sets)))
    classifier = Classifier("m@1", open_form(folder), tokenizer, WordScorer(tokenizer), secret=SECRET)
    (found,) = await classifier.judge(classifier.prepare([call_of("c-1", "您好", "多扣，断网")]))
    assert found.candidates == ("billing.fee", "network.down")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_hash": "0" * 64}, "prompts of another form"),
        ({"taxonomy": "made@2"}, "trained for made@2, and its taxonomy is made@1"),
    ],
)
def test_a_model_and_what_it_is_asked_with_that_do_not_match_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelLoadError, match=said):
        open_form(write_artefact(tmp_path / "artefact", **changes))


@pytest.mark.parametrize("name", ["prompt.json", "calibration.json", "thresholds.json", "manifest.json"])
@pytest.mark.parametrize("text", [None, "{", "[]", '{"scaling": 3}'])
def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path, name: str, text: str | None) -> None:
    folder = write_artefact(tmp_path / "artefact")
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    if name == "manifest.json" and text not in {None, "{"}:
        open_form(folder)  # what it does not say is not held against it
        return
    with pytest.raises(ModelLoadError, match=name):
        open_form(folder)


def test_a_scaling_for_other_classes_is_refused(tmp_path: Path) -> None:
    folder = write_artefact(tmp_path / "artefact")
    told = json.loads((folder / "calibration.json").read_text())
    told["scaling"] = {"kind": "vector", "scales": [1.0, 1.0], "shifts": [0.0, 0.0]}
    (folder / "calibration.json").write_text(json.dumps(told))
    with pytest.raises(ModelLoadError, match=r"calibration\.json is about 2 classes, and made@1 has 4"):
        open_form(folder)


def test_another_version_of_redaction_is_a_warning(tmp_path: Path) -> None:
    assert open_form(write_artefact(tmp_path / "a")).warning is None
    warning = open_form(write_artefact(tmp_path / "b", redaction="zh-0")).warning
    assert warning is not None
    assert "zh-0" in warning


def test_a_tokenizer_that_makes_other_prompts_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    right = fingerprint(tokenizer, budget_tokens=BUDGET)
    check_tokenizer(tmp_path, open_form(write_artefact(tmp_path / "a", fingerprint=right)), tokenizer)
    check_tokenizer(tmp_path, open_form(write_artefact(tmp_path / "b")), tokenizer)
    with pytest.raises(ModelLoadError, match="other prompts"):
        check_tokenizer(tmp_path, open_form(write_artefact(tmp_path / "c", fingerprint="0" * 64)), tokenizer)


def test_the_scorer_is_asked_about_the_codes_in_the_order_of_the_leaves(make: Make, tokenizer: Tokenizer) -> None:
    classifier, _ = make()
    assert classifier._label_ids == tuple(assign(TAXONOMY.leaves, tokenizer).values())
