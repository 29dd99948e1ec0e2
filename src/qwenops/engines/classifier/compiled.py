"""The classifier's graph, compiled for this machine, and checked against what it said when it was made.

bf16 arithmetic is the faster one for prompts wherever the processor has it. What it does to the labels was judged when
the model was exported, on that machine; here the model's golden prompts must get the probabilities that they got there,
about. Arithmetic that fails this is not used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qwenops.engines.classifier.batching import padded
from qwenops.errors import EngineError, ModelLoadError
from qwenops.hardware.reasoned import Reasoned
from qwenops.models.prefill import Prefill, PrefillScheme
from qwenops.models.spec import Precision
from qwenops.text import say

ABSURD = 0.25
"""A golden prompt's probability may differ by so much; other kernels round otherwise, broken ones give nonsense."""
PER_TOKEN = 1 << 20
"""As the group of activations that share a scale: all that a token has."""
GROUP = 128
"""Where whole tokens are not fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """How the graph is compiled."""

    precision: Precision
    threads: int
    group: int = 0
    """Activations that share a scale when they are quantised on the fly beside int8 weights; 0 leaves them alone."""
    pinning: bool = False


class Graph:
    """A compiled graph with its one request.

    Args:
        prefill: The model.
        request: OpenVINO's.
        options: How it was compiled.
    """

    def __init__(self, prefill: Prefill, request: Any, options: CompileOptions) -> None:
        """Take everything over; nothing is computed yet."""
        self.prefill = prefill
        self.options = options
        self._request = request

    def logits(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the labels' logits of each prompt, `[prompts, labels]`; a prefix is left out of the prompts.

        Raises:
            EngineError: They are not finite numbers.
        """
        import openvino as ov

        lengths = np.array([len(ids) for ids in prompts], np.int64)
        tokens = np.zeros((len(prompts), padded(int(lengths.max()))), np.int64)
        for row, ids in zip(tokens, prompts, strict=True):
            row[: len(ids)] = ids
        last = lengths - 1
        self._request.set_tensor("input_ids", ov.Tensor(tokens, shared_memory=True))
        self._request.set_tensor("last", ov.Tensor(last, shared_memory=True))
        self._request.infer()
        found: NDArray[np.float32] = np.array(self._request.get_tensor("logits").data, np.float32)
        if not np.isfinite(found).all():
            raise EngineError(
                say("The model's logits are not finite numbers."),
                hint=say("Set prefill_precision to f32; verify the model's files."),
            )
        return found

    def profile(self) -> list[tuple[str, str, str, float]]:
        """Return name, kind, kernel and seconds of each operation of the last run; needs `PERF_COUNT`."""
        return [
            (each.node_name, each.node_type, each.exec_type, each.real_time.total_seconds())
            for each in self._request.get_profiling_info()
        ]


def compile_graph(prefill: Prefill, options: CompileOptions, **more: Any) -> Graph:
    """Compile a classifier's graph; `more` are further properties of OpenVINO.

    Raises:
        ModelLoadError: OpenVINO cannot use it.
    """
    import openvino as ov

    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": options.precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": options.group,
        "INFERENCE_NUM_THREADS": options.threads,
        "ENABLE_CPU_PINNING": options.pinning,
        "NUM_STREAMS": 1,
        **more,
    }
    try:
        request = ov.Core().compile_model(str(prefill.model_xml), "CPU", properties).create_infer_request()
    except RuntimeError as error:
        raise ModelLoadError(
            say("OpenVINO cannot use {path}: {error}", path=str(prefill.model_xml), error=str(error).strip()[-300:]),
            hint=say("Export the model again."),
        ) from error
    return Graph(prefill, request, options)


def choose_precision(
    prefill: Prefill, wanted: Literal["auto", "bf16", "f32"], *, has_bf16: bool
) -> Reasoned[Precision]:
    """Decide in which arithmetic to compute."""
    if wanted != "auto":
        return Reasoned(value=wanted, reason=say("The options say so."))
    if prefill.scheme is PrefillScheme.F32:
        return Reasoned(value="f32", reason=say("The model is uncompressed, as a reference is."))
    if has_bf16:
        return Reasoned(value="bf16", reason=say("The processor computes in bf16 by itself."))
    return Reasoned(value="f32", reason=say("The processor does not compute in bf16."))


def choose_group(prefill: Prefill, *, allowed: bool, has_amx: bool) -> int:
    """Return how many activations share a scale where weights are int8; 0 where nothing is quantised on the fly."""
    if prefill.scheme is not PrefillScheme.INT8 or not allowed:
        return 0
    return PER_TOKEN if has_amx else GROUP


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the softmax over the labels, row by row."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    found: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return found


def golden_difference(graph: Graph) -> float:
    """Return by how much a golden prompt's probability differs from what it was at most; 0 where there are none."""
    golden = graph.prefill.golden
    if not golden:
        return 0.0
    skipped = len(graph.prefill.prefix)
    try:
        found = probabilities(graph.logits([ids[skipped:] for ids, _ in golden]))
    except EngineError:
        return math.inf
    return float(np.abs(found - np.array([expected for _, expected in golden])).max())
