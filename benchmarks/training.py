"""Training LoRA at the true shape: ours against Hugging Face's Trainer with peft, in one run, in turn.

    python -m benchmarks.training [--model 0.6b] [--device auto] [--systems trainer,trainer-grouped,ours,cached]
    python -m benchmarks.training --device cuda     # on one GPU; writes results/training-gpu.json

Every measurement is a process of its own (`benchmarks.training_sides`) that loads the model, takes one step to warm up
and then trains on windows of calls of 200 to 1,500 tokens. In a round all sides get the same calls, and each round
begins with another side, so ratios are taken pair by pair. Tokens are those of the calls: what is padded counts as time
and not as work. All sides have the same rank, targets, optimiser, dropout, calls of a step, threads and arithmetic,
which the probe of `qwenops finetune train` chooses; weights are random, for speed does not depend on them.

`cached` trains the top 8 of 28 layers over what the lower 20 gave, which is computed once. Its speed is that of
the steps; how long the lower layers took, and what is left when that is spread over the epochs of a run, stands
beside it. No round begins that would end after `--limit-s`. The process ends with 3 when a goal is not met.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.recording import ratios, spread, write_result
from benchmarks.training_sides import LONGEST, SHORTEST, SYSTEMS, Task, options_of, task_text
from qwenops.classify.train.lora import TARGETS
from qwenops.classify.train.memory import estimate_bytes
from qwenops.command import run
from qwenops.hardware import detect_machine, plan_threads
from qwenops.models.random import SPECS, write_random_checkpoint
from qwenops.models.spec import ModelSpec

CHILD_TIMEOUT_S = 1800.0
LEAST_OVER_TRAINER, LEAST_CACHED_OVER_TRAINER = 2.0, 6.0
TRUE_SHAPE = "0.6b"
_THEIRS = ("trainer", "trainer-grouped")
SHARE = 0.85
"""Of the memory limit, that Trainer may fill."""
LOGIT_BYTES = 12
"""Trainer's loss keeps each logit in float32, as a probability and as a gradient, beside what the model computes in."""
GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is trained at once and in one window."""

    batch_calls: int
    at_once: int
    micro_tokens: int
    window_calls: int
    windows: int


LOADS: Mapping[str, Load] = {
    "cpu": Load(batch_calls=8, at_once=2, micro_tokens=2048, window_calls=8, windows=2),
    "cuda": Load(batch_calls=32, at_once=8, micro_tokens=8192, window_calls=128, windows=3),
}
"""By device. What Trainer computes at once has about as many tokens, padding included, as what ours does."""

_LOAD = tuple(each.name for each in fields(Load))
Measure = Callable[[str, Task], Mapping[str, Any]]


# -- what is measured --------------------------------------------------------------------------------------------------


def in_child(system: str, task: Task) -> Mapping[str, Any]:
    """Start a process that is one side, and return what it found."""
    print(f"  {system}, seed {task.seed} ...", file=sys.stderr, flush=True)
    argv = [sys.executable, "-m", "benchmarks.training_sides", system]
    env = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}
    with tempfile.TemporaryDirectory(dir=task.work) as work:
        said = run([*argv, task_text(replace(task, work=work))], timeout_s=CHILD_TIMEOUT_S, env=env).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def compare(
    systems: Sequence[str],
    task: Task,
    rounds: int,
    *,
    limit_s: float,
    measure: Measure = in_child,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Let all sides train in turn, each round beginning with another one and with other calls.

    Args:
        systems: The sides.
        task: What they do; its seed is that of the first round.
        rounds: At most so many; one at least.
        limit_s: A round that would, like the longest before it, end later than this is not begun.
        measure: Lets one side train.
        clock: Seconds from any point.
    """
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in systems}
    begun_s, longest_s = clock(), 0.0
    for number in range(rounds):
        round_s = clock()
        if number and round_s - begun_s + longest_s > limit_s:
            break
        first = number % len(systems)
        for name in [*systems[first:], *systems[:first]]:
            found[name].append(measure(name, replace(task, seed=task.seed + number)))
        longest_s = max(longest_s, clock() - round_s)
    return told(found)


