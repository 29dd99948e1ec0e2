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

from qwenops.generation import Message, Messages
from qwenops.models.adapter import open_merged
from qwenops.models.gguf import GgufType, write_gguf
from qwenops.models.prefill import PrefillScheme
from qwenops.models.spec import TINY
from qwenops.models.tokenizer import open_tokenizer
from tests.infra.servers.conftest import Foreign, serving
from tests.models.adapters import write_adapter
from tests.models.prefilled import compiled, logits, made, prompts

WRITTEN_TOKENS = 12
NEAR = 0.05
"""Between logarithms of probabilities."""

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
def kind(request: pytest.FixtureRequest) -> Any:
    """Return how matrices are stored."""
    return request.param


@pytest.fixture(scope="module")
def server(
    kind: GgufType, tiny_checkpoint: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Foreign]:
    """Run llama.cpp on the tiny model with an adapter in it."""
    pytest.importorskip("gguf", reason="writing a GGUF file needs the optimize extra")
    pytest.importorskip("xllamacpp", reason="llama.cpp's server comes with the package xllamacpp")
    file = tmp_path_factory.mktemp("gguf") / f"{kind.value}.gguf"
    write_gguf(open_merged(tiny_checkpoint, adapter), file, kind, name="tiny")
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
def reference(base: Path, adapter: Path, target: Path) -> Any:
    """Return our own graph in float32, whose labels are all tokens."""
    known = tuple(range(TINY.vocab_size))
    return compiled(made(base, target, PrefillScheme.F32, adapter=adapter, label_ids=known))


@pytest.fixture
def ours(tiny_checkpoint: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return that graph; it is made once."""
    return reference(tiny_checkpoint, adapter, tmp_path_factory.getbasetemp() / "all-labels")


def test_the_next_token_is_as_probable_as_ours(server: Foreign, ours: Any) -> None:
    """The most probable tokens and their logarithms, of which llama.cpp tells as many as it is asked for."""
    texts = prompts(4, seed=30)
    for ids, row in zip(texts, logits(ours, texts).astype(np.float64), strict=True):
        told = ask(server, "/completion", prompt=list(ids), n_predict=1, n_probs=20, temperature=0, cache_prompt=False)
        top = told["completion_probabilities"][0]["top_logprobs"]
        normal = row - row.max() - math.log(np.exp(row - row.max()).sum())
        assert len(top) == 20
        for each in top:
            assert each["logprob"] == pytest.approx(normal[each["id"]], abs=NEAR)
        ranks = np.argsort(-row)[:100]
        assert {each["id"] for each in top} <= set(ranks.tolist())


def test_greedy_decoding_writes_the_same_tokens(server: Foreign, kind: GgufType, ours: Any) -> None:
    """Token by token, llama.cpp with its KV cache, our graph with the whole text each time.

    With 8 bits, a token may stand for one that is as probable as that allows for.
    """
    few = NEAR if kind is GgufType.Q8_0 else 0.0
    for ids in prompts(4, seed=31):
        asked = {"n_predict": WRITTEN_TOKENS, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        written = ask(server, "/completion", prompt=list(ids), return_tokens=True, **asked)["tokens"]
        assert len(written) == WRITTEN_TOKENS
        known = [(*ids, *written[:count]) for count in range(WRITTEN_TOKENS)]
        for token, row in zip(written, logits(ours, known), strict=True):
            assert row[token] >= row.max() - few
