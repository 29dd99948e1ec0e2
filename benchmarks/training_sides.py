"""One side of the comparison of trainings, in a process of its own that `benchmarks.training` starts.

    python -m benchmarks.training_sides SYSTEM TASK     # TASK is a `Task` as JSON; the answer is the last line printed

Every side trains LoRA matrices of the same rank on the same seven linear layers with the same calls, steps, optimiser
and arithmetic:

* `ours` takes the steps of `qwenops finetune train`: logits at one position, calls of similar length computed together;
* `cached` does so for the upper layers only, over what the lower ones gave once (what that took is measured, too);
* `trainer` is Hugging Face's Trainer with peft, as its documentation has it: logits everywhere, calls in any order;
* `trainer-grouped` is the same with calls in the order of its own `group_by_length`.

`precision` trains nothing: it says which arithmetic the probe of `qwenops finetune train` takes here.
"""

import contextlib
import json
import math
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from qwenops.classify.dataset import EncodedCalls
    from qwenops.classify.train.body import Body
    from qwenops.classify.train.loop import Learner
    from qwenops.classify.train.options import TrainOptions
    from qwenops.classify.train.states import Frozen
    from qwenops.models.spec import Precision

SHORTEST, LONGEST = 200, 1500
"""Tokens of a call."""
WARM_LONGEST = 300
"""Tokens of the longest call with which a side warms up."""
LABELS = tuple(range(32, 52))
"""20 tokens; which ones does not matter."""
PAD = 151_643
IGNORED = -100
"""What torch leaves out of a loss."""
SYSTEMS = ("trainer", "trainer-grouped", "ours", "cached")

