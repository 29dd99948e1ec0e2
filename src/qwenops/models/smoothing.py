"""Activations that 8 bits can hold: which ones, in which range, and what is moved into the weights for it.

An activation has one scale for all its channels, so one channel of large numbers leaves few steps for the others, while
weights have a scale for each row. SmoothQuant (Xiao et al. 2022) divides each channel by a number and multiplies the
weights' column with it, which changes nothing but where the difficulty lies:

    s = peak(activation) ** strength / peak(weights) ** (1 - strength),  channel by channel

Here the division costs nothing either: it goes into what makes the activation. That is the gains of a norm for the
attention's and the feed-forward's input, the rows of `up_proj` for the input of `down_proj`, and the rows of `v_proj`
for the output projection's, where heads of one group share their values and so their numbers.

What is still too coarse after that stays in bf16: the rounding error of 8 bits is known from the largest magnitude and
the mean square, without trying. Pure functions of what was seen on calibration texts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qwenops.models.prefill_graph import LEVELS, PrefixState, linear_inputs
from qwenops.models.prefill_layout import Joining, Scaling, value_rows
from qwenops.models.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STRENGTH = 0.5
"""How much of the difficulty goes into the weights."""
COARSE = 0.05
"""An activation whose rounding error is larger than this part of it stays in bf16."""
_LEAST, _MOST = 1e-3, 1e3


@dataclass(slots=True, kw_only=True, eq=False)
class Seen:
    """What was seen of one activation, by channel."""

    peak: "NDArray[np.float64]"
    power: "NDArray[np.float64]"
    """The mean square."""
    num_tokens: int

    def add(self, peak: "NDArray[Any]", power: "NDArray[Any]", num_tokens: int) -> None:
        """Take one more text in."""
        import numpy as np

        np.maximum(self.peak, peak, out=self.peak)
        total = self.num_tokens + num_tokens
        self.power += (power - self.power) * (num_tokens / total)
        self.num_tokens = total


class Statistics:
    """What was seen of all activations, text by text."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.by_name: dict[str, Seen] = {}

    def add(self, outputs: "Mapping[str, NDArray[Any]]", num_tokens: int) -> None:
        """Take in the outputs `peak:NAME` and `power:NAME` of a graph that was watched on one text."""
        import numpy as np

        for name in outputs:
            kind, _, activation = name.partition(":")
            if kind != "peak":
                continue
            peak, power = outputs[name], outputs[f"power:{activation}"]
            known = self.by_name.get(activation)
            if known is None:
                self.by_name[activation] = Seen(
                    peak=peak.astype(np.float64), power=power.astype(np.float64), num_tokens=num_tokens
                )
            else:
                known.add(peak, power, num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Which activations are quantised, and what is done to the weights for it."""

    scaling: Scaling
    peaks: Mapping[str, float]
    """Of the smoothed activations that are quantised, the largest magnitude."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """Of every activation, the rounding error as a part of it, if it were quantised."""

    @property
    def kept(self) -> tuple[str, ...]:
        """The activations that stay in bf16."""
        return tuple(name for name in self.errors if name not in self.peaks)


def readers(name: str, joining: Joining, places: int) -> tuple[str, ...]:
    """Return the tensors of the graph whose columns belong to an activation's channels."""
    layer, _, kind = name.partition(".")
    prefix = f"model.layers.{layer}."
    queries = tuple(f"self_attn.q_proj.{each}" for each in range(places if joining.by_place else 1))
    apart = (*queries, "self_attn.k_proj", "self_attn.v_proj")
    matrices: Mapping[str, tuple[str, ...]] = {
        "attention": ("self_attn.qkv_proj",) if joining.attention else apart,
        "output": ("self_attn.o_proj",),
        "feed_forward": ("mlp.gate_up_proj",) if joining.feed_forward else ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    }
    return tuple(f"{prefix}{matrix}.weight" for matrix in matrices[kind])


def plan(
    spec: ModelSpec,
    joining: Joining,
    statistics: Statistics,
    column_peaks: "Callable[[str], NDArray[np.float64]]",
    *,
    kept_layers: Collection[int] = (),
    strength: float = STRENGTH,
) -> Plan:
    """Decide how activations are quantised.

    Args:
        spec: The model's shape.
        joining: The graph's.
        statistics: What was seen of every activation.
        column_peaks: Returns the largest magnitude in each column of a tensor of the graph.
        kept_layers: Layers whose activations stay in bf16, whatever their error.
        strength: How much of the difficulty goes into the weights.
    """
    import numpy as np

    rows: dict[str, NDArray[np.float32]] = {}
    columns: dict[str, NDArray[np.float32]] = {}
    peaks: dict[str, float] = {}
    errors: dict[str, float] = {}
    for name in linear_inputs(spec):
        seen = statistics.by_name[name]
        matrices = readers(name, joining, spec.num_heads // spec.num_kv_heads)
        weights = np.max([column_peaks(matrix) for matrix in matrices], axis=0)
        divisors, made = _divisors(spec, joining, name, seen.peak, weights, strength)
        peak = float((seen.peak / divisors).max())
        errors[name] = rounding_error(peak, float((seen.power / divisors**2).mean()))
        if errors[name] > COARSE or int(name.partition(".")[0]) in kept_layers:
            continue
        peaks[name] = peak
        for tensor, numbers in made.items():
            rows[tensor] = numbers.astype(np.float32)
        for matrix in matrices:
            columns[matrix] = divisors.astype(np.float32)
    return Plan(scaling=Scaling(rows=rows, columns=columns), peaks=peaks, errors=errors)


def rounding_error(peak: float, mean_square: float) -> float:
    """Return the error of rounding to 8 bits, as a part of what is rounded: both as roots of mean squares."""
    if mean_square <= 0:
        return 0.0
    step = peak / (LEVELS // 2 - 1)
    return float((step**2 / 12 / mean_square) ** 0.5)


def _divisors(
    spec: ModelSpec,
    joining: Joining,
    name: str,
    peaks: "NDArray[np.float64]",
    weights: "NDArray[np.float64]",
    strength: float,
) -> "tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]":
    """Return the number for each channel, and for each tensor that makes the activation those for its rows."""
    import numpy as np

    layer, _, kind = name.partition(".")
    prefix = f"model.layers.{layer}."
    if kind == "output":
        shared = value_rows(spec, joining)
        num_rows = spec.num_kv_heads * spec.head_dim
        highest, heaviest = np.zeros(num_rows), np.zeros(num_rows)
        np.maximum.at(highest, shared, peaks)
        np.maximum.at(heaviest, shared, weights)
        numbers = smoothing(highest, heaviest, strength)
        if not joining.attention:
            return numbers[shared], {f"{prefix}self_attn.v_proj.weight": numbers}
        before = np.ones((spec.num_heads + spec.num_kv_heads) * spec.head_dim)
        return numbers[shared], {f"{prefix}self_attn.qkv_proj.weight": np.concatenate((before, numbers))}
    numbers = smoothing(peaks, weights, strength)
    if kind != "down":
        norm = "input_layernorm" if kind == "attention" else "post_attention_layernorm"
        return numbers, {f"{prefix}{norm}.weight": numbers}
    if not joining.feed_forward:
        return numbers, {f"{prefix}mlp.up_proj.weight": numbers}
    before = np.ones(spec.intermediate_size)
    return numbers, {f"{prefix}mlp.gate_up_proj.weight": np.concatenate((before, numbers))}


def smoothing(peaks: "NDArray[np.float64]", weights: "NDArray[np.float64]", strength: float) -> "NDArray[np.float64]":
    """Return the number by which each channel is divided; 1 where a channel or its column is always 0."""
    import numpy as np

    alive = (peaks > 0) & (weights > 0)
    numbers = np.ones_like(peaks)
    numbers[alive] = peaks[alive] ** strength / weights[alive] ** (1 - strength)
    middle = float(np.exp(np.log(numbers[alive]).mean())) if alive.any() else 1.0
    found: NDArray[np.float64] = np.where(alive, np.clip(numbers / middle, _LEAST, _MOST), 1.0)
    return found


def column_peaks_of(
    read: "Callable[[str, slice], NDArray[np.float32]]", name: str, slices: Sequence[slice]
) -> "NDArray[np.float64]":
    """Return the largest magnitude in each column of a tensor, reading it in pieces."""
    import numpy as np

    found: NDArray[np.float64] | None = None
    for rows in slices:
        peaks = np.abs(read(name, rows)).max(axis=0).astype(np.float64)
        found = peaks if found is None else np.maximum(found, peaks)
    if found is None:
        raise AssertionError(name)
    return found


def smoothed_prefix(spec: ModelSpec, joining: Joining, prefix: PrefixState, scaling: Scaling) -> PrefixState:
    """Return a prefix's state as the smoothed weights would have made it: values are divided as their rows are."""
    import numpy as np

    matrix = "qkv_proj" if joining.attention else "v_proj"
    num_rows = spec.num_kv_heads * spec.head_dim
    values = np.array(prefix.values)
    for layer in range(spec.num_layers):
        divisors = scaling.rows.get(f"model.layers.{layer}.self_attn.{matrix}.weight")
        if divisors is not None:
            values[layer] /= divisors[-num_rows:].reshape(spec.num_kv_heads, 1, spec.head_dim)
    return PrefixState(keys=prefix.keys, values=values)
