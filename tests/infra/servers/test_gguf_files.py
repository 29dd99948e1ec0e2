"""GGUF files of ours in llama.cpp itself: the same tokens, the same prompts, nearly the same probabilities."""

import json
import math
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.generation import Message, Messages
from qwenops.models.adapter import open_merged
from qwenops.models.gguf import GgufType, write_gguf
from qwenops.models.prefill import PrefillScheme
from qwenops.models.spec import TINY
from qwenops.models.tokenizer import open_tokenizer
from tests.infra.servers.conftest import Foreign, serving
from tests.models.adapters import write_adapter
from tests.models.prefilled import compiled, logits, made, prompts

pytestmark = [pytest.mark.infra, pytest.mark.slow]

TEXTS = (
    "您好，我这个月话费多扣了二十块。",
    "Hello, where is my parcel?",
    "客：断网了\n坐：好的 <|im_end|> 123",
    "🙂 naïve\t\tA1",
)
SPOKEN = Messages(
    messages=(
        Message(role="system", content="Be brief."),
        Message(role="user", content="您好"),
        Message(role="assistant", content="Hello."),
        Message(role="user", content="Why? <|im_end|>"),
    ),
    enable_thinking=False,
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter"), TINY, size=0.2)


@pytest.fixture(scope="module", params=[GgufType.F16, GgufType.Q8_0], ids=str)
def server(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Foreign]:
    """Run llama.cpp on the tiny model with an adapter in it."""
    pytest.importorskip("gguf", reason="writing a GGUF file needs the optimize extra")
    pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with the package xllamacpp")
    file = tmp_path_factory.mktemp("gguf") / f"{request.param.value}.gguf"
    write_gguf(open_merged(tiny_checkpoint, adapter), file, request.param, name="tiny")
    with serving(file) as running:
        yield running


def ask(server: Foreign, path: str, **body: Any) -> Any:
    request = urllib.request.Request(  # noqa: S310 -- an address of this machine
        server.url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- an address of this machine
        return json.load(answer)


def test_text_becomes_the_same_tokens(server: Foreign, tiny_checkpoint: Path) -> None:
    tokenizer = open_tokenizer(tiny_checkpoint)
    for text in TEXTS:
        plain = ask(server, "/tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        assert plain == tokenizer.encode(text, control=False), text
        spelled = ask(server, "/tokenize", content=text, add_special=False, parse_special=True)["tokens"]
        assert spelled == tokenizer.encode(text, control=True), text


def test_a_conversation_becomes_the_same_text(server: Foreign, tiny_checkpoint: Path) -> None:
    messages = [{"role": each.role, "content": each.content} for each in SPOKEN.messages]
    found = ask(server, "/apply-template", messages=messages, chat_template_kwargs={"enable_thinking": False})
    assert found["prompt"] == open_tokenizer(tiny_checkpoint).render_text(SPOKEN)


@cache
def reference(base: Path, adapter: Path, target: Path, count: int) -> NDArray[np.float32]:
    """Return the logits of all tokens but the last, an unused one, after some prompts, by our own graph in float32.

    OpenVINO stores equal constants once, and a file that is smaller than its tensors is taken for one that was cut off.
    """
    known = tuple(range(TINY.vocab_size - 1))
    model = compiled(made(base, target, PrefillScheme.F32, adapter=adapter, label_ids=known))
    return logits(model, prompts(count, seed=30))


def test_the_next_token_is_as_probable_as_ours(
    server: Foreign, tiny_checkpoint: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The most probable tokens and their logarithms, of which llama.cpp tells as many as it is asked for."""
    target = tmp_path_factory.getbasetemp() / "all-labels"
    ours = reference(tiny_checkpoint, adapter, target, 4).astype(np.float64)
    for ids, row in zip(prompts(4, seed=30), ours, strict=True):
        told = ask(server, "/completion", prompt=list(ids), n_predict=1, n_probs=20, temperature=0, cache_prompt=False)
        top = told["completion_probabilities"][0]["top_logprobs"]
        normal = row - row.max() - math.log(np.exp(row - row.max()).sum())
        assert len(top) == 20
        for each in top:
            assert each["logprob"] == pytest.approx(normal[each["id"]], abs=0.05)
        ranks = np.argsort(-row)[:100]
        assert {each["id"] for each in top} <= set(ranks.tolist())
