"""What the cached form costs: macro-F1 of the top layers alone against all layers, after equal training.

    python -m benchmarks.training_quality [--calls 240] [--seeds 3] [--epochs 6]

A tiny Qwen3 of 7 layers is made with random weights and learns eight kinds of calls; that, merged, is a model which
knows what is said in calls. It is then taught the same matters under other classes, with other calls: all layers, or
the top 2 over what the others gave once, which is the share that 8 of 28 are. The same is done with the model of random
weights, whose frozen layers know nothing: the worst that there can be. Calls, order and steps of a seed are equal.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.recording import spread, write_result
from qwenops.calls import taxonomy as taxonomies
from qwenops.calls.classes import Taxonomy
from qwenops.calls.schema import Call, Label, LabelSource, Role, Turn
from qwenops.classify.dataset import EncodedCalls, TrainData, encode
from qwenops.classify.publish import Format, publish
from qwenops.classify.train.adapter import AdapterFolder
from qwenops.classify.train.options import TrainOptions
from qwenops.classify.train.reload import reload
from qwenops.classify.train.scoring import figures
from qwenops.classify.train.training import train
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import TINY
from qwenops.models.tokenizer import Tokenizer, open_tokenizer

LAYERS = 7
FORMS: Mapping[str, int] = {"all layers": 0, "top 2": 2}
BASES = ("taught", "random")
ROTATED = 3
"""By so many places the classes are others than those that the taught model learnt."""
NUM_CLASSES = 8
BUDGET_TOKENS = 192
CUES = ("多扣了钱", "宽带断了", "态度差", "几点开门", "退订不了", "发票没来", "携号转网", "换个套餐")
FILLERS = (
    "嗯",
    "那个",
    "就是说",
    "我跟你讲",
    "麻烦你了",
    "昨天也打过",
    "等了半天",
    "你听我说",
    "家里老人用的",
    "上个月",
)


def made(count: int, taxonomy: Taxonomy, seed: int, rotated: int = ROTATED) -> list[tuple[Call, Label]]:
    """Return calls whose class one phrase among many tells; in one of five it is denied of another class, too."""
    rng = random.Random(seed)
    leaves = taxonomy.leaves[:NUM_CLASSES]
    found = []
    for number in range(count):
        kind = number % NUM_CLASSES
        said = [rng.choice(FILLERS) for _ in range(rng.randint(4, 14))]
        said.insert(rng.randrange(len(said) + 1), CUES[kind])
        if rng.random() < 1 / 5:
            said.insert(rng.randrange(len(said) + 1), "不是" + CUES[rng.randrange(NUM_CLASSES)])
        turns = (Turn(role=Role.AGENT, text="您好，请讲。"), Turn(role=Role.CUSTOMER, text="，".join(said)))
        call = Call(conversation_id=f"q{seed}-{number}", turns=turns, lang="zh")
        label = Label(
            conversation_id=call.conversation_id,
            taxonomy=taxonomy.ref,
            primary=leaves[(kind + rotated) % NUM_CLASSES],
            source=LabelSource.SYNTHETIC,
        )
        found.append((call, label))
    return found


def data_of(
    taxonomy: Taxonomy, tokenizer: Tokenizer, calls: int, seed: int, rotated: int = ROTATED
) -> tuple[TrainData, EncodedCalls]:
    """Return what is learnt from, and the test calls."""
    sizes = {seed * 10 + 1: calls, seed * 10 + 2: calls // 4, seed * 10 + 3: calls}
    parts = [
        encode(
            made(count, taxonomy, drawn, rotated), taxonomy=taxonomy, tokenizer=tokenizer, budget_tokens=BUDGET_TOKENS
        )
        for drawn, count in sizes.items()
    ]
    return TrainData(train=parts[0], val=parts[1], taxonomy=taxonomy, budget_tokens=BUDGET_TOKENS), parts[2]


def options_of(base: Path, out: Path, form: int, epochs: int, seed: int) -> TrainOptions:
    """Return the options of a run, which are equal but for the layers."""
    return TrainOptions(
        model_dir=base,
        model_name="random:7-layers",
        out=out,
        cache_dir=out.parent / "activations",
        epochs=epochs,
        patience=epochs,
        batch_calls=16,
        learning_rate=3e-3,
        max_tokens=BUDGET_TOKENS,
        top_layers=form,
        precision="f32",
        four_bit="never",
        device="cpu",
        probe=False,
        seed=seed,
    )


def trained(options: TrainOptions, data: TrainData) -> AdapterFolder:
    """Train in silence."""
    return train(options, data, report=lambda _fraction, _doing: None, now=lambda: datetime.now(tz=UTC))


def measured(options: TrainOptions, data: TrainData, test: EncodedCalls) -> float:
    """Train; return the macro-F1 on the test calls."""
    adapter = trained(options, data)
    return figures(reload(adapter, options.model_dir).logits(test), test.labels).macro_f1


def bases_of(work: Path, taxonomy: Taxonomy, calls: int, epochs: int) -> dict[str, Path]:
    """Make the two models."""
    blank = work / "random"
    write_random_checkpoint(blank, replace(TINY, num_layers=LAYERS))
    data, _ = data_of(taxonomy, open_tokenizer(blank), calls, seed=0, rotated=0)
    adapter = trained(options_of(blank, work / "first", 0, epochs, 0), data)
    return {"taught": publish(adapter.folder, blank, work / "taught", Format.VLLM), "random": blank}


def judged(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train all forms of both models with all seeds."""
    taxonomy = taxonomies.load("telecom-cn")
    scores: dict[str, dict[str, list[float]]] = {base: {form: [] for form in FORMS} for base in BASES}
    seconds: dict[str, dict[str, list[float]]] = {base: {form: [] for form in FORMS} for base in BASES}
    for base, folder in bases_of(work, taxonomy, given.calls, given.epochs).items():
        for seed in range(1, given.seeds + 1):
            data, test = data_of(taxonomy, open_tokenizer(folder), given.calls, seed)
            for form, layers in FORMS.items():
                begun_s = time.perf_counter()
                options = options_of(folder, work / f"{base}-{seed}-{layers}", layers, given.epochs, seed)
                scores[base][form].append(measured(options, data, test))
                seconds[base][form].append(time.perf_counter() - begun_s)
                print(f"  {base}, seed {seed}, {form}: {scores[base][form][-1]:.3f}", file=sys.stderr, flush=True)
    return told(scores, seconds)


