from typing import cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from qwenops.errors import ConversionError, ModelLoadError
from qwenops.models import compress
from qwenops.models.compress import (
    SMALLEST_SCALE,
    Layout,
    int4_scales,
    layout_of,
    pack,
    stored_scales,
    to_bf16,
    unpack,
)
from qwenops.models.spec import TINY, Scheme, TensorKind

INT8 = Layout(stored="i8", group=128)
INT4 = Layout(stored="i4", group=64)
BF16 = Layout(stored="bf16")

matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(128)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


def _normal(rows: int, deviation: float = 0.02) -> NDArray[np.float32]:
    return deviation * np.random.default_rng(0).standard_normal((rows, 128), np.float32)


@example(np.full((1, 128), 1e-37, np.float32))
@example(np.full((2, 128), 2.0**-126, np.float32))
@given(matrices)
def test_int8_is_never_off_by_more_than_half_a_step(source: NDArray[np.float32]) -> None:
    piece = pack("w", source, INT8)
    assert piece.data.dtype == np.int8
    assert piece.scales is not None
    back = unpack(piece.data, piece.scales, INT8, source.shape)
    assert np.all(np.abs(back - source) <= 0.501 * piece.scales[:, None])
    peaks = np.abs(source).max(axis=1)
    assert np.allclose(np.abs(back).max(axis=1), peaks, rtol=1e-6, atol=128 * SMALLEST_SCALE)


@example(np.full((1, 128), -1e-37, np.float32))
@example(np.full((2, 128), 2.0**-126, np.float32))
@given(matrices)
def test_int4_is_never_off_by_more_than_a_step_and_keeps_the_largest_of_each_group(
    source: NDArray[np.float32],
) -> None:
    piece = pack("w", source, INT4)
    assert piece.data.shape == (source.shape[0], 64)
    assert piece.scales is not None
    assert piece.scales.shape == (source.shape[0], 2)
    back = unpack(piece.data, piece.scales, INT4, source.shape)
    steps = np.abs(back - source).reshape(*piece.scales.shape, -1) / np.abs(piece.scales)[..., None]
    assert steps.max() <= 1.01
    peaks = np.abs(source).reshape(-1, 2, 64).max(axis=-1)
    assert np.allclose(np.abs(back).reshape(-1, 2, 64).max(axis=-1), peaks, rtol=2e-3, atol=8 * SMALLEST_SCALE)


def test_an_error_on_normal_weights_is_what_theory_says() -> None:
    source = _normal(256)
    errors = {}
    for layout in (INT8, INT4, BF16):
        piece = pack("w", source, layout)
        errors[layout.stored] = (piece.squared_error / piece.squared_norm) ** 0.5
    assert 0.004 < errors["i8"] < 0.008
    assert 0.07 < errors["i4"] < 0.11
    assert 0.001 < errors["bf16"] < 0.002


@pytest.mark.parametrize("layout", [INT8, INT4, BF16, Layout(stored="f32")], ids=lambda layout: layout.stored)
def test_zeros_stay_zeros(layout: Layout) -> None:
    source = np.zeros((3, 128), np.float32)
    piece = pack("w", source, layout)
    assert piece.largest_error == 0
    assert np.array_equal(unpack(piece.data, piece.scales, layout, source.shape), source)


def test_the_low_half_of_a_byte_is_the_earlier_weight() -> None:
    source = np.zeros((1, 64), np.float32)
    source[0, :3] = [-8, 3, 7]
    piece = pack("w", source, INT4)
    assert [int(byte) for byte in piece.data[0, :2]] == [0x38, 0x07]


def test_scales_too_small_for_half_precision_stay_single() -> None:
    tiny = _normal(4, deviation=1e-6)
    assert stored_scales([int4_scales(tiny.reshape(4, 2, 64))], INT4).dtype == np.float32
    assert stored_scales([int4_scales(_normal(4).reshape(4, 2, 64))], INT4).dtype == np.float16
    assert stored_scales([np.ones(4, np.float32)], INT8).dtype == np.float32
    assert pack("w", tiny, INT4).largest_error <= 1.01


@pytest.mark.reference
@given(arrays.arrays(np.float32, 64, elements=st.floats(-(2.0**127), 2.0**127, width=32)))
def test_bf16_rounds_to_the_nearest(source: NDArray[np.float32]) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(source.copy()).to(torch.bfloat16).view(torch.uint16).numpy()
    assert np.array_equal(to_bf16(source), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", [INT8, INT4, BF16, Layout(stored="f32")], ids=lambda layout: layout.stored)
def test_numbers_that_are_not_finite_are_refused_with_the_tensors_name(value: float, layout: Layout) -> None:
    source = _normal(4)
    source[2, 5] = value
    with pytest.raises(ModelLoadError, match=r"model\.norm\.weight holds numbers that are not finite"):
        pack("model.norm.weight", source, layout)


@pytest.mark.parametrize("layout", [INT8, INT4, BF16], ids=lambda layout: layout.stored)
def test_a_packing_that_goes_wrong_is_caught(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    right = compress._pack

    def flip_one_bit(source: NDArray[np.float32], layout: Layout) -> object:
        data, scales = right(source, layout)
        cast("NDArray[np.uint8]", data.view(np.uint8)).reshape(-1)[17] ^= 0x40
        return data, scales

    monkeypatch.setattr(compress, "_pack", flip_one_bit)
    with pytest.raises(ConversionError, match=r"w differs from its source by") as caught:
        pack("w", _normal(4), layout)
    assert caught.value.hint


def test_every_scheme_stores_norms_whole_and_never_the_head_in_four_bits() -> None:
    for tensor in TINY.tensors():
        stored = {scheme: layout_of(tensor, scheme).stored for scheme in Scheme}
        match tensor.kind:
            case TensorKind.NORM:
                assert set(stored.values()) == {"f32"}
            case TensorKind.LINEAR:
                assert stored == {"f32": "f32", "bf16": "bf16", "int8": "i8", "int4": "i4"}
            case _:
                assert stored == {"f32": "f32", "bf16": "bf16", "int8": "i8", "int4": "i8"}
