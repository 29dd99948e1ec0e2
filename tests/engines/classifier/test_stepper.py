"""The classifier's stepper: what it queues, computes, refuses and forgets."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.engines.classifier.compiled import CompileOptions, compile_graph, probabilities
from qwenops.engines.classifier.stepper import ScoringStepper, open_stepper
from qwenops.engines.options import EngineOptions
from qwenops.errors import (
    EngineError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelLoadError,
    PromptTooLongError,
)
from qwenops.generation import GenerationRequest, SamplingParams, Tokens
from qwenops.models.prefill import Prefill, PrefillScheme, open_prefill, write_golden
from tests.models.prefilled import LABELS, PREFIX, centred, made, prompts, relative

MODELS = Callable[..., Prefill]


class Counting:
    """Stands for a graph: the first label's logit is the prompt's length, the second's its first token."""

    def __init__(self, prefill: Prefill) -> None:
        self.prefill = prefill
        self.batches: list[list[int]] = []
        self.fails = False

    def logits(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        self.batches.append([len(ids) for ids in texts])
        if self.fails:
            raise EngineError("The logits are not finite.")
        return np.array([[len(ids) / 10, ids[0] / 10, 0, 0, 0] for ids in texts], np.float32)


def stepper_of(graph: Any, *, context_tokens: int = 100, batch_tokens: int = 256, **more: Any) -> ScoringStepper:
    return ScoringStepper(graph, context_tokens=context_tokens, batch_tokens=batch_tokens, facts={}, **more)


def texts(*lengths: int, first: int = 3) -> list[Tokens]:
    return [Tokens(ids=(first + number, *range(10, 9 + length))) for number, length in enumerate(lengths)]


def drained(stepper: ScoringStepper) -> dict[str, Any]:
    """Step until there is nothing to do; return the events by call."""
    found: dict[str, Any] = {}
    while stepper.has_work:
        for name, event in stepper.step():
            assert name not in found, "a call has one event"
            found[name] = event
    return found


def expected(ids: Sequence[int], labels: Sequence[int] = LABELS) -> list[float]:
    logits = dict(zip(LABELS, (len(ids) / 10, ids[0] / 10, 0.0, 0.0, 0.0), strict=True))
    row: list[float] = probabilities(np.array([[logits[label] for label in labels]], np.float32))[0].tolist()
    return row


@pytest.fixture
def graph(models: MODELS) -> Counting:
    return Counting(models(PrefillScheme.F32))


def test_scores_come_in_the_order_of_prompts_and_labels(graph: Counting) -> None:
    stepper = stepper_of(graph)
    many = texts(5, 90, 7, 88, 6)
    labels = [LABELS[1], LABELS[3], LABELS[0]]
    stepper.submit_score("a", many, labels)
    stepper.submit_score("b", texts(9), LABELS)
    found = drained(stepper)
    for prompt, scores in zip(many, found["a"], strict=True):
        assert scores == pytest.approx(expected(prompt.ids, labels))
    assert found["b"][0] == pytest.approx(expected(texts(9)[0].ids))
    assert not stepper.has_work
    assert stepper.step() == []


def test_prompts_of_several_calls_share_a_batch(graph: Counting) -> None:
    stepper = stepper_of(graph)
    stepper.submit_score("a", texts(50, 51), LABELS)
    stepper.submit_score("b", texts(52, 90), LABELS)
    events = [name for name, _ in stepper.step()]
    assert sorted(graph.batches[0]) == [50, 51, 52]
    assert events == ["a"], "b has one prompt left"
    assert [name for name, _ in stepper.step()] == ["b"]


def test_no_prompt_has_no_score(graph: Counting) -> None:
    stepper = stepper_of(graph)
    stepper.submit_score("a", [], LABELS)
    assert stepper.has_work
    assert drained(stepper) == {"a": ()}


def test_a_cancelled_call_computes_nothing_more(graph: Counting) -> None:
    stepper = stepper_of(graph)
    stepper.submit_score("a", texts(90, 91, 92, 93, 94), LABELS)
    stepper.submit_score("b", texts(8), LABELS)
    stepper.step()
    done = len(graph.batches)
    stepper.cancel("a")
    stepper.cancel("nobody")
    assert drained(stepper).keys() == {"b"}
    assert graph.batches[done:] == [[8]]
    stepper.submit_score("a", texts(8), LABELS)
    assert drained(stepper).keys() == {"a"}


def test_a_failure_ends_the_calls_of_its_batch_and_no_other(graph: Counting) -> None:
    stepper = stepper_of(graph)
    stepper.submit_score("a", texts(50, 95), LABELS)
    stepper.submit_score("b", texts(10), LABELS)
    graph.fails = True
    failed = dict(stepper.step())
    assert isinstance(failed.pop("a"), EngineError)
    assert failed == {}
    graph.fails = False
    assert drained(stepper).keys() == {"b"}


@pytest.mark.parametrize("labels", [[], [LABELS[0]], [LABELS[0], LABELS[0]], [LABELS[0], 4], [*LABELS, 4]], ids=str)
def test_labels_that_the_model_does_not_know_are_refused(graph: Counting, labels: list[int]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        stepper_of(graph).submit_score("a", texts(5), labels)
    assert caught.value.param == "labels"


@pytest.mark.parametrize("ids", [(), (-1, 5), (5, 151_936)], ids=str)
def test_prompts_that_are_none_are_refused_and_leave_nothing(graph: Counting, ids: tuple[int, ...]) -> None:
    stepper = stepper_of(graph)
    with pytest.raises(InvalidRequestError):
        stepper.submit_score("a", [*texts(5), Tokens(ids=ids)], LABELS)
    assert not stepper.has_work
    stepper.submit_score("a", texts(5), LABELS)
    with pytest.raises(InvalidRequestError, match="in flight"):
        stepper.submit_score("a", texts(5), LABELS)


def test_a_prompt_may_be_as_long_as_the_context_and_no_longer(graph: Counting) -> None:
    stepper = stepper_of(graph)
    stepper.submit_score("a", texts(100), LABELS)
    assert len(drained(stepper)["a"]) == 1
    with pytest.raises(PromptTooLongError, match="101"):
        stepper.submit_score("a", texts(101), LABELS)


def test_a_prefix_is_left_out_and_asked_for(models: MODELS) -> None:
    graph = Counting(models(PrefillScheme.F32, prefixed=True))
    stepper = stepper_of(graph)
    stepper.submit_score("a", [Tokens(ids=(*PREFIX, 50, 51, 52))], LABELS)
    assert drained(stepper)["a"][0] == pytest.approx(expected((50, 51, 52)))
    assert graph.batches == [[3]]
    assert stepper.stats()["cached_prompt_tokens"] == len(PREFIX)
    for wrong in ((50, 51, 52, 53, 54, 55), PREFIX, PREFIX[:2]):
        with pytest.raises(InvalidRequestError, match="does not begin"):
            stepper.submit_score("b", [Tokens(ids=wrong)], LABELS)


def test_it_writes_no_answers(graph: Counting) -> None:
    request = GenerationRequest(id="a", prompt=Tokens(ids=(1, 2)), sampling=SamplingParams(max_tokens=1))
    with pytest.raises(InvalidRequestError, match="writes no answers"):
        stepper_of(graph).submit(request)


def test_speed_and_queue_are_counted(graph: Counting) -> None:
    times = iter(range(0, 100, 2))
    stepper = stepper_of(graph, clock=lambda: float(next(times)))
    stepper.submit_score("a", texts(50, 50), LABELS)
    assert stepper.stats()["waiting"] == 1
    drained(stepper)
    assert stepper.stats()["waiting"] == 0
    assert stepper.stats()["prefill_tokens_per_s"] == pytest.approx(50)


def test_a_closed_stepper_has_nothing(graph: Counting) -> None:
    stepper = stepper_of(graph)
    stepper.submit_score("a", texts(5), LABELS)
    stepper.close()
    assert not stepper.has_work


# -- with the true graph -----------------------------------------------------------------------------------------------


def opened(prefill: Prefill, environ: dict[str, str] | None = None, **options: Any) -> ScoringStepper:
    usual: dict[str, Any] = {"model_dir": prefill.folder, "context_tokens": 256, "threads": 1}
    wanted = EngineOptions(**(usual | options))
    return open_stepper(wanted, lambda _fraction, _doing: None, environ={} if environ is None else environ)


def test_the_scores_are_those_of_the_graph(models: MODELS) -> None:
    prefill = models(PrefillScheme.F32, prefixed=True)
    stepper = opened(prefill)
    many = prompts(9, seed=2)
    stepper.submit_score("a", [Tokens(ids=(*PREFIX, *ids)) for ids in many], LABELS)
    graph = compile_graph(prefill, CompileOptions(precision="f32", threads=1))
    np.testing.assert_allclose(drained(stepper)["a"], probabilities(graph.logits(many)), rtol=0, atol=1e-5)
    assert stepper.facts()["quantization"] == "f32"
    assert stepper.facts()["notes"]["prefix"].startswith(str(len(PREFIX)))


@pytest.mark.parametrize("scheme", [PrefillScheme.BF16, PrefillScheme.INT8])
@pytest.mark.parametrize("precision", ["auto", "f32"])
def test_compressed_models_say_nearly_the_same(models: MODELS, scheme: PrefillScheme, precision: str) -> None:
    many = [Tokens(ids=ids) for ids in prompts(9, seed=3)]
    rows = []
    for prefill, arithmetic in ((models(PrefillScheme.F32), "f32"), (models(scheme), precision)):
        stepper = opened(prefill, prefill_precision=arithmetic)
        stepper.submit_score("a", many, LABELS)
        rows.append(np.array(drained(stepper)["a"]))
    assert relative(centred(rows[1]), centred(rows[0])) < 0.1


def test_a_model_that_says_something_else_than_it_did_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    prefill = made(tiny_checkpoint, tmp_path / "made", PrefillScheme.F32)
    ids = prompts(1, seed=4)[0]
    right = probabilities(compile_graph(prefill, CompileOptions(precision="f32", threads=1)).logits([ids]))
    write_golden(prefill, [ids], right.tolist())
    opened(open_prefill(prefill.folder))
    write_golden(prefill, [ids], [[0.0, 0.0, 1.0, 0.0, 0.0]])
    with pytest.raises(ModelLoadError, match="what it said when it was exported"):
        opened(open_prefill(prefill.folder))


def test_a_model_without_room_is_refused_before_it_is_loaded(models: MODELS, monkeypatch: pytest.MonkeyPatch) -> None:
    from qwenops.engines.classifier import stepper
    from qwenops.hardware.machine import detect_machine
    from qwenops.text import say

    machine = detect_machine()
    limit = replace(machine.memory_limit, value=200 * 2**20, reason=say("A test says so."))
    monkeypatch.setattr(stepper, "detect_machine", lambda: replace(machine, memory_limit=limit))
    with pytest.raises(InsufficientMemoryError, match="A test says so") as caught:
        opened(models(PrefillScheme.F32))
    assert caught.value.needed_bytes > caught.value.available_bytes == limit.value
