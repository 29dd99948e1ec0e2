"""From options and data to an adapter: everything in its order.

decide (arithmetic, memory) ─> load ─> attach ─> how long? ─> frozen layers ─> linear probe ─> learn ─> save
^ checkpoint, if there is one
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qwenops.classify.codes import assign
from qwenops.classify.dataset import TrainData, micro_batches, padded_tokens
from qwenops.classify.golden import fingerprint, golden_prompts
from qwenops.classify.head import LabelHead, head_of
from qwenops.classify.prompt import PROMPT_HASH, prompt_hash
from qwenops.classify.train import checkpoint as checkpoints
from qwenops.classify.train.adapter import AdapterFolder, save_adapter
from qwenops.classify.train.body import Body, load_body
from qwenops.classify.train.checkpoint import Saved, Standing, fingerprint_of
from qwenops.classify.train.deciding import changed, check_installed, choose_device, choose_threads, decide, versions
from qwenops.classify.train.estimate import Estimate, estimate, measure, pieces_of_epoch, told
from qwenops.classify.train.loop import Learner, learn, optimiser_of, restore, tensors_of
from qwenops.classify.train.lora import Lora, attach
from qwenops.classify.train.losses import adjustment, class_counts, weights_of_classes
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.probe import probe
from qwenops.classify.train.states import Frozen, fill, last_states, missing, open_frozen, source_of
from qwenops.classify.train.world import World, joined
from qwenops.errors import InsufficientDiskError, InvalidDataError, PromptTooLongError, RunFolderError
from qwenops.hardware import detect_machine
from qwenops.models.checkpoint import Checkpoint, open_checkpoint
from qwenops.models.locks import held, held_if_free
from qwenops.models.tokenizer import Tokenizer, open_tokenizer
from qwenops.text import Report, Text, say

if TYPE_CHECKING:
    import torch

ADAPTER, ACTIVATIONS, LOCK = "adapter", "activations", ".lock"
_PLACES = frozenset({"model_dir", "out", "cache_dir"})
_NOT_MEANT = _PLACES | frozenset({"model_name", "checkpoint_every_s", "restart", "threads", "device", "probe"})
"""Options that change how a run is carried out, not what it is."""


@dataclass(slots=True, kw_only=True)
class _Run:
    """What belongs to one run, from its beginning to its end."""

    options: TrainOptions
    data: TrainData
    base: Checkpoint
    base_sha256: Mapping[str, str]
    tokenizer: Tokenizer
    leaves: Mapping[str, int]
    device: "torch.device"
    world: World
    clock: Callable[[], float]
    report: Report
    tell: Callable[[Text], None]
    fingerprint: str
    decided: dict[str, Any]
    saved: Saved | None


def train(
    options: TrainOptions,
    data: TrainData,
    *,
    report: Report,
    now: Callable[[], datetime],
    tell: Callable[[Text], None] = lambda _sentence: None,
    clock: Callable[[], float] = time.monotonic,
    environ: Mapping[str, str] = os.environ,
) -> AdapterFolder:
    """Train an adapter, or go on training it where an earlier call was ended.

    Args:
        options: What was chosen.
        data: Training and validation calls.
        report: Is told how far it is.
        now: The time, for the manifest.
        tell: Is told what should stay readable: decisions with their reasons, how long it takes, the first answer.
        clock: Seconds from any point.
        environ: Where torchrun leaves its words.

    Raises:
        MissingPartError: torch, transformers or peft is not installed.
        InvalidDataError: There is nothing to learn from or to validate with.
        RunFolderError: The folder is in use, or holds the checkpoint of another run.
        InsufficientMemoryError: The model does not fit.
        InsufficientDiskError: What frozen layers give, or the adapter, does not fit on the disk.
        TrainingError: A loss is no number; the last checkpoint is from before.
    """
    check_installed()
    _check_data(data)
    device = choose_device(options.device, int(environ.get("LOCAL_RANK", "0")))
    with (
        joined(environ, cuda=device.type == "cuda") as world,
        _own_folder(options.out, world),
        _own_chance(device, options, world),
    ):
        run = _begin(options, data, device=device, world=world, clock=clock, report=report, tell=tell)
        return _carry_out(run, now)


def _begin(
    options: TrainOptions,
    data: TrainData,
    *,
    device: "torch.device",
    world: World,
    clock: Callable[[], float],
    report: Report,
    tell: Callable[[Text], None],
) -> _Run:
    """Open the model, look for a checkpoint, decide what the machine decides."""
    base = open_checkpoint(options.model_dir)
    longest = _longest(data, base)
    tokenizer = open_tokenizer(options.model_dir)
    leaves = assign(data.taxonomy.leaves, tokenizer)
    sha256 = base.sha256()
    name = fingerprint_of(_meaning(options, data, sha256, leaves))
    if options.restart and world.is_first:
        shutil.rmtree(options.out / checkpoints.FOLDER, ignore_errors=True)
    saved = world.agreed(checkpoints.load(options.out, name) if world.is_first else None)
    if saved is not None:
        decided = dict(saved.decided)
        place = saved.standing
        if world.is_first:
            tell(say("Going on after step {step}, in epoch {epoch}.", step=place.step, epoch=place.epoch + 1))
    else:
        found = decide(options, base.spec, device=device, longest=longest, local_size=world.local_size, clock=clock)
        decided = world.agreed({**found, **_circumstances()})
    return _Run(
        options=options,
        data=data,
        base=base,
        base_sha256=sha256,
        tokenizer=tokenizer,
        leaves=leaves,
        device=device,
        world=world,
        clock=clock,
        report=report if world.is_first else lambda _fraction, _doing: None,
        tell=tell if world.is_first else lambda _sentence: None,
        fingerprint=name,
        decided=decided,
        saved=saved,
    )


def _carry_out(run: _Run, now: Callable[[], datetime]) -> AdapterFolder:
    """Load, estimate, prepare, learn, save."""
    import torch

    options, decided = run.options, run.decided
    _tell_decisions(run)
    body = load_body(
        run.base,
        precision=decided["precision"],
        device=run.device,
        four_bit=decided["four_bit"],
        report=run.report,
    )
    torch.manual_seed(options.seed)
    lora = attach(body, options)
    head = head_of(body.table, tuple(run.leaves.values()), trainable=options.trained_head)
    root = options.cache_dir if options.cache_dir != Path() else options.out / ACTIVATIONS
    root.mkdir(parents=True, exist_ok=True)
    with held(root / LOCK, lambda: run.report(0.0, say("Waiting for another run that computes frozen layers"))):
        frozen = open_frozen(root, body, facts=_facts(run), first_layer=lora.first_layer, last_too=_wants_probe(run))
        found = _estimate(run, body, lora, head, frozen)
        _fill(run, body, lora, frozen)
    try:
        learner = _learner(run, body, lora, head, frozen)
        if _wants_probe(run) and frozen.last is not None:
            _probe(run, frozen, learner)
        return _learn_and_save(run, body, learner, found, now)
    finally:
        frozen.close()


def _estimate(run: _Run, body: Body, lora: Lora, head: LabelHead, frozen: Frozen) -> Estimate:
    """Time a few pieces, and say how long the run will take."""
    options, data, micro = run.options, run.data, run.decided["micro_tokens"]
    source = source_of(data.train, body, first_layer=lora.first_layer, recompute=run.decided["recompute"])
    pieces = pieces_of_epoch(source, options, micro, run.world.rank, run.world.size)
    if not pieces:  # fewer calls than processes
        pieces = [(0,)]
    speeds = measure(source, head, pieces, clock=run.clock)
    for each in lora.parameters.values():
        each.grad = None
    head.rows.grad = None
    val = micro_batches(range(run.world.rank, len(data.val), run.world.size), data.val.lengths, micro)
    found = estimate(
        speeds,
        epochs=options.epochs - (run.saved.standing.epoch if run.saved else 0),
        train_tokens=padded_tokens(pieces, data.train.lengths),
        val_tokens=padded_tokens(val, data.val.lengths),
        missing_tokens=sum(len(prompt) for _, prompt in missing(frozen, (data.train, data.val))),
        num_layers=body.spec.num_layers,
        layers=body.spec.num_layers - lora.first_layer,
        last_too=frozen.last is not None,
    )
    run.tell(told(found, options.epochs))
    return found


def _fill(run: _Run, body: Body, lora: Lora, frozen: Frozen) -> None:
    """Compute what the stores lack; the matrices are new still, so the model gives what it gave without them."""
    if not frozen.stores:
        return
    fill(
        frozen,
        body,
        (run.data.train, run.data.val),
        first_layer=lora.first_layer,
        micro_tokens=run.decided["micro_tokens"],
        clock=run.clock,
        report=run.report,
    )


def _learner(run: _Run, body: Body, lora: Lora, head: LabelHead, frozen: Frozen) -> Learner:
    """Put together what a step touches, with the checkpoint's weights if there is one."""
    import torch

    options, calls = run.options, run.data.train
    counts = class_counts(calls.labels, calls.weights, head.num_classes)
    weights = calls.weights * weights_of_classes(counts, options.class_weights)[calls.labels]
    sources = [
        source_of(each, body, first_layer=lora.first_layer, lower=frozen.lower, recompute=run.decided["recompute"])
        for each in (run.data.train, run.data.val)
    ]
    learner = Learner(
        options=options,
        train=sources[0],
        val=sources[1],
        lora=lora,
        head=head,
        optimiser=optimiser_of(lora, head, options),
        call_weights=torch.from_numpy(weights).to(run.device),
        adjusted=torch.from_numpy(adjustment(counts, options.logit_adjustment)).to(run.device),
        micro_tokens=run.decided["micro_tokens"],
        world=run.world,
    )
    if run.saved is not None:
        restore(learner, run.saved.tensors, run.saved.standing.step)
    else:
        run.world.take_first(list(learner.trained.values()))
    return learner


