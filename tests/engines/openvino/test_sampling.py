import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwenops.engines.openvino.sampling import Chosen, Sampler, best_ids, choose, label_probabilities, log_sum_exp
from qwenops.errors import EngineError
from qwenops.generation import SamplingParams

SIZE = 151_936


def row_of(seed: int, size: int = SIZE, spread: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


def sampler(prompt: tuple[int, ...] = (), **params: Any) -> Sampler:
    neutral: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1}
    return Sampler(SamplingParams(**{**neutral, **params}), prompt, lambda: 99)


def oracle(row: NDArray[np.float32], params: SamplingParams) -> dict[int, float]:
    """Sort everything, then filter, as a textbook does: the distribution of the next token."""
    logits = row.astype(np.float64) / params.temperature
    order = sorted(range(len(row)), key=lambda each: (-float(row[each]), each))
    if params.top_k:
        order = order[: params.top_k]
    weights = np.exp(logits[order] - logits.max())
    shares = weights / weights.sum()
    kept = int(np.searchsorted(np.cumsum(shares), params.top_p - 1e-12)) + 1 if params.top_p < 1 else len(order)
    order, shares = order[:kept], shares[:kept]
    alive = shares >= params.min_p * shares.max()
    shares = shares[alive] / shares[alive].sum()
    return dict(zip(np.array(order)[alive].tolist(), shares.tolist(), strict=True))


def drawn(row: NDArray[np.float32], params: SamplingParams, uniform: float) -> int:
    tried = Sampler(params, (), lambda: 0)
    return tried._draw(row.copy(), uniform)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([5, 130, 1000, 4096]),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3, 20, 5000]),
    top_p=st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    spread=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
)
def test_a_draw_walks_the_distribution_that_a_full_sort_gives(
    seed: int, size: int, temperature: float, top_k: int, top_p: float, min_p: float, spread: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=0)
    row = row_of(seed, size, spread)
    expected = oracle(row, params)
    # Without any filter candidates stand in the order of their ids, else from the best to the least.
    order = sorted(expected) if not top_k and top_p == 1.0 else list(expected)
    edges = np.cumsum([expected[each] for each in order])
    for uniform in (0.0, 0.3, 0.77, 0.999):
        at = int(np.searchsorted(edges, uniform, side="right"))
        near = {order[min(max(at + step, 0), len(order) - 1)] for step in (-1, 0, 1)}
        sharp = abs(edges - uniform).min() > 1e-6
        found = drawn(row, params, uniform)
        assert found == order[min(at, len(order) - 1)] if sharp else found in near


def test_draws_follow_the_distribution() -> None:
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    tried = sampler(seed=5)
    found = Counter(tried.choose(row.copy()) for _ in range(8000))
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(found[token] / 8000 - share) < 0.02


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 3000), levels=st.sampled_from([0, 3, 50]))
def test_the_best_ids_are_those_of_a_full_sort(seed: int, count: int, levels: int) -> None:
    row = row_of(seed, 2000)
    if levels:
        row = np.round(row * levels / 10).astype(np.float32)
    expected = sorted(range(2000), key=lambda each: (-float(row[each]), each))[:count]
    assert best_ids(row, count).tolist() == expected


@pytest.mark.parametrize("count", [1, 20, 256, 4096, 150_000])
def test_the_best_of_a_whole_vocabulary_are_found(count: int) -> None:
    row = row_of(3)
    expected = np.lexsort((np.arange(SIZE), -row))[:count]
    assert (best_ids(row, count) == expected).all()


def test_a_seed_gives_the_same_tokens_alone_and_in_any_batch() -> None:
    params = SamplingParams(temperature=0.9, top_k=50, top_p=0.9, seed=42)
    alone, crowded = Sampler(params, (), lambda: 0), Sampler(params, (), lambda: 0)
    others = [Sampler(SamplingParams(seed=each), (), lambda: 0) for each in range(3)]
    for at in range(5):
        row = row_of(at)
        in_crowd = choose(np.stack([row_of(70), row, row_of(80), row_of(90)]), [others[0], crowded, *others[1:]])[1]
        assert choose(row[None].copy(), [alone])[0] == in_crowd


