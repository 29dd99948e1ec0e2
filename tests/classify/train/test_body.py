"""The body computes what transformers computes, and before training the head says what any engine says of the codes."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the body is torch's, which comes with the train extra")

from qwenops.classify.codes import assign  # noqa: E402 -- after the skip
from qwenops.classify.dataset import TrainData  # noqa: E402 -- after the skip
from qwenops.classify.train.body import padded  # noqa: E402 -- after the skip
from qwenops.classify.train.scoring import logits_of  # noqa: E402 -- after the skip
from qwenops.classify.train.states import source_of  # noqa: E402 -- after the skip
from qwenops.classify.train.world import World  # noqa: E402 -- after the skip
from qwenops.engines import open_engine  # noqa: E402 -- after the skip
from qwenops.engines.options import EngineOptions  # noqa: E402 -- after the skip
from qwenops.engines.transformers import load_model  # noqa: E402 -- after the skip
from qwenops.engines.worker import WorkerEngine  # noqa: E402 -- after the skip
from qwenops.generation import Tokens  # noqa: E402 -- after the skip
from qwenops.models.tokenizer import Tokenizer  # noqa: E402 -- after the skip
from tests.classify.made import TAXONOMY  # noqa: E402 -- after the skip
from tests.classify.train.loaded import body_of, encoded, label_head, random_prompts  # noqa: E402 -- after the skip

pytestmark = [pytest.mark.reference, pytest.mark.slow]

LENGTHS = [17, 5, 40, 1, 33]


def test_hidden_states_are_those_of_transformers(tiny_checkpoint: Path) -> None:
    body, model = body_of(tiny_checkpoint), load_model(tiny_checkpoint)
    (prompt,) = random_prompts([50])
    ids, lengths = padded([np.array(prompt, dtype=np.int32)], body.device)
    with torch.no_grad():
        ours = body.states(body.through(body.embedded(ids), 0), lengths)[0]
        theirs = model.model(ids).last_hidden_state[0, -1]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_layers_can_be_computed_in_two_goes(tiny_checkpoint: Path) -> None:
    body = body_of(tiny_checkpoint)
    ids, _ = padded([np.array(each, dtype=np.int32) for each in random_prompts(LENGTHS)], body.device)
    with torch.no_grad():
        whole = body.through(body.embedded(ids), 0)
        lower = body.through(body.embedded(ids), 0, 1)
        assert torch.equal(body.through(lower, 1), whole)
        assert torch.equal(body.through(body.embedded(ids), 0, 0), body.embedded(ids))


def test_padding_changes_nothing(tiny_checkpoint: Path, tokenizer: Tokenizer) -> None:
    body = body_of(tiny_checkpoint)
    head = label_head(body, tokenizer)
    calls = encoded(random_prompts(LENGTHS))
    source = source_of(calls, body, first_layer=0)
    together = logits_of(source, head, micro_tokens=10_000, world=World())
    alone = logits_of(source, head, micro_tokens=1, world=World())
    assert np.allclose(together, alone, atol=1e-4)
    assert len(np.unique(together.argmax(axis=1))) > 0


async def test_before_training_the_probabilities_are_those_of_label_token_scoring(
    tiny_checkpoint: Path, data: TrainData, tokenizer: Tokenizer
) -> None:
    body = body_of(tiny_checkpoint)
    source = source_of(data.val, body, first_layer=0)
    logits = logits_of(source, label_head(body, tokenizer), micro_tokens=512, world=World())
    ours = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    tokens = list(assign(TAXONOMY.leaves, tokenizer).values())
    prompts = [Tokens(ids=tuple(data.val.prompt(place).tolist())) for place in range(len(data.val))]
    options = EngineOptions(model_dir=tiny_checkpoint, model_name="tiny", context_tokens=512)
    engine = cast("WorkerEngine", await open_engine("transformers", options))
    try:
        await engine.ready()
        theirs = np.array(await engine.score(prompts, tokens))
    finally:
        await engine.aclose()
    assert np.abs(ours - theirs).max() < 1e-5
    assert theirs.std() > 1e-4  # else anything would agree


def test_bf16_is_near_float32(tiny_checkpoint: Path, tokenizer: Tokenizer) -> None:
    calls = encoded(random_prompts([30, 60]))
    found = {}
    for precision in ("f32", "bf16"):
        body = body_of(tiny_checkpoint, precision=precision)
        head = label_head(body, tokenizer)
        found[precision] = logits_of(source_of(calls, body, first_layer=0), head, micro_tokens=512, world=World())
    error = np.linalg.norm(found["bf16"] - found["f32"]) / np.linalg.norm(found["f32"])
    assert 0 < error < 0.05


def test_recomputing_gives_the_same_gradients(tiny_checkpoint: Path) -> None:
    body = body_of(tiny_checkpoint)
    ids, lengths = padded([np.array(each, dtype=np.int32) for each in random_prompts(LENGTHS)], body.device)
    gradients = []
    for recompute in (False, True):
        hidden = body.embedded(ids).detach().requires_grad_()
        torch.autograd.backward([body.states(body.through(hidden, 0, recompute=recompute), lengths).square().sum()])
        gradients.append(hidden.grad)
    assert torch.equal(gradients[0], gradients[1])


def test_nothing_of_the_model_can_be_trained_and_nothing_is_left_without_values(tiny_checkpoint: Path) -> None:
    body = body_of(tiny_checkpoint, precision="bf16")
    tensors = [*body.model.parameters(), *body.model.buffers()]
    assert tensors
    assert not any(each.requires_grad for each in body.model.parameters())
    assert not any(each.is_meta for each in tensors)
