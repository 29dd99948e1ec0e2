"""What converting a checkpoint takes: seconds and peak resident memory of the converting process, every tensor checked.

    python -m benchmarks.convert [--models 0.6b 1.7b] [--schemes int8 int4 bf16] [--repetitions 3] [--folder DIR]

Each conversion runs in a fresh process, as `qwenops serve` starts it. After the first, its source
lies in the page cache.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.recording import spread, write_result
from qwenops.models.artefact import open_artefact
from qwenops.models.checkpoint import open_checkpoint
from qwenops.models.random import SPECS, write_random_checkpoint

PROMISED_S = 30.0
PROMISED_BYTES = 3 * 1024**3
"""For 0.6B to int8."""


def measured(argv: list[str]) -> tuple[float, int]:
    """Run a program to its end; return its seconds and its peak resident bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def measure(model: str, scheme: str, repetitions: int, folder: Path) -> dict[str, Any]:
    """Convert one model several times."""
    source, target = folder / model, folder / f"{model}-{scheme}"
    if not source.exists():
        write_random_checkpoint(source, SPECS[model], tokenizer=False)
    argv = [sys.executable, "-m", "qwenops.models.convert", str(source), str(target), scheme]
    seconds, peaks = [], []
    for _ in range(repetitions):
        shutil.rmtree(target, ignore_errors=True)
        elapsed_s, peak_bytes = measured(argv)
        seconds.append(elapsed_s)
        peaks.append(float(peak_bytes))
    artefact = open_artefact(target)
    shutil.rmtree(target)
    return {
        "seconds": spread(seconds),
        "peak_resident_bytes": spread(peaks),
        "source_bytes": open_checkpoint(source).num_bytes,
        "artefact_bytes": artefact.num_bytes,
        "tensors_checked": len(artefact.relative_errors),
        "worst_relative_error": artefact.manifest["worst_relative_error"],
    }


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=sorted(SPECS), default=["0.6b", "1.7b"])
    parser.add_argument("--schemes", nargs="+", default=["int8", "int4", "bf16"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where to work, about 12 GB for both sizes; default: a temporary one"
    )
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for model in options.models:
            for scheme in options.schemes:
                found = measure(model, scheme, options.repetitions, folder)
                results[f"{model} {scheme}"] = found
                seconds, peak = found["seconds"]["median"], found["peak_resident_bytes"]["max"]
                print(f"{model} to {scheme}: {seconds:.1f} s, at most {peak / 1024**3:.2f} GiB resident")
    promise = results.get("0.6b int8")
    if promise:
        results["promise_kept"] = (
            promise["seconds"]["max"] <= PROMISED_S and promise["peak_resident_bytes"]["max"] <= PROMISED_BYTES
        )
    stated = {"models": options.models, "schemes": options.schemes, "repetitions": options.repetitions}
    print(write_result("convert", options=stated | {"source": "random weights of the true shape"}, results=results))


if __name__ == "__main__":
    main()
