"""Classifying calls: our scorer against openvino-genai and llama.cpp, in one run, in turn.

    python -m benchmarks.llama_cpp DIR                   # builds llama.cpp for this processor, once
    python -m benchmarks.scoring --llama-cpp DIR [--model random:0.6b] [--forms int8,w8a8_prefix] [--calls 24]
    python -m benchmarks.scoring --profile int8          # what one batch spends its time on, operation by operation

Every measurement is a child process of its own that loads the model, warms up, scores the same calls and then a single
one several times. Calls have 200 to 1,500 tokens, most of them few, and begin with the same instruction. All systems
answer the same question, which of 20 labels is the most probable next token, and have the same number of threads:

* ours is the stepper that serves, called without a socket, with our batches by length; `w8a8_prefix` is what `finetune
  export` makes where its parity holds, and `int8` where it does not and the instruction is as short as here;
* openvino-genai's continuous batching writes one token under each of its precision hints, prefixes cached;
* llama.cpp's server writes one token with the probabilities of 20 others in four slots, prefixes cached, with the
  weights that it is fastest with (Q4_0) and those of our own width (Q8_0). It is built from source for this processor,
  or, without `--llama-cpp`, the one in the wheel of xllamacpp, which the results then say.

What is not installed is left out. A build with AMX that fails is left out, too, and the results say why.

Random weights stand for a trained model: speed does not depend on them, with one exception. A trained model may keep a
few activations in bf16 that 8 bits are too coarse for; the run says how many this one kept. The process ends with 3
when a goal is not met.
"""

import argparse
import importlib.util
import json
import os
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import llama_cpp
from benchmarks.recording import RESULTS, checkpoint_of, converted, ratios, spread, write_result
from qwenops.command import run
from qwenops.errors import CommandError
from qwenops.hardware import detect_machine, plan_threads
from qwenops.models.adapter import open_merged
from qwenops.models.gguf import GgufType, write_gguf
from qwenops.models.prefill import PrefillRequest, PrefillScheme, convert_prefill_in_child, open_prefill
from qwenops.models.prefill_layout import Joining

CHILD_TIMEOUT_S = 1800.0
SHORTEST, LONGEST = 200, 1500
INSTRUCTION_TOKENS = 32
LABELS = tuple(range(32, 52))
"""20 tokens; which ones does not matter."""
ALONE_TOKENS, ALONE_TIMES = 500, 7
CONTEXT_TOKENS = 2048
SLOTS = 4
KV_GIB = 2
HINTS = ("bf16", "f32")
WATCHED = 16
OTHERS = ("genai", "llama")
LEAST_RATIOS = {"genai": 1.7, "llama": 7.0}
"""Of our calls/s over those of each other at its best."""

