import pytest

torch = pytest.importorskip("torch", reason="the head is torch's, which comes with the train extra")

from qwenops.classify.head import LabelHead, head_of, rows_sha256  # noqa: E402 -- after the skip

pytestmark = pytest.mark.reference


def test_logits_are_states_times_rows_whatever_the_states_format() -> None:
    rows = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    states = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    logits = LabelHead(rows)(states)
    assert logits.dtype == torch.float32
    assert logits.tolist() == [[8.0, 26.0]]


def test_the_rows_are_those_of_the_tokens_in_their_order() -> None:
    table = torch.arange(20.0).reshape(10, 2)
    assert head_of(table, [7, 2]).rows.tolist() == [[14.0, 15.0], [4.0, 5.0]]


def test_training_the_rows_leaves_their_source_alone() -> None:
    table = torch.zeros(4, 2)
    frozen, trained = head_of(table, [0, 1]), head_of(table, [0, 1], trainable=True)
    assert not frozen.rows.requires_grad
    assert trained.rows.requires_grad
    with torch.no_grad():
        trained.rows += 1.0
    assert table.sum() == 0


def test_the_hash_is_of_the_values_and_not_of_how_they_lie() -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert LabelHead(rows).sha256 == LabelHead(rows.T.contiguous().T).sha256 == rows_sha256(rows.numpy())
    assert LabelHead(rows).sha256 != LabelHead(rows + 1e-6).sha256
