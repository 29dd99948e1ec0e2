"""Weights in fewer bits, written as the constants that OpenVINO's kernels read directly.

A compressed matrix is `Convert(constant) * scales`, which the CPU plugin fuses into the multiplication that follows.
Both formats are symmetric, so there is no zero point:

* int8: one scale for each output channel, the row's largest magnitude / 127; an error of at most half a step.
* int4: one scale for each group of a row; the group's largest element becomes exactly -8, so its sign decides the
  scale's. An element of the opposite sign near the largest is cut to 7 and may be off by one step.

Every piece is packed, unpacked again from its bytes, and compared with its source before it is written.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_never

from qwenops.errors import ConversionError, ModelLoadError
from qwenops.models.spec import Scheme, TensorKind, TensorSpec, group_size
from qwenops.text import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Stored = Literal["f32", "bf16", "i8", "i4"]
"""How OpenVINO calls the format of the stored numbers."""

LARGEST_ERROR_STEPS: dict[Stored, float] = {"i8": 0.501, "i4": 1.01}
"""What the format allows, in steps (scales); the rest is for rounding in float32."""
LARGEST_ERROR_BF16 = 2.0**-8
"""What the format allows, relative to the number itself."""
SMALLEST_F16_SCALE = 2.0**-14
"""Below this, float16 loses digits."""

SMALLEST_SCALE = 2.0**-126
"""Of float32 with all its digits. What would need a smaller one is stored as zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one tensor is stored. `group` is the number of weights that share a scale; 0 when there are no scales."""

    stored: Stored
    group: int = 0

    def num_bytes(self, num_elements: int) -> int:
        """Return the bytes of that many numbers, without scales."""
        return num_elements * _BITS[self.stored] // 8


_BITS: dict[Stored, int] = {"f32": 32, "bf16": 16, "i8": 8, "i4": 4}


def layout_of(tensor: TensorSpec, scheme: Scheme) -> Layout:
    """Return how `scheme` stores a tensor: norms always in float32, embedding and head never below int8."""
    if tensor.kind is TensorKind.NORM or scheme is Scheme.F32:
        return Layout(stored="f32")
    if scheme is Scheme.BF16:
        return Layout(stored="bf16")
    if scheme is Scheme.INT4 and tensor.kind is TensorKind.LINEAR:
        return Layout(stored="i4", group=group_size(tensor.shape[1]))
    return Layout(stored="i8", group=tensor.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some packed rows of a tensor, with what they differ from their source by."""

    data: "NDArray[Any]"
    scales: "NDArray[np.float32] | None"
    squared_error: float
    squared_norm: float
    largest_error: float
    """In steps where there are scales, else relative to the number itself."""


@dataclass(slots=True, kw_only=True)
class TensorError:
    """What one stored tensor differs from its source by, collected piece by piece."""

    squared_error: float = 0.0
    squared_norm: float = 0.0
    largest_error: float = 0.0
    scales: "list[NDArray[np.float32]]" = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take one piece in."""
        self.squared_error += piece.squared_error
        self.squared_norm += piece.squared_norm
        self.largest_error = max(self.largest_error, piece.largest_error)
        if piece.scales is not None:
            self.scales.append(piece.scales)

    @property
    def relative(self) -> float:
        """The length of the error over the length of the tensor."""
        return float((self.squared_error / self.squared_norm) ** 0.5) if self.squared_norm else 0.0


def pack(name: str, source: "NDArray[np.float32]", layout: Layout) -> Piece:
    """Pack some rows (or a vector) and check the result against `source`.

    Raises:
        ModelLoadError: The source holds numbers that are not finite.
        ConversionError: The packed numbers differ from the source by more than the format allows.
    """
    import numpy as np

    if not np.isfinite(source.min()) or not np.isfinite(source.max()):
        raise ModelLoadError(
            say("The tensor {name} holds numbers that are not finite.", name=name),
            hint=say("The file is damaged, or training went wrong: fetch or train the model again."),
        )
    data, scales = _pack(source, layout)
    error = unpack(data, scales, layout, source.shape)
    np.subtract(error, source, out=error)
    piece = Piece(
        data=data,
        scales=scales,
        squared_error=_squared(error),
        squared_norm=_squared(source),
        largest_error=_largest(error, source, scales),
    )
    _check(name, piece, layout)
    return piece


def _check(name: str, piece: Piece, layout: Layout) -> None:
    allowed = LARGEST_ERROR_BF16 if layout.stored == "bf16" else LARGEST_ERROR_STEPS.get(layout.stored, 0.0)
    if not piece.largest_error <= allowed:
        raise ConversionError(
            say(
                "The tensor {name} differs from its source by {found:.3g} after packing as {stored}; at most "
                "{allowed:.3g} is possible.",
                name=name,
                found=piece.largest_error,
                stored=layout.stored,
                allowed=allowed,
            ),
            hint=say("Convert again; if it stays, this machine's memory or processor may be faulty."),
        )


def _squared(values: "NDArray[np.float32]") -> float:
    import numpy as np

    flat = values.reshape(-1)
    with np.errstate(over="ignore"):  # then it is infinite, and the largest error tells what is wrong
        return float(np.dot(flat, flat))


def _largest(
    error: "NDArray[np.float32]", source: "NDArray[np.float32]", scales: "NDArray[np.float32] | None"
) -> float:
    """Return the largest error, in steps or relative to the number; overwrites `error`."""
    import numpy as np

    if not error.any():
        return 0.0
    np.abs(error, out=error)
    if scales is None:
        smallest = np.finfo(np.float32).tiny
        return float((error / np.maximum(np.abs(source), smallest)).max())
    by_scale = error.reshape(*scales.shape, -1).max(axis=-1)
    return float((by_scale / np.abs(scales)).max())


def _pack(source: "NDArray[np.float32]", layout: Layout) -> "tuple[NDArray[Any], NDArray[np.float32] | None]":
    import numpy as np

    match layout.stored:
        case "f32":
            return source, None
        case "bf16":
            return to_bf16(source), None
        case "i8":
            scales: NDArray[np.float32] = np.maximum(source.max(axis=1), -source.min(axis=1)) / np.float32(127)
            scales[np.abs(scales) < SMALLEST_SCALE] = 1
            steps = source * (np.float32(1) / scales)[:, None]
            return np.rint(steps, out=steps).astype(np.int8), scales
        case "i4":
            groups = source.reshape(source.shape[0], -1, layout.group)
            scales = int4_scales(groups)
            steps = groups * (np.float32(1) / scales)[..., None]
            np.rint(steps, out=steps)
            np.clip(steps, -8, 7, out=steps)
            nibbles = steps.astype(np.int8).view(np.uint8).reshape(source.shape)
            return (nibbles[:, 0::2] & 0xF) | (nibbles[:, 1::2] << 4), scales


def int4_scales(groups: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Return the scales of `[rows, groups, weights]`, rounded to float16 wherever that keeps its digits."""
    import numpy as np

    high, low = groups.max(axis=-1), groups.min(axis=-1)
    scales: NDArray[np.float32] = np.where(high > -low, high, low) / np.float32(-8)
    scales[np.abs(scales) < SMALLEST_SCALE] = 1
    if np.abs(scales).min() >= SMALLEST_F16_SCALE:
        scales = scales.astype(np.float16).astype(np.float32)
    return scales


