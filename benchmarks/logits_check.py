"""The logits of our graph against transformers in float32, at the true shapes.

    python -m benchmarks.logits_check [--models 0.6b 1.7b] [--tokens 256] [--folder DIR]

Uncompressed weights, float32 arithmetic, float32 KV cache, no dynamic quantisation; both forms of the graph: stateful
and paged. Each side computes in a process of its own, one after the other, and leaves its logits in a file, so at most
one library holds the model at a time (1.7B: about 14 GB).
"""

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recording import write_result
from qwenops.models.random import SPECS, write_random_checkpoint

ALLOWED_RELATIVE_ERROR = 1e-3
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
BLOCK_TOKENS = 32
FORMS = ("stateful", "paged")

Logits = NDArray[np.float32]


def reference(folder: Path, token_ids: NDArray[np.int64]) -> Logits:
    """Return transformers' logits `[tokens, vocabulary]` in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: Logits = model(torch.from_numpy(token_ids[None])).logits[0].numpy()
    return logits


def stateful(folder: Path, token_ids: NDArray[np.int64]) -> Logits:
    """Return the logits of the stateful form; the second half attends to the first through the KV cache."""
    import openvino as ov

    request = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", EXACT).create_infer_request()
    pieces = []
    for begin, end in ((0, token_ids.size // 2), (token_ids.size // 2, token_ids.size)):
        inputs = {
            "input_ids": token_ids[None, begin:end],
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(begin, end)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        pieces.append(request.infer(inputs)["logits"][0].copy())
    return np.concatenate(pieces)


def paged(folder: Path, token_ids: NDArray[np.int64]) -> Logits:
    """Return the logits of the paged form, in two steps over one cache whose blocks lie in reverse order."""
    import openvino as ov
    from openvino._offline_transformations import paged_attention_transformation

    core = ov.Core()
    model = core.read_model(folder / "openvino_model.xml")
    paged_attention_transformation(model)
    compiled = core.compile_model(model, "CPU", EXACT)
    request = compiled.create_infer_request()
    num_blocks = -(-token_ids.size // BLOCK_TOKENS)
    for cache in compiled.inputs:
        if "cache." in cache.any_name:
            shape = [num_blocks, *(length.get_length() for length in list(cache.partial_shape)[1:])]
            request.set_tensor(cache.any_name, ov.Tensor(cache.element_type, ov.Shape(shape)))
    half = token_ids.size // 2 // BLOCK_TOKENS * BLOCK_TOKENS
    blocks = np.arange(num_blocks, dtype=np.int32)[::-1]
    pieces = []
    for begin, end in ((0, half), (half, token_ids.size)):
        used = -(-end // BLOCK_TOKENS)
        inputs = {
            "input_ids": token_ids[begin:end],
            "position_ids": np.arange(begin, end),
            "past_lens": np.array([begin], np.int32),
            "subsequence_begins": np.array([0, end - begin], np.int32),
            "block_indices": blocks[:used].copy(),
            "block_indices_begins": np.array([0, used], np.int32),
            "max_context_len": np.array(end, np.int32),
        }
        for name, value in inputs.items():
            request.set_tensor(name, ov.Tensor(value))
        request.infer()
        pieces.append(request.get_tensor("logits").data.reshape(end - begin, -1).copy())
    return np.concatenate(pieces)


def differ(found: Logits, wanted: Logits) -> dict[str, float]:
    """Say how far two sides are apart; a relative error is the difference's length over the reference's."""
    error = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    return {
        "relative_error": float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)),
        "worst_position_relative_error": float(error.max()),
        "largest_difference": float(np.abs(found - wanted).max()),
        "top1_agreement": float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
    }


def compute(side: str, folder: Path, tokens_file: Path, target: Path) -> None:
    """Be the child: compute one side and leave its logits in `target`."""
    sides = {"reference": reference, "stateful": stateful, "paged": paged}
    np.save(target, sides[side](folder, np.load(tokens_file)))


def check(model: str, num_tokens: int, folder: Path) -> dict[str, Any]:
    """Compare both forms of one model with the reference."""
    source, artefact = folder / model, folder / f"{model}-f32"
    if not source.exists():
        write_random_checkpoint(source, SPECS[model], tokenizer=False)
    if not artefact.exists():
        subprocess.run(
            [sys.executable, "-m", "qwenops.models.convert", str(source), str(artefact), "f32"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    tokens_file = folder / "tokens.npy"
    np.save(tokens_file, np.random.default_rng(0).integers(0, SPECS[model].vocab_size, num_tokens))
    for side, where in (("reference", source), *((form, artefact) for form in FORMS)):
        argv = [sys.executable, "-m", "benchmarks.logits_check", "--side", side, "--where", str(where)]
        subprocess.run([*argv, "--folder", str(folder)], check=True)
    wanted = np.load(folder / "reference.npy")
    return {form: differ(np.load(folder / f"{form}.npy"), wanted) for form in FORMS}


def main() -> None:
    """Compare, print and write the result file; fail when an error is above what is promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=sorted(SPECS), default=["0.6b", "1.7b"])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where to work, about 18 GB for 1.7B; default: a temporary one")
    parser.add_argument("--side", choices=("reference", *FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--where", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        compute(options.side, options.where, options.folder / "tokens.npy", options.folder / f"{options.side}.npy")
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for model in options.models:
            results[model] = check(model, options.tokens, options.folder or Path(temporary))
            for form, found in results[model].items():
                print(f"{model} {form}: relative error {found['relative_error']:.2e}")
    libraries = {name: version(name) for name in ("torch", "transformers")}
    stated = {"tokens": options.tokens, "openvino": EXACT, "reference": libraries, "source": "random bf16 weights"}
    print(write_result("logits_check", options=stated, results=results))
    worst = max(found["relative_error"] for forms in results.values() for found in forms.values())
    if worst > ALLOWED_RELATIVE_ERROR:
        sys.exit(f"relative error {worst:.2e} is above {ALLOWED_RELATIVE_ERROR}")


if __name__ == "__main__":
    main()
