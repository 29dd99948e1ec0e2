"""A base model for the demo, made on this machine in less than a minute: a tiny Qwen3 with the true tokenizer.

    calls of the training part ──rendered, encoded──> next-token training of a few hundred steps ──> checkpoint folder

Random weights know nothing, so there would be little for an adapter to build on; and a model hub is not asked. So a
Qwen3 of two layers reads the training calls for a while, as a published model has read the internet, and is written as
published ones are: bf16 safetensors, config, tokenizer. It stands for Qwen3-0.6B in every command that follows. It is
no model to use: what it knows fits on a page.

Only the tokens of these calls are trained. The other rows of the vocabulary stay random, as long as the trained ones,
so that the code of a class, which no call holds, is as loud as a word.

    python -m qwenops.deploy.demo_base CALLS SPLITS FOLDER [STEPS]
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenops.calls.readers import open_calls
from qwenops.calls.render import render
from qwenops.calls.split import read_splits
from qwenops.classify.train.deciding import check_installed
from qwenops.errors import InvalidDataError
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
STEPS = 250
BATCH = 16
LENGTH = 64
"""Tokens of one row of a batch."""
NUM_NEGATIVES = 512
"""Tokens of the corpus that a step holds against the right ones."""
LEARNING_RATE = 5e-3
WARMUP_STEPS = 20
SEED = 7
NEEDED_BYTES = 128 * 2**20
_END = "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Corpus:
    """The calls as one row of tokens."""

    tokens: "torch.Tensor"
    """[tokens]: numbers into `used`."""
    used: tuple[int, ...]
    """The tokens that occur, by number."""


def write_base(calls: Path, splits: Path, folder: Path, *, steps: int = STEPS, report: Report) -> None:
    """Train a tiny Qwen3 on the text of the training calls and write it into a new folder.

    Args:
        calls: File of calls, redacted.
        splits: What `qwenops calls split` wrote; calls outside the training part are not read.
        folder: Where the checkpoint goes.
        steps: How long it learns; each step reads `BATCH` × `LENGTH` tokens.
        report: Is told how far it is.

    Raises:
        MissingPartError: torch or transformers is not installed.
        InvalidDataError: The training part holds too little text.
        InsufficientDiskError: The disk has no room for it.
    """
    check_installed()
    with new_folder(folder, needed_bytes=NEEDED_BYTES) as new:
        write_tokenizer(new)
        report(0.0, say("Reading the training calls"))
        corpus = _corpus(_texts(calls, frozenset(read_splits(splits).train)), open_tokenizer(new))
        state = _train(corpus, steps, report)
        _write_json(new / "config.json", SPEC.to_config())
        _write_json(new / "generation_config.json", {"eos_token_id": list(SPEC.eos_token_ids)})
        write_safetensors(
            new / "model.safetensors",
            [
                NewTensor(name=each.name, dtype="BF16", shape=each.shape, chunks=partial(_chunk, state[each.name]))
                for each in SPEC.tensors()
            ],
        )


def _texts(calls: Path, wanted: frozenset[str]) -> Iterator[str]:
    for entry in open_calls(calls):
        if entry.call.conversation_id in wanted:
            yield render(entry.call)


def _corpus(texts: Iterator[str], tokenizer: Tokenizer) -> _Corpus:
    """Encode texts one after the other.

    Raises:
        InvalidDataError: They are too short to learn from.
    """
    import torch

    ids = [token for text in texts for token in tokenizer.encode(f"{text}{_END}", control=False)]
    if len(ids) <= LENGTH:
        raise InvalidDataError(
            say("The training calls have {count} tokens; that is too little to learn from.", count=len(ids)),
            hint=say("Make more calls."),
        )
    used = sorted(set(ids))
    number_of = {token: number for number, token in enumerate(used)}
    return _Corpus(tokens=torch.tensor([number_of[token] for token in ids]), used=tuple(used))


def _train(corpus: _Corpus, steps: int, report: Report) -> "dict[str, torch.Tensor]":
    """Return the weights by their names in a checkpoint, in float32."""
    import torch
    import transformers

    from qwenops.hardware import detect_machine, plan_threads

    torch.set_num_threads(plan_threads(detect_machine()).value)
    torch.manual_seed(SEED)
    config = transformers.Qwen3Config(**{**SPEC.to_config(dtype="float32"), "vocab_size": len(corpus.used)})
    model = transformers.Qwen3ForCausalLM(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_share_of_rate, steps=steps))
    for step in range(steps):
        if step % 10 == 0:
            report(step / steps, say("Teaching a tiny model to read: step {step} of {all}", step=step, all=steps))
        loss = _loss(model, corpus)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch says nothing about it
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rate.step()
    state = {name: value.detach() for name, value in model.named_parameters()}
    return {**state, "model.embed_tokens.weight": _whole_table(state["model.embed_tokens.weight"], corpus.used)}


def _share_of_rate(step: int, *, steps: int) -> float:
    """Return what share of the highest learning rate a step has: up in a few steps, then down in a straight line."""
    return min((step + 1) / WARMUP_STEPS, (steps - step) / steps)


def _loss(model: Any, corpus: _Corpus) -> "torch.Tensor":
    """Return how well a batch is foretold, against tokens of the corpus by lot and all that the batch holds itself."""
    import torch

    starts = torch.randint(len(corpus.tokens) - LENGTH, (BATCH, 1))
    rows = corpus.tokens[starts + torch.arange(LENGTH + 1)]
    hidden = model.model(rows[:, :-1]).last_hidden_state.flatten(0, 1)
    wanted = rows[:, 1:].flatten()
    by_lot = torch.randint(len(corpus.used), (NUM_NEGATIVES,))
    shown, place = torch.unique(torch.cat([wanted, by_lot]), return_inverse=True)
    logits = hidden @ model.model.embed_tokens.weight[shown].T
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
    calls, splits, folder, *steps = argv

    def work(report: Report) -> None:
        num_steps = int(steps[0]) if steps else STEPS
        write_base(Path(calls), Path(splits), Path(folder), steps=num_steps, report=report)

    return speak(work)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
