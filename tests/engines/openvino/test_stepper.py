import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from qwenops.engines.openvino.stepper import PagedStepper
from qwenops.engines.seam import EngineHealth, EngineInfo
from qwenops.engines.steploop import Scores
from qwenops.errors import EngineError, InvalidRequestError, PromptTooLongError, QwenOpsError
from qwenops.generation import (
    Choice,
    Chunk,
    FinishReason,
    GenerationRequest,
    JsonObject,
    Messages,
    Regex,
    SamplingParams,
    Tokens,
)
from qwenops.models.spec import Scheme
from tests.engines.openvino.conftest import EXACT, Open

pytestmark = pytest.mark.slow


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(1000, 100_000), k=length))


def ask(name: str, ids: Sequence[int], namespace: str = "", **sampling: Any) -> GenerationRequest:
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": 16, "ignore_eos": True, **sampling})
    return GenerationRequest(id=name, prompt=Tokens(ids=tuple(ids)), sampling=params, namespace=namespace)


def finish(stepper: PagedStepper, requests: Iterable[GenerationRequest] = ()) -> dict[str, list[Chunk]]:
    """Submit, step to the end, and return the chunks of each request."""
    found: dict[str, list[Chunk]] = {}
    for request in requests:
        stepper.submit(request)
    for _ in range(20_000):
        if not stepper.has_work:
            return found
        for name, piece in stepper.step():
            if isinstance(piece, QwenOpsError):
                raise piece
            assert isinstance(piece, Chunk)
            found.setdefault(name, []).append(piece)
        stepper.scheduler.check()
    raise AssertionError("it does not end")


def scored(stepper: PagedStepper, prompts: Sequence[Sequence[int]], labels: Sequence[int]) -> Scores:
    """Submit prompts, step until their scores come, and return them."""
    stepper.submit_score("s", [Tokens(ids=tuple(each)) for each in prompts], labels)
    for _ in range(1000):
        for name, found in stepper.step():
            if name == "s":
                assert isinstance(found, tuple)
                return found
        stepper.scheduler.check()
    raise AssertionError("it does not end")


