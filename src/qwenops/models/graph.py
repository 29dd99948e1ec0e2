"""Qwen3 as an OpenVINO model, built operation by operation: no torch, no exporter.

The model is stateful, as OpenVINO's tools expect: inputs `input_ids`, `position_ids` `[batch, tokens]`,
`attention_mask` `[batch, total]` and `beam_idx` `[batch]`, output `logits` `[batch, tokens, vocabulary]` in float32,
one key and one value variable for each layer. The operations stand as OpenVINO recognises them (see `nodes`), and
attention is `ScaledDotProductAttention` over `Concat(Gather(ReadValue))`; heads are shared by unsqueeze, broadcast,
reshape, which the fused kernels leave out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from qwenops.models.nodes import Node, angles, axes, axis, length, linear, number, parameter, result, rms_norm, rotate
from qwenops.models.spec import EMBEDDING, FINAL_NORM, HEAD, ModelSpec


class Weights(Protocol):
    """Where a graph gets its constants; each call returns a float32 node."""

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
    batch = ops.gather(ops.shape_of(inputs.token_ids), axes(0), axis(0))
    rotation = _rotation(spec, inputs.positions)
    mask = _attention_mask(inputs)
    hidden = ops.gather(weights.matrix(EMBEDDING), inputs.token_ids, axis(0))
    variables = _Variables(spec=spec, batch=batch, beams=inputs.beams, sinks=[])
    for layer in range(spec.num_layers):
        block = _Layer(spec=spec, weights=weights, prefix=f"model.layers.{layer}.")
        normed = block.norm(hidden, "input_layernorm")
        hidden = ops.add(hidden, block.attention(normed, rotation, mask, variables.of(layer)))
        normed = block.norm(hidden, "post_attention_layernorm")
        hidden = ops.add(hidden, block.feed_forward(normed))
    hidden = rms_norm(hidden, weights.vector(FINAL_NORM), spec.rms_eps)
    head = EMBEDDING if spec.tie_word_embeddings else HEAD
    logits = result(linear(hidden, weights.matrix(head), "lm_head"), "logits")
    return ov.Model([logits], variables.sinks, inputs.parameters, "qwen3")


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
        token_ids=parameter("input_ids", [-1, -1], "i64"),
        attention_mask=parameter("attention_mask", [-1, -1], "i64"),
        positions=parameter("position_ids", [-1, -1], "i64"),
        beams=parameter("beam_idx", [-1], "i32"),
    )


def _rotation(spec: ModelSpec, positions: Node) -> tuple[Node, Node]:
    """Return the cosines and sines of each position, `[batch, 1, tokens, head_dim]`."""
    from openvino import opset13 as ops

    turned = angles(spec, positions)
    return ops.unsqueeze(ops.cos(turned), axis(1)), ops.unsqueeze(ops.sin(turned), axis(1))


def _attention_mask(inputs: _Inputs) -> Node:
    """Return what is added to attention scores, `[batch, 1, tokens, total]`: 0, or minus infinity's stand-in.

    A token sees itself and what came before it, as far as `attention_mask` has ones.
    """
    import numpy as np
    from openvino import opset13 as ops

    total, tokens = length(inputs.attention_mask, 1), length(inputs.token_ids, 1)
    columns = ops.range(axis(0), total, axis(1), "i64")
    rows = ops.range(ops.subtract(total, tokens), total, axis(1), "i64")
    causal = ops.less_equal(ops.unsqueeze(columns, axis(0)), ops.unsqueeze(rows, axis(1)))
    present = ops.not_equal(inputs.attention_mask, axis(0))
    seen = ops.logical_and(ops.unsqueeze(present, axes(1, 2)), ops.unsqueeze(causal, axes(0, 1)))
    return ops.select(seen, number(0), number(float(np.finfo(np.float32).min)))


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
            rest = axes(self.spec.num_kv_heads, 0, self.spec.head_dim)
            empty = ops.broadcast(number(0), ops.concat([self.batch, rest], 0))
            state = ov.op.util.Variable(variable)
            past = ops.gather(ops.read_value(empty, state), self.beams, axis(0))
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
        return rms_norm(hidden, self.weights.vector(f"{self.prefix}{name}.weight"), self.spec.rms_eps)

    def linear(self, hidden: Node, name: str) -> Node:
        return linear(hidden, self.weights.matrix(f"{self.prefix}{name}.weight"), f"{self.prefix}{name}")

    def heads(self, hidden: Node, name: str, count: int) -> Node:
        """Project to `[batch, tokens, count, head_dim]`."""
        from openvino import opset13 as ops

        return ops.reshape(self.linear(hidden, name), axes(0, 0, count, self.spec.head_dim), special_zero=True)

    def attention(
        self, hidden: Node, rotation: tuple[Node, Node], mask: Node, append: Callable[[str, Node], Node]
    ) -> Node:
        from openvino import opset13 as ops

        spec = self.spec
        swap = axes(0, 2, 1, 3)
        queries = self.norm(self.heads(hidden, "self_attn.q_proj", spec.num_heads), "self_attn.q_norm")
        keys = self.norm(self.heads(hidden, "self_attn.k_proj", spec.num_kv_heads), "self_attn.k_norm")
        values = ops.transpose(self.heads(hidden, "self_attn.v_proj", spec.num_kv_heads), swap)
        queries = rotate(ops.transpose(queries, swap), *rotation, spec.head_dim)
        keys = rotate(ops.transpose(keys, swap), *rotation, spec.head_dim)
        mixed = ops.scaled_dot_product_attention(
            queries,
            self.share(append("key", keys)),
            self.share(append("value", values)),
            mask,
            number(spec.head_dim**-0.5),
            causal=False,
        )
        flat = ops.reshape(ops.transpose(mixed, swap), axes(0, 0, spec.num_heads * spec.head_dim), special_zero=True)
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
            ops.unsqueeze(heads, axis(2)), axes(1, 1, repeats, 1, 1), broadcast_spec="BIDIRECTIONAL"
        )
        return ops.reshape(repeated, axes(0, spec.num_heads, -1, spec.head_dim), special_zero=True)

    def feed_forward(self, hidden: Node) -> Node:
        from openvino import opset13 as ops

        gate = ops.swish(self.linear(hidden, "mlp.gate_proj"))
        return self.linear(ops.multiply(gate, self.linear(hidden, "mlp.up_proj")), "mlp.down_proj")
