"""`qwenops classify` on 100,000 calls: flat memory, each call exactly once over kill -9, and what it costs in speed.

    python -m benchmarks.batch [--calls 100000] [--kills 12] [--pairs 3] [--only memory,once,speed]

Calls come from the generator; the classifier has random weights, for what it says does not matter. Three questions:

* memory: the whole file in one sitting, with bad lines of five kinds in it. Every bad line must be named in the side
  file and no good one, every good call must have one prediction. The resident memory of the command and of its engine
  is sampled all along; its slope after the first tenth, with an interval, says how much 100,000 calls more would take.
* once: the same file again, while the command is killed (SIGKILL) at moments left to chance and started anew. In the
  end every call must be there exactly once, and the side file must be the same.
* speed: the command against its own scorer, which gets the same prompts in the same portions, ready made, in a process
  of its own. Both in turn; the ratio is taken pair by pair, at the true shape, where it is held against the goal, and
  with the tiny model, with which preparing a call takes longer than judging it.

The process ends with 3 when a goal is not met.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.recording import checkpoint_of, ratios, spread, write_result
from qwenops.atomic import whole_file, write_text
from qwenops.calls import taxonomy as taxonomies
from qwenops.calls.generator.generate import generate
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.readers import open_calls
from qwenops.calls.redact import VERSION as REDACTION
from qwenops.calls.schema import dump
from qwenops.classify.calibrate import Calibration, Quality, Temperature
from qwenops.classify.codes import assign
from qwenops.classify.decide import Thresholds
from qwenops.classify.options import ClassifyOptions
from qwenops.classify.plain import to_plain
from qwenops.classify.prompt import prompt_hash
from qwenops.classify.registry import Registry
from qwenops.classify.score import CALIBRATION, PROMPT, THRESHOLDS, Classifier, open_form
from qwenops.command import Spawned, run, spawn
from qwenops.engines.classifier import BATCH_TOKENS, open_scorer
from qwenops.engines.options import EngineOptions
from qwenops.models.artefact import MANIFEST
from qwenops.models.prefill import PrefillRequest, PrefillScheme, convert_prefill_in_child
from qwenops.models.tokenizer import open_tokenizer
from qwenops.statistics.fits import correlation_inflation, linear_fit, neighbours, theil_sen

PARTS = ("memory", "once", "speed")
NAME = "batch"
"""Of the classifier in the registry."""
SEED = 4
SECRET = b"a secret of a benchmark, no one's"
BUDGET_TOKENS = 1024
DISTINCT = 20_000
"""So many calls are made; to make them takes longer than to classify them with a tiny model."""
BAD_EVERY = 500
"""One line of so many is bad."""
SAMPLE_EVERY_S = 0.5
BLOCKS, SKIPPED, FEWEST_SAMPLES = 20, 0.1, 40
LEAST_RATIO = 0.95
MOST_GROWTH_BYTES = 32 * 2**20
"""What 100,000 calls more may take in memory, at the upper end of the interval."""
PER_CALLS = 100_000
TIMEOUT_S = 4 * 3600.0
TRUE_SHAPE, TINY = "random:0.6b", "random:tiny"


# -- calls and a classifier -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file of calls, and what is right about it."""

    path: Path
    good: frozenset[str]
    """The ids that must be predicted, each once."""
    bad: Mapping[int, str]
    """The lines that must be named in the side file, each with its kind."""


BAD_KINDS = ("cut", "bytes", "role", "silent", "twice")