def ids(chunks: Sequence[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


def text(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_facts_and_stats_are_the_fields_of_the_seam(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT)
    info = EngineInfo(engine="openvino", model="m", health=EngineHealth(**stepper.stats()), **stepper.facts())
    assert info.quantization == "f32"
    assert info.context_tokens == 1024
    assert info.kv_capacity_tokens >= 1024
    assert set(info.notes) == {"threads", "isa", "arithmetic", "kv_cache", "kv_precision"}
    assert all(info.notes.values())


def test_an_answer_ends_at_its_limit_with_usage(stepper_of: Open) -> None:
    chunks = finish(stepper_of(**EXACT), [ask("a", prompt(40))])["a"]
    assert len(ids(chunks)) == 16
    assert [chunk.finish_reason for chunk in chunks] == [None] * 15 + [FinishReason.LENGTH]
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (40, 16)
    assert stepper_of(**EXACT).stats()["kv_used_ratio"] == 0


def test_an_end_of_text_token_ends_an_answer_and_is_not_shown(stepper_of: Open) -> None:
    bias = ((151645, 1000.0),)
    chunks = finish(stepper_of(**EXACT), [ask("a", prompt(9), ignore_eos=False, logit_bias=bias)])["a"]
    assert ids(chunks) == [151645]
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert text(chunks) == ""
    ignored = finish(stepper_of(**EXACT), [ask("a", prompt(9), logit_bias=bias)])["a"]
    assert ids(ignored) == [151645] * 16


def test_a_stop_string_ends_an_answer_and_no_part_of_it_is_shown(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT)
    whole = text(finish(stepper, [ask("a", prompt(30), temperature=1.0, top_k=0, top_p=1.0, seed=3)])["a"])
    stop = whole[9:14]
    chunks = finish(stepper, [ask("a", prompt(30), temperature=1.0, top_k=0, top_p=1.0, seed=3, stop=(stop,))])["a"]
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert text(chunks) == whole[: whole.index(stop)]


def test_an_answer_ends_where_the_context_ends(stepper_of: Open) -> None:
    chunks = finish(stepper_of(**EXACT), [ask("a", prompt(1020), max_tokens=500)])["a"]
    assert len(ids(chunks)) == 4
    assert chunks[-1].finish_reason is FinishReason.LENGTH


def test_log_probabilities_come_with_bytes_and_alternatives(stepper_of: Open) -> None:
    (chunk,) = finish(stepper_of(**EXACT), [ask("a", prompt(12), max_tokens=1, logprobs=3)])["a"]
    (found,) = chunk.logprobs
    assert found.token_id == chunk.token_ids[0]
    assert found.logprob < 0
    assert len(found.top) == 3
    assert (found.top[0].token_id, found.top[0].logprob) == (found.token_id, found.logprob)
    assert found.raw.decode("utf-8", "replace") == chunk.text


@pytest.mark.parametrize(
    "changes",
    [
        {"prefix_cache": False},
        {"max_batched_tokens": 64},
        {"kv_cache_bytes": 0},
        {"kv_cache_bytes": 15 * 65536},
        {"kv_cache_bytes": 13 * 65536, "prefix_cache": False, "max_batched_tokens": 96},
    ],
    ids=["no-cache", "small-steps", "room", "too-small", "too-small-no-cache"],
)
def test_the_answer_is_the_same_whatever_the_cache_the_chunks_the_batch_and_the_pre_emption(
    stepper_of: Open, changes: dict[str, Any]
) -> None:
    alone = stepper_of(**EXACT, prefix_cache=False)
    shared = prompt(100)
    requests = [
        ask(str(each), [*shared, *prompt(20 + 31 * each, seed=each)], max_tokens=64, temperature=0.8, seed=each)
        for each in range(5)
    ]
    expected = {request.id: ids(finish(alone, [request])[request.id]) for request in requests}
    crowded = stepper_of(**EXACT, **changes)
    before = crowded.stats()["preemptions"]
    found = finish(crowded, requests)
    assert {name: ids(chunks) for name, chunks in found.items()} == expected
    if changes.get("kv_cache_bytes"):
        assert crowded.stats()["preemptions"] > before
    if changes.get("prefix_cache", True):
        assert all(chunks[-1].usage.cached_tokens == 96 for name, chunks in found.items() if name != "0")  # type: ignore[union-attr] # the last one has it


def test_tenants_do_not_share_the_cache(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT)
    ids_ = prompt(80, seed=77)
    cached = []
    for namespace in ("one", "one", "two"):
        usage = finish(stepper, [ask("a", ids_, namespace)])["a"][-1].usage
        assert usage is not None
        cached.append(usage.cached_tokens)
    assert cached == [0, 64, 0]


def test_a_cancelled_request_frees_all_it_held_at_any_point(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT, max_batched_tokens=64)
    for steps in range(6):
        stepper.submit(ask("gone", prompt(150, seed=steps)))
        stepper.submit(ask("stays", prompt(20, seed=steps)))
        for _ in range(steps):
            stepper.step()
        stepper.cancel("gone")
        assert set(finish(stepper)) <= {"stays"}
        assert stepper.stats()["kv_used_ratio"] == 0
    stepper.cancel("never there")


def test_structured_answers_keep_their_form_and_then_end(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT)
    common: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 60}
    found = finish(
        stepper,
        [
            ask("regex", prompt(9), structure=Regex(pattern=r"[0-9]{3}-[a-z]{4}"), seed=1, **common),
            ask("choice", prompt(9), structure=Choice(choices=("投诉", "表扬")), seed=2, **common),
            ask("free", prompt(9), seed=3, **common),
        ],
    )
    assert len(text(found["regex"])) == 8
    assert text(found["choice"]) in {"投诉", "表扬"}
    assert found["regex"][-1].finish_reason is found["choice"][-1].finish_reason is FinishReason.STOP
    assert found["free"][-1].finish_reason is FinishReason.LENGTH


def test_a_json_answer_can_be_read(stepper_of: Open) -> None:
    bias = ((92, 40.0),)  # the closing brace: a model of random weights would never end by itself
    chunks = finish(stepper_of(**EXACT), [ask("a", prompt(9), structure=JsonObject(), logit_bias=bias)])["a"]
    assert isinstance(json.loads(text(chunks)), dict)


def test_scores_are_the_softmax_over_the_labels(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT)
    prompts = [prompt(50, seed=1), prompt(90, seed=2), prompt(50, seed=1)]
    scores = scored(stepper, prompts, [500, 600, 700])
    assert scores[0] == pytest.approx(scores[2])
    for found, ids_ in zip(scores, prompts, strict=True):
        assert sum(found) == pytest.approx(1)
        (chunk,) = finish(stepper, [ask("a", ids_, max_tokens=1, logprobs=151_936)])["a"]
        logs = {each.token_id: each.logprob for each in chunk.logprobs[0].top}
        expected = [pow(2.718281828459045, logs[label]) for label in (500, 600, 700)]
        assert found == pytest.approx([each / sum(expected) for each in expected], rel=1e-4)
    assert stepper.stats()["kv_used_ratio"] == 0


def test_answers_go_on_in_every_step_while_a_long_prompt_is_scored(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT, max_batched_tokens=64)
    expected = ids(finish(stepper, [ask("a", prompt(33))])["a"])
    stepper.submit(ask("a", prompt(33)))
    first = stepper.step()
    stepper.submit_score("s", [Tokens(ids=prompt(700, seed=1))], [1, 2])
    streamed = [piece for _, piece in first]
    for _ in range(8):
        ((name, piece),) = stepper.step()
        assert name == "a"
        streamed.append(piece)
    assert "s" in stepper._scorings
    while stepper.has_work:
        streamed += [piece for name, piece in stepper.step() if name == "a"]
    assert ids([piece for piece in streamed if isinstance(piece, Chunk)]) == expected


def test_cancelled_scores_free_all_they_held_at_any_point(stepper_of: Open) -> None:
    stepper = stepper_of(**EXACT, max_batched_tokens=64, prefix_cache=False)
    prompts = [prompt(400, seed=1), prompt(20, seed=2)]
    for steps in range(4):
        stepper.submit_score("s", [Tokens(ids=each) for each in prompts], [1, 2])
        for _ in range(steps):
            assert stepper.step() == []
        stepper.cancel("s")
        assert not stepper.has_work
        assert stepper.stats()["kv_used_ratio"] == 0
    assert len(scored(stepper, prompts, [1, 2])) == 2


def test_one_prompt_that_cannot_be_scored_fails_its_call_and_nothing_else(
    stepper_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper = stepper_of(**EXACT)
    expected = ids(finish(stepper, [ask("a", prompt(33))])["a"])
    scores: list[EngineError | tuple[float, ...]] = [EngineError("The logits are not finite."), (0.5, 0.5)]

    def fail_once(_row: object, _labels: object) -> tuple[float, ...]:
        found = scores.pop(0)
        if isinstance(found, EngineError):
            raise found
        return found

    monkeypatch.setattr("qwenops.engines.openvino.stepper.label_probabilities", fail_once)
    stepper.submit(ask("a", prompt(33)))
    stepper.submit_score("bad", [Tokens(ids=prompt(20, seed=each)) for each in (1, 2)], [1, 2])
    stepper.submit_score("good", [Tokens(ids=prompt(20, seed=3))], [1, 2])
    events = []
    while stepper.has_work:
        events += stepper.step()
        stepper.scheduler.check()
    assert [str(found) for name, found in events if name == "bad"] == ["The logits are not finite."]
    assert [found for name, found in events if name == "good"] == [((0.5, 0.5),)]
    assert ids([found for _, found in events if isinstance(found, Chunk)]) == expected
    assert stepper.stats()["kv_used_ratio"] == 0


def test_no_prompt_has_no_score(stepper_of: Open) -> None:
    assert scored(stepper_of(**EXACT), [], [1, 2]) == ()


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (ask("a", ()), "prompt"),
        (ask("a", (1, 151_936)), "prompt"),
        (ask("a", (-1,)), "prompt"),
        (ask("a", (1,), max_tokens=0), "max_tokens"),
        (ask("a", (1,), temperature=-1.0), "temperature"),
        (ask("a", (1,), top_p=-0.1), "top_p"),
        (ask("a", (1,), logit_bias=((200_000, 1.0),)), "logit_bias"),
        (ask("a", (1,), structure=Regex(pattern="[")), "response_format"),
        (GenerationRequest(id="a", prompt=Messages(messages=())), "prompt"),
    ],
)
def test_a_request_that_can_never_be_answered_is_refused_with_its_field(
    stepper_of: Open, request_: GenerationRequest, param: str
) -> None:
    stepper = stepper_of(**EXACT)
    with pytest.raises(InvalidRequestError) as caught:
        stepper.submit(request_)
    assert caught.value.param == param
    assert not stepper.has_work


def test_a_prompt_over_the_context_or_the_cache_is_refused(stepper_of: Open) -> None:
    with pytest.raises(PromptTooLongError, match="1024"):
        stepper_of(**EXACT).submit(ask("a", prompt(1024)))
    small = stepper_of(**EXACT, kv_cache_bytes=15 * 65536)
    with pytest.raises(PromptTooLongError, match="480"):
        small.submit(ask("a", prompt(480)))
    with pytest.raises(PromptTooLongError, match="480"):
        small.submit_score("s", [Tokens(ids=prompt(480))], [1, 2])


@pytest.mark.parametrize("labels", [[], [5], [5, 5], [5, -1], [5, 151_936]])
def test_labels_that_are_no_choice_are_refused(stepper_of: Open, labels: list[int]) -> None:
    with pytest.raises(InvalidRequestError, match="labels"):
        stepper_of(**EXACT).submit_score("s", [Tokens(ids=(1, 2))], labels)


@pytest.mark.parametrize("scheme", [Scheme.BF16, Scheme.INT8, Scheme.INT4])
def test_every_scheme_answers_with_what_this_machine_chose(stepper_of: Open, scheme: Scheme) -> None:
    stepper = stepper_of(scheme)
    found = finish(stepper, [ask(str(each), prompt(70, seed=each)) for each in range(4)])
    assert {len(ids(chunks)) for chunks in found.values()} == {16}
    assert stepper.stats()["prefill_tokens_per_s"] > 0
    assert stepper.stats()["decode_tokens_per_s"] > 0
