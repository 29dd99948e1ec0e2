"""How fast this machine reads memory and multiplies matrices, measured in a child process in a few seconds.

The two numbers bound everything that a language model does here:

* writing a token reads every weight once, so tokens per second are at most bandwidth / bytes of the weights;
* reading a prompt costs two operations for each weight and token, so its speed is at most rate / (2 x weights).

Bandwidth: threads look for the largest number in their parts of a buffer many times larger than the last cache; numpy
lets go of the GIL for that. Rate: the shapes of this model's MLP through OpenVINO, which is what computes later. The
best of several passes counts, because everything that disturbs makes it slower; `spread` says how much they differed.
"""

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from qwenops.command import run
from qwenops.errors import QwenOpsError
from qwenops.hardware.machine import Machine, detect_machine, plan_environment, plan_threads
from qwenops.text import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRECISIONS = ("f32", "bf16", "int8")
_TOKENS, _HIDDEN, _INTERMEDIATE = 512, 1024, 3072
"""A piece of prompt and the MLP of Qwen3-0.6B."""
_MIN_BUFFER_BYTES = 256 * 1024**2
_MAX_BUFFER_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Memory read by `threads` threads at once."""

    threads: int
    bytes_per_s: float
    spread: float
    """(best - median) / best of the passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmRate:
    """Matrix products in one precision."""

    precision: str
    threads: int
    op_per_s: float
    """A multiplication and an addition are two operations; 0 without a figure."""
    spread: float
    missing: Literal["", "engine", "arithmetic"] = ""
    """Why there is no figure: OpenVINO is not installed, or the processor has no such arithmetic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured, and with which buffer."""

    bandwidth: tuple[Bandwidth, ...]
    gemm: tuple[GemmRate, ...]
    buffer_bytes: int
    took_s: float

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """The best of all thread counts."""
        return max((each.bytes_per_s for each in self.bandwidth), default=0.0)

    @property
    def rates(self) -> dict[str, float]:
        """Operations per second by precision, for those that have a figure."""
        return {each.precision: each.op_per_s for each in self.gemm if each.op_per_s}


def measure(machine: Machine | None = None, *, budget_s: float = 4.0, timeout_s: float = 60.0) -> Measured:
    """Measure in a child process, so that no library is loaded here and no crash reaches us.

    Args:
        machine: What is known about this machine; found out by default.
        budget_s: About how long the passes may take in all.
        timeout_s: When to give the child up.

    Raises:
        CommandError: The child failed.
        DeadlineError: It took too long.
    """
    machine = machine or detect_machine()
    threads = plan_threads(machine).value
    argv = [sys.executable, "-m", "qwenops.hardware", "measure"]
    argv += ["--threads", str(threads), "--buffer-bytes", str(buffer_bytes(machine)), "--budget-s", str(budget_s)]
    # The matrix library under numpy would start a thread for each of the host's CPUs.
    environment = {**plan_environment(machine, threads).value, "OPENBLAS_NUM_THREADS": "1"}
    return from_json(run(argv, timeout_s=timeout_s, env=environment).stdout)


def buffer_bytes(machine: Machine) -> int:
    """Choose a buffer that no cache can hold and that takes at most an eighth of the memory allowed."""
    wanted = max(_MIN_BUFFER_BYTES, 8 * machine.processor.last_cache_bytes)
    allowed = machine.memory_limit.value // 8 or _MIN_BUFFER_BYTES
    return max(16 * 1024**2, min(wanted, allowed, _MAX_BUFFER_BYTES)) // 4096 * 4096


