"""Which tensors a prefill-only graph has, and out of which rows of a checkpoint each is joined.

The graph's matrices are the checkpoint's, put together and in another order, so that its kernels have nothing to copy:

* what reads the same input is one matrix (queries, keys and values; gate and up), or stays apart, as the form says;
* query heads stand by their place in their group: first the first head of every group, then the second. So each place
  is as wide as the keys, and attention runs once for each place over keys and values that nobody had to repeat;
* the output projection's columns follow the query heads.

Smoothing (`smoothing`) multiplies columns of one matrix and divides what makes its input; both happen here, in float32,
before anything is packed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qwenops.models.packing import Source
from qwenops.models.spec import EMBEDDING, FINAL_NORM, ModelSpec, TensorKind, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELS = "labels.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """Which matrices are one."""

    attention: bool = True
    """Queries, keys and values."""
    feed_forward: bool = False
    """Gate and up."""
    by_place: bool = True
    """Whether query heads stand by their place in their group; else as the checkpoint has them."""


_NATURAL = Joining(by_place=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Rows of a checkpoint's tensor that stand together in a tensor of the graph."""

    source: str
    begin: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recipe:
    """How one tensor of the graph is made."""

    tensor: TensorSpec
    runs: tuple[Run, ...]
    columns: "NDArray[np.int64] | None" = None
    """The source's column for each column; None leaves them as they are."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaling:
    """What smoothing does to the tensors of the graph, by their name."""

    rows: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)
    """Each row (or gain of a norm) is divided by its number."""
    columns: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)
    """Each column is multiplied with its number."""


def recipes(spec: ModelSpec, num_labels: int, joining: Joining) -> Iterator[Recipe]:
    """Yield how each tensor of the graph is made, in the order of the computation; the labels' rows come last."""
    shapes = {tensor.name: tensor for tensor in spec.tensors()}
    yield _whole(shapes[EMBEDDING])
    for layer in range(spec.num_layers):
        yield from _layer(spec, layer, joining, shapes)
    yield _whole(shapes[FINAL_NORM])
    labels = TensorSpec(name=LABELS, shape=(num_labels, spec.hidden_size), kind=TensorKind.HEAD)
    yield Recipe(tensor=labels, runs=(Run(source=LABELS, begin=0, count=num_labels),))


def _layer(spec: ModelSpec, layer: int, joining: Joining, shapes: Mapping[str, TensorSpec]) -> Iterator[Recipe]:
    prefix = f"model.layers.{layer}."

    def named(name: str) -> TensorSpec:
        return shapes[f"{prefix}{name}.weight"]

    def joined(name: str, *runs: Run) -> Recipe:
        rows = sum(run.count for run in runs)
        columns = shapes[runs[0].source].shape[1]
        return Recipe(
            tensor=TensorSpec(name=f"{prefix}{name}.weight", shape=(rows, columns), kind=TensorKind.LINEAR), runs=runs
        )

    queries = query_runs(spec, f"{prefix}self_attn.q_proj.weight", joining)
    keys, values = (_run(named(f"self_attn.{each}_proj")) for each in "kv")
    yield _whole(named("input_layernorm"))
    if layer == spec.num_layers - 1:  # queries are needed at one position only
        yield joined("self_attn.q_proj", *query_runs(spec, f"{prefix}self_attn.q_proj.weight", _NATURAL))
        yield joined("self_attn.kv_proj", keys, values)
    elif joining.attention:
        yield joined("self_attn.qkv_proj", *queries, keys, values)
    else:
        yield from (joined(f"self_attn.q_proj.{place}", *runs) for place, runs in enumerate(_by_place(spec, queries)))
        yield joined("self_attn.k_proj", keys)
        yield joined("self_attn.v_proj", values)
    yield _whole(named("self_attn.q_norm"))
    yield _whole(named("self_attn.k_norm"))
    output = named("self_attn.o_proj")
    by_place = joining.by_place and layer < spec.num_layers - 1
    yield Recipe(tensor=output, runs=(_run(output),), columns=_columns(spec) if by_place else None)
    yield _whole(named("post_attention_layernorm"))
    gate, up = (_run(named(f"mlp.{each}_proj")) for each in ("gate", "up"))
    if joining.feed_forward:
        yield joined("mlp.gate_up_proj", gate, up)
    else:
        yield joined("mlp.gate_proj", gate)
        yield joined("mlp.up_proj", up)
    yield _whole(named("mlp.down_proj"))


