"""Greedy answers of our engine against transformers in float32, at a true shape.

    python -m benchmarks.greedy_check [--model random:0.6b]

Uncompressed weights, float32 arithmetic, float32 KV cache, no dynamic quantisation. The same prompts, which share a
beginning, are answered in one batch with and without the prefix cache, in small pieces, and with a cache that is too
small for all of them. The reference reads our tokens; a step whose two best reference logits differ by less than 1e-4
of the best, relative, is counted and not compared.
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recording import checkpoint_of, converted, write_result

STEPS = 64
CLOSE = 1e-4
PENALTY = 1.3
"""Keeps a model of random weights from repeating one token, which would prove little."""
KV_BYTES_PER_BLOCK = 57_344 * 4 * 32
"""Of both sizes of Qwen3, in float32."""
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "small pieces, no prefix cache": {"prefix_cache": False, "max_batched_tokens": 64},
    "pre-empted": {"kv_cache_bytes": 17 * KV_BYTES_PER_BLOCK, "max_batched_tokens": 96},
}
EXACT: dict[str, Any] = {
    "prefill_precision": "f32",
    "decode_precision": "f32",
    "kv_precision": "f32",
    "dynamic_quantization": False,
    "kv_cache_bytes": 64 * KV_BYTES_PER_BLOCK,
}


def prompts() -> list[tuple[int, ...]]:
    """Return four prompts of different length with a common beginning."""
    draw = random.Random(1)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(1000, 100_000) for _ in range(count)]

    shared = tokens(70)
    return [(*shared, *tokens(15 + 40 * each)) for each in range(4)]


def answer(folder: Path, changes: dict[str, Any]) -> tuple[list[list[int]], int]:
    """Return the tokens of all answers, and how often a sequence was pre-empted."""
    from qwenops.engines.openvino.stepper import open_stepper
    from qwenops.engines.options import EngineOptions
    from qwenops.generation import Chunk, GenerationRequest, SamplingParams, Tokens

    options = EngineOptions(model_dir=folder, context_tokens=512, max_running=4, **(EXACT | changes))
    stepper = open_stepper(options, lambda _progress, _doing: None)
    sampling = SamplingParams(max_tokens=STEPS, temperature=0.0, repetition_penalty=PENALTY, ignore_eos=True)
    found: dict[str, list[int]] = {str(at): [] for at in range(4)}
    for at, each in enumerate(prompts()):
        stepper.submit(GenerationRequest(id=str(at), prompt=Tokens(ids=each), sampling=sampling))
    while stepper.has_work:
        for name, piece in stepper.step():
            if not isinstance(piece, Chunk):
                raise TypeError(piece)
            found[name].extend(piece.token_ids)
    preempted = int(stepper.scheduler.num_preemptions)
    stepper.close()
    return list(found.values()), preempted


def compare(checkpoint: Path, answers: dict[str, list[list[int]]]) -> dict[str, dict[str, int]]:
    """Count the steps that agree with transformers, those that do not, and those too close to say."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    counts = {name: {"equal": 0, "different": 0, "too_close": 0} for name in answers}
    for name, tokens in answers.items():
        for prompt, ours in zip(prompts(), tokens, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *ours[:-1]]])).logits[0, len(prompt) - 1 :].numpy()
            for step, token in enumerate(ours):
                row = logits[step].copy()
                seen = sorted({*prompt, *ours[:step]})
                row[seen] = np.where(row[seen] > 0, row[seen] / PENALTY, row[seen] * PENALTY)
                second, first = np.sort(row)[-2:]
                close = first - second < CLOSE * abs(first)
                equal = token == int(row.argmax())
                counts[name]["too_close" if close else "equal" if equal else "different"] += 1
    return counts


def main() -> int:
    """Compare and write `results/greedy_check.json`; 1 when a step differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random:0.6b")
    model = parser.parse_args().model
    folder = converted(model, "f32")
    answers, preempted = {}, {}
    for name, changes in VARIANTS.items():
        answers[name], preempted[name] = answer(folder, changes)
        print(name, "pre-empted", preempted[name], flush=True)
    counts = compare(checkpoint_of(model), answers)
    results = {
        "steps": counts,
        "preemptions": preempted,
        "variants_equal": all(each == answers["plain"] for each in answers.values()),
    }
    print(results)
    print(write_result("greedy_check", options={"model": model, "steps": STEPS, "prompts": 4}, results=results))
    return int(any(each["different"] for each in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
