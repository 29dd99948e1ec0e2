"""A base model for the demo, made on this machine in about two minutes: a tiny Qwen3 with the true tokenizer.

    calls of a seed of their own ──redacted, as a classifier reads them──> prompt, then one term of the trade
      ──a few hundred steps──> checkpoint folder

Random weights know nothing, so there would be nothing for an adapter to build on, and a model hub is not asked. A
published model has read the internet and can say what a call is about. This one has read a few thousand synthetic
calls, none of the demo's own, and has learnt to say what the trade calls the matter of each, never a class or its code.
So it has been told more than a linear model that sees the demo's labels alone, and that it does better proves nothing;
`benchmarks/learning.py` compares the two with equal knowledge. It is written as published models are, bf16 safetensors,
config, tokenizer, and stands for Qwen3-0.6B in every command that follows. It is no model to use: calls of the
generator are all that it has ever seen.

Only the tokens of these calls are trained. The other rows of the vocabulary stay random, as long as the trained ones,
so that the code of a class is as loud as a word.

    python -m qwenops.deploy.demo_base FOLDER [CALLS]
"""

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.calls.generator.generate import open_generator
from qwenops.calls.generator.lexicon import load_lexicon
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.truth import Synthetic, Truth
from qwenops.calls.generator.world import World
from qwenops.calls.redact import redact
from qwenops.classify.prompt import prompt_ids
from qwenops.classify.train.deciding import check_installed
from qwenops.models.checkpoint import NewTensor, write_safetensors
from qwenops.models.child import speak
from qwenops.models.folders import new_folder
from qwenops.models.qwen_vocabulary import write_tokenizer
from qwenops.models.spec import TINY, ModelSpec
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from qwenops.text import Report, say

if TYPE_CHECKING:
    import torch

SPEC: ModelSpec = replace(TINY, hidden_size=128, intermediate_size=384, max_context_tokens=2048)
CALLS = 6000
BATCH = 16
PROMPT_TOKENS = 320
"""The longest prompt; of longer calls the middle is left out. The demo's training uses the same."""
NUM_NEGATIVES = 512
"""Tokens of the corpus that a step holds against the right ones."""
LEARNING_RATE = 0.008
WARMUP_STEPS = 20
SEED = 7
"""Of the calls that it reads, and of all that is left to chance."""
NEEDED_BYTES = 128 * 2**20
_SECRET = b"synthetic calls have nothing to hide"
_WINDOW = 16
"""Batches among which calls of one length are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A call, and how one would say what it is about."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def write_base(
    folder: Path, *, calls: int = CALLS, wanted: Callable[[Truth], bool] = lambda _truth: True, report: Report
) -> None:
    """Train a tiny Qwen3 to say what calls are about and write it into a new folder.

    Args:
        folder: Where the checkpoint goes.
        calls: How many are made; each is read once.
        wanted: Says of each call whether it is read at all.
        report: Is told how far it is.

    Raises:
        MissingPartError: torch or transformers is not installed.
        InsufficientDiskError: The disk has no room for it.
    """
    check_installed()
    with new_folder(folder, needed_bytes=NEEDED_BYTES) as new:
        write_tokenizer(new)
        tokenizer = open_tokenizer(new)
        lessons = [lesson_of(made, tokenizer) for made in read_calls(calls, wanted, report)]
        state = _train(lessons, report)
        _write_json(new / "config.json", SPEC.to_config())
        _write_json(new / "generation_config.json", {"eos_token_id": list(SPEC.eos_token_ids)})
        write_safetensors(
            new / "model.safetensors",
            [
                NewTensor(name=each.name, dtype="BF16", shape=each.shape, chunks=partial(_chunk, state[each.name]))
                for each in SPEC.tensors()
            ],
        )


def read_calls(calls: int, wanted: Callable[[Truth], bool], report: Report) -> Iterator[Synthetic]:
    """Yield calls of another seed than any of the demo's, redacted."""
    generator = open_generator(GeneratorOptions(calls=calls, seed=SEED))
    for index in range(calls):
        if index % 50 == 0:
            report(0.25 * index / calls, say("Making what a tiny model reads: {done} of {all}", done=index, all=calls))
        made = generator.call(index)
        if wanted(made.truth):
            yield replace(made, call=redact(made.call, secret=_SECRET).call)


def lesson_of(made: Synthetic, tokenizer: Tokenizer) -> Lesson:
    """Return a call as a classifier reads it, and the first term of the trade for its matter."""
    lang = "en" if made.truth.lang == "en" else "zh"
    term = _terms()[lang][World.terms_of(made.truth.leaf)][0]
    return Lesson(
        prompt=prompt_ids(made.call, tokenizer, budget_tokens=PROMPT_TOKENS),
        answer=tuple(tokenizer.encode(term, control=False)),
    )


