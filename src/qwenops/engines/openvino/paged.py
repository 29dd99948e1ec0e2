"""The model in its paged form: the KV cache is an input, and only wanted rows reach the head.

OpenVINO turns the stateful model into one over blocks of KV cache, which every sequence shares:

* `input_ids`, `position_ids` `[tokens]`: all sequences of a step, one after the other;
* `past_lens`, `subsequence_begins`: how much each has computed before, and where its tokens begin here;
* `block_indices`, `block_indices_begins`: the blocks of all sequences, and where each one's begin;
* `max_context_len`: the longest of them; `key_cache.i`, `value_cache.i`: the blocks themselves, by layer;
* `rows` (ours): which of the step's tokens get logits. Without it every token of a prompt would, 152 thousand each.

A *form* is this model compiled with one arithmetic. Two forms can work on one cache when their layouts are equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenops.errors import ModelLoadError
from qwenops.models.spec import KvPrecision, Precision
from qwenops.text import say

QUANTIZATION_GROUP = 128
"""Activations that share a scale when they are quantised on the fly. OpenVINO's 32 costs a fifth of the speed."""

KEPT_PRIMITIVES = 64
"""What OpenVINO keeps of what it has compiled for numbers of tokens in a step.

With its 5,000 memory grows by 1.2 MiB for each new number, for hours; what that saves in time is too little to be
measured here (docs/lab.md).
"""
KEPT_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
"""The same of oneDNN (1,024 by itself), which takes it from the environment of its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """What both forms have in common."""

    model_xml: Path
    threads: int
    kv_precision: KvPrecision
    dynamic_quantization: bool = True
    pinning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayout:
    """The tensors of the KV cache: for each input's name its element type, and its shape without the blocks."""

    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    block_bytes: int
    """Of all layers together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The compiled model and its one request."""

    precision: Precision
    request: Any
    layout: CacheLayout


def has_bf16() -> bool:
    """Whether this processor computes in bf16 by itself."""
    import openvino as ov

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def read_paged_model(model_xml: Path) -> Any:
    """Read the stateful model, mapped from its file, and turn it into its paged form.

    Raises:
        ModelLoadError: It is damaged, or it is no stateful model of this kind.
    """
    import openvino as ov
    from openvino._offline_transformations import paged_attention_transformation

    try:
        model = ov.Core().read_model(str(model_xml))
        paged_attention_transformation(model)
        _gather_rows(model)
    except RuntimeError as error:
        raise ModelLoadError(
            say("OpenVINO cannot use {path}: {error}", path=str(model_xml), error=str(error).strip()[-300:]),
            hint=say("Convert the model again."),
        ) from error
    return model


def compile_form(model: Any, precision: Precision, options: CompileOptions) -> Form:
    """Compile with one arithmetic.

    Raises:
        ModelLoadError: The combination of precisions does not exist, or the model is not what we expect.
    """
    import openvino as ov

    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": options.kv_precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTIZATION_GROUP if options.dynamic_quantization else 0,
        "INFERENCE_NUM_THREADS": options.threads,
        "ENABLE_CPU_PINNING": options.pinning,
        "NUM_STREAMS": 1,
        "CPU_RUNTIME_CACHE_CAPACITY": KEPT_PRIMITIVES,
    }
    try:
        compiled = ov.Core().compile_model(model, "CPU", properties)
        request = compiled.create_infer_request()
    except RuntimeError as error:
        raise ModelLoadError(
            say(
                "OpenVINO cannot compile the model in {precision}: {error}",
                precision=precision,
                error=str(error)[-300:],
            ),
            hint=say("Leave prefill_precision, decode_precision and kv_precision at their defaults."),
        ) from error
    return Form(precision=precision, request=request, layout=_cache_layout(compiled))


def allocate_cache(layout: CacheLayout, num_blocks: int) -> Mapping[str, Any]:
    """Return the tensors of the cache; memory is taken from the system when a block is first written."""
    import openvino as ov

    return {
        name: ov.Tensor(getattr(ov.Type, element), ov.Shape([num_blocks, *shape]))
        for name, element, shape in layout.tensors
    }


def _gather_rows(model: Any) -> None:
    """Put a choice of rows before the head's product."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    head = model.get_results()[0].input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    rows = ops.parameter([-1], ov.Type.i64, name="rows")
    rows.output(0).set_names({"rows"})
    wanted = ops.gather(head.input_value(0), rows, ops.constant(np.int64(0)))
    head.input(0).replace_source_output(wanted.output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()


def _cache_layout(compiled: Any) -> CacheLayout:
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    block_bytes = 0
    for each in compiled.inputs:
        name = each.any_name
        if "_cache." not in name:
            continue
        shape = tuple(length.get_length() for length in list(each.partial_shape)[1:])
        element = each.element_type
        size = element.size
        for length in shape:
            size *= length
        block_bytes += size
        tensors.append((name, element.get_type_name(), shape))
    if not tensors:
        raise ModelLoadError(
            say("The model's paged form has no KV cache."), hint=say("Use the OpenVINO version that qwenops pins.")
        )
    return CacheLayout(tensors=tuple(sorted(tensors)), block_bytes=block_bytes)
