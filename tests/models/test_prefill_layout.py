"""Rows and columns in the graph's order are those of the checkpoint in another one."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.models.checkpoint import Checkpoint, open_checkpoint
from qwenops.models.prefill_layout import LABELS, Joined, Joining, Scaling, num_places, recipes, value_rows
from qwenops.models.spec import TINY, ModelSpec

SIZE = TINY.head_dim
FIRST = "model.layers.0."
JOININGS = [
    Joining(attention=attention, feed_forward=feed_forward, by_place=by_place)
    for attention, feed_forward, by_place in product((False, True), repeat=3)
]
BY_PLACE = Joining(by_place=True)
NATURAL = Joining(by_place=False)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint)


def labels() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((3, TINY.hidden_size), np.float32)


def joined(source: Checkpoint, joining: Joining, scaling: Scaling | None = None) -> Joined:
    return Joined(source, recipes(TINY, 3, joining), labels=labels(), scaling=scaling)


def test_heads_of_one_place_stand_together(checkpoint: Checkpoint) -> None:
    """Heads 0 and 1 share the first key head, 2 and 3 the second: the first place has 0 and 2."""
    assert num_places(TINY) == 2
    queries = checkpoint.read(f"{FIRST}self_attn.q_proj.weight").reshape(4, SIZE, TINY.hidden_size)
    found = joined(checkpoint, BY_PLACE).read(f"{FIRST}self_attn.qkv_proj.weight")
    np.testing.assert_array_equal(found[: 4 * SIZE].reshape(4, SIZE, -1), queries[[0, 2, 1, 3]])
    np.testing.assert_array_equal(found[4 * SIZE : 6 * SIZE], checkpoint.read(f"{FIRST}self_attn.k_proj.weight"))
    np.testing.assert_array_equal(found[6 * SIZE :], checkpoint.read(f"{FIRST}self_attn.v_proj.weight"))


def test_the_output_projection_reads_heads_where_they_stand(checkpoint: Checkpoint) -> None:
    output = checkpoint.read(f"{FIRST}self_attn.o_proj.weight").reshape(TINY.hidden_size, 4, SIZE)
    found = joined(checkpoint, BY_PLACE).read(f"{FIRST}self_attn.o_proj.weight")
    np.testing.assert_array_equal(found.reshape(TINY.hidden_size, 4, SIZE), output[:, [0, 2, 1, 3]])
    assert found.flags.c_contiguous
    plain = joined(checkpoint, NATURAL).read(f"{FIRST}self_attn.o_proj.weight")
    np.testing.assert_array_equal(plain.reshape(output.shape), output)


def test_the_last_layer_keeps_queries_apart_and_in_order(checkpoint: Checkpoint) -> None:
    last = f"model.layers.{TINY.num_layers - 1}."
    found = joined(checkpoint, BY_PLACE)
    for name in ("self_attn.q_proj", "self_attn.o_proj"):
        np.testing.assert_array_equal(found.read(f"{last}{name}.weight"), checkpoint.read(f"{last}{name}.weight"))
    both = found.read(f"{last}self_attn.kv_proj.weight")
    np.testing.assert_array_equal(both[: 2 * SIZE], checkpoint.read(f"{last}self_attn.k_proj.weight"))


@pytest.mark.parametrize("joining", JOININGS)
def test_every_row_is_there_once_and_can_be_read_in_pieces(checkpoint: Checkpoint, joining: Joining) -> None:
    found = joined(checkpoint, joining)
    total = sum(tensor.num_elements for tensor in found.tensors)
    assert total == TINY.num_parameters + 3 * TINY.hidden_size
    for tensor in found.tensors:
        whole = found.read(tensor.name)
        assert whole.shape == tensor.shape
        if "embed" not in tensor.name:
            pieces = [found.read(tensor.name, slice(row, row + 50)) for row in range(0, tensor.shape[0], 50)]
            np.testing.assert_array_equal(np.concatenate(pieces), whole)
        found.release(tensor.name)
    np.testing.assert_array_equal(found.read(LABELS), labels())


@pytest.mark.parametrize(
    "spec",
    [replace(TINY, num_kv_heads=4), replace(TINY, num_kv_heads=1), replace(TINY, num_heads=6)],
    ids=["a key head each", "one key head", "three places"],
)
@pytest.mark.parametrize("attention", [False, True])
def test_any_number_of_key_heads_gives_as_many_rows(spec: ModelSpec, *, attention: bool) -> None:
    made = {each.tensor.name: each for each in recipes(spec, 2, Joining(attention=attention))}
    names = [f"q_proj.{place}" for place in range(num_places(spec))] + ["k_proj", "v_proj"]
    wanted = ["qkv_proj"] if attention else names
    rows = sum(made[f"{FIRST}self_attn.{name}.weight"].tensor.shape[0] for name in wanted)
    assert rows == (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
    runs = [run for name in wanted for run in made[f"{FIRST}self_attn.{name}.weight"].runs if "q_proj" in run.source]
    starts = sorted(run.begin for run in runs)
    assert starts == list(range(0, spec.num_heads * spec.head_dim, spec.head_dim))


@pytest.mark.parametrize("joining", [BY_PLACE, NATURAL])
def test_value_rows_follow_the_heads_that_read_them(joining: Joining) -> None:
    by_head = value_rows(TINY, joining).reshape(4, SIZE)
    heads = [0, 2, 1, 3] if joining.by_place else [0, 1, 2, 3]
    for position, head in enumerate(heads):
        group = head // num_places(TINY)
        np.testing.assert_array_equal(by_head[position], np.arange(group * SIZE, (group + 1) * SIZE))


def test_smoothing_divides_rows_and_multiplies_columns(checkpoint: Checkpoint) -> None:
    name, norm = f"{FIRST}mlp.down_proj.weight", f"{FIRST}input_layernorm.weight"
    columns = np.linspace(0.5, 2, TINY.intermediate_size, dtype=np.float32)
    rows = np.linspace(1, 3, TINY.hidden_size, dtype=np.float32)
    found = joined(checkpoint, BY_PLACE, Scaling(rows={norm: rows}, columns={name: columns}))
    np.testing.assert_array_equal(found.read(name, slice(3, 7)), checkpoint.read(name, slice(3, 7)) * columns)
    np.testing.assert_array_equal(found.read(norm, slice(8, 16)), checkpoint.read(norm, slice(8, 16)) / rows[8:16])
