"""The whole engine in its exact setting against transformers in float32."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qwenops.engines.openvino.forms import difference
from qwenops.engines.openvino.stepper import PagedStepper
from qwenops.generation import Chunk
from tests.engines.openvino.conftest import EXACT, Open
from tests.engines.openvino.test_stepper import ask, finish, ids, prompt

pytestmark = [pytest.mark.slow, pytest.mark.reference]

STEPS = 64
LIMIT = 1e-3
"""Relative error of logits."""
CLOSE = 1e-4
"""Two best logits that differ by less, relative to the largest, may change places; such a step is only counted.

The reference reads our own tokens, so the comparison goes on behind it.
"""


def log_rows(stepper: PagedStepper, request_ids: tuple[int, ...]) -> dict[int, float]:
    (chunk,) = finish(stepper, [ask("a", request_ids, max_tokens=1, logprobs=151_936)])["a"]
    return {each.token_id: each.logprob for each in chunk.logprobs[0].top}


def test_logits_are_those_of_transformers(stepper_of: Open, tiny_checkpoint: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    stepper = stepper_of(**EXACT, max_batched_tokens=64)
    for length in (1, 31, 32, 150):
        found = log_rows(stepper, prompt(length, seed=length))
        with torch.inference_mode():
            logits = model(torch.tensor([prompt(length, seed=length)])).logits[0, -1].double()
        expected = torch.log_softmax(logits, dim=0).numpy()
        # Log-probabilities are logits moved by a constant; without it they compare as logits do.
        ours = np.array([found[token] for token in range(len(expected))])
        assert difference(ours - ours.mean(), expected - expected.mean()) < LIMIT


@pytest.mark.parametrize(
    "changes",
    [{}, {"kv_cache_bytes": 17 * 65536, "max_batched_tokens": 96}, {"prefix_cache": False, "max_batched_tokens": 64}],
    ids=["plain", "pre-empted", "no-cache"],
)
def test_greedy_tokens_are_those_of_transformers(
    stepper_of: Open, tiny_checkpoint: Path, changes: dict[str, int], record_property: Callable[[str, int], None]
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    shared = prompt(70)
    prompts = [(*shared, *prompt(15 + 40 * each, seed=each)) for each in range(4)]
    # A penalty keeps a model of random weights from repeating one token, which would prove little.
    penalty = 1.3
    answers = finish(
        stepper_of(**EXACT, **changes),
        [ask(str(at), each, max_tokens=STEPS, repetition_penalty=penalty) for at, each in enumerate(prompts)],
    )
    compared = too_close = 0
    for at, each in enumerate(prompts):
        ours = ids([chunk for chunk in answers[str(at)] if isinstance(chunk, Chunk)])
        with torch.inference_mode():
            logits = model(torch.tensor([[*each, *ours[:-1]]])).logits[0, len(each) - 1 :].numpy()
        for step, token in enumerate(ours):
            row = penalised(logits[step], (*each, *ours[:step]), penalty)
            second, first = np.sort(row)[-2:]
            if first - second < CLOSE * abs(first):
                too_close += 1
                continue
            assert token == int(row.argmax()), f"prompt {at}, step {step}"
            compared += 1
    record_property("compared", compared)
    record_property("too_close", too_close)
    assert compared > 0.8 * STEPS * len(prompts), f"only {compared} steps were sure enough to compare"


def penalised(row: np.ndarray, seen: tuple[int, ...], penalty: float) -> np.ndarray:
    row = row.copy()
    where = sorted(set(seen))
    row[where] = np.where(row[where] > 0, row[where] / penalty, row[where] * penalty)
    return row