def told(
    scores: Mapping[str, Mapping[str, Sequence[float]]], seconds: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, Any]:
    """Return the figures, and what each form loses, seed by seed."""
    return {
        base: {
            form: {
                "macro_f1": spread(each),
                "lost": spread([best - one for best, one in zip(forms["all layers"], each, strict=True)]),
                "seconds": spread(seconds[base][form]),
            }
            for form, each in forms.items()
        }
        for base, forms in scores.items()
    }


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| model | trained | macro-F1 (min to max) | lost, points (min to max) | s a run |",
        "|---|---|---|---|---|",
    ]
    for base, forms in found.items():
        for form, row in forms.items():
            f1, took = row["macro_f1"], row["seconds"]["median"]
            lost = {each: 100 * value for each, value in row["lost"].items()}
            lines.append(
                f"| {base} | {form} | **{f1['median']:.3f}** ({f1['min']:.3f} to {f1['max']:.3f}) "
                f"| {lost['median']:.1f} ({lost['min']:.1f} to {lost['max']:.1f}) | {took:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=240, help="to learn from; as many for the test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--name", default="training-quality", help="of the result file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="training-quality-") as temporary:
        found = judged(given, Path(temporary))
    options = {"layers": LAYERS, "calls": given.calls, "seeds": given.seeds, "epochs": given.epochs}
    path = write_result(given.name, options=options, results=found)
    path.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(path)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
