"""Classifiers' models made for tests, and what they compute without our engine around them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwenops.models.prefill import Prefill, PrefillRequest, PrefillScheme, convert_prefill

LABELS = (9_000, 11, 40_001, 7, 120_000)
PREFIX = (151_644, 872, 198, 100, 2000)
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_NUM_THREADS": 1}


def prompts(count: int, *, seed: int = 0, shortest: int = 3, longest: int = 40) -> list[tuple[int, ...]]:
    """Return random prompts of different lengths."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(shortest, longest + 1, count)
    return [tuple(draw.integers(0, 151_000, length).tolist()) for length in lengths]


def made(source: Path, target: Path, scheme: PrefillScheme = PrefillScheme.F32, **more: Any) -> Prefill:
    """Convert, telling nobody."""
    request = PrefillRequest(source=source, label_ids=more.pop("label_ids", LABELS), scheme=scheme, **more)
    return convert_prefill(request, target, lambda _fraction, _doing: None)


def compiled(prefill: Prefill, **properties: Any) -> Any:
    """Compile in exact arithmetic, unless told otherwise."""
    import openvino as ov

    return ov.Core().compile_model(str(prefill.model_xml), "CPU", {**EXACT, **properties})


def logits(model: Any, texts: Sequence[Sequence[int]], *, length: int = 0) -> NDArray[np.float32]:
    """Return the logits of prompts, padded to the longest one or to `length`."""
    tokens = np.full((len(texts), max(length, *(len(ids) for ids in texts))), 77, np.int64)
    for row, ids in zip(tokens, texts, strict=True):
        row[: len(ids)] = ids
    last = np.array([len(ids) - 1 for ids in texts], np.int64)
    found: NDArray[np.float32] = (
        model.create_infer_request().infer({"input_ids": tokens, "last": last})["logits"].copy()
    )
    return found


def relative(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return how long the difference is, compared with what is wanted."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def kinds(model: Any) -> Counter[str]:
    """Count the operations that OpenVINO computes, by their kind."""
    return Counter(node.get_rt_info()["layerType"].astype(str) for node in model.get_runtime_model().get_ops())


def centred(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return logits that probabilities are made of, each row's mean taken away: what tells labels apart."""
    found: NDArray[np.float64] = np.log(rows) - np.log(rows).mean(axis=1, keepdims=True)
    return found
