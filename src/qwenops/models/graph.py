"""Qwen3 as an OpenVINO model, built operation by operation: no torch, no exporter.

The model is stateful, as OpenVINO's tools expect: inputs `input_ids`, `position_ids` `[batch, tokens]`,
`attention_mask` `[batch, total]` and `beam_idx` `[batch]`, output `logits` `[batch, tokens, vocabulary]` in float32,
one key and one value variable for each layer. The operations stand as OpenVINO recognises them for its fast kernels:

* RMS norm: power, mean, add, sqrt, divide, multiply, multiply.
* Rotation of positions: the halves of a head are cut by `Slice`.
* Attention: `ScaledDotProductAttention` over `Concat(Gather(ReadValue))`; heads are shared by unsqueeze, broadcast,
  reshape, which the fused kernels leave out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from qwenops.models.spec import ModelSpec

Node = Any
"""An `openvino.Node` with one output; the library ships no types."""


class Weights(Protocol):
    """Where the graph gets its constants; each call returns a float32 node."""

    def matrix(self, name: str) -> Node:
        """Return a matrix `[out, in]`; equal names give the same node."""
        ...

    def vector(self, name: str) -> Node:
        """Return the gains of a norm."""
        ...


def build_model(spec: ModelSpec, weights: Weights) -> Any:
    """Build the stateful `openvino.Model` of `spec` over `weights`."""
    import openvino as ov
    from openvino import opset13 as ops

    inputs = _inputs()
    batch = ops.gather(ops.shape_of(inputs.token_ids), _axes(0), _axis(0))
    rotation = _rotation(spec, inputs.positions)
    mask = _attention_mask(inputs)
    hidden = ops.gather(weights.matrix("model.embed_tokens.weight"), inputs.token_ids, _axis(0))
    variables = _Variables(spec=spec, batch=batch, beams=inputs.beams, sinks=[])
    for layer in range(spec.num_layers):
        block = _Layer(spec=spec, weights=weights, prefix=f"model.layers.{layer}.")
        normed = block.norm(hidden, "input_layernorm")
        hidden = ops.add(hidden, block.attention(normed, rotation, mask, variables.of(layer)))
        normed = block.norm(hidden, "post_attention_layernorm")
        hidden = ops.add(hidden, block.feed_forward(normed))
    hidden = _rms_norm(hidden, weights.vector("model.norm.weight"), spec.rms_eps)
    head = "model.embed_tokens.weight" if spec.tie_word_embeddings else "lm_head.weight"
    logits = ops.matmul(hidden, weights.matrix(head), transpose_a=False, transpose_b=True)
    logits.set_friendly_name("lm_head")
    result = ops.result(logits)
    result.output(0).set_names({"logits"})
    result.set_friendly_name("logits")
    return ov.Model([result], variables.sinks, inputs.parameters, "qwen3")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    token_ids: Node
    attention_mask: Node
    positions: Node
    beams: Node

    @property
    def parameters(self) -> list[Node]:
        return [self.token_ids, self.attention_mask, self.positions, self.beams]


def _inputs() -> _Inputs:
    return _Inputs(
        token_ids=_parameter("input_ids", [-1, -1], "i64"),
        attention_mask=_parameter("attention_mask", [-1, -1], "i64"),
        positions=_parameter("position_ids", [-1, -1], "i64"),
        beams=_parameter("beam_idx", [-1], "i32"),
    )


def _parameter(name: str, shape: list[int], element_type: str) -> Node:
    import openvino as ov
    from openvino import opset13 as ops

    parameter = ops.parameter(shape, getattr(ov.Type, element_type), name=name)
    parameter.output(0).set_names({name})
    return parameter


def _axis(value: int) -> Node:
    import numpy as np
    from openvino import opset13 as ops

    return ops.constant(np.int64(value))


def _axes(*values: int) -> Node:
    import numpy as np
    from openvino import opset13 as ops

    return ops.constant(np.array(values, np.int64))


def _number(value: float) -> Node:
    import numpy as np
    from openvino import opset13 as ops

    return ops.constant(np.float32(value))


def _rms_norm(hidden: Node, gains: Node, eps: float) -> Node:
    from openvino import opset13 as ops

    mean = ops.reduce_mean(ops.power(hidden, _number(2)), _axes(-1), keep_dims=True)
    scale = ops.divide(_number(1), ops.sqrt(ops.add(mean, _number(eps))))
    return ops.multiply(ops.multiply(hidden, scale), gains)


def _rotation(spec: ModelSpec, positions: Node) -> tuple[Node, Node]:
    """Return the cosines and sines of each position, `[batch, 1, tokens, head_dim]`."""
    import numpy as np
    from openvino import opset13 as ops

    exponents = np.arange(0, spec.head_dim, 2, dtype=np.float64) / spec.head_dim
    frequencies = (spec.rope_theta**-exponents).astype(np.float32).reshape(1, 1, -1)
    angles = ops.multiply(ops.convert(ops.unsqueeze(positions, _axis(2)), "f32"), ops.constant(frequencies))
    both = ops.concat([angles, angles], 2)
    return ops.unsqueeze(ops.cos(both), _axis(1)), ops.unsqueeze(ops.sin(both), _axis(1))


def _rotate(heads: Node, rotation: tuple[Node, Node], head_dim: int) -> Node:
    """Rotate `[batch, heads, tokens, head_dim]` by position."""
    from openvino import opset13 as ops

    cosines, sines = rotation
    half = head_dim // 2
    first = ops.slice(heads, _axes(0), _axes(half), _axes(1), _axes(3))
    second = ops.slice(heads, _axes(half), _axes(2**63 - 1), _axes(1), _axes(3))
    turned = ops.concat([ops.multiply(second, _number(-1)), first], -1)
    return ops.add(ops.multiply(heads, cosines), ops.multiply(turned, sines))


def _attention_mask(inputs: _Inputs) -> Node:
    """Return what is added to attention scores, `[batch, 1, tokens, total]`: 0, or minus infinity's stand-in.

    A token sees itself and what came before it, as far as `attention_mask` has ones.
    """
    import numpy as np
    from openvino import opset13 as ops

    total = ops.gather(ops.shape_of(inputs.attention_mask), _axis(1), _axis(0))
    tokens = ops.gather(ops.shape_of(inputs.token_ids), _axis(1), _axis(0))
    columns = ops.range(_axis(0), total, _axis(1), "i64")
    rows = ops.range(ops.subtract(total, tokens), total, _axis(1), "i64")
    causal = ops.less_equal(ops.unsqueeze(columns, _axis(0)), ops.unsqueeze(rows, _axis(1)))
    present = ops.not_equal(inputs.attention_mask, _axis(0))
    seen = ops.logical_and(ops.unsqueeze(present, _axes(1, 2)), ops.unsqueeze(causal, _axes(0, 1)))
    return ops.select(seen, _number(0), _number(float(np.finfo(np.float32).min)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variables:
    """The KV cache of the stateful form: two variables for each layer."""

    spec: ModelSpec
    batch: Node
    beams: Node
    sinks: list[Node]

    def of(self, layer: int) -> Callable[[str, Node], Node]:
        """Return what appends new keys or values of one layer and gives all of them back."""

        def append(kind: str, new: Node) -> Node:
            import openvino as ov
            from openvino import opset13 as ops

            shape = ov.PartialShape([-1, self.spec.num_kv_heads, -1, self.spec.head_dim])
            variable = ov.op.util.VariableInfo()
            variable.data_shape = shape
            variable.data_type = ov.Type.f32
            variable.variable_id = f"past_key_values.{layer}.{kind}present.{layer}.{kind}"
            rest = _axes(self.spec.num_kv_heads, 0, self.spec.head_dim)
            empty = ops.broadcast(_number(0), ops.concat([self.batch, rest], 0))
            state = ov.op.util.Variable(variable)
            past = ops.gather(ops.read_value(empty, state), self.beams, _axis(0))
            grown = ops.concat([past, new], 2)
            self.sinks.append(ops.assign(grown, state))
            return grown

        return append


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One block of the model."""

    spec: ModelSpec
    weights: Weights
    prefix: str

    def norm(self, hidden: Node, name: str) -> Node:
        return _rms_norm(hidden, self.weights.vector(f"{self.prefix}{name}.weight"), self.spec.rms_eps)

    def linear(self, hidden: Node, name: str) -> Node:
        from openvino import opset13 as ops

        matrix = self.weights.matrix(f"{self.prefix}{name}.weight")
        product = ops.matmul(hidden, matrix, transpose_a=False, transpose_b=True)
        product.set_friendly_name(f"{self.prefix}{name}")  # what a profile shows
        return product

    def heads(self, hidden: Node, name: str, count: int) -> Node:
        """Project to `[batch, tokens, count, head_dim]`."""
        from openvino import opset13 as ops

        return ops.reshape(self.linear(hidden, name), _axes(0, 0, count, self.spec.head_dim), special_zero=True)

    def attention(
        self, hidden: Node, rotation: tuple[Node, Node], mask: Node, append: Callable[[str, Node], Node]
    ) -> Node:
        from openvino import opset13 as ops

        spec = self.spec
        swap = _axes(0, 2, 1, 3)
        queries = self.norm(self.heads(hidden, "self_attn.q_proj", spec.num_heads), "self_attn.q_norm")
        keys = self.norm(self.heads(hidden, "self_attn.k_proj", spec.num_kv_heads), "self_attn.k_norm")
        values = ops.transpose(self.heads(hidden, "self_attn.v_proj", spec.num_kv_heads), swap)
        queries = _rotate(ops.transpose(queries, swap), rotation, spec.head_dim)
        keys = _rotate(ops.transpose(keys, swap), rotation, spec.head_dim)
        mixed = ops.scaled_dot_product_attention(
            queries,
            self.share(append("key", keys)),
            self.share(append("value", values)),
            mask,
            _number(spec.head_dim**-0.5),
            causal=False,
        )
        flat = ops.reshape(ops.transpose(mixed, swap), _axes(0, 0, spec.num_heads * spec.head_dim), special_zero=True)
        return self.linear(flat, "self_attn.o_proj")

    def share(self, heads: Node) -> Node:
        """Repeat each key or value head for the query heads that share it."""
        from openvino import opset13 as ops

        spec = self.spec
        repeats = spec.num_heads // spec.num_kv_heads
        if repeats == 1:
            return heads
        # In bidirectional mode 1 keeps what is there, so the batch and the length need not be known.
        repeated = ops.broadcast(
            ops.unsqueeze(heads, _axis(2)), _axes(1, 1, repeats, 1, 1), broadcast_spec="BIDIRECTIONAL"
        )
        return ops.reshape(repeated, _axes(0, spec.num_heads, -1, spec.head_dim), special_zero=True)

    def feed_forward(self, hidden: Node) -> Node:
        from openvino import opset13 as ops

        gate = ops.swish(self.linear(hidden, "mlp.gate_proj"))
        return self.linear(ops.multiply(gate, self.linear(hidden, "mlp.up_proj")), "mlp.down_proj")