def _probe(run: _Run, frozen: Frozen, learner: Learner) -> None:
    """Fit the linear model on the untrained model's states, and say what it reached."""
    assert frozen.last is not None  # noqa: S101 -- who calls looked
    train_calls, val_calls = run.data.train, run.data.val
    run.report(0.0, say("Fitting a linear model on the untrained model's states"))
    begun_s = run.clock()
    found = probe(
        last_states(frozen.last, train_calls),
        train_calls.labels,
        learner.call_weights.cpu().numpy(),
        last_states(frozen.last, val_calls),
        val_calls.labels,
        learner.adjusted.cpu().numpy(),
    )
    run.decided["probe"] = {**asdict(found.figures), "strength": found.strength, "seconds": run.clock() - begun_s}
    run.tell(
        say(
            "A linear model on the untrained model reaches macro-F1 {macro_f1} on the validation calls.",
            macro_f1=f"{found.figures.macro_f1:.3f}",
        )
    )


def _learn_and_save(
    run: _Run, body: Body, learner: Learner, found: Estimate, now: Callable[[], datetime]
) -> AdapterFolder:
    import torch

    standing = run.saved.standing if run.saved is not None else Standing()

    def save(place: Standing) -> None:
        if not run.world.is_first:
            return
        try:
            checkpoints.save(
                run.options.out,
                fingerprint=run.fingerprint,
                standing=place,
                decided=run.decided,
                tensors=tensors_of(learner),
            )
        except InsufficientDiskError as error:  # hours of training are worth more than the newest checkpoint
            run.tell(say("No checkpoint could be written, the last one stays: {reason}", reason=error.message))

    learn(learner, standing, save=save, clock=run.clock, report=run.report)
    with torch.no_grad():
        for name, each in learner.trained.items():
            each.copy_(learner.best[name])
    adapter: AdapterFolder | None = None
    if run.world.is_first:
        adapter = save_adapter(
            run.options.out / ADAPTER,
            lora=learner.lora,
            body=body,
            head=learner.head,
            leaves=run.leaves,
            taxonomy=run.data.taxonomy.path,
            golden=golden_prompts(run.tokenizer, budget_tokens=run.data.budget_tokens, legend=run.data.legend),
            manifest=_manifest(run, learner, standing, found, now),
        )
        shutil.rmtree(run.options.out / checkpoints.FOLDER, ignore_errors=True)
    agreed = run.world.agreed(adapter)
    assert agreed is not None  # noqa: S101 -- the first process has it
    return agreed


