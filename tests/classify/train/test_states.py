from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="states are torch's, which comes with the train extra")
pytest.importorskip("peft", reason="states pass LoRA, which needs the train extra")

from qwenops.classify.train.body import Body  # noqa: E402 -- after the skip
from qwenops.classify.train.options import TrainOptions  # noqa: E402 -- after the skip
from qwenops.classify.train.states import (  # noqa: E402 -- after the skip
    Frozen,
    fill,
    last_states,
    missing,
    open_frozen,
    source_of,
)
from qwenops.models.spec import Precision  # noqa: E402 -- after the skip
from tests.classify.train.conftest import SILENT  # noqa: E402 -- after the skip
from tests.classify.train.loaded import body_of, encoded, random_prompts, with_lora  # noqa: E402 -- after the skip

pytestmark = [pytest.mark.reference, pytest.mark.slow]
Make = Callable[..., TrainOptions]

CALLS = encoded(random_prompts([30, 7, 55, 18, 41]))
FACTS = {"base": "x"}


def stores(root: Path, body: Body) -> Frozen:
    return open_frozen(root, body, facts=FACTS, first_layer=1, last_too=True)


def filled(frozen: Frozen, body: Body, *, micro_tokens: int = 128) -> int:
    return fill(frozen, body, [CALLS], first_layer=1, micro_tokens=micro_tokens, clock=lambda: 0.0, report=SILENT)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_states_over_the_store_are_those_over_the_tokens(
    tiny_checkpoint: Path, tmp_path: Path, options: Make, precision: Precision
) -> None:
    body = body_of(tiny_checkpoint, precision=precision)
    frozen = stores(tmp_path, body)
    assert filled(frozen, body) == 5
    with_lora(body, options(top_layers=1))
    by_tokens = source_of(CALLS, body, first_layer=1)
    by_store = source_of(CALLS, body, first_layer=1, lower=frozen.lower)
    with torch.no_grad():
        for places in ([0], [2, 4, 1], [3, 0, 1, 2, 4]):
            there, here = by_tokens.states(places), by_store.states(places)
            assert torch.allclose(there, here, atol=1e-4 if precision == "f32" else 0.05)


def test_the_last_states_are_those_of_the_untrained_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    body = body_of(tiny_checkpoint)
    frozen = stores(tmp_path, body)
    filled(frozen, body)
    assert frozen.last is not None
    with torch.no_grad():
        wanted = source_of(CALLS, body, first_layer=0).states(range(5)).numpy()
    assert np.allclose(last_states(frozen.last, CALLS), wanted, atol=1e-4)


def test_what_is_there_is_not_computed_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    body = body_of(tiny_checkpoint)
    assert filled(stores(tmp_path, body), body) == 5
    again = stores(tmp_path, body)
    assert missing(again, [CALLS]) == []
    assert filled(again, body) == 0


def test_who_is_ended_while_filling_goes_on_where_it_was(tiny_checkpoint: Path, tmp_path: Path) -> None:
    body = body_of(tiny_checkpoint)
    clock = iter(range(0, 10**6, 60))

    def interrupt(fraction: float, _doing: str) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    frozen = stores(tmp_path, body)
    with pytest.raises(KeyboardInterrupt):
        fill(frozen, body, [CALLS], first_layer=1, micro_tokens=1, clock=lambda: next(clock), report=interrupt)
    frozen.close()
    again = stores(tmp_path, body)
    left = len(missing(again, [CALLS]))
    assert 0 < left < 5
    assert filled(again, body) == left
    assert missing(stores(tmp_path, body), [CALLS]) == []


def test_the_report_goes_up_to_the_end(tiny_checkpoint: Path, tmp_path: Path) -> None:
    body = body_of(tiny_checkpoint)
    heard: list[float] = []
    fill(
        stores(tmp_path, body),
        body,
        [CALLS],
        first_layer=1,
        micro_tokens=64,
        clock=lambda: 0.0,
        report=lambda fraction, _doing: heard.append(fraction),
    )
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert len(heard) > 2


def test_gradients_reach_the_trained_layers_through_the_store(
    tiny_checkpoint: Path, tmp_path: Path, options: Make
) -> None:
    body = body_of(tiny_checkpoint)
    frozen = stores(tmp_path, body)
    filled(frozen, body)
    lora = with_lora(body, options(top_layers=1))
    source = source_of(CALLS, body, first_layer=1, lower=frozen.lower)
    torch.autograd.backward([source.states([0, 1]).sum()])
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in lora.parameters.values())