def test_requests_without_a_seed_take_one_from_the_given_entropy() -> None:
    def draw(entropy: int) -> list[int]:
        tried = Sampler(SamplingParams(temperature=1.0, top_k=0, top_p=1.0), (), lambda: entropy)
        return [tried.choose(row_of(each)) for each in range(4)]

    assert draw(1) == draw(1) != draw(2)


def test_greedy_rows_take_the_largest_logit() -> None:
    rows = np.stack([row_of(each) for each in range(4)])
    expected = rows.argmax(axis=1).tolist()
    assert choose(rows, [sampler(temperature=0.0) for _ in range(4)]) == [Chosen(each) for each in expected]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999),
    repetition=st.sampled_from([1.0, 0.8, 1.3]),
    presence=st.sampled_from([0.0, 0.7, -1.0]),
    frequency=st.sampled_from([0.0, 0.4]),
    saw=st.lists(st.integers(0, 19), max_size=12),
)
def test_penalties_are_those_of_the_formula(
    seed: int, repetition: float, presence: float, frequency: float, saw: list[int]
) -> None:
    prompt = (1, 2, 2, 3)
    tried = sampler(
        prompt,
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=((4, 1.5), (5, -100.0)),
    )
    for token in saw:
        tried.saw(token)
    row = row_of(seed, 20)
    expected = row.astype(np.float64)
    for token in {*prompt, *saw} if repetition != 1.0 else ():
        expected[token] = expected[token] / repetition if expected[token] > 0 else expected[token] * repetition
    for token in set(saw):
        expected[token] -= presence + frequency * saw.count(token)
    expected[4] += 1.5
    expected[5] -= 100.0
    tried._adjust(row)
    np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


def test_log_probabilities_are_the_models_whatever_the_filters() -> None:
    row = row_of(8, 500)
    expected = row.astype(np.float64) - math.log(np.exp(row.astype(np.float64)).sum())
    tried = sampler(temperature=2.0, top_k=3, repetition_penalty=1.5, logprobs=4, logit_bias=((7, 50.0),))
    (found,) = choose(row[None].copy(), [tried])
    assert isinstance(found, Chosen)
    assert found.token_id == 7
    assert found.logprob == pytest.approx(expected[7], abs=1e-4)
    best = np.argsort(-expected)[:4]
    assert [each for each, _ in found.top] == best.tolist()
    assert [value for _, value in found.top] == pytest.approx(expected[best].tolist(), abs=1e-4)


def test_zero_log_probabilities_give_the_chosen_one_only() -> None:
    (found,) = choose(row_of(1)[None], [sampler(temperature=0.0, logprobs=0)])
    assert isinstance(found, Chosen)
    assert found.logprob is not None
    assert found.logprob < 0
    assert found.top == ()


def test_the_log_of_a_sum_does_not_overflow() -> None:
    assert log_sum_exp(np.array([1000.0, 1000.0], dtype=np.float32)) == pytest.approx(1000 + math.log(2))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_fail_their_request_alone(broken: float) -> None:
    row = row_of(1, 300)
    row[5] = broken
    spoilt, fine = choose(np.stack([row, row_of(2, 300)]), [sampler(temperature=0.0)] * 2)
    assert isinstance(spoilt, EngineError)
    assert fine == Chosen(int(row_of(2, 300).argmax()))
    with pytest.raises(EngineError, match="finite"):
        label_probabilities(row, (4, 5))


def test_a_mask_that_leaves_one_token_decides() -> None:
    class Only:
        def allowed(self) -> NDArray[np.bool_]:
            return np.asarray(np.arange(300) == 11, dtype=np.bool_)

    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, top_k=0, top_p=0.5, seed=1)
        tried = Sampler(params, (), lambda: 0, Only())
        assert choose(row_of(1, 300)[None], [tried]) == [Chosen(11)]


def test_label_probabilities_are_a_softmax_over_the_labels_alone() -> None:
    row = np.zeros(100, dtype=np.float32)
    row[[3, 9]] = [math.log(3), 0.0]
    row[50] = 1000.0
    assert label_probabilities(row, (9, 3)) == pytest.approx((0.25, 0.75))