def _manifest(
    run: _Run, learner: Learner, standing: Standing, found: Estimate, now: Callable[[], datetime]
) -> dict[str, Any]:
    """Return all that is to be known about the adapter besides its files."""
    data, options = run.data, run.options
    machine = detect_machine()
    return {
        "created_at": now().isoformat(timespec="seconds"),
        "base": {"name": options.model_name, "sha256": dict(run.base_sha256)},
        "taxonomy": {"ref": data.taxonomy.ref, "sha256": data.taxonomy.sha256},
        "prompt": {
            "form": PROMPT_HASH,
            "sha256": prompt_hash(budget_tokens=data.budget_tokens, legend=data.legend),
            "fingerprint": fingerprint(run.tokenizer, budget_tokens=data.budget_tokens, legend=data.legend),
            "budget_tokens": data.budget_tokens,
            "legend": data.legend,
        },
        "redaction": list(data.redactions),
        "data": {
            "sources": dict(data.sources),
            "train": {"calls": len(data.train), "sha256": data.train.sha256(), "classes": _counted(run, "train")},
            "val": {"calls": len(data.val), "sha256": data.val.sha256(), "classes": _counted(run, "val")},
        },
        "lora": {
            "rank": options.rank,
            "alpha": options.alpha,
            "layers": run.base.spec.num_layers - learner.lora.first_layer,
            "first_layer": learner.lora.first_layer,
        },
        "options": {name: value for name, value in asdict(options).items() if name not in _PLACES},
        "decided": run.decided,
        "metrics": {
            "best_epoch": standing.best_epoch,
            "macro_f1": standing.best_macro_f1,
            "nll": standing.best_nll,
            "history": standing.history,
        },
        "time": {"estimated": found.data(), "training_s": standing.elapsed_s, "steps": standing.step},
        "seed": options.seed,
        "processes": run.world.size,
        "machine": {
            "processor": machine.processor.model,
            "cores": machine.usable_cores.value,
            "memory_bytes": machine.memory.total_bytes,
            "device": str(run.device),
        },
        "versions": versions(),
    }