@cache
def _terms() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    return load_lexicon().terms


def _train(lessons: Sequence[Lesson], report: Report) -> "dict[str, torch.Tensor]":
    """Return the weights by their names in a checkpoint, in float32."""
    import torch
    import transformers

    from qwenops.hardware import detect_machine, plan_threads

    torch.set_num_threads(plan_threads(detect_machine()).value)
    torch.manual_seed(SEED)
    used = sorted({token for each in lessons for token in (*each.prompt, *each.answer)})
    number_of = {token: number for number, token in enumerate(used)}
    config = transformers.Qwen3Config(**{**SPEC.to_config(dtype="float32"), "vocab_size": len(used)})
    model = transformers.Qwen3ForCausalLM(config).train()
    for layer in model.model.layers:  # a layer that adds nothing yet is out of the other's way
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    batches = list(_batches(lessons))
    optimisers = _optimisers(model)
    rates = [
        torch.optim.lr_scheduler.LambdaLR(each, partial(_share_of_rate, steps=len(batches))) for each in optimisers
    ]
    for step, batch in enumerate(batches):
        if step % 10 == 0:
            done = say("Teaching a tiny model what calls are about: step {step} of {all}", step=step, all=len(batches))
            report(0.25 + 0.75 * step / len(batches), done)
        loss = _loss(model, batch, number_of)
        loss.backward()  # type: ignore[no-untyped-call] # torch says nothing about it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.step()
            optimiser.zero_grad()
            rate.step()
    state = {name: value.detach() for name, value in model.named_parameters()}
    return {**state, "model.embed_tokens.weight": _whole_table(state["model.embed_tokens.weight"], used)}


def _optimisers(model: Any) -> "list[torch.optim.Optimizer]":
    """Return Muon for matrices, which needs a quarter of AdamW's steps here, and AdamW for the rest."""
    import torch

    layers = list(model.model.layers.parameters())
    matrices = [each for each in layers if each.ndim == 2]  # noqa: PLR2004 -- rows and columns
    others = [model.model.embed_tokens.weight, model.model.norm.weight, *(each for each in layers if each.ndim == 1)]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _share_of_rate(step: int, *, steps: int) -> float:
    """Return what share of the highest learning rate a step has: up in a few steps, then down in a straight line."""
    return min((step + 1) / WARMUP_STEPS, (steps - step) / steps)


def _batches(lessons: Sequence[Lesson]) -> Iterator[Sequence[Lesson]]:
    """Yield calls of about one length together, so that little is computed for padding."""
    by_lot = random.Random(SEED)  # noqa: S311 -- no secret
    for first in range(0, len(lessons), BATCH * _WINDOW):
        window = sorted(lessons[first : first + BATCH * _WINDOW], key=lambda each: len(each.prompt))
        found = [window[place : place + BATCH] for place in range(0, len(window), BATCH)]
        by_lot.shuffle(found)
        yield from found


def _loss(model: Any, batch: Sequence[Lesson], number_of: dict[int, int]) -> "torch.Tensor":
    """Return how well answers are foretold, against tokens by lot and all that the batch answers itself."""
    import torch

    rows = [torch.tensor([number_of[token] for token in (*each.prompt, *each.answer)]) for each in batch]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # what follows a row changes nothing in it
    hidden = model.model(tokens[:, :-1]).last_hidden_state
    places = [(row, len(each.prompt) + place) for row, each in enumerate(batch) for place in range(len(each.answer))]
    row, column = torch.tensor(places).T
    wanted = tokens[row, column]
    by_lot = torch.randint(len(number_of), (NUM_NEGATIVES,))
    shown, place = torch.unique(torch.cat([wanted, by_lot]), return_inverse=True)
    logits = hidden[row, column - 1] @ model.model.embed_tokens.weight[shown].T
    return torch.nn.functional.cross_entropy(logits, place[: len(wanted)])


def _whole_table(trained: "torch.Tensor", used: Sequence[int]) -> "torch.Tensor":
    """Return the embedding of the whole vocabulary, in which the trained rows stand among random ones of their size."""
    import torch

    table = torch.randn(SPEC.vocab_size, SPEC.hidden_size) * trained.std()
    table[torch.tensor(used)] = trained
    return table


def _chunk(tensor: "torch.Tensor") -> Iterator[memoryview]:
    import torch

    yield tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().data.cast("B")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _main(argv: Sequence[str]) -> int:
    folder, *calls = argv
    return speak(lambda report: write_base(Path(folder), calls=int(calls[0]) if calls else CALLS, report=report))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