def unpack(
    data: "NDArray[Any]", scales: "NDArray[Any] | None", layout: Layout, shape: tuple[int, ...]
) -> "NDArray[np.float32]":
    """Return the stored numbers as float32, as OpenVINO computes with them. The result is a new array."""
    import numpy as np

    match layout.stored:
        case "f32":
            return data.astype(np.float32)
        case "bf16":
            return (data.astype(np.uint32) << 16).view(np.float32)
        case "i8":
            wide = data.astype(np.float32)
        case "i4":
            pairs = np.empty((*data.shape, 2), np.int8)
            pairs[..., 0] = (data << 4).view(np.int8) >> 4  # the low half comes first
            pairs[..., 1] = data.view(np.int8) >> 4
            wide = pairs.reshape(shape).astype(np.float32)
        case _:
            assert_never(layout.stored)
    if scales is None:
        raise AssertionError(layout)
    grouped = wide.reshape(*scales.shape, -1)
    grouped *= scales[..., None].astype(np.float32)
    return wide


def to_bf16(values: "NDArray[np.float32]") -> "NDArray[np.uint16]":
    """Round to the nearest bf16, ties to even; returns the bits. The values must be finite."""
    import numpy as np

    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def stored_scales(scales: "Iterable[NDArray[np.float32]]", layout: Layout) -> "NDArray[Any]":
    """Join the scales of all pieces; int4's become float16, for they are many, unless one is too small for it."""
    import numpy as np

    joined = np.concatenate(list(scales))
    if layout.stored == "i4" and np.abs(joined).min() >= SMALLEST_F16_SCALE:
        halves = joined.astype(np.float16)
        if np.array_equal(halves.astype(np.float32), joined):
            return halves
    return joined


def constant_node(name: str, data: "NDArray[Any]", shape: tuple[int, ...], stored: Stored) -> Any:
    """Return an `openvino` constant over `data`, which is shared, not copied."""
    import openvino as ov

    tensor = ov.Tensor(data, ov.Shape(list(shape)), getattr(ov.Type, stored))
    constant = ov.op.Constant(tensor, shared_memory=True)
    constant.set_friendly_name(name)
    return constant


def weight_node(
    name: str, data: "NDArray[Any]", scales: "NDArray[Any] | None", layout: Layout, shape: tuple[int, ...]
) -> Any:
    """Return the float32 node of a stored tensor, in the form that the CPU plugin reads without unpacking it."""
    import openvino as ov
    from openvino import opset13 as ops

    if scales is None:
        constant = constant_node(name, data, shape, layout.stored)
        return constant if layout.stored == "f32" else ops.convert(constant, "f32")
    grouped = layout.stored == "i4"
    inner = (shape[0], shape[1] // layout.group, layout.group) if grouped else shape
    kind = "f16" if scales.dtype.itemsize == 2 else "f32"  # noqa: PLR2004 -- bytes of a half
    wide = ops.convert(constant_node(name, data, inner, layout.stored), kind)
    scale = ov.op.Constant(scales.reshape(*inner[:-1], 1), shared_memory=True)
    scale.set_friendly_name(f"{name}/scale")
    node = ops.multiply(wide, scale)
    if grouped:
        node = ops.reshape(node, ops.constant(list(shape)), special_zero=False)
    return node if kind == "f32" else ops.convert(node, "f32")


def keep_packed(model_xml: Path) -> None:
    """Mark every widening of bf16 weights in a saved model, so that OpenVINO leaves it to the kernels.

    Without the mark it widens all of them to float32 when it loads the model. Its Python interface cannot set it.
    """
    from xml.etree import ElementTree as ET

    tree = ET.parse(model_xml)  # noqa: S314 -- a file that we wrote
    for layer in tree.iter("layer"):
        port = layer.find("input/port")
        if layer.get("type") == "Convert" and port is not None and port.get("precision") == "BF16":
            facts = ET.Element("rt_info")
            facts.append(ET.Element("attribute", name="decompression", version="0"))
            layer.insert(1, facts)
    tree.write(model_xml, encoding="utf-8", xml_declaration=True)
