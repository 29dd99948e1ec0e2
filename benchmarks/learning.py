"""Does it learn? A tiny Qwen3 through the whole pipeline, against the linear model, on three honest splits.

    python -m benchmarks.learning [--calls 5000] [--splits known,author,months]

* `known`: test calls of customers who are in no other part;
* `author`: test calls in the words of an author whom neither model has read;
* `months`: test calls of the last quarter of the year, everything else from before.

The tiny model starts from the demo's base, which has read calls of another seed and learnt what the trade calls the
matter of each: some thousand calls whose meaning it was told. That is knowledge which the linear model of the labels
alone does not have, as it does not have what Qwen3 read in the internet. So the linear model is trained twice: on the
labels alone, and on these calls with their true classes too. Only the second comparison is one of equal knowledge, and
only it says that the tiny model learns better. For each split the base is made anew and reads nothing of the author, or
of the months, that the test is about.

Labels to learn from are those of the annotators, with their mistakes; the test is judged by the true classes. Intervals
draw customers anew.
"""

import argparse
import dataclasses
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.recording import write_result
from qwenops.calls import taxonomy as taxonomies
from qwenops.calls.classes import Taxonomy
from qwenops.calls.generator.generate import generate
from qwenops.calls.generator.options import GeneratorOptions
from qwenops.calls.generator.truth import Synthetic, Truth
from qwenops.calls.redact import redact
from qwenops.calls.render import render
from qwenops.classify.answers import Answers, answers_of
from qwenops.classify.baseline import train as train_baselines
from qwenops.classify.baseline_folder import headline
from qwenops.classify.calibrate import softmax
from qwenops.classify.dataset import TrainData, encode
from qwenops.classify.evaluate.comparing import Verdict, compare
from qwenops.classify.linear import predict
from qwenops.classify.plain import to_plain
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.reload import reload
from qwenops.classify.train.training import train
from qwenops.deploy import demo_base
from qwenops.models.tokenizer import open_tokenizer

SEED = 21
TEST_AUTHOR = "pine"
FIRST_TEST_MONTH = 9
VAL_SHARE, TEST_SHARE = 0.15, 0.3
TINY, LABELS_ALONE, EQUAL = "tiny Qwen3", "linear, labels alone", "linear, equal knowledge"
_SECRET = b"synthetic calls have nothing to hide"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One split of the calls."""

    train: tuple[Synthetic, ...]
    val: tuple[Synthetic, ...]
    test: tuple[Synthetic, ...]


def _by_lot(made: Synthetic) -> float:
    """Return a number from 0 to 1 that is the same for all calls of a customer."""
    return int(hashlib.sha256(made.call.customer_id.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def _known(truth: Truth) -> bool:
    return bool(truth)


SPLITS: Mapping[str, Callable[[Truth], bool]] = {
    "known": _known,
    "author": lambda truth: truth.author != TEST_AUTHOR,
    "months": lambda truth: truth.month < FIRST_TEST_MONTH,
}
"""By name, which calls may be learnt from, by the tiny model's base as well."""


def parts_of(calls: Iterable[Synthetic], name: str) -> Parts:
    """Divide calls: customers are never on both sides, and what may not be learnt from is for the test."""
    may_learn = SPLITS[name]
    found: dict[str, list[Synthetic]] = {"train": [], "val": [], "test": []}
    for made in calls:
        lot = _by_lot(made)
        if lot < TEST_SHARE:
            if name == "known" or not may_learn(made.truth):
                found["test"].append(made)
        elif may_learn(made.truth):
            found["val" if lot < TEST_SHARE + VAL_SHARE else "train"].append(made)
    return Parts(**{part: tuple(each) for part, each in found.items()})


def linear(teach: Sequence[Synthetic], more: Sequence[Synthetic], test: Sequence[Synthetic], of: Taxonomy) -> Answers:
    """Train the baselines; return what the one says that is best out of fold."""
    found = train_baselines(
        [render(each.call) for each in (*teach, *more)],
        [*(each.label.primary for each in teach), *(each.truth.leaf for each in more)],
        seed=SEED,
        classes=of.leaves,
        groups=[each.call.customer_id for each in (*teach, *more)],
    )
    best = max(found.out_of_fold, key=lambda kind: headline(found.out_of_fold[kind])["macro_f1"])
    print(f"    the best linear model is {best.value}", file=sys.stderr, flush=True)
    return _answers(predict(found.baselines[best], [render(each.call) for each in test]), test, of)