Calls = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a side shall do; JSON on the way to its process."""

    checkpoint: str
    """Folder of the model."""
    work: str
    """An empty folder for what is written meanwhile."""
    precision: "Precision"
    device: str
    """cpu or cuda."""
    seed: int
    """Of calls, order and weights; every side of a round has the same."""
    batch_calls: int
    """Calls of one step of the optimiser."""
    at_once: int
    """Calls that Trainer computes at once; it adds their gradients up to a step."""
    micro_tokens: int
    """Tokens, padding included, that ours computes at once."""
    window_calls: int
    windows: int
    """So many are measured, after one of a single step that is not."""
    top_layers: int
    """Trained by the cached form."""
    threads: int
    longest: int = LONGEST
    """Tokens of the longest call."""


# -- the calls ---------------------------------------------------------------------------------------------------------


def window(seed: int, number: int, count: int, longest: int = LONGEST) -> Calls:
    """Return the prompts of one window, in an order left to chance.

    Lengths are spread evenly over their logarithm from `SHORTEST` to `longest`, one in each of `count` equal parts, so
    windows differ by chance as little as they can.
    """
    draw = random.Random(f"{seed}/{number}")
    shares = [(place + draw.random()) / count for place in range(count)]
    draw.shuffle(shares)
    lengths = [round(SHORTEST * (longest / SHORTEST) ** share) for share in shares]
    return [[draw.randrange(1000, 100_000) for _ in range(length)] for length in lengths]


def label_of(prompt: Sequence[int]) -> int:
    """Return the class of a prompt, as its place among `LABELS`: any, but the same for every side."""
    return prompt[-1] % len(LABELS)


def windows_of(task: Task) -> list[Calls]:
    """Return the windows of a task; the first one warms up, with one step of short calls."""
    warm = window(task.seed, 0, task.batch_calls, min(task.longest, WARM_LONGEST))
    return [
        warm,
        *(window(task.seed, number, task.window_calls, task.longest) for number in range(1, task.windows + 1)),
    ]


def grouped(calls: Calls, batch_calls: int, seed: int) -> Calls:
    """Return calls in an order like that of Trainer's `group_by_length`: drawn into batches, each sorted, long first.

    That is its `LengthGroupedSampler` with the pools it takes for so few calls; the longest call of all comes first
    there, to fail early where memory is short, which changes nothing that is measured.
    """
    draw = random.Random(seed)
    left = draw.sample(calls, len(calls))
    pool = batch_calls * max(1, min(len(calls) // (batch_calls * 4), 50))
    return [
        call
        for begin in range(0, len(left), pool)
        for call in sorted(left[begin : begin + pool], key=len, reverse=True)
    ]


def encoded(calls: Calls, name: str) -> "EncodedCalls":
    """Return prompts in the form in which our training takes them."""
    import numpy as np

    from qwenops.classify.dataset import EncodedCalls

    return EncodedCalls(
        ids=tuple(f"{name}-{place:05d}" for place in range(len(calls))),
        tokens=np.concatenate([np.array(call, dtype=np.int32) for call in calls]),
        offsets=np.cumsum([0, *map(len, calls)], dtype=np.int64),
        labels=np.array([label_of(call) for call in calls], dtype=np.int64),
        weights=np.ones(len(calls), dtype=np.float32),
    )


def padded_batch(calls: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
    """Return calls as causal training has them: prompt and answer, padded on the right, with a loss on the answer."""
    longest = max(map(len, calls)) + 1
    batch: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for call in calls:
        answer = LABELS[label_of(call)]
        rest = longest - len(call) - 1
        batch["input_ids"].append([*call, answer, *[PAD] * rest])
        batch["attention_mask"].append([*[1] * (len(call) + 1), *[0] * rest])
        batch["labels"].append([*[IGNORED] * len(call), answer, *[IGNORED] * rest])
    return batch


# -- ours --------------------------------------------------------------------------------------------------------------


def ours(task: Task, *, top_layers: int) -> dict[str, Any]:
    """Train our way; with `top_layers` only those, over what the layers below gave once."""
    import torch

    from qwenops.classify.train.body import load_body
    from qwenops.classify.train.lora import attach
    from qwenops.models.checkpoint import open_checkpoint

    options = options_of(task, top_layers)
    body = load_body(open_checkpoint(Path(task.checkpoint)), precision=task.precision, device=torch.device(task.device))
    torch.manual_seed(task.seed)
    lora = attach(body, options)
    sets = [encoded(calls, f"w{number}") for number, calls in enumerate(windows_of(task))]
    with contextlib.ExitStack() as stack:
        frozen: Frozen | None = None
        fills: list[float] = []
        if top_layers:
            frozen, fills = _filled(task, body, lora.first_layer, sets, stack)
        learner = _learner(sets, body, lora, options, frozen)
        seconds = [_taken(_with(learner, calls, body, lora.first_layer, frozen), task) for calls in sets]
    told = _told(task, sets_tokens=[int(calls.lengths.sum()) for calls in sets], seconds=seconds)
    if fills:
        tokens = sum(int(calls.lengths.sum()) for calls in sets[1:])
        told["fill"] = {"tokens_per_s": tokens / sum(fills[1:]), "seconds": fills[1:]}
    return {**told, "first_layer": lora.first_layer, "padding": _padding(sets, task)}


def options_of(task: Task, top_layers: int) -> "TrainOptions":
    """Return the options of our training; what is not named here is as users get it."""
    from qwenops.classify.train.options import TrainOptions

    return TrainOptions(
        epochs=1,
        batch_calls=task.batch_calls,
        micro_tokens=task.micro_tokens,
        top_layers=top_layers,
        seed=task.seed,
    )


def _filled(
    task: Task, body: "Body", first_layer: int, sets: "Sequence[EncodedCalls]", stack: contextlib.ExitStack
) -> "tuple[Frozen, list[float]]":
    """Compute the frozen layers of every window once; return where it lies and the seconds of each."""
    from qwenops.classify.train.states import fill, open_frozen

    root = Path(task.work) / "activations"
    root.mkdir()
    frozen = open_frozen(root, body, facts={"benchmark": "training"}, first_layer=first_layer, last_too=False)
    stack.callback(frozen.close)
    seconds = []
    for calls in sets:
        begun_s = time.perf_counter()
        fill(
            frozen,
            body,
            [calls],
            first_layer=first_layer,
            micro_tokens=task.micro_tokens,
            clock=time.perf_counter,
            report=lambda _fraction, _doing: None,
        )
        seconds.append(time.perf_counter() - begun_s)
    return frozen, seconds


def _learner(
    sets: "Sequence[EncodedCalls]", body: "Body", lora: Any, options: "TrainOptions", frozen: "Frozen | None"
) -> "Learner":
    """Return what a step touches, on the first window."""
    import torch

    from qwenops.classify.head import head_of
    from qwenops.classify.train.loop import Learner, optimiser_of
    from qwenops.classify.train.states import source_of
    from qwenops.classify.train.world import World

    head = head_of(body.table, LABELS)
    lower = frozen.lower if frozen is not None else None
    source = source_of(sets[0], body, first_layer=lora.first_layer, lower=lower)
    return Learner(
        options=options,
        train=source,
        val=source,
        lora=lora,
        head=head,
        optimiser=optimiser_of(lora, head, options),
        call_weights=torch.ones(max(map(len, sets)), device=body.device),
        adjusted=torch.zeros(len(LABELS), device=body.device),
        micro_tokens=options.micro_tokens,
        world=World(),
    )


def _with(
    learner: "Learner", calls: "EncodedCalls", body: "Body", first_layer: int, frozen: "Frozen | None"
) -> "Learner":
    """Return the learner on the calls of another window."""
    from qwenops.classify.train.states import source_of

    lower = frozen.lower if frozen is not None else None
    return replace(learner, train=source_of(calls, body, first_layer=first_layer, lower=lower))


def _taken(learner: "Learner", task: Task) -> float:
    """Take all steps of one window; return the seconds."""
    from qwenops.classify.dataset import epoch_batches
    from qwenops.classify.train.loop import step

    settle(task.device)
    begun_s = time.perf_counter()
    batches = epoch_batches(learner.train.calls, batch_calls=task.batch_calls, seed=task.seed, epoch=0)
    for number, batch in enumerate(batches):
        loss = step(learner, batch, number)
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss}")
    settle(task.device)
    return time.perf_counter() - begun_s


def _padding(sets: "Sequence[EncodedCalls]", task: Task) -> float:
    """Return which share of what was computed was padding."""
    from qwenops.classify.dataset import epoch_batches, micro_batches, padded_tokens

    real = computed = 0
    for calls in sets[1:]:
        real += int(calls.lengths.sum())
        for batch in epoch_batches(calls, batch_calls=task.batch_calls, seed=task.seed, epoch=0):
            computed += padded_tokens(micro_batches(batch, calls.lengths, task.micro_tokens), calls.lengths)
    return 1 - real / computed


# -- Trainer -----------------------------------------------------------------------------------------------------------


def trainer(task: Task, *, is_grouped: bool) -> dict[str, Any]:
    """Train with Hugging Face's Trainer and peft."""
    import transformers

    whole = windows_of(task)
    if is_grouped:
        whole = [grouped(calls, task.batch_calls, task.seed) for calls in whole]
    calls = [call for each in whole for call in each]
    steps = [len(each) // task.batch_calls for each in whole]
    clock = _clock(task.device)
    made = transformers.Trainer(
        model=_peft_model(task),
        args=_arguments(task, sum(steps)),
        train_dataset=calls,
        data_collator=_collated,
        callbacks=[clock],
    )
    loss = made.train().training_loss
    if not math.isfinite(loss) or len(clock.ends_s) != sum(steps):
        raise RuntimeError(f"{len(clock.ends_s)} steps instead of {sum(steps)}, with a loss of {loss}")
    seconds = between([clock.begun_s, *clock.ends_s], steps)
    told = _told(task, sets_tokens=[sum(map(len, each)) for each in whole], seconds=seconds)
    return {**told, "padding": padding_of(whole[1:], task.at_once)}


def between(ends_s: Sequence[float], steps: Sequence[int]) -> list[float]:
    """Return the seconds of each window.

    Args:
        ends_s: When the first step began, and when each one ended.
        steps: How many steps each window has.
    """
    found, done = [], 0
    for count in steps:
        found.append(ends_s[done + count] - ends_s[done])
        done += count
    return found


def padding_of(whole: Sequence[Sequence[Sequence[int]]], at_once: int) -> float:
    """Return which share is padding when so many calls in a row are padded to the longest of them."""
    real = computed = 0
    for calls in whole:
        for begin in range(0, len(calls), at_once):
            some = calls[begin : begin + at_once]
            real += sum(map(len, some))
            computed += len(some) * max(map(len, some))
    return 1 - real / computed


def _collated(calls: Sequence[Sequence[int]]) -> "dict[str, torch.Tensor]":
    import torch

    return {name: torch.tensor(rows) for name, rows in padded_batch(calls).items()}


def _peft_model(task: Task) -> Any:
    import peft
    import torch
    import transformers

    from qwenops.classify.train.lora import TARGETS
    from qwenops.classify.train.precision import torch_dtype

    options = options_of(task, 0)
    torch.manual_seed(task.seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(task.checkpoint, dtype=torch_dtype(task.precision))
    model.config.use_cache = False
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        bias="none",
        target_modules=list(TARGETS),
    )
    return peft.get_peft_model(model, config)


def _arguments(task: Task, num_steps: int) -> Any:
    import transformers

    options = options_of(task, 0)
    return transformers.TrainingArguments(
        output_dir=str(Path(task.work) / "trainer"),
        max_steps=num_steps,
        per_device_train_batch_size=task.at_once,
        gradient_accumulation_steps=task.batch_calls // task.at_once,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip_norm,
        lr_scheduler_type="cosine",
        bf16=task.precision == "bf16",
        use_cpu=task.device == "cpu",
        dataloader_pin_memory=task.device != "cpu",
        train_sampling_strategy="sequential",  # the order was left to chance when the calls were made
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=task.seed,
    )


def _clock(device: str) -> Any:
    """Return a callback of Trainer that notes when steps end."""
    import transformers

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]  # transformers has no types here
        """Notes when the first step begins, and when each one ends."""

        def __init__(self) -> None:
            """Begin with none."""
            self.begun_s = 0.0
            self.ends_s: list[float] = []

        def on_train_begin(self, *_given: Any, **_more: Any) -> None:
            """Note the beginning."""
            settle(device)
            self.begun_s = time.perf_counter()

        def on_step_end(self, *_given: Any, **_more: Any) -> None:
            """Note the end of a step."""
            settle(device)
            self.ends_s.append(time.perf_counter())

    return Clock()