def measure_here(threads: int, buffer_bytes: int, budget_s: float) -> Measured:
    """Measure in this process; `measure` calls it in a child."""
    started_s = time.perf_counter()
    counts = sorted({1, 2, threads // 2, threads} & set(range(1, threads + 1)))
    pass_s = budget_s / (len(counts) + len(PRECISIONS))
    bandwidth = measure_bandwidth(counts, buffer_bytes, pass_s)
    gemm = tuple(measure_gemm(precision, threads, pass_s) for precision in PRECISIONS)
    return Measured(bandwidth=bandwidth, gemm=gemm, buffer_bytes=buffer_bytes, took_s=time.perf_counter() - started_s)


def measure_bandwidth(counts: Sequence[int], buffer_bytes: int, pass_s: float) -> tuple[Bandwidth, ...]:
    """Read the buffer with each number of threads for about `pass_s` seconds."""
    import numpy as np

    # Written, not zeroed: untouched pages are all one page of zeros, which stays in the cache.
    buffer = np.full(buffer_bytes // 4, 1, dtype=np.int32)
    found: list[Bandwidth] = []
    for count in counts:
        parts = np.array_split(buffer, count)
        best_s, spread = _best(partial(_read, parts), pass_s)
        found.append(Bandwidth(threads=count, bytes_per_s=buffer.nbytes / best_s, spread=spread))
    return tuple(found)


def _read(parts: Sequence["NDArray[np.int32]"]) -> float:
    """Let one thread for each part read it, and return the seconds from the common start to the last end."""
    ready = threading.Barrier(len(parts))
    spans: list[tuple[float, float]] = []

    def work(part: "NDArray[np.int32]") -> None:
        ready.wait()
        started_s = time.perf_counter()
        part.max()
        spans.append((started_s, time.perf_counter()))

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def measure_gemm(precision: str, threads: int, pass_s: float) -> GemmRate:
    """Multiply matrices of this model's shape for about `pass_s` seconds."""
    nothing = GemmRate(precision=precision, threads=threads, op_per_s=0.0, spread=0.0)
    try:
        import openvino as ov
    except ImportError:
        return replace(nothing, missing="engine")
    core = ov.Core()
    if precision != "f32" and precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return replace(nothing, missing="arithmetic")
    hint = "bf16" if precision == "bf16" else "f32"
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(_mlp(precision), "CPU", options).create_infer_request()

    def once() -> float:
        started_s = time.perf_counter()
        request.infer()
        return time.perf_counter() - started_s

    best_s, spread = _best(once, pass_s)
    num_products = 4
    operations = num_products * 2 * _TOKENS * _HIDDEN * _INTERMEDIATE
    return replace(nothing, op_per_s=operations / best_s, spread=spread)


def _mlp(precision: str) -> Any:
    """Build two MLPs without their bends: four products of [tokens, in] and [out, in], weights constant."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    random = np.random.default_rng(0)
    source = op.parameter([_TOKENS, _HIDDEN], np.float32, name="x")
    value = source
    for num_in, num_out in ((_HIDDEN, _INTERMEDIATE), (_INTERMEDIATE, _HIDDEN)) * 2:
        scale = np.float32(1 / (127 * math.sqrt(num_in)))
        weights = random.integers(-127, 128, (num_out, num_in), dtype=np.int8)
        if precision == "int8":
            # Levels on both sides of the product: the plugin then multiplies whole numbers.
            low, high = np.float32(-4), np.float32(4 * 127 / 128)
            value = op.fake_quantize(value, low, high, low, high, 256)
            matrix = op.multiply(op.convert(op.constant(weights), np.float32), np.full((num_out, 1), scale, np.float32))
        else:
            matrix = op.constant(weights.astype(np.float32) * scale)
        value = op.matmul(value, matrix, transpose_a=False, transpose_b=True)
    return ov.Model([value], [source], "mlp")


def _best(once: Callable[[], float], pass_s: float) -> tuple[float, float]:
    """Call `once` twice unmeasured and then for `pass_s`, at least five times; return the best and the spread."""
    once()
    once()
    times: list[float] = []
    end_s = time.perf_counter() + pass_s
    while len(times) < 5 or time.perf_counter() < end_s:  # noqa: PLR2004 -- enough for a median
        times.append(once())
    times.sort()
    median_s = times[len(times) // 2]
    return times[0], 1 - times[0] / median_s


def to_json(measured: Measured) -> str:
    """Write it as one line."""
    return json.dumps(asdict(measured))


def from_json(line: str) -> Measured:
    """Read what `to_json` wrote.

    Raises:
        QwenOpsError: It is something else.
    """
    try:
        data = json.loads(line)
        return Measured(
            bandwidth=tuple(Bandwidth(**each) for each in data["bandwidth"]),
            gemm=tuple(GemmRate(**each) for each in data["gemm"]),
            buffer_bytes=data["buffer_bytes"],
            took_s=data["took_s"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise QwenOpsError(
            say("The measuring process answered what it should not: {line!r}.", line=line[:200])
        ) from error