def _counted(run: _Run, part: str) -> dict[str, int]:
    """Return how many calls of a part each class has."""
    labels = run.data.train.labels if part == "train" else run.data.val.labels
    counts = np.bincount(labels, minlength=len(run.leaves))
    return {leaf: int(count) for leaf, count in zip(run.leaves, counts, strict=True)}


def _meaning(
    options: TrainOptions, data: TrainData, base_sha256: Mapping[str, str], leaves: Mapping[str, int]
) -> dict[str, Any]:
    """Return all that makes a run what it is."""
    kept = {
        each.name: getattr(options, each.name) for each in dataclasses.fields(options) if each.name not in _NOT_MEANT
    }
    return {
        "options": kept,
        "base": dict(base_sha256),
        "train": data.train.sha256(),
        "val": data.val.sha256(),
        "taxonomy": data.taxonomy.ref,
        "leaves": dict(leaves),
        "prompt": prompt_hash(budget_tokens=data.budget_tokens, legend=data.legend),
    }


def _facts(run: _Run) -> dict[str, Any]:
    """Return what the numbers of frozen layers depend on besides tokens and arithmetic."""
    known = versions()
    return {"base": dict(run.base_sha256), "torch": known["torch"], "transformers": known["transformers"]}


def _circumstances() -> dict[str, Any]:
    """Return what the last bits of numbers depend on, though nothing else does."""
    import torch

    return {"threads": torch.get_num_threads(), "torch": torch.__version__}


def _wants_probe(run: _Run) -> bool:
    return run.options.probe and "probe" not in run.decided


def _tell_decisions(run: _Run) -> None:
    """Say what was decided and why, or what has changed since then."""
    decided = run.decided
    if run.saved is None:
        reason = decided["precision_reason"]
        run.tell(say("Training in {precision}: {reason}", precision=decided["precision"], reason=reason))
        run.tell(say("Memory: {reason}", reason=decided["memory_reason"]))
        return
    before = {name: decided.get(name) for name in _circumstances()}
    if others := changed(before, _circumstances()):
        run.tell(
            say(
                "Since the checkpoint was written {names} changed; the last bits of the weights may differ from those "
                "of an unbroken run.",
                names=", ".join(others),
            )
        )


def _longest(data: TrainData, base: Checkpoint) -> int:
    """Return the tokens of the longest prompt.

    Raises:
        PromptTooLongError: The model cannot read it.
    """
    longest = max(int(each.lengths.max()) for each in (data.train, data.val))
    most = base.spec.max_context_tokens
    if longest > most:
        raise PromptTooLongError(
            say("A prompt has {tokens} tokens; the model reads {most}.", tokens=longest, most=most),
            hint=say("Allow shorter prompts only, with --max-tokens."),
        )
    return longest


def _check_data(data: TrainData) -> None:
    for name, calls in (("train", data.train), ("val", data.val)):
        if not len(calls):
            raise InvalidDataError(
                say("There is no call to use as {part}.", part=name),
                hint=say("Split the calls into train, val and test with `qwenops calls split`."),
            )
    both = sorted(set(data.train.ids) & set(data.val.ids))
    if both:
        raise InvalidDataError(
            say("{count} calls are in train and in val, the first is {call}.", count=len(both), call=both[0]),
            hint=say("Split the calls anew with `qwenops calls split`."),
        )


@contextmanager
def _own_folder(out: Path, world: World) -> Iterator[None]:
    """Keep other runs out of the folder.

    Raises:
        RunFolderError: Another one is in it.
    """
    if not world.is_first:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with held_if_free(out / LOCK) as taken:
        if not taken:
            raise RunFolderError(
                say("Another run is training in {folder}.", folder=str(out)), hint=say("Choose another --out.")
            )
        yield


@contextmanager
def _own_chance(device: "torch.device", options: TrainOptions, world: World) -> Iterator[None]:
    """Give torch's random numbers and threads back as they were."""
    import torch

    before = torch.get_num_threads()
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(choose_threads(options, world.local_size))
        try:
            yield
        finally:
            torch.set_num_threads(before)
