import pytest

from qwenops.classify.train.memory import RUNTIME_BYTES, SHARE, estimate_bytes, fit, num_trained
from qwenops.classify.train.options import TrainOptions
from qwenops.errors import InsufficientMemoryError
from qwenops.models.spec import QWEN3_0_6B, QWEN3_1_7B

GIB = 1024**3
OPTIONS = TrainOptions()


def needed(tokens: int, *, recompute: bool = False, four_bit: bool = False, options: TrainOptions = OPTIONS) -> int:
    return estimate_bytes(QWEN3_0_6B, options, precision="bf16", tokens=tokens, recompute=recompute, four_bit=four_bit)


def test_the_matrices_of_the_published_shapes_are_counted() -> None:
    assert num_trained(QWEN3_0_6B, 28, 16) == 10_092_544
    assert num_trained(QWEN3_1_7B, 28, 16) == 17_432_576


def test_each_means_saves_memory_and_all_stay_above_the_runtime() -> None:
    whole = needed(2048)
    assert RUNTIME_BYTES < needed(512) < whole
    assert needed(2048, recompute=True) < whole / 2
    assert needed(2048, four_bit=True) < whole
    assert needed(2048, options=TrainOptions(top_layers=8)) < whole / 2


def found(limit_bytes: int, *, has_four_bit: bool = True, **changes: object) -> tuple[int, bool, bool]:
    options = TrainOptions(**changes)  # type: ignore[arg-type] # the test names real fields
    result = fit(QWEN3_0_6B, options, precision="bf16", longest=512, limit_bytes=limit_bytes, has_four_bit=has_four_bit)
    assert result.needed_bytes <= SHARE * limit_bytes
    return result.micro_tokens, result.recompute, result.four_bit


def test_with_plenty_nothing_is_given_up() -> None:
    assert found(64 * GIB) == (2048, False, False)


def test_the_cheapest_means_come_first() -> None:
    limits = [GIB * part / 8 for part in range(8 * 20, 8, -1)]
    ways = []
    for limit in limits:
        try:
            ways.append(found(int(limit)))
        except InsufficientMemoryError:
            break
    assert list(dict.fromkeys(ways))[:4] == [
        (2048, False, False),
        (1024, False, False),
        (512, False, False),
        (2048, True, False),
    ]
    assert ways[-1][2]


def test_four_bits_are_taken_only_where_they_may_be() -> None:
    tight = int(needed(512, recompute=True) / SHARE) - 2**20
    assert found(tight)[2]
    for refused in ({"four_bit": "never"}, {"has_four_bit": False}):
        with pytest.raises(InsufficientMemoryError) as caught:
            found(tight, **refused)
        assert caught.value.available_bytes == int(SHARE * tight) < caught.value.needed_bytes
    with pytest.raises(InsufficientMemoryError) as caught:
        found(tight, has_four_bit=False)
    assert "bitsandbytes" in caught.value.hint


def test_who_asks_for_four_bits_gets_them_with_plenty_of_memory() -> None:
    assert found(64 * GIB, four_bit="always") == (2048, False, True)


def test_the_reason_says_what_is_short() -> None:
    result = fit(
        QWEN3_0_6B,
        OPTIONS,
        precision="bf16",
        longest=2048,
        limit_bytes=int(needed(2048, recompute=True) / SHARE) + 2**20,
        has_four_bit=True,
    )
    assert "computed twice" in result.reason
