"""Does OpenVINO compute rightly here with the planned settings? Asked in a child process before it is trusted.

On some machines a setting ends the process with SIGFPE (one thread with AMX) or gives wrong numbers. So a child
compiles a small graph, attention and an MLP as in the model, with the planned threads, once in f32 and once in bf16,
and compares both with numpy.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from qwenops.command import run
from qwenops.errors import CommandError, DeadlineError, QwenOpsError
from qwenops.hardware.machine import Machine, plan_environment, plan_threads
from qwenops.text import say

F32_LIMIT = 1e-4
BF16_LIMIT = 5e-2
_TOKENS, _HIDDEN, _INTERMEDIATE = 48, 256, 768


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How far the engine's numbers were from numpy's; relative to the largest one."""

    version: str
    """Of OpenVINO; empty when it is not installed."""
    threads: int
    f32_error: float | None
    bf16_error: float | None
    """None where the processor has no bf16 arithmetic."""
    failure: str = ""
    """Why there are no numbers."""

    @property
    def trusted(self) -> bool:
        """Whether the engine may be used with these settings."""
        return (
            not self.failure
            and self.f32_error is not None
            and self.f32_error <= F32_LIMIT
            and (self.bf16_error is None or self.bf16_error <= BF16_LIMIT)
        )


def probe(machine: Machine, *, python: str = sys.executable, timeout_s: float = 60.0) -> Probe:
    """Ask a child with the planned threads and environment; its death is an answer, not an error."""
    threads = plan_threads(machine).value
    environment = plan_environment(machine, threads).value
    argv = [python, "-m", "qwenops.hardware", "probe", "--threads", str(threads)]
    try:
        found = Probe(**json.loads(run(argv, timeout_s=timeout_s, env=environment).stdout))
    except (CommandError, DeadlineError) as error:
        return Probe(version="", threads=threads, f32_error=None, bf16_error=None, failure=error.message)
    except (ValueError, TypeError) as error:
        raise QwenOpsError(
            say("The probing process answered what it should not: {error}.", error=str(error))
        ) from error
    return found if found.version else replace(found, failure=say("openvino is not installed"))


def probe_here(threads: int) -> Probe:
    """Compute the small graph in this process and compare it with numpy."""
    import numpy as np

    try:
        import openvino as ov
    except ImportError:
        return Probe(version="", threads=threads, f32_error=None, bf16_error=None)
    model, given, wanted = _graph()
    core = ov.Core()
    errors: dict[str, float | None] = {"f32": None, "bf16": None}
    for precision in errors:
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            continue
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        got = core.compile_model(model, "CPU", options)([given])[0]
        error = float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))
        errors[precision] = error if np.isfinite(error) else float(np.finfo(np.float32).max)
    return Probe(version=ov.__version__, threads=threads, f32_error=errors["f32"], bf16_error=errors["bf16"])


def to_json(found: Probe) -> str:
    """Write it as one line."""
    return json.dumps(asdict(found))


def _graph() -> tuple[Any, Any, Any]:
    """Return a model of one input, an input for it, and what numpy makes of it."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    random = np.random.default_rng(7)

    def weights(num_in: int, num_out: int) -> Any:
        return (random.standard_normal((num_in, num_out)) / np.sqrt(num_in)).astype(np.float32)

    query, key, value, up, down = (
        weights(_HIDDEN, _HIDDEN),
        weights(_HIDDEN, _HIDDEN),
        weights(_HIDDEN, _HIDDEN),
        weights(_HIDDEN, _INTERMEDIATE),
        weights(_INTERMEDIATE, _HIDDEN),
    )
    given = random.standard_normal((_TOKENS, _HIDDEN)).astype(np.float32)
    scale = np.float32(1 / np.sqrt(_HIDDEN))

    source = op.parameter([-1, _HIDDEN], np.float32, name="x")

    def product(left: Any, right: Any, *, transposed: bool = False) -> Any:
        return op.matmul(left, right, transpose_a=False, transpose_b=transposed)

    scores = op.multiply(product(product(source, query), product(source, key), transposed=True), scale)
    mixed = product(op.softmax(scores, axis=-1), product(source, value))
    result = op.add(source, product(op.relu(product(mixed, up)), down))

    exact = given.astype(np.float64)
    scored = (exact @ query) @ (exact @ key).T * scale
    powers = np.exp(scored - scored.max(axis=-1, keepdims=True))
    attended = powers / powers.sum(axis=-1, keepdims=True) @ (exact @ value)
    wanted = exact + np.maximum(attended @ up, 0) @ down
    return ov.Model([result], [source], "probe"), given, wanted