# -- what is told ------------------------------------------------------------------------------------------------------


def settle(device: str) -> None:
    """Wait until a GPU has done what it was asked."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _told(task: Task, *, sets_tokens: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """Return what a side found; the first window is left out."""
    import torch

    on_gpu = task.device == "cuda"
    return {
        "windows": [
            {"tokens": tokens, "seconds": each_s} for tokens, each_s in zip(sets_tokens[1:], seconds[1:], strict=True)
        ],
        "peak_resident_bytes": peak_resident_bytes(),
        "peak_device_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return the most memory that this process ever held in RAM.

    `ru_maxrss`, which is taken where Linux does not say it, may be what the process held before it became this program.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def precision(task: Task) -> dict[str, Any]:
    """Return the arithmetic that training takes here, and why."""
    import torch

    from qwenops.classify.train.precision import choose_precision
    from qwenops.models.checkpoint import open_checkpoint

    spec = open_checkpoint(Path(task.checkpoint)).spec
    found = choose_precision("auto", spec, device=torch.device(task.device), clock=time.perf_counter)
    return {"precision": found.value, "reason": str(found.reason)}


SIDES: Mapping[str, Callable[[Task], dict[str, Any]]] = {
    "trainer": lambda task: trainer(task, is_grouped=False),
    "trainer-grouped": lambda task: trainer(task, is_grouped=True),
    "ours": lambda task: ours(task, top_layers=0),
    "cached": lambda task: ours(task, top_layers=task.top_layers),
    "precision": precision,
}


def task_text(task: Task) -> str:
    """Return a task as JSON."""
    return json.dumps(asdict(task))


def main(arguments: Sequence[str]) -> int:
    """Do one task and print what was found."""
    system, text = arguments
    task = Task(**json.loads(text))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(task.threads)
    print(json.dumps(SIDES[system](task)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
