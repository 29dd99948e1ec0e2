"""Pieces that graphs are made of, written as OpenVINO recognises them for its fast kernels.

* RMS norm: power, mean, add, sqrt, divide, multiply, multiply.
* Rotation of positions: the halves of a head are cut by `Slice`; a `VariadicSplit` is not recognised, and unrecognised
  cosines lose their digits in bf16 arithmetic.
"""

from typing import Any

from qwenops.models.spec import ModelSpec

Node = Any
"""An `openvino.Node` with one output; the library ships no types."""

END = 2**63 - 1
"""As the end of a slice: all that is left."""


def parameter(name: str, shape: list[int], element_type: str) -> Node:
    """Return an input of the model; -1 in its shape is any length."""
    import openvino as ov
    from openvino import opset13 as ops

    node = ops.parameter(shape, getattr(ov.Type, element_type), name=name)
    node.output(0).set_names({name})
    return node


def result(node: Node, name: str) -> Node:
    """Return an output of the model."""
    from openvino import opset13 as ops

    node = ops.result(node)
    node.output(0).set_names({name})
    node.set_friendly_name(name)
    return node


def axis(value: int) -> Node:
    """Return a whole number without a dimension."""
    import numpy as np
    from openvino import opset13 as ops

    return ops.constant(np.int64(value))


def axes(*values: int) -> Node:
    """Return whole numbers in a row."""
    import numpy as np
    from openvino import opset13 as ops

    return ops.constant(np.array(values, np.int64))


def number(value: float) -> Node:
    """Return a float32 number."""
    import numpy as np
    from openvino import opset13 as ops

    return ops.constant(np.float32(value))


def length(node: Node, dimension: int) -> Node:
    """Return how long a node is in one dimension."""
    from openvino import opset13 as ops

    return ops.gather(ops.shape_of(node), axis(dimension), axis(0))


def rms_norm(hidden: Node, gains: Node, eps: float) -> Node:
    """Divide by the root of the mean square over the last dimension, and multiply with the gains."""
    from openvino import opset13 as ops

    mean = ops.reduce_mean(ops.power(hidden, number(2)), axes(-1), keep_dims=True)
    scale = ops.divide(number(1), ops.sqrt(ops.add(mean, number(eps))))
    return ops.multiply(ops.multiply(hidden, scale), gains)


def angles(spec: ModelSpec, positions: Node) -> Node:
    """Return by how much each pair of a head is turned at each position, `[batch, tokens, head_dim]`."""
    import numpy as np
    from openvino import opset13 as ops

    exponents = np.arange(0, spec.head_dim, 2, dtype=np.float64) / spec.head_dim
    frequencies = (spec.rope_theta**-exponents).astype(np.float32).reshape(1, 1, -1)
    half = ops.multiply(ops.convert(ops.unsqueeze(positions, axis(2)), "f32"), ops.constant(frequencies))
    return ops.concat([half, half], 2)


def rotate(heads: Node, cosines: Node, sines: Node, head_dim: int) -> Node:
    """Rotate `[.., .., .., head_dim]` by position; cosines and sines have 1 where heads share them."""
    from openvino import opset13 as ops

    half = head_dim // 2
    first = ops.slice(heads, axes(0), axes(half), axes(1), axes(3))
    second = ops.slice(heads, axes(half), axes(END), axes(1), axes(3))
    turned = ops.concat([ops.multiply(second, number(-1)), first], -1)
    return ops.add(ops.multiply(heads, cosines), ops.multiply(turned, sines))


def linear(hidden: Node, matrix: Node, name: str) -> Node:
    """Multiply with a matrix `[out, in]`; `name` is what a profile shows."""
    from openvino import opset13 as ops

    product = ops.matmul(hidden, matrix, transpose_a=False, transpose_b=True)
    product.set_friendly_name(name)
    return product
