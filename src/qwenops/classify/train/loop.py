"""Steps and epochs: what is computed, in which order, and when training ends.

One step is one batch: each process computes its calls in pieces, gradients are added up, the optimiser moves. A step
either happens whole or not at all, and everything that is random in it follows from the seed and the place, so a
checkpoint between two steps is all that has to be kept.

A loss that is no number is an error: nothing is learnt from it, the weights stay what they were, and the calls to look
at are named.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from qwenops.classify.dataset import epoch_batches, micro_batches, num_batches, shared
from qwenops.classify.head import LabelHead
from qwenops.classify.train.checkpoint import Standing
from qwenops.classify.train.estimate import show_time
from qwenops.classify.train.lora import Lora
from qwenops.classify.train.losses import losses
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.schedule import rate
from qwenops.classify.train.scoring import figures, logits_of
from qwenops.classify.train.states import Source
from qwenops.classify.train.world import World
from qwenops.errors import TrainingError
from qwenops.options import show_number
from qwenops.text import Report, say

if TYPE_CHECKING:
    import torch

HEAD = "head"
"""The name of the head's rows among what is trained."""
BETAS = (0.9, 0.999)
EPSILON = 1e-8
MOST_NAMED = 16


@dataclass(slots=True, kw_only=True)
class Learner:
    """All that a step touches."""

    options: TrainOptions
    train: Source
    val: Source
    lora: Lora
    head: LabelHead
    optimiser: Any
    call_weights: "torch.Tensor"
    """How much each training call counts, [calls]: how far its label is trusted, times the weight of its class."""
    adjusted: "torch.Tensor"
    """What the loss adds to the logits, [classes]."""
    micro_tokens: int
    world: World
    best: "dict[str, torch.Tensor]" = field(default_factory=dict)
    """The trained tensors of the best epoch."""

    @property
    def trained(self) -> "dict[str, torch.Tensor]":
        """What is trained, by name, in the optimiser's order."""
        rows = {HEAD: self.head.rows} if self.head.trainable else {}
        return {**self.lora.parameters, **rows}

    @property
    def num_steps(self) -> int:
        """All steps of the run, if it does not end early."""
        return self.options.epochs * num_batches(len(self.train.calls), self.options.batch_calls)


def optimiser_of(lora: Lora, head: LabelHead, options: TrainOptions) -> Any:
    """Return the optimiser of what is trained: the matrices, and the head's rows if they are."""
    import torch

    groups: list[dict[str, Any]] = [{"params": list(lora.parameters.values()), "highest": options.learning_rate}]
    if head.trainable:
        groups.append({"params": [head.rows], "highest": options.head_learning_rate})
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, weight_decay=options.weight_decay)


def learn(
    learner: Learner,
    standing: Standing,
    *,
    save: Callable[[Standing], None],
    clock: Callable[[], float],
    report: Report,
) -> None:
    """Train to the end from wherever `standing` is.

    Args:
        learner: What is trained, and on what.
        standing: The place; it is moved on.
        save: Writes a checkpoint; called now and then, and after each epoch.
        clock: Seconds from any point.
        report: Is told how far it is.

    Raises:
        TrainingError: A loss is no number.
    """
    options = learner.options
    begun_s, before_s, saved_s = clock(), standing.elapsed_s, clock()
    spent_s, begun_step = 0.0, standing.step
    if not standing.history:
        validate(learner, standing, loss=None, report=report)
    while standing.epoch < options.epochs and standing.stale < options.patience:
        calls = learner.train.calls
        batches = epoch_batches(calls, batch_calls=options.batch_calls, seed=options.seed, epoch=standing.epoch)
        for batch in batches[standing.batch :]:
            from_s = clock()
            standing.loss_sum += step(learner, batch, standing.step)
            standing.step += 1
            standing.batch += 1
            now_s = clock()
            standing.elapsed_s = before_s + now_s - begun_s
            spent_s += now_s - from_s
            _tell(learner, standing, spent_s / (standing.step - begun_step), report)
            if now_s - saved_s >= options.checkpoint_every_s and standing.batch < len(batches):
                save(standing)
                saved_s = clock()
        loss = standing.loss_sum / len(batches)
        standing.epoch += 1
        standing.batch, standing.loss_sum = 0, 0.0
        validate(learner, standing, loss=loss, report=report)
        standing.elapsed_s = before_s + clock() - begun_s
        save(standing)
        saved_s = clock()


def step(learner: Learner, batch: Sequence[int], number: int) -> float:
    """Learn from one batch; return its loss, the weighted mean over its calls.

    Raises:
        TrainingError: It is no number; nothing was learnt.
    """
    import torch

    options, world = learner.options, learner.world
    parameters = list(learner.trained.values())
    for each in parameters:
        each.grad = torch.zeros_like(each)
    whole = learner.call_weights[list(batch)].sum()
    total = torch.zeros(1, device=whole.device)
    bad: list[int] = []
    learner.train.body.drop(on=options.dropout > 0)
    own = shared(batch, world.rank, world.size)
    for piece_number, piece in enumerate(micro_batches(own, learner.train.calls.lengths, learner.micro_tokens)):
        torch.manual_seed(seed_of(options.seed, number, piece_number, world.rank))
        each_loss = _losses(learner, piece)
        bad += [place for place, fine in zip(piece, torch.isfinite(each_loss).tolist(), strict=True) if not fine]
        loss = (each_loss * learner.call_weights[list(piece)]).sum() / whole
        torch.autograd.backward([loss])
        total += loss.detach()
    learner.train.body.drop(on=False)
    world.add([*(each.grad for each in parameters if each.grad is not None), total])
    norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm or math.inf)
    if bad or not bool(torch.isfinite(norm)):
        raise diverged([learner.train.calls.ids[place] for place in bad or batch], number)
    for group in learner.optimiser.param_groups:
        group["lr"] = rate(number, learner.num_steps, highest=group["highest"], warmup_share=options.warmup_share)
    learner.optimiser.step()
    return float(total)


