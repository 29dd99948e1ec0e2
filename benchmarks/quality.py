"""What the engine's number formats do to its answers: its logits against the same model's in full precision.

    python -m benchmarks.quality [--models taught random:0.6b] [--texts 16]

`taught` is the tiny model that the tests train: its weights mean something and its preferences are clear, as those of a
published model are. Random weights of a true shape are the worst case: their logits lie so close together that the
least noise changes which is largest. Read their relative error; their agreement says nothing about a real model.

Each setting of the engine is compared twice, teacher forced, each token a step of its own as when an answer is written:

* with the checkpoint's own weights, uncompressed, in float32 arithmetic and with a float32 KV cache: everything counts;
* with the weights of the artefact itself, dequantised, in float32: what the engine adds to the compression of weights.

The figures go into `results/quality.json`, and for models of the store into their artefact's manifest.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recording import converted, write_result
from qwenops.engines.openvino.paged import (
    QUANTIZATION_GROUP,
    CompileOptions,
    compile_form,
    has_bf16,
    read_paged_model,
)
from qwenops.engines.openvino.teacher import Teacher
from qwenops.engines.parity import Logits, Parity, compare, write_parity
from qwenops.hardware import detect_machine, plan_threads
from qwenops.hardware.allocator import give_memory_back
from qwenops.models.artefact import Artefact, open_artefact
from qwenops.models.convert import convert
from qwenops.models.spec import KvPrecision, Precision, Scheme

TAUGHT = "taught"
LENGTH = 64
SEED = 1234
SCHEMES = {TAUGHT: (Scheme.BF16, Scheme.INT8, Scheme.INT4)}
"""Schemes by model; a model of the store is compared in int8."""

Texts = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the engine may be set."""

    arithmetic: Precision
    kv_precision: KvPrecision
    dynamic: bool

    def __str__(self) -> str:
        """Name all three."""
        activations = f"activations int8 by {QUANTIZATION_GROUP}" if self.dynamic else "activations as they are"
        return f"{self.arithmetic} arithmetic, {activations}, {self.kv_precision} KV cache"


EXACT = Setting(arithmetic="f32", kv_precision="f32", dynamic=False)


def settings(scheme: Scheme) -> Iterator[Setting]:
    """Yield what the engine may choose here; for compressed weights also one without quantised activations."""
    compressed = scheme in {Scheme.INT8, Scheme.INT4}
    possible: list[tuple[Precision, KvPrecision]] = [("f32", "u8")]
    if has_bf16():
        possible += [("bf16", "u8"), ("bf16", "bf16")]
    for arithmetic, kv_precision in possible:
        yield Setting(arithmetic=arithmetic, kv_precision=kv_precision, dynamic=compressed)
    if compressed:
        yield Setting(arithmetic="f32", kv_precision="u8", dynamic=False)


def computed(artefact: Artefact, setting: Setting, texts: Texts) -> Logits:
    """Compute the engine's logits of each text under one setting, and let the model go."""
    options = CompileOptions(
        model_xml=artefact.model_xml,
        threads=plan_threads(detect_machine()).value,
        kv_precision=setting.kv_precision,
        dynamic_quantization=setting.dynamic,
    )
    form = compile_form(read_paged_model(artefact.model_xml), setting.arithmetic, options)
    teacher = Teacher(form, context_tokens=LENGTH)
    known: dict[tuple[int, ...], NDArray[np.float32]] = {tuple(text): teacher(text) for text in texts}
    del teacher, form
    give_memory_back()
    return lambda token_ids: known[tuple(token_ids)]


def judge(artefact: Artefact, whole: Artefact, texts: Texts) -> dict[str, Parity]:
    """Compare every setting of an artefact with the uncompressed model and with its own weights in float32."""
    references = {"the checkpoint in float32": computed(whole, EXACT, texts)}
    if artefact.scheme is not Scheme.BF16:  # whose weights are those of the checkpoint
        references["its own weights in float32"] = computed(artefact, EXACT, texts)
    found: dict[str, Parity] = {}
    for setting in settings(artefact.scheme):
        candidate = computed(artefact, setting, texts)
        for name, reference in references.items():
            names = (name, f"{artefact.scheme.value} weights, {setting}")
            found[f"{names[1]}; against {name}"] = compare(reference, candidate, texts, names=names)
    return found


def taught(folder: Path, num_texts: int) -> tuple[list[Artefact], Artefact, Texts]:
    """Return the trained tiny model in each scheme and uncompressed, and texts of its kind that it has never seen."""
    from qwenops.models.tokenizer import open_tokenizer
    from tests.engines import trained

    checkpoint = trained.trained_folder()
    made = {
        scheme: convert(checkpoint, folder / scheme.value, scheme, lambda _progress, _doing: None)
        for scheme in (*SCHEMES[TAUGHT], Scheme.F32)
    }
    texts = trained.sequences(open_tokenizer(checkpoint), seed=SEED, count=num_texts)
    return [made[scheme] for scheme in SCHEMES[TAUGHT]], made[Scheme.F32], texts


def stored(model: str, folder: Path, num_texts: int) -> tuple[list[Artefact], Artefact, Texts]:
    """Return a model of the store in int8 and uncompressed, and texts of random tokens."""
    artefact = open_artefact(converted(model, "int8"))
    whole = convert(checkpoint_of(model), folder / "f32", Scheme.F32, lambda _progress, _doing: None)
    rng = random.Random(SEED)
    texts = [rng.choices(range(artefact.spec.vocab_size), k=LENGTH) for _ in range(num_texts)]
    return [artefact], whole, texts


def checkpoint_of(model: str) -> Path:
    """Return the folder of a model's checkpoint in the store."""
    import asyncio
    import os

    from qwenops.models.hub import HubOptions
    from qwenops.models.store import Store, default_root

    store = Store(root=default_root(os.environ))
    return asyncio.run(store.ensure(model, HubOptions(), lambda _progress: None)).checkpoint


def measure(model: str, num_texts: int) -> dict[str, Any]:
    """Judge one model in all its schemes, and keep what was found with what belongs to the store."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        artefacts, whole, texts = (
            taught(folder, num_texts) if model == TAUGHT else stored(model, folder, max(num_texts // 4, 1))
        )
        results: dict[str, Any] = {}
        for artefact in artefacts:
            found = judge(artefact, whole, texts)
            if model != TAUGHT:
                write_parity(open_artefact(artefact.folder), found)
            results |= {name: asdict(parity) for name, parity in found.items()}
            for name, parity in found.items():
                print(
                    f"{model}: {name}: top-1 {parity.top1_agreement:.2%}, KL {parity.kl_mean:.2e}, "
                    f"relative error {parity.relative_error:.2e}",
                    flush=True,
                )
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=[TAUGHT, "random:0.6b"])
    parser.add_argument("--texts", type=int, default=16, help=f"of {LENGTH} tokens; of a model of the store a quarter")
    options = parser.parse_args(argv)
    if TAUGHT in options.models and not (find_spec("torch") and find_spec("transformers")):
        sys.exit("Training the model 'taught' needs the train extra; leave it out with --models random:0.6b.")
    results = {model: measure(model, options.texts) for model in options.models}
    stated = {
        "texts": options.texts,
        "tokens_per_text": LENGTH,
        "quantization_group": QUANTIZATION_GROUP,
        "weights": {
            TAUGHT: "trained for a minute; texts of the kind that was trained, in an order never seen",
            "random:*": "random weights and random tokens: the worst case, for all logits lie close together; its "
            "agreement says nothing about a published model",
        },
    }
    print(write_result("quality", options=stated, results=results))


if __name__ == "__main__":
    main()
