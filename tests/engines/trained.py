"""A tiny Qwen3 that the tests train themselves, so that what quantisation does to it means something.

It learns, in less than a minute, to answer two dozen questions of callers in Chinese and English, to read a number back
(which takes attention, hence the KV cache), and to end its answers. Its answers are known, and greedy ones are sure.
Only the few hundred tokens of these texts are trained; the other rows of the vocabulary stay random, and training pays
for each of them in the softmax, so that none of them is ever preferred.
"""

import hashlib
import json
import math
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from qwenops.generation import Message, Messages
from qwenops.models.checkpoint import NewTensor, write_safetensors
from qwenops.models.folders import new_folder
from qwenops.models.qwen_vocabulary import write_tokenizer
from qwenops.models.spec import TINY, ModelSpec
from qwenops.models.tokenizer import Tokenizer, open_tokenizer

SPEC: ModelSpec = replace(TINY, hidden_size=128, intermediate_size=384, max_context_tokens=2048)
STEPS = 1000
BATCH = 16
NUM_TEXTS = 1500
LENGTH = 64
LEARNING_RATE = 5e-3
NUM_NEGATIVES = 256
ROW_DEVIATION = 0.02
SEED = 7

ANSWERS: dict[str, str] = {
    "您好": "您好，请问有什么可以帮您？",
    "营业时间": "我们每天九点到十八点营业。",
    "退款": "退款会在三个工作日内到账。",
    "发票": "发票已经发到您的邮箱。",
    "网络断了": "请重启路由器，然后等两分钟。",
    "投诉": "非常抱歉，我马上为您登记投诉。",
    "转人工": "正在为您转接人工客服，请稍等。",
    "查询余额": "您的余额是五十元。",
    "再见": "感谢来电，再见！",
    "Hello": "Hello! How can I help you today?",
    "When do you open?": "We open every day at nine.",
    "Where is my parcel?": "Your parcel arrives tomorrow morning.",
    "I want a refund": "The refund takes three working days.",
    "Cancel my order": "Your order is cancelled, no fee applies.",
    "The line is dead": "Please restart the router and wait two minutes.",
    "Who are you?": "I am a very small model that was trained in a minute.",
    "Count": "1 2 3 4 5 6 7 8 9",
    "Alphabet": "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "Goodbye": "Thank you for calling. Goodbye!",
}
"""What the model was taught, by question."""


def read_back(number: str) -> tuple[str, str]:
    """Return a question and its answer that repeats the number."""
    return f"订单号 {number}", f"您的订单号是 {number}，对吗？"


def turn(rng: random.Random) -> tuple[str, str]:
    """Make up a question and its answer; every choice has a favourite, so that one token is always best."""
    if rng.random() < 0.55:
        return read_back(_number(rng))
    questions = list(ANSWERS)
    question = rng.choices(questions, weights=[0.8**rank for rank in range(len(questions))])[0]
    return question, ANSWERS[question]


def _number(rng: random.Random) -> str:
    """Return four different digits, most often those that come first here."""
    digits = "7283946150"
    chosen = ""
    while len(chosen) < 4:
        left = [each for each in digits if each not in chosen]
        chosen += rng.choices(left, weights=[0.7**rank for rank in range(len(left))])[0]
    return chosen


def tokens_of(tokenizer: Tokenizer, question: str, answer: str) -> list[int]:
    """Return a question and its answer as the model reads and writes them, up to the end-of-turn token."""
    prompt = tokenizer.render(Messages(messages=(Message(role="user", content=question),))).ids
    return [*prompt, *tokenizer.encode(answer), SPEC.eos_token_ids[0]]


def sequences(tokenizer: Tokenizer, *, seed: int, count: int) -> list[list[int]]:
    """Return texts of several turns each, as they were trained on, in an order of their own."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        text: list[int] = []
        while len(text) < LENGTH:
            text += tokens_of(tokenizer, *turn(rng))
        texts.append(text[:LENGTH])
    return texts


def trained_folder() -> Path:
    """Return the folder of the trained checkpoint, training it when this code has changed since the last time."""
    code = Path(__file__).read_bytes() + repr(SPEC).encode()
    name = f"tiny-trained-{hashlib.sha256(code).hexdigest()[:16]}"
    root = Path(os.environ.get("QWENOPS_TEST_CACHE") or platformdirs.user_cache_path("qwenops") / "tests")
    root.mkdir(parents=True, exist_ok=True)
    folder = root / name
    with FileLock(root / f"{name}.lock", timeout=900):
        if not folder.exists():
            train(folder)
    return folder


def train(folder: Path) -> None:
    """Train and write a checkpoint as published ones are: bf16 safetensors, config, the true tokenizer."""
    with new_folder(folder) as new:
        write_tokenizer(new)
        tokenizer = open_tokenizer(new)
        state = _train(tokenizer)
        (new / "config.json").write_text(json.dumps(SPEC.to_config()))
        (new / "generation_config.json").write_text(json.dumps({"eos_token_id": list(SPEC.eos_token_ids)}))
        write_safetensors(
            new / "model.safetensors",
            [
                NewTensor(name=each.name, dtype="BF16", shape=each.shape, chunks=partial(_chunk, state[each.name]))
                for each in SPEC.tensors()
            ],
        )


def _chunk(tensor: Any) -> Iterator[memoryview]:
    import torch

    yield tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().data.cast("B")


def _train(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the weights by their names in a checkpoint, in float32."""
    import torch
    import transformers

    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    corpus = [tokens_of(tokenizer, *turn(rng)) for _ in range(NUM_TEXTS)]
    used = sorted({token for each in corpus for token in each})
    compact = {token: number for number, token in enumerate(used)}
    table = torch.randn(SPEC.vocab_size, SPEC.hidden_size) * ROW_DEVIATION
    unused = torch.tensor(sorted(set(range(SPEC.vocab_size)) - set(used)))
    config = transformers.Qwen3Config(**{**SPEC.to_config(dtype="float32"), "vocab_size": len(used)})
    model = transformers.Qwen3ForCausalLM(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    # Each of the few unused rows in a step stands for all of them.
    stands_for = math.log(len(unused) / NUM_NEGATIVES)
    for step in range(STEPS):
        progress = step / STEPS
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / 40) * 0.5 * (1 + math.cos(math.pi * progress))
        batch = _batch(corpus, compact, rng)
        hidden = model.model(batch[:, :-1]).last_hidden_state
        negatives = table[unused[torch.randint(len(unused), (NUM_NEGATIVES,))]]
        logits = torch.cat([hidden @ model.model.embed_tokens.weight.T, hidden @ negatives.T + stands_for], dim=-1)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch says nothing about it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    table[torch.tensor(used)] = model.model.embed_tokens.weight.detach()
    state = {name: value.detach() for name, value in model.named_parameters()}
    return {**state, "model.embed_tokens.weight": table}


def _batch(corpus: list[list[int]], compact: dict[int, int], rng: random.Random) -> Any:
    """Fill each row with conversations one after the other: [BATCH, LENGTH + 1]."""
    import torch

    rows: list[list[int]] = []
    for _ in range(BATCH):
        row: list[int] = []
        while len(row) <= LENGTH:
            row += [compact[token] for token in rng.choice(corpus)]
        rows.append(row[: LENGTH + 1])
    return torch.tensor(rows)