def validate(learner: Learner, standing: Standing, *, loss: float | None, report: Report) -> None:
    """Judge the weights on the validation calls, note what was found, and keep the weights if they are the best.

    Raises:
        TrainingError: A logit is no number.
    """
    heard = say("Validating after epoch {epoch}", epoch=standing.epoch)
    done = standing.step / max(1, learner.num_steps)
    logits = logits_of(
        learner.val,
        learner.head,
        micro_tokens=learner.micro_tokens,
        world=learner.world,
        heard=lambda _fraction: report(done, heard),
    )
    found = figures(logits, learner.val.calls.labels)
    if math.isnan(found.nll):
        ids = [learner.val.calls.ids[place] for place in np.flatnonzero(~np.isfinite(logits).all(axis=1))]
        raise diverged(ids, standing.step)
    if found.rank > (standing.best_macro_f1, -standing.best_nll):
        standing.best_macro_f1, standing.best_nll = found.macro_f1, found.nll
        standing.best_epoch, standing.stale = standing.epoch, 0
        learner.best = {name: each.detach().clone() for name, each in learner.trained.items()}
    else:
        standing.stale += 1
    standing.history.append(
        {
            "epoch": standing.epoch,
            "loss": loss,
            "macro_f1": found.macro_f1,
            "accuracy": found.accuracy,
            "nll": found.nll,
        }
    )


def diverged(ids: Sequence[str], number: int) -> TrainingError:
    """Make the error for a loss that is no number, of these calls."""
    return TrainingError(
        say(
            "At step {step} the loss is no number any more; the calls were: {calls}.",
            step=number,
            calls=", ".join(ids[:MOST_NAMED]) + (" …" if len(ids) > MOST_NAMED else ""),
        ),
        hint=say("The last checkpoint is from before. Lower --learning-rate, and look at these calls."),
        conversation_ids=tuple(ids),
    )


def seed_of(seed: int, number: int, piece: int, rank: int) -> int:
    """Return the seed of all that is random in one piece of one step."""
    text = f"{seed}/{number}/{piece}/{rank}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def tensors_of(learner: Learner) -> "dict[str, torch.Tensor]":
    """Return all that a checkpoint keeps: weights, best weights, the optimiser's averages."""
    found = {f"now/{name}": each.detach() for name, each in learner.trained.items()}
    found |= {f"best/{name}": each for name, each in learner.best.items()}
    for name, each in learner.trained.items():
        state = learner.optimiser.state.get(each)
        if state:
            found[f"mean/{name}"] = state["exp_avg"]
            found[f"square/{name}"] = state["exp_avg_sq"]
    return found


def restore(learner: Learner, tensors: "Mapping[str, torch.Tensor]", steps: int) -> None:
    """Put back what `tensors_of` returned, after so many steps."""
    import torch

    device = learner.train.body.device
    with torch.no_grad():
        for name, each in learner.trained.items():
            each.copy_(tensors[f"now/{name}"])
    prefix = "best/"
    learner.best = {
        name.removeprefix(prefix): each.to(device) for name, each in tensors.items() if name.startswith(prefix)
    }
    if not steps:
        return
    state = {
        number: {
            "step": torch.tensor(float(steps)),
            "exp_avg": tensors[f"mean/{name}"].to(device),
            "exp_avg_sq": tensors[f"square/{name}"].to(device),
        }
        for number, name in enumerate(learner.trained)
    }
    learner.optimiser.load_state_dict({"state": state, "param_groups": learner.optimiser.state_dict()["param_groups"]})


def _losses(learner: Learner, piece: Sequence[int]) -> "torch.Tensor":
    """Return the loss of each call of a piece."""
    import torch

    logits = learner.head(learner.train.states(piece))
    labels = torch.from_numpy(learner.train.calls.labels[list(piece)]).to(logits.device)
    return losses(logits, labels, learner.adjusted, learner.options.label_smoothing)


def _tell(learner: Learner, standing: Standing, pace_s: float, report: Report) -> None:
    left_s = pace_s * (learner.num_steps - standing.step)
    report(
        standing.step / learner.num_steps,
        say(
            "Training: epoch {epoch} of {epochs}, loss {loss}, macro-F1 {best}, {left} left",
            epoch=standing.epoch + 1,
            epochs=learner.options.epochs,
            loss=show_number(standing.loss_sum / standing.batch),
            best=f"{standing.best_macro_f1:.3f}",
            left=show_time(left_s),
        ),
    )