def num_places(spec: ModelSpec) -> int:
    """Return how many query heads share a key head."""
    return spec.num_heads // spec.num_kv_heads


def query_runs(spec: ModelSpec, source: str, joining: Joining) -> tuple[Run, ...]:
    """Return the rows of the query projection in the graph's order of heads."""
    size, places = spec.head_dim, num_places(spec)
    if not joining.by_place:
        return (Run(source=source, begin=0, count=spec.num_heads * size),)
    return tuple(
        Run(source=source, begin=(group * places + place) * size, count=size)
        for place in range(places)
        for group in range(spec.num_kv_heads)
    )


def _by_place(spec: ModelSpec, runs: tuple[Run, ...]) -> Iterator[tuple[Run, ...]]:
    """Cut the runs of all query heads into those of each place; as the checkpoint has them there is one."""
    step = spec.num_kv_heads if len(runs) > 1 else 1
    for begin in range(0, len(runs), step):
        yield runs[begin : begin + step]


def _columns(spec: ModelSpec) -> "NDArray[np.int64]":
    """Return the checkpoint's column of each input of the output projection, heads standing by place."""
    import numpy as np

    natural = np.arange(spec.num_heads * spec.head_dim).reshape(spec.num_kv_heads, num_places(spec), spec.head_dim)
    return natural.transpose(1, 0, 2).reshape(-1)


def value_rows(spec: ModelSpec, joining: Joining) -> "NDArray[np.int64]":
    """Return, for each input of the output projection, the row of the value projection that it comes from."""
    import numpy as np

    rows = np.arange(spec.num_kv_heads * spec.head_dim).reshape(spec.num_kv_heads, 1, spec.head_dim)
    shared = np.broadcast_to(rows, (spec.num_kv_heads, num_places(spec), spec.head_dim))
    return (shared.transpose(1, 0, 2) if joining.by_place else shared).reshape(-1)


def _whole(tensor: TensorSpec) -> Recipe:
    return Recipe(tensor=tensor, runs=(_run(tensor),))


def _run(tensor: TensorSpec) -> Run:
    return Run(source=tensor.name, begin=0, count=tensor.shape[0])


class Joined:
    """Reads tensors of the graph out of a checkpoint.

    Args:
        source: The checkpoint, merged or not.
        made: The recipes.
        labels: The labels' rows, `[labels, hidden]`.
        scaling: What smoothing does.
    """

    def __init__(
        self,
        source: Source,
        made: Iterable[Recipe],
        *,
        labels: "NDArray[np.float32]",
        scaling: Scaling | None = None,
    ) -> None:
        """Read nothing yet."""
        self._source = source
        self._recipes = {recipe.tensor.name: recipe for recipe in made}
        self._labels = labels
        self._scaling = scaling or Scaling()

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """All tensors of the graph."""
        return tuple(recipe.tensor for recipe in self._recipes.values())

    def read(self, name: str, rows: slice = slice(None)) -> "NDArray[np.float32]":
        """Return some rows of a tensor of the graph as float32, in memory of the caller's own."""
        import numpy as np

        recipe = self._recipes[name]
        begin, end, _ = rows.indices(recipe.tensor.shape[0])
        pieces: list[NDArray[np.float32]] = []
        at = 0
        for run in recipe.runs:
            first, last = max(begin, at), min(end, at + run.count)
            if first < last:
                pieces.append(self._piece(run, first - at, last - at))
            at += run.count
        found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if recipe.columns is not None:
            found = np.take(found, recipe.columns, axis=1)  # an index would give another order in memory
        if (divisors := self._scaling.rows.get(name)) is not None:
            found /= divisors[begin:end].reshape(-1, *[1] * (found.ndim - 1))
        if (factors := self._scaling.columns.get(name)) is not None:
            found *= factors
        return found

    def release(self, name: str) -> None:
        """Let go of what was read of a tensor."""
        for source in {run.source for run in self._recipes[name].runs} - {LABELS}:
            self._source.release(source)

    def _piece(self, run: Run, first: int, last: int) -> "NDArray[np.float32]":
        if run.source == LABELS:
            return self._labels[first:last].copy()
        return self._source.read(run.source, slice(run.begin + first, run.begin + last))