def spoilt(kind: str, line: str, number: int) -> bytes:
    """Return a bad line made of a good one: a call that nobody can read, that says nothing or that was there before."""
    told = json.loads(line)
    match kind:
        case "cut":
            return line[: len(line) // 2].encode()
        case "bytes":
            return b'{"schema":"qwenops.call/1","conversation_id":"\xff\xff"}'
        case "role":
            told["turns"][0]["role"] = "nobody"
        case "silent":
            told["turns"] = []
        case "twice":
            return line.encode()
        case _:
            raise ValueError(kind)
    told["conversation_id"] = f"bad-{number}"
    return json.dumps(told, ensure_ascii=False).encode()


def write_input(path: Path, lines: Iterable[str], *, bad_every: int = 0) -> Input:
    """Write good lines into a file, after every so-manieth a bad one; with 0 there are none.

    Args:
        path: The file; it is replaced.
        lines: Good calls, each as a line of JSON; they are read once.
        bad_every: Good lines from one bad line to the next.
    """
    good: list[str] = []
    bad: dict[int, str] = {}
    number = 0
    with whole_file(path) as out:
        for line in lines:
            good.append(str(json.loads(line)["conversation_id"]))
            out.write(line.encode() + b"\n")
            number += 1
            if bad_every and len(good) % bad_every == 0:
                kind = BAD_KINDS[len(bad) % len(BAD_KINDS)]
                number += 1
                bad[number] = kind
                out.write(spoilt(kind, line, number) + b"\n")
    return Input(path=path, good=frozenset(good), bad=bad)


def synthetic(count: int) -> Iterator[str]:
    """Yield so many synthetic calls as lines of JSON; after the first `DISTINCT` the same is said in other calls."""
    made: list[dict[str, Any]] = []
    for each in generate(GeneratorOptions(calls=min(count, DISTINCT), seed=SEED)):
        line = dump(each.call)
        made.append(json.loads(line))
        yield line
    for number in range(len(made), count):
        turn, place = divmod(number, len(made))
        again = {**made[place], "conversation_id": f"{made[place]['conversation_id']}-{turn}"}
        yield json.dumps(again, ensure_ascii=False)


def make_classifier(model: str, folder: Path) -> Path:
    """Write a classifier with random weights as `qwenops finetune export` writes a trained one; return its folder.

    Nothing is known about how good it is, so no call is filed by itself.
    """
    base = checkpoint_of(model)
    taxonomy = taxonomies.load("telecom-cn")
    label_ids = tuple(assign(taxonomy.leaves, open_tokenizer(base)).values())
    request = PrefillRequest(source=base, label_ids=label_ids, scheme=PrefillScheme.INT8)
    convert_prefill_in_child(request, folder, lambda _fraction, _doing: None)
    nothing = Quality(ece=0.0, class_wise_ece=0.0, brier=0.0, nll=0.0)
    parts = {
        PROMPT: {"budget_tokens": BUDGET_TOKENS, "legend": "", "hash": prompt_hash(budget_tokens=BUDGET_TOKENS)},
        CALIBRATION: to_plain(
            Calibration(scaling=Temperature(value=1.0), before=nothing, after=None, num_calls=0, seed=SEED)
        ),
        THRESHOLDS: to_plain(
            Thresholds(leaf=None, parent=None, target_precision=0.95, confidence=0.95, num_calls=0, num_groups=0)
        ),
        MANIFEST: {"taxonomy": {"ref": taxonomy.ref}, "redaction": REDACTION, "note": "random weights"},
    }
    for name, data in parts.items():
        write_text(folder / name, json.dumps(data, ensure_ascii=False) + "\n")
    (folder / taxonomies.TAXONOMY).write_bytes(taxonomy.path.read_bytes())
    return folder


def registered(model: str, folder: Path) -> Path:
    """Make a classifier the champion of a registry of its own; return the registry."""
    registry = Registry(root=folder / "registry")
    registry.register(NAME, make_classifier(model, folder / "classifier"), by="benchmark")
    registry.promote(NAME, by="benchmark")
    return registry.root


def command_of(source: Path, out: Path, registry: Path) -> list[str]:
    """Return the command that is measured."""
    argv = [sys.executable, "-m", "qwenops", "classify", str(source), "--classifier", NAME]
    return [*argv, "--registry", str(registry), "--out", str(out), "--json"]


def environ(folder: Path) -> dict[str, str]:
    """Return variables under which the command leaves its traces in a folder of the benchmark."""
    return {"QWENOPS_HOME": str(folder / "home"), "QWENOPS_LANG": "en"}


# -- what came out -----------------------------------------------------------------------------------------------------


def checked(given: Input, out: Path) -> dict[str, Any]:
    """Compare what was written with what is right; `right` is whether nothing is amiss."""
    told: Counter[str] = Counter()
    with out.open("rb") as lines:
        for line in lines:
            told[str(json.loads(line)["conversation_id"])] += 1
    named = set(rejected_lines(out.with_name(f"{out.name}.rejected.jsonl")))
    missed = Counter(kind for line, kind in given.bad.items() if line not in named)
    found: dict[str, Any] = {
        "calls": len(given.good),
        "predicted_once": sum(told[name] == 1 for name in given.good),
        "missing": sum(name not in told for name in given.good),
        "more_than_once": sum(count > 1 for count in told.values()),
        "strange": sum(name not in given.good for name in told),
        "bad_lines": len(given.bad),
        "bad_lines_not_named": dict(missed),
        "good_lines_named": len(named - set(given.bad)),
    }
    faults = ("missing", "more_than_once", "strange", "bad_lines_not_named", "good_lines_named")
    return {**found, "right": not any(found[name] for name in faults)}


def rejected_lines(path: Path) -> Iterator[int]:
    """Yield the numbers of the lines that a side file calls wrong."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as lines:
        for line in lines:
            told = json.loads(line)
            if told["severity"] == "error":
                yield int(told["line"])


# -- memory ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Resident memory at one moment."""

    at_s: float
    command: int
    engine: int


def sampled(child: Spawned, *, timeout_s: float = TIMEOUT_S) -> list[Sample]:
    """Watch a command and the processes that it starts until it ends; return what they held."""
    begun_s = time.monotonic()
    found: list[Sample] = []
    process = psutil.Process(child.pid)
    while child.poll() is None:
        at_s = time.monotonic() - begun_s
        if at_s > timeout_s:
            raise TimeoutError(f"it still runs after {timeout_s:g} s")
        with contextlib.suppress(psutil.NoSuchProcess):
            others = process.children(recursive=True)
            found.append(Sample(at_s=at_s, command=process.memory_info().rss, engine=sum(map(_resident, others))))
        time.sleep(SAMPLE_EVERY_S)
    return found


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def growth(samples: Sequence[Sample], part: Callable[[Sample], int], calls: int) -> dict[str, Any]:
    """Return how memory grows, in bytes for `PER_CALLS` calls, with the interval of the slope.

    The first tenth of the time is left out; the rest is cut into blocks, whose means depend on one another less than
    samples do, and what dependence is left widens the interval.

    Args:
        samples: Of the whole run.
        part: Which memory.
        calls: How many the whole run had.
    """
    steady = samples[round(len(samples) * SKIPPED) :]
    if len(steady) < FEWEST_SAMPLES:
        return {"samples": len(steady), "flat": None}
    cuts = [round(len(steady) * number / BLOCKS) for number in range(BLOCKS + 1)]
    blocks = [steady[low:high] for low, high in itertools.pairwise(cuts)]
    times = [sum(each.at_s for each in block) / len(block) for block in blocks]
    sizes = [sum(map(part, block)) / len(block) for block in blocks]
    line = linear_fit(times, sizes)
    inflation = correlation_inflation(
        neighbours([size - line.at(at_s) for at_s, size in zip(times, sizes, strict=True)])
    )
    slope = theil_sen(times, sizes, inflation=inflation)
    per_calls = PER_CALLS * samples[-1].at_s / calls
    grown = {name: getattr(slope, name) * per_calls for name in ("value", "low", "high")}
    return {
        "samples": len(steady),
        "first_block_bytes": round(sizes[0]),
        "last_block_bytes": round(sizes[-1]),
        "peak_bytes": max(map(part, samples)),
        "growth_bytes_per_100000_calls": {
            name: round(value) if math.isfinite(value) else None for name, value in grown.items()
        },
        "flat": grown["high"] <= MOST_GROWTH_BYTES,
    }


def in_one_sitting(given: Input, folder: Path, registry: Path) -> dict[str, Any]:
    """Classify the file without a break, and watch the memory."""
    out, answer = folder / "one-sitting.jsonl", folder / "answer.json"
    argv, env = command_of(given.path, out, registry), environ(folder)
    with answer.open("wb") as said, spawn(argv, env=env, stdout=said) as child:
        samples = sampled(child)
        status = child.wait(timeout_s=60.0)
    if status:
        raise RuntimeError(f"the command ended with {status}")
    told = json.loads(answer.read_bytes())
    return {
        "summary": {name: told[name] for name in ("classified", "rejected", "tokens", "elapsed_s", "calls_per_s")},
        "took_s": round(samples[-1].at_s, 1),
        "command": growth(samples, lambda each: each.command, len(given.good)),
        "engine": growth(samples, lambda each: each.engine, len(given.good)),
        **checked(given, out),
    }


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def moments(kills: int, whole_s: float, seed: int) -> list[float]:
    """Return after how many seconds each start is killed: by chance, from at once to twice an equal share of the whole.

    So some are killed while they start, and all together get through most of the file, or through it.
    """
    draw = random.Random(seed)
    return [draw.uniform(0.0, 2.0 * whole_s / (kills + 1)) for _ in range(kills)]


def killed(given: Input, folder: Path, registry: Path, *, kills: int, whole_s: float) -> dict[str, Any]:
    """Classify the file while the command is killed again and again, and look what is there in the end."""
    out = folder / "killed.jsonl"
    argv = command_of(given.path, out, registry)
    done_before: list[int] = []
    for after_s in moments(kills, whole_s, SEED):
        with spawn(argv, env=environ(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            deadline_s = time.monotonic() + after_s
            while child.poll() is None and time.monotonic() < deadline_s:
                time.sleep(min(0.01, after_s))
            ended = child.poll() is not None
            child.kill()
        if ended:
            break
        done_before.append(journalled(out.with_name(f"{out.name}.parts") / "journal.jsonl"))
    finished = run(argv, timeout_s=TIMEOUT_S, env=environ(folder))
    told = json.loads(finished.stdout)
    return {
        "kills": len(done_before),
        "calls_done_at_each_kill": done_before,
        "passed_over_in_the_last_sitting": told["passed_over"],
        **checked(given, out),
    }


def journalled(journal: Path) -> int:
    """Return how many calls the whole lines of a journal name."""
    try:
        raw = journal.read_bytes()
    except FileNotFoundError:
        return 0
    return sum(int(json.loads(line)["calls"]) for line in raw[: raw.rfind(b"\n") + 1].splitlines())


# -- speed -------------------------------------------------------------------------------------------------------------


async def scored(classifier: Path, source: Path, portion: int) -> dict[str, float]:
    """Time the scorer alone on the prompts of a file, ready made, in portions of so many."""
    form, tokenizer = open_form(classifier), open_tokenizer(classifier)
    scorer = await open_scorer(classifier, EngineOptions(max_batched_tokens=BATCH_TOKENS))
    ready = Classifier(NAME, form, tokenizer, scorer, secret=SECRET)
    label_ids = tuple(assign(form.leaves, tokenizer).values())
    try:
        prompts = ready.prepare([entry.call for entry in open_calls(source)]).prompts
        begun_s = time.perf_counter()
        for begin in range(0, len(prompts), portion):
            await scorer.score(prompts[begin : begin + portion], label_ids)
        elapsed_s = time.perf_counter() - begun_s
    finally:
        await ready.aclose()
    return {"calls_per_s": len(prompts) / elapsed_s, "tokens_per_s": sum(len(p.ids) for p in prompts) / elapsed_s}


def paired(model: str, count: int, pairs: int, folder: Path) -> dict[str, Any]:
    """Let the command and its scorer take turns over the same calls, each beginning every other pair."""
    folder.mkdir()
    registry = registered(model, folder)
    given = write_input(folder / "calls.jsonl", synthetic(count))
    portion = ClassifyOptions().shard_calls
    alone = [sys.executable, "-m", "benchmarks.batch", "--scorer", str(folder / "classifier")]
    alone += ["--source", str(given.path), "--portion", str(portion)]
    speeds: dict[str, list[float]] = {"command": [], "scorer": []}
    for number in range(pairs):
        argv = {"command": command_of(given.path, folder / f"{number}.jsonl", registry), "scorer": alone}
        for name in sorted(argv, reverse=bool(number % 2)):
            print(f"  {model}: {name} ...", file=sys.stderr, flush=True)
            said = run(argv[name], timeout_s=TIMEOUT_S, env=environ(folder)).stdout
            speeds[name].append(float(json.loads(said.splitlines()[-1] if name == "scorer" else said)["calls_per_s"]))
    return {
        "calls": count,
        "calls_per_s": {name: spread(each) for name, each in speeds.items()},
        "command_to_scorer": ratios(speeds["command"], speeds["scorer"]),
    }


# -- all of it ---------------------------------------------------------------------------------------------------------


def judged(found: Mapping[str, Any]) -> dict[str, bool]:
    """Hold what was found against the goals; what was not measured is not judged."""
    goals: dict[str, bool] = {}
    if memory := found.get("memory"):
        goals["each_call_once"] = memory["right"]
        goals["flat_memory"] = memory["command"]["flat"] is True and memory["engine"]["flat"] is True
    if once := found.get("once"):
        goals["each_call_once_after_kills"] = once["right"] and once["kills"] > 0
    if at_true_shape := found.get("speed", {}).get(TRUE_SHAPE):
        goals["as_fast_as_the_scorer"] = at_true_shape["command_to_scorer"]["median"] >= LEAST_RATIO
    return goals


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Answer the questions that were asked."""
    wanted, found = set(given.only.split(",")), dict[str, Any]()
    if wanted & {"memory", "once"}:
        print("  making calls and a classifier ...", file=sys.stderr, flush=True)
        source = write_input(folder / "calls.jsonl", synthetic(given.calls), bad_every=given.bad_every)
        registry = registered(TINY, folder)
        print("  one sitting ...", file=sys.stderr, flush=True)
        found["memory"] = in_one_sitting(source, folder, registry)
        if "once" in wanted:
            print("  kill -9 ...", file=sys.stderr, flush=True)
            whole_s = found["memory"]["took_s"]
            found["once"] = killed(source, folder, registry, kills=given.kills, whole_s=whole_s)
    if "speed" in wanted:
        sizes = {TINY: given.tiny_calls, given.speed_model: given.speed_calls}
        found["speed"] = {
            model: paired(model, count, given.pairs, folder / model.replace(":", "-")) for model, count in sizes.items()
        }
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--bad-every", type=int, default=BAD_EVERY, help="good lines from one bad line to the next")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=3, help="of command and scorer")
    parser.add_argument("--speed-model", default=TRUE_SHAPE)
    parser.add_argument("--speed-calls", type=int, default=512, help="in each measurement of that model")
    parser.add_argument("--tiny-calls", type=int, default=10_000, help="in each measurement of the tiny one")
    parser.add_argument("--only", default=",".join(PARTS), help="questions, with commas between them")
    parser.add_argument("--name", default="batch", help="of the result file")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in; default: a temporary one")
    for name in ("--scorer", "--source"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--portion", type=int, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result; 3 when a goal is not met."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.scorer:
        print(json.dumps(asyncio.run(scored(given.scorer, given.source, given.portion))))
        return 0
    if strange := set(given.only.split(",")) - set(PARTS):
        parser.error(f"there is no question {', '.join(sorted(strange))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="batch-") as temporary:
        found = measure(given, given.folder or Path(temporary))
    goals = judged(found)
    options = {name: getattr(given, name) for name in ("calls", "bad_every", "kills", "pairs", "speed_model")}
    options |= {"speed_calls": given.speed_calls, "tiny_calls": given.tiny_calls, "only": given.only, "seed": SEED}
    options |= {"portion": ClassifyOptions().shard_calls, "distinct": min(DISTINCT, given.calls)}
    print(write_result(given.name, options=options, results={**found, "goals": goals}))
    for name, met in goals.items():
        print(f"{name}: {'met' if met else 'NOT met'}")
    return 0 if all(goals.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