def told(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the figures of all sides, and the ratios of ours to each Trainer."""
    speeds = {name: speeds_of(runs) for name, runs in found.items()}
    return {
        "rounds": max(map(len, found.values())),
        "systems": {name: _row(runs, speeds[name]) for name, runs in found.items()},
        "ratios": {
            name: {other: ratios(speeds[name], speeds[other]) for other in _THEIRS if other in speeds}
            for name in ("ours", "cached")
            if name in speeds
        },
    }


def speeds_of(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the tokens a second of every window, in the order of rounds and windows."""
    return [each["tokens"] / each["seconds"] for one in runs for each in one["windows"]]


def _row(runs: Sequence[Mapping[str, Any]], speeds: Sequence[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens_per_s": spread(speeds)}
    for name in ("peak_resident_bytes", "peak_device_bytes"):
        row[name] = spread([each[name] for each in runs])
    row["padding"] = spread([each["padding"] for each in runs])
    if "fill" in runs[0]:
        row["fill_tokens_per_s"] = spread([each["fill"]["tokens_per_s"] for each in runs])
    return row


def with_fill(found: Mapping[str, Any], epochs: int) -> float:
    """Return the tokens a second of the cached form when the lower layers' time is spread over so many epochs."""
    row = found["systems"]["cached"]
    step_s, fill_s = (1 / row[name]["median"] for name in ("tokens_per_s", "fill_tokens_per_s"))
    return float(1 / (step_s + fill_s / epochs))


def judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """Hold the ratios against the goals."""
    goals = {"ours": LEAST_OVER_TRAINER, "cached": LEAST_CACHED_OVER_TRAINER}
    verdicts = {}
    for name, goal in goals.items():
        ratio = found["ratios"].get(name, {}).get("trainer")
        if ratio is not None:
            verdicts[f"{name}_over_trainer"] = {"goal": goal, "found": ratio["median"], "met": ratio["median"] >= goal}
    return verdicts


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| system | tokens/s (min to max) | times Trainer | padding | peak resident, GiB | peak on the GPU, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["systems"].items():
        speed, ratio = row["tokens_per_s"], found["ratios"].get(name, {}).get("trainer")
        over = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else ""
        memory = [row[each]["max"] / GIB for each in ("peak_resident_bytes", "peak_device_bytes")]
        lines.append(
            f"| {name} | **{speed['median']:,.0f}** ({speed['min']:,.0f} to {speed['max']:,.0f}) | {over} "
            f"| {row['padding']['median']:.0%} | {memory[0]:.1f} | {f'{memory[1]:.1f}' if memory[1] else ''} |"
        )
    return "\n".join(lines) + "\n"


# -- how it is set up --------------------------------------------------------------------------------------------------


def trainer_bytes(spec: ModelSpec, task: Task) -> int:
    """Return about how much memory Trainer takes for the longest calls that it can get at once."""
    tokens = task.at_once * task.longest
    body = estimate_bytes(
        spec, options_of(task, 0), precision=task.precision, tokens=tokens, recompute=False, four_bit=False
    )
    return body + tokens * spec.vocab_size * (LOGIT_BYTES + (2 if task.precision == "bf16" else 0))


def fitting(spec: ModelSpec, task: Task, limit_bytes: int) -> Task:
    """Return the task with so few calls at once that Trainer fits into memory; one where nothing does."""
    while task.at_once > 1 and trainer_bytes(spec, task) > SHARE * limit_bytes:
        task = replace(task, at_once=task.at_once // 2)
    return task


def wrong(load: Load, systems: Sequence[str]) -> str:
    """Say what is not possible; empty where all is."""
    if strange := sorted(set(systems) - set(SYSTEMS)):
        return f"there is no side {', '.join(strange)}; there are {', '.join(SYSTEMS)}"
    if min(load.batch_calls, load.at_once, load.window_calls, load.windows) < 1:
        return "at least one of each is needed"
    if load.window_calls % load.batch_calls or load.batch_calls % load.at_once:
        return "a window must be whole steps, and a step whole batches of Trainer"
    return ""


def _checkpoint(model: str, folder: Path) -> Path:
    """Return the folder of a model with random weights, made where it is missing; it needs no tokenizer."""
    target = folder / model
    if not target.exists():
        write_random_checkpoint(target, SPECS[model], tokenizer=False)
    return target


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _limit_bytes(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory)
    return detect_machine().memory_limit.value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TRUE_SHAPE, choices=sorted(SPECS))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="sides, with commas between them")
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "f32"))
    parser.add_argument("--rounds", type=int, default=3, help="at most so many")
    parser.add_argument("--limit-s", type=float, default=840.0, help="after that no further round is begun")
    parser.add_argument("--top-layers", type=int, default=8, help="trained by the cached form")
    parser.add_argument("--longest", type=int, default=LONGEST, help="tokens of the longest call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="", help="of the result file; training or training-gpu")
    parser.add_argument("--folder", type=Path, help="where the model is made and kept; default: a temporary one")
    for name in _LOAD:  # what is not given is that of the device
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"for example {getattr(LOADS['cpu'], name)}")
    return parser


