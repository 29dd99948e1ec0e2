"""Qwen3 as a classifier: one pass over a prompt, out of which come the logits of the labels and nothing else.

    input_ids [batch, tokens], last [batch]  ->  logits [batch, labels]

There is no KV cache, no other row of the head, and no position but the last one after the last layer's keys and values:
that layer's queries, output projection and feed-forward are computed for one position of each prompt. Prompts are
padded on the right, so that causality alone keeps padding out of everything that counts; only the last layer, whose
queries stand at the prompts' ends, has to be told where those are.

Attention comes in two forms:

* *by place* (only without a prefix): heads stay where the projections leave them, `[batch, tokens, heads, head_dim]`,
  and attention is causal and without a mask. It wants as many key heads as query heads, and gets them by running once
  for each place in the groups (`prefill_layout`), over the same keys and values;
* *grouped* (with a prefix, and in the last layer): the query heads of a group stand below one another, as if they were
  one head with more rows, over an explicit mask.

Neither repeats keys or values. OpenVINO 2026.4 computes both as fused multiplications with a softmax between them, a
`Subgraph` of its profile.

A prefix is what all prompts begin with. Its keys and values are constants of the graph, computed once in float32, and
`input_ids` then hold what comes after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwenops.models.graph import Weights
from qwenops.models.nodes import Node, angles, axes, axis, length, linear, number, parameter, result, rms_norm, rotate
from qwenops.models.prefill_layout import LABELS, Joining, num_places
from qwenops.models.spec import EMBEDDING, FINAL_NORM, ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNSEEN = -1e9
"""What is added to the score of a position that may not be seen."""
LEVELS = 256
"""Of an activation in 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixState:
    """The keys and values of what all prompts begin with, each `[layers, key heads, tokens, head_dim]`."""

    keys: "NDArray[np.float32]"
    values: "NDArray[np.float32]"

    @property
    def num_tokens(self) -> int:
        """How long the prefix is."""
        return int(self.keys.shape[2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillForm:
    """Which graph is built."""

    joining: Joining = field(default_factory=Joining)
    prefix: PrefixState | None = None
    """Only where heads do not stand by place: causal attention without a mask knows no positions before its own."""
    peaks: Mapping[str, float] = field(default_factory=dict)
    """By linear input (`linear_inputs`), the largest magnitude of an activation; those are quantised to 8 bits."""
    watch: bool = False
    """Whether the statistics of linear inputs are outputs, too: `peak:NAME` and `power:NAME`, by channel."""
    states: bool = False
    """Whether keys and values are outputs, too: `key:LAYER` and `value:LAYER`."""


def linear_inputs(spec: ModelSpec) -> tuple[str, ...]:
    """Return the names of all activations that may be quantised, in the order of the computation.

    The last layer computes little, and what it does decides much: it is left alone.
    """
    kinds = ("attention", "output", "feed_forward", "down")
    return tuple(f"{layer}.{kind}" for layer in range(spec.num_layers - 1) for kind in kinds)


def build_prefill_model(spec: ModelSpec, weights: Weights, form: PrefillForm) -> Any:
    """Build the `openvino.Model` of `spec` over `weights`, whose tensors are those of `prefill_layout.recipes`."""
    import openvino as ov
    from openvino import opset13 as ops

    if form.prefix is not None and form.joining.by_place:
        raise AssertionError(form.joining)
    token_ids = parameter("input_ids", [-1, -1], "i64")
    last = parameter("last", [-1], "i64")
    place = _place(spec, token_ids, last, form.prefix.num_tokens if form.prefix else 0)
    outputs: list[Node] = []
    hidden = ops.gather(weights.matrix(EMBEDDING), token_ids, axis(0))
    for layer in range(spec.num_layers):
        block = _Block(spec=spec, weights=weights, form=form, place=place, layer=layer, outputs=outputs)
        hidden = block.last(hidden) if layer == spec.num_layers - 1 else block.whole(hidden)
    hidden = rms_norm(hidden, weights.vector(FINAL_NORM), spec.rms_eps)
    logits = linear(hidden, weights.matrix(LABELS), "labels")
    flat = ops.reshape(logits, axes(0, -1), special_zero=True)
    return ov.Model([result(flat, "logits"), *outputs], [token_ids, last], "qwen3_prefill")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where tokens stand, and what each may see. What a form does not use is not part of its graph."""

    last: Node
    """The last position of each prompt, `[batch]`."""
    batch: Node
    """The number of prompts, `[1]`."""
    beside_heads: tuple[Node, Node]
    """Cosines and sines for heads `[batch, tokens, heads, head_dim]`."""
    below_heads: tuple[Node, Node]
    """The same for heads `[batch, heads, tokens, head_dim]`."""
    at_last: tuple[Node, Node]
    """The same for heads of the last positions, `[batch, heads, 1, head_dim]`."""
    grouped_mask: Node
    """For queries of all positions, `[1, 1, places * tokens, total]`."""
    last_mask: Node
    """For queries of the last positions, `[batch, 1, 1, total]`."""


def _place(spec: ModelSpec, token_ids: Node, last: Node, num_before: int) -> _Place:
    from openvino import opset13 as ops

    total = ops.add(length(token_ids, 1), axis(num_before))
    positions = ops.range(axis(num_before), total, axis(1), "i64")
    columns = ops.unsqueeze(ops.range(axis(0), total, axis(1), "i64"), axis(0))
    causal = ops.less_equal(columns, ops.unsqueeze(positions, axis(1)))
    seen = ops.less_equal(columns, ops.unsqueeze(ops.add(last, axis(num_before)), axis(1)))
    turned = angles(spec, ops.unsqueeze(positions, axis(0)))
    tables = (ops.cos(turned), ops.sin(turned))

    def picked(table: Node) -> Node:
        rows = ops.gather(ops.squeeze(table, axes(0)), last, axis(0))
        return ops.reshape(rows, axes(-1, 1, 1, spec.head_dim), special_zero=False)

    def spread(dimension: int) -> tuple[Node, Node]:
        return ops.unsqueeze(tables[0], axis(dimension)), ops.unsqueeze(tables[1], axis(dimension))

    return _Place(
        last=last,
        batch=ops.gather(ops.shape_of(token_ids), axes(0), axis(0)),
        beside_heads=spread(2),
        below_heads=spread(1),
        at_last=(picked(tables[0]), picked(tables[1])),
        grouped_mask=ops.concat([ops.unsqueeze(_score(causal), axes(0, 1))] * num_places(spec), 2),
        last_mask=ops.unsqueeze(_score(seen), axes(1, 2)),
    )


def _score(seen: Node) -> Node:
    from openvino import opset13 as ops

    return ops.select(seen, number(0), number(UNSEEN))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """One layer."""

    spec: ModelSpec
    weights: Weights
    form: PrefillForm
    place: _Place
    layer: int
    outputs: list[Node]

    # -- all positions ---------------------------------------------------------------------------------------------

    def whole(self, hidden: Node) -> Node:
        """Return the states of all positions after this layer."""
        from openvino import opset13 as ops

        normed = self.quantised(self.norm(hidden, "input_layernorm"), "attention")
        queries, keys, values = self.projections(normed)
        if self.by_place:
            mixed = self.mixed_by_place(queries, keys, values)
        else:
            mixed = self.mixed_grouped(queries[0], keys, values)
        hidden = ops.add(hidden, self.linear(self.quantised(mixed, "output"), "self_attn.o_proj"))
        normed = self.quantised(self.norm(hidden, "post_attention_layernorm"), "feed_forward")
        return ops.add(hidden, self.feed_forward(normed, quantise=True))

    def projections(self, normed: Node) -> tuple[list[Node], Node, Node]:
        """Return queries for each place, keys and values, each `[batch, tokens, heads * head_dim]`."""
        from openvino import opset13 as ops

        spec = self.spec
        groups = num_places(spec) if self.by_place else 1
        width = spec.num_kv_heads * spec.head_dim
        wide = spec.num_heads * spec.head_dim // groups
        if self.form.joining.attention:
            all_of_it = self.linear(normed, "self_attn.qkv_proj")
            lengths = [wide] * groups + [width, width]
            split = ops.variadic_split(all_of_it, axis(2), _lengths(lengths))
            *queries, keys, values = (split.output(each) for each in range(len(lengths)))
            return list(queries), keys, values
        queries = [self.linear(normed, f"self_attn.q_proj.{each}") for each in range(groups)]
        return queries, self.linear(normed, "self_attn.k_proj"), self.linear(normed, "self_attn.v_proj")

    @property
    def by_place(self) -> bool:
        return self.form.joining.by_place

    def mixed_by_place(self, queries: Sequence[Node], keys: Node, values: Node) -> Node:
        """Return what attention gives, `[batch, tokens, heads * head_dim]`; the heads stand by place."""
        from openvino import opset13 as ops

        rotation = self.place.beside_heads
        count = self.spec.num_kv_heads
        turned = self.normed_heads(keys, count, "k_norm", rotation)
        if self.form.states:
            self.keep_state(_swapped(turned), _swapped(self.heads(values, count)))
        flat_keys = self.flat(turned, count)
        mixed = [
            self.attended(self.flat(self.normed_heads(each, count, "q_norm", rotation), count), flat_keys, values)
            for each in queries
        ]
        return mixed[0] if len(mixed) == 1 else ops.concat(mixed, 2)

    def attended(self, queries: Node, keys: Node, values: Node) -> Node:
        """Attend from `[batch, tokens, heads * head_dim]` to the like, in the form that becomes one operation."""
        from openvino import opset13 as ops

        count = self.spec.num_kv_heads
        parts = [_swapped(self.heads(each, count)) for each in (queries, keys, values)]
        mixed = ops.scaled_dot_product_attention(*parts, causal=True)
        mixed.set_friendly_name(f"model.layers.{self.layer}.self_attn.attention")
        return self.flat(_swapped(mixed), count)

    def mixed_grouped(self, queries: Node, keys: Node, values: Node) -> Node:
        """Return what attention gives, `[batch, tokens, heads * head_dim]`; the heads stand as in the checkpoint."""
        spec = self.spec
        rotation = self.place.below_heads
        turned = self.normed_heads(queries, spec.num_heads, "q_norm", rotation, swap=True)
        mixed = self.grouped(turned, *self.shared_state(keys, values), self.place.grouped_mask)
        return self.flat(_swapped(mixed), spec.num_heads)

    # -- the last position -----------------------------------------------------------------------------------------

    def last(self, hidden: Node) -> Node:
        """Return the states of the prompts' last positions after this layer, `[batch, 1, hidden]`."""
        from openvino import opset13 as ops

        spec = self.spec
        normed = self.norm(hidden, "input_layernorm")
        both = self.linear(normed, "self_attn.kv_proj")
        width = spec.num_kv_heads * spec.head_dim
        split = ops.variadic_split(both, axis(2), _lengths([width, width]))
        queries = self.linear(self.at_last(normed), "self_attn.q_proj")
        turned = self.normed_heads(queries, spec.num_heads, "q_norm", self.place.at_last, swap=True)
        state = self.shared_state(split.output(0), split.output(1))
        mixed = self.flat(_swapped(self.grouped(turned, *state, self.place.last_mask)), spec.num_heads)
        picked = ops.add(self.at_last(hidden), self.linear(mixed, "self_attn.o_proj"))
        normed = self.norm(picked, "post_attention_layernorm")
        return ops.add(picked, self.feed_forward(normed, quantise=False))

    def at_last(self, states: Node) -> Node:
        """Pick the last position of each prompt: `[batch, tokens, n]` to `[batch, 1, n]`."""
        from openvino import opset13 as ops

        return ops.unsqueeze(ops.gather(states, self.place.last, axis(1), batch_dims=1), axis(1))

    # -- both ------------------------------------------------------------------------------------------------------

    def grouped(self, queries: Node, keys: Node, values: Node, mask: Node) -> Node:
        """Attend from `[batch, heads, n, head_dim]` to keys and values that a group of heads shares."""
        from openvino import opset13 as ops

        spec = self.spec
        below = ops.reshape(queries, axes(0, spec.num_kv_heads, -1, spec.head_dim), special_zero=True)
        mixed = ops.scaled_dot_product_attention(below, keys, values, mask, number(spec.head_dim**-0.5), causal=False)
        mixed.set_friendly_name(f"model.layers.{self.layer}.self_attn.attention")
        return ops.reshape(mixed, axes(0, spec.num_heads, -1, spec.head_dim), special_zero=True)

    def shared_state(self, keys: Node, values: Node) -> tuple[Node, Node]:
        """Return keys and values of prefix and prompt, `[batch, key heads, total, head_dim]`."""
        from openvino import opset13 as ops

        count = self.spec.num_kv_heads
        turned = self.normed_heads(keys, count, "k_norm", self.place.below_heads, swap=True)
        found = [turned, _swapped(self.heads(values, count))]
        if self.form.states:
            self.keep_state(*found)
        if self.form.prefix is None:
            return found[0], found[1]
        before = (self.form.prefix.keys[self.layer], self.form.prefix.values[self.layer])
        both = [ops.concat([self.for_all(table), new], 2) for table, new in zip(before, found, strict=True)]
        return both[0], both[1]

    def for_all(self, table: "NDArray[np.float32]") -> Node:
        """Return a part of the prefix's state for each prompt of the batch."""
        from openvino import opset13 as ops

        shape = ops.concat([self.place.batch, axes(1, 1, 1)], 0)
        return ops.broadcast(ops.constant(table[None]), shape, broadcast_spec="BIDIRECTIONAL")

    def keep_state(self, keys: Node, values: Node) -> None:
        """Make keys and values outputs."""
        self.outputs.extend((result(keys, f"key:{self.layer}"), result(values, f"value:{self.layer}")))

    def feed_forward(self, normed: Node, *, quantise: bool) -> Node:
        from openvino import opset13 as ops

        if self.form.joining.feed_forward:
            inner = self.spec.intermediate_size
            both = self.linear(normed, "mlp.gate_up_proj")
            split = ops.variadic_split(both, axis(2), _lengths([inner, inner]))
            gate, up = split.output(0), split.output(1)
        else:
            gate, up = self.linear(normed, "mlp.gate_proj"), self.linear(normed, "mlp.up_proj")
        product = ops.multiply(ops.swish(gate), up)
        return self.linear(self.quantised(product, "down") if quantise else product, "mlp.down_proj")

    def linear(self, hidden: Node, name: str) -> Node:
        full = f"model.layers.{self.layer}.{name}"
        return linear(hidden, self.weights.matrix(f"{full}.weight"), full)

    def norm(self, hidden: Node, name: str) -> Node:
        return rms_norm(hidden, self.weights.vector(f"model.layers.{self.layer}.{name}.weight"), self.spec.rms_eps)

    def normed_heads(
        self, flat: Node, count: int, norm: str, rotation: tuple[Node, Node], *, swap: bool = False
    ) -> Node:
        """Return heads, normed and rotated; with `swap` as `[batch, heads, tokens, head_dim]`."""
        heads = self.norm(self.heads(flat, count), f"self_attn.{norm}")
        return rotate(_swapped(heads) if swap else heads, *rotation, self.spec.head_dim)

    def heads(self, flat: Node, count: int) -> Node:
        from openvino import opset13 as ops

        return ops.reshape(flat, axes(0, 0, count, self.spec.head_dim), special_zero=True)

    def flat(self, heads: Node, count: int) -> Node:
        from openvino import opset13 as ops

        return ops.reshape(heads, axes(0, 0, count * self.spec.head_dim), special_zero=True)

    def quantised(self, activation: Node, kind: str) -> Node:
        """Round an activation to 8 bits, or tell its statistics, or leave it alone."""
        from openvino import opset13 as ops

        name = f"{self.layer}.{kind}"
        if self.form.watch:
            peak = ops.reduce_max(ops.absolute(activation), axes(0, 1))
            power = ops.reduce_mean(ops.multiply(activation, activation), axes(0, 1))
            self.outputs.extend((result(peak, f"peak:{name}"), result(power, f"power:{name}")))
        if name not in self.form.peaks:
            return activation
        step = self.form.peaks[name] / (LEVELS // 2 - 1)
        low, high = number(-step * (LEVELS // 2)), number(step * (LEVELS // 2 - 1))
        return ops.fake_quantize(activation, low, high, low, high, LEVELS)


def _swapped(heads: Node) -> Node:
    """Exchange heads and tokens."""
    from openvino import opset13 as ops

    return ops.transpose(heads, axes(0, 2, 1, 3))


def _lengths(lengths: Sequence[int]) -> Node:
    """Return lengths of a split, in the number format in which fused projections are recognised."""
    import numpy as np
    from openvino import opset13 as ops

    return ops.constant(np.array(lengths, np.int32))