Score = Callable[[list[list[int]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a system is measured on."""

    model: Path
    build: str = ""
    """Of llama.cpp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of our model."""

    scheme: PrefillScheme
    joining: Joining | None = None
    prefix_tokens: int = 0
    on_the_fly: bool = True
    """Whether activations may be quantised beside int8 weights."""


FORMS: Mapping[str, Form] = {
    "bf16": Form(scheme=PrefillScheme.BF16),
    "int8": Form(scheme=PrefillScheme.INT8),
    "w8a8": Form(scheme=PrefillScheme.W8A8),
    "int8_plain": Form(scheme=PrefillScheme.INT8, on_the_fly=False),
    "int8_grouped": Form(scheme=PrefillScheme.INT8, joining=Joining(by_place=False)),
    "int8_apart": Form(scheme=PrefillScheme.INT8, joining=Joining(attention=False)),
    "int8_gate_up": Form(scheme=PrefillScheme.INT8, joining=Joining(feed_forward=True)),
    "int8_prefix": Form(scheme=PrefillScheme.INT8, prefix_tokens=INSTRUCTION_TOKENS),
    "w8a8_grouped": Form(scheme=PrefillScheme.W8A8, joining=Joining(by_place=False)),
    "w8a8_apart": Form(scheme=PrefillScheme.W8A8, joining=Joining(attention=False, by_place=False)),
    "w8a8_gate_up": Form(scheme=PrefillScheme.W8A8, joining=Joining(feed_forward=True)),
    "w8a8_prefix": Form(scheme=PrefillScheme.W8A8, prefix_tokens=INSTRUCTION_TOKENS),
}
"""By the name that results have; `--forms` chooses."""


def instruction() -> list[int]:
    """Return what every call begins with."""
    draw = random.Random(0)
    return [draw.randrange(1000, 100_000) for _ in range(INSTRUCTION_TOKENS)]


def calls(seed: int, count: int) -> list[list[int]]:
    """Return prompts whose lengths are spread evenly over their logarithm; another seed shares the instruction only."""
    draw = random.Random(seed)
    lengths = [round(SHORTEST * (LONGEST / SHORTEST) ** draw.random()) for _ in range(count)]
    return [
        [*instruction(), *(draw.randrange(1000, 100_000) for _ in range(length - INSTRUCTION_TOKENS))]
        for length in lengths
    ]


# -- what is measured --------------------------------------------------------------------------------------------------


def prepare_ours(model: str, name: str, folder: Path) -> Path:
    """Convert our model to one form, unless the folder has it."""
    form, target = FORMS[name], folder / name
    if not target.exists():
        request = PrefillRequest(
            source=checkpoint_of(model),
            label_ids=LABELS,
            scheme=form.scheme,
            joining=form.joining,
            prefix=tuple(instruction()[: form.prefix_tokens]),
            calibration=tuple(map(tuple, calls(0, WATCHED))) if form.scheme is PrefillScheme.W8A8 else (),
        )
        convert_prefill_in_child(request, target, lambda _fraction, _doing: None)
    return target


def prepare_gguf(model: str, kind: GgufType, folder: Path) -> Path:
    """Write the model as a GGUF file, unless the folder has it."""
    target = folder / f"{kind.value}.gguf"
    if not target.exists():
        write_gguf(open_merged(checkpoint_of(model)), target, kind, name=model)
    return target


def open_ours(model: Path, name: str) -> tuple[Score, dict[str, Any]]:
    """Open our scorer in this process; return how it scores, and what it decided."""
    from qwenops.engines.classifier import BATCH_TOKENS
    from qwenops.engines.classifier.batching import plan
    from qwenops.engines.classifier.stepper import open_stepper
    from qwenops.engines.options import EngineOptions
    from qwenops.generation import Tokens

    options = EngineOptions(
        model_dir=model,
        context_tokens=CONTEXT_TOKENS,
        max_batched_tokens=BATCH_TOKENS,
        dynamic_quantization=FORMS[name].on_the_fly,
    )
    stepper = open_stepper(options, lambda _progress, _doing: None)

    def score(many: list[list[int]]) -> None:
        answered = 0
        for number, batch in enumerate(plan([len(ids) for ids in many], BATCH_TOKENS)):
            stepper.submit_score(str(number), [Tokens(ids=tuple(many[each])) for each in batch], LABELS)
            while stepper.has_work:
                for _, scores in stepper.step():
                    if not isinstance(scores, tuple):
                        raise RuntimeError(scores)  # noqa: TRY004 -- a failure that came as an event
                    answered += len(scores)
        if answered != len(many):
            raise RuntimeError(f"{answered} answers instead of {len(many)}")

    kept = open_prefill(model).facts["kept"]
    return score, {"notes": dict(stepper.facts()["notes"]), "activations_in_bf16": len(kept)}


def open_genai(model: Path, hint: str) -> tuple[Score, dict[str, Any]]:
    """Open openvino-genai in this process."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = KV_GIB
    scheduler.max_num_batched_tokens = CONTEXT_TOKENS
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = True
    properties = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": plan_threads(detect_machine()).value,
        "sampler_num_threads": 1,
    }
    pipeline = genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", properties)

    def score(many: list[list[int]]) -> None:
        config = genai.GenerationConfig()
        config.do_sample, config.max_new_tokens, config.ignore_eos = False, 1, True
        config.logprobs = 1
        inputs = [ov.Tensor(np.array([ids], dtype=np.int64)) for ids in many]
        answers = pipeline.generate(inputs, [config] * len(many))
        if any(len(each.m_generation_ids[0]) != 1 for each in answers):
            raise RuntimeError("an answer does not have one token")

    return score, {}


def open_llama(model: Path, build: str, stack: ExitStack) -> tuple[Score, dict[str, Any]]:
    """Start llama.cpp's server."""
    threads = plan_threads(detect_machine()).value
    wanted = llama_cpp.Wanted(model=model, slots=SLOTS, context_tokens=CONTEXT_TOKENS, threads=threads)
    server = stack.enter_context(llama_cpp.serving(build, wanted))
    pool = stack.enter_context(ThreadPoolExecutor(max_workers=SLOTS))

    def ask(ids: list[int]) -> None:
        wanted = {"prompt": ids, "n_predict": 1, "n_probs": len(LABELS), "cache_prompt": True, "temperature": 0}
        request = urllib.request.Request(  # noqa: S310 -- an address of this machine
            f"{server.url}/completion",
            data=json.dumps(wanted).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=CHILD_TIMEOUT_S) as answer:  # noqa: S310 -- an address of this machine
            told = json.load(answer)
        if told["tokens_predicted"] != 1:
            raise RuntimeError(told)

    def score(many: list[list[int]]) -> None:
        for _ in pool.map(ask, many):
            pass

    return score, {"version": server.version, "process_id": server.process_id}


def measure(score: Score, seed: int, count: int) -> dict[str, float]:
    """Score many calls at once, then one alone, after a warm-up; return the figures."""
    score(calls(seed + 1000, 4))
    many = calls(seed, count)
    begun = time.perf_counter()
    score(many)
    elapsed = time.perf_counter() - begun
    alone = []
    draw = random.Random(seed)
    for _ in range(ALONE_TIMES):
        one = [*instruction(), *(draw.randrange(1000, 100_000) for _ in range(ALONE_TOKENS - INSTRUCTION_TOKENS))]
        begun = time.perf_counter()
        score([one])
        alone.append(time.perf_counter() - begun)
    return {
        "tokens_per_s": sum(map(len, many)) / elapsed,
        "calls_per_s": count / elapsed,
        "alone_s": statistics.median(alone),
    }


def child(system: str, model: Path, seed: int, count: int, build: str) -> dict[str, Any]:
    """Measure one system in this process: `ours-FORM`, `genai-HINT`, `llama-TYPE` or `llama-TYPE-amx`."""
    kind, _, which = system.partition("-")
    with ExitStack() as stack:
        match kind:
            case "ours":
                score, facts = open_ours(model, which)
            case "genai":
                score, facts = open_genai(model, which)
            case _:
                score, facts = open_llama(model, build, stack)
        figures = measure(score, seed, count)
        process_id = facts.pop("process_id", os.getpid())
        return {"figures": figures, "resident_bytes": psutil.Process(process_id).memory_info().rss, **facts}


def in_child(system: str, case: Case, seed: int, count: int) -> dict[str, Any]:
    """Start a process that measures one system and return what it found."""
    argv = [sys.executable, "-m", "benchmarks.scoring", "--child", system, "--folder", str(case.model)]
    argv += ["--seed", str(seed), "--calls", str(count), "--build", case.build]
    print(f"  {system} ...", file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(run(argv, timeout_s=CHILD_TIMEOUT_S).stdout.splitlines()[-1])
    return found


# -- the comparison ----------------------------------------------------------------------------------------------------


def systems_of(
    model: str, forms: Sequence[str], folder: Path, llama: Path | None, others: Sequence[str] = OTHERS
) -> dict[str, Case]:
    """Return what is measured and where its model is, making what is missing."""
    found = {f"ours-{name}": Case(model=prepare_ours(model, name, folder)) for name in forms}
    if "genai" in others and importlib.util.find_spec("openvino_genai") is not None:
        found |= {f"genai-{hint}": Case(model=converted(model, "int8")) for hint in HINTS}
    if "llama" in others and importlib.util.find_spec("gguf") is not None:
        for kind in (GgufType.Q4_0, GgufType.Q8_0):
            for name, build in builds_of(llama).items():
                case = Case(model=prepare_gguf(model, kind, folder), build=build)
                found[f"llama-{kind.value}{'' if name == llama_cpp.PLAIN else f'-{name}'}"] = case
    return found


def builds_of(llama: Path | None) -> dict[str, str]:
    """Return the builds of llama.cpp that there are: those in a folder, or else the wheel, or none."""
    if llama is not None:
        return {name: str(llama / name) for name in llama_cpp.facts_of(llama)["builds"]}
    return {llama_cpp.PLAIN: llama_cpp.WHEEL} if importlib.util.find_spec("xllamacpp") is not None else {}


def compare(systems: Mapping[str, Case], repetitions: int, count: int) -> dict[str, Any]:
    """Measure all systems in turn, each time beginning with another one."""
    names = list(systems)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for seed in range(1, repetitions + 1):
        for name in names[seed % len(names) :] + names[: seed % len(names)]:
            if name in failed:
                continue
            try:
                found[name].append(in_child(name, systems[name], seed, count))
            except CommandError as error:
                if not name.endswith(f"-{llama_cpp.AMX}"):
                    raise
                failed[name] = str(error)
    rows = {name: _row(runs) for name, runs in found.items() if name not in failed}
    speeds = {name: [each["figures"]["tokens_per_s"] for each in found[name]] for name in rows}
    best = {kind: _best(speeds, kind) for kind in ("ours", "genai", "llama")}
    return {
        "systems": rows,
        "failed": failed,
        "best": best,
        "ratios": {
            kind: ratios(speeds[best["ours"]], speeds[best[kind]])
            for kind in ("genai", "llama")
            if best["ours"] and best[kind]
        },
    }


def _row(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    figures = {name: spread([each["figures"][name] for each in runs]) for name in runs[0]["figures"]}
    rest = {name: value for name, value in runs[-1].items() if name not in {"figures", "resident_bytes"}}
    return {**figures, "resident_bytes": spread([each["resident_bytes"] for each in runs]), **rest}


def _best(speeds: Mapping[str, Sequence[float]], kind: str) -> str:
    """Return the system of a kind that is the fastest over all repetitions; empty where there is none."""
    some = [name for name in speeds if name.startswith(f"{kind}-")]
    return max(some, key=lambda name: statistics.median(speeds[name]), default="")


def judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """Hold the figures against the goals."""
    return {
        f"over_{kind}": {"goal": least, "found": found["ratios"][kind]["median"], "met": _is_met(found, kind)}
        for kind, least in LEAST_RATIOS.items()
        if kind in found["ratios"]
    }


def _is_met(found: Mapping[str, Any], kind: str) -> bool:
    return bool(found["ratios"][kind]["median"] >= LEAST_RATIOS[kind])


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| system | tokens/s (min to max) | calls/s | one call of 500 tokens, ms | resident, GiB |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["systems"].items():
        speed = row["tokens_per_s"]
        lines.append(
            f"| {name} | **{speed['median']:.0f}** ({speed['min']:.0f} to {speed['max']:.0f}) "
            f"| {row['calls_per_s']['median']:.2f} | {1000 * row['alone_s']['median']:.0f} "
            f"| {row['resident_bytes']['median'] / 1024**3:.2f} |"
        )
    for kind, ratio in found["ratios"].items():
        lines.append(
            f"\n{found['best']['ours']} over {found['best'][kind]}: **{ratio['median']:.2f}** "
            f"({ratio['min']:.2f} to {ratio['max']:.2f})."
        )
    versions = {row["version"] for row in found["systems"].values() if "version" in row}
    lines += [f"\nllama.cpp: {version}." for version in sorted(versions)]
    lines += [f"\n{name} failed and is left out: {why}" for name, why in found["failed"].items()]
    return "\n".join(lines) + "\n"


# -- where the time goes -----------------------------------------------------------------------------------------------


def profile(model: Path, name: str, tokens: int = 512, prompts: int = 4) -> str:
    """Return what one batch spends its time on, by kind of operation and kernel, as Markdown."""
    from qwenops.engines.classifier.compiled import CompileOptions, choose_group, choose_precision, compile_graph

    opened = open_prefill(model)
    machine = detect_machine()
    isa = {*machine.processor.isa}
    precision = choose_precision(opened, "auto", has_bf16=bool({"avx512_bf16", "amx_bf16"} & isa)).value
    group = choose_group(opened, allowed=FORMS[name].on_the_fly, has_amx="amx_int8" in isa and precision == "bf16")
    options = CompileOptions(precision=precision, threads=plan_threads(machine).value, group=group)
    graph = compile_graph(opened, options, PERF_COUNT=True)
    draw = random.Random(1)
    batch = [[draw.randrange(1000, 100_000) for _ in range(tokens)] for _ in range(prompts)]
    for _ in range(3):
        graph.logits(batch)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    count: dict[tuple[str, str], int] = defaultdict(int)
    for _, kind, kernel, seconds in graph.profile():
        spent[kind, kernel] += seconds
        count[kind, kernel] += 1
    total = sum(spent.values())
    lines = [
        f"{name}: {prompts} x {tokens} tokens, {1000 * total:.0f} ms",
        "",
        "| kind | kernel | number | ms | share |",
    ]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {each[0]} | {each[1]} | {count[each]} | {1000 * spent[each]:.1f} | {spent[each] / total:.1%} |"
        for each in sorted(spent, key=lambda each: -spent[each])
        if spent[each] > 0
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `results/scoring.json` and `results/scoring.md`; 3 when a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random:0.6b")
    parser.add_argument("--forms", default="int8,w8a8,w8a8_prefix", help=f"of {', '.join(FORMS)}")
    parser.add_argument("--others", default=",".join(OTHERS), help="what ours is compared with; '' for nothing")
    parser.add_argument("--calls", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--name", default="scoring", help="of the result file")
    parser.add_argument("--profile", help="a form; prints where its time goes, and nothing else is done")
    parser.add_argument("--folder", type=Path, help="where models are made and kept; default: a temporary one")
    parser.add_argument(
        "--llama-cpp", type=Path, help="what `benchmarks.llama_cpp` built; default: the wheel xllamacpp"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--build", default="", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        print(json.dumps(child(given.child, given.folder, given.seed, given.calls, given.build)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if given.profile:
            print(profile(prepare_ours(given.model, given.profile, folder), given.profile))
            return 0
        others = given.others.split(",")
        systems = systems_of(given.model, given.forms.split(","), folder, given.llama_cpp, others)
        found = compare(systems, given.repetitions, given.calls)
    goals = judged(found) if given.model.endswith("0.6b") else {}
    options = {
        "model": given.model,
        "forms": given.forms.split(","),
        "calls": given.calls,
        "repetitions": given.repetitions,
        "shortest": SHORTEST,
        "longest": LONGEST,
        "instruction_tokens": INSTRUCTION_TOKENS,
        "labels": len(LABELS),
        "slots": SLOTS,
        "llama_cpp": llama_cpp.facts_of(given.llama_cpp) if given.llama_cpp else None,
    }
    print(write_result(given.name, options=options, results={**found, "goals": goals}))
    (RESULTS / f"{given.name}.md").write_text(table(found), encoding="utf-8")
    print(table(found))
    return 0 if all(goal["met"] for goal in goals.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