def main(arguments: Sequence[str] | None = None, *, measure: Measure = in_child) -> int:
    """Measure and write the result; 3 when a goal is not met."""
    parser = _parser()
    given = parser.parse_args(arguments)
    device = _device(given.device)
    chosen = {name: getattr(given, name) for name in _LOAD if getattr(given, name) is not None}
    load, systems = replace(LOADS[device], **chosen), given.systems.split(",")
    if problem := wrong(load, systems):
        parser.error(problem)
    with tempfile.TemporaryDirectory(prefix="training-") as temporary:
        task = Task(
            checkpoint=str(_checkpoint(given.model, given.folder or Path(temporary))),
            work=temporary,
            precision="bf16" if given.precision == "auto" else given.precision,
            device=device,
            seed=given.seed,
            top_layers=given.top_layers,
            threads=plan_threads(detect_machine()).value,
            longest=given.longest,
            **asdict(load),
        )
        probed: Mapping[str, Any] = {"precision": task.precision, "reason": "it was asked for"}
        if given.precision == "auto":
            probed = measure("precision", task)
            task = replace(task, precision=probed["precision"])
        task = fitting(SPECS[given.model], task, _limit_bytes(device))
        found = compare(systems, task, given.rounds, limit_s=given.limit_s, measure=measure)
    _write(given, task, systems, {**found, "precision": dict(probed)})
    goals = judged(found) if (given.model, device) == (TRUE_SHAPE, "cpu") else {}
    return 0 if all(goal["met"] for goal in goals.values()) else 3


def _write(given: argparse.Namespace, task: Task, systems: Sequence[str], found: Mapping[str, Any]) -> None:
    """Write the result and its table, and print both."""
    options = options_of(task, 0)
    kept = {name: value for name, value in asdict(task).items() if name not in {"checkpoint", "work"}}
    results = dict(found)
    if "cached" in systems:
        results["cached_with_fill_tokens_per_s"] = {
            f"{epochs}_epochs": round(with_fill(found, epochs), 1) for epochs in (1, 4, 10)
        }
    if (given.model, task.device) == (TRUE_SHAPE, "cpu"):
        results["goals"] = judged(found)
    name = given.name or ("training-gpu" if task.device == "cuda" else "training")
    path = write_result(
        name,
        options={
            "model": f"random:{given.model}",
            "systems": list(systems),
            "shortest": SHORTEST,
            "rank": options.rank,
            "alpha": options.alpha,
            "dropout": options.dropout,
            "targets": list(TARGETS),
            **kept,
            "limit_s": given.limit_s,
        },
        results=results,
    )
    path.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(path)
    print(table(found))


if __name__ == "__main__":
    sys.exit(main())