def tiny(parts: Parts, name: str, given: argparse.Namespace, work: Path, of: Taxonomy) -> Answers:
    """Make a base, train an adapter, and return what it says of the test calls."""
    base = work / "base"
    demo_base.write_base(base, calls=given.base_calls, wanted=SPLITS[name], report=_quiet)
    tokenizer = open_tokenizer(base)

    def encoded(calls: Sequence[Synthetic]) -> Any:
        pairs = [(each.call, each.label) for each in calls]
        return encode(pairs, taxonomy=of, tokenizer=tokenizer, budget_tokens=demo_base.PROMPT_TOKENS)

    data = TrainData(
        train=encoded(parts.train), val=encoded(parts.val), taxonomy=of, budget_tokens=demo_base.PROMPT_TOKENS
    )
    options = TrainOptions(
        model_dir=base,
        model_name="tiny",
        out=work / "run",
        epochs=given.epochs,
        learning_rate=5e-3,
        max_tokens=demo_base.PROMPT_TOKENS,
        probe=False,
    )
    adapter = train(options, data, report=_quiet, now=lambda: datetime.now(tz=UTC))
    return _answers(softmax(reload(adapter, base).logits(encoded(parts.test)).astype("float64")), parts.test, of)


def _answers(probabilities: Any, test: Sequence[Synthetic], of: Taxonomy) -> Answers:
    truth, customers = [each.truth.leaf for each in test], [each.call.customer_id for each in test]
    return answers_of(truth, probabilities, of.leaves, groups=customers)


def _quiet(_fraction: float, _doing: str) -> None:
    """Tell nobody."""


def judged(calls: Sequence[Synthetic], name: str, given: argparse.Namespace, of: Taxonomy) -> dict[str, Any]:
    """Train all on one split and compare them."""
    parts = parts_of(calls, name)
    read = list(demo_base.read_calls(given.base_calls, SPLITS[name], _quiet))
    seconds: dict[str, float] = {}
    said: dict[str, Answers] = {}

    def timed(system: str, work: Callable[[], Answers]) -> None:
        begun_s = time.perf_counter()
        said[system] = work()
        seconds[system] = time.perf_counter() - begun_s
        print(f"  {name}, {system}: {headline(said[system])}", file=sys.stderr, flush=True)

    timed(LABELS_ALONE, lambda: linear((*parts.train, *parts.val), (), parts.test, of))
    timed(EQUAL, lambda: linear((*parts.train, *parts.val), read, parts.test, of))
    with tempfile.TemporaryDirectory(prefix="learning-") as work:
        timed(TINY, lambda: tiny(parts, name, given, Path(work), of))
    verdicts = [
        compare(said[TINY], said[other], name=TINY, their_name=other, seed=SEED) for other in (LABELS_ALONE, EQUAL)
    ]
    return {
        "calls": {each.name: len(getattr(parts, each.name)) for each in dataclasses.fields(parts)},
        "read_by_the_base": len(read),
        "macro_f1": {system: headline(each)["macro_f1"] for system, each in said.items()},
        "seconds": seconds,
        "verdicts": [to_plain(each) for each in verdicts],
        "rows": [_row(name, each) for each in verdicts],
    }


def _row(name: str, each: Verdict) -> str:
    low, high = each.difference.low, each.difference.high
    between = "" if low is None or high is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return (
        f"| {name} | {each.theirs} | {each.macro_f1:.3f} | {each.their_macro_f1:.3f} "
        f"| {100 * each.difference.value:+.1f}{between} | {each.outcome.value} |"
    )


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the comparisons as Markdown."""
    lines = [
        "| split | against | macro-F1, tiny Qwen3 | macro-F1, the other | points (95 %) | tiny Qwen3 is |",
        "|---|---|---|---|---|---|",
        *(row for each in found.values() for row in each["rows"]),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write `results/learning.json` and `.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000, help="of which a split takes what it may")
    parser.add_argument("--base-calls", type=int, default=demo_base.CALLS, help="made for the base to read")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--splits", default=",".join(SPLITS), help="with commas between them")
    parser.add_argument("--name", default="learning", help="of the result file")
    given = parser.parse_args(arguments)
    options = GeneratorOptions(calls=given.calls, seed=SEED)
    taxonomy = taxonomies.load(options.taxonomy)
    calls = [
        dataclasses.replace(made, call=redact(made.call, secret=_SECRET).call)
        for made in generate(options)
        if not made.truth.duplicate
    ]
    found = {name: judged(calls, name, given, taxonomy) for name in given.splits.split(",")}
    kept = {"calls": given.calls, "base_calls": given.base_calls, "epochs": given.epochs}
    path = write_result(given.name, options=kept, results=found)
    path.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(path)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
