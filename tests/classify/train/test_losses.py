import math

import numpy as np
import pytest

from qwenops.classify.train.losses import adjustment, class_counts, losses, weights_of_classes
from qwenops.classify.train.options import ClassWeights

COUNTS = np.array([90.0, 9.0, 1.0, 0.0])


def test_calls_count_as_far_as_they_are_trusted() -> None:
    labels = np.array([0, 0, 2], dtype=np.int64)
    found = class_counts(labels, np.array([1.0, 0.5, 0.25], dtype=np.float32), 4)
    assert found.tolist() == [1.5, 0.0, 0.25, 0.0]


def test_the_adjustment_is_the_logarithm_of_the_share_and_finite_for_a_class_without_calls() -> None:
    found = adjustment(COUNTS, 1.0)
    assert found.tolist() == pytest.approx([math.log(each / 104) for each in (91, 10, 2, 1)], rel=1e-6)
    assert adjustment(COUNTS, 0.0).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["none", "balanced", "effective"])
def test_calls_weigh_1_on_average_and_rare_ones_never_less(kind: ClassWeights) -> None:
    found = weights_of_classes(COUNTS, kind)
    assert (found * COUNTS).sum() / COUNTS.sum() == pytest.approx(1.0, rel=1e-5)
    assert found[0] <= found[1] <= found[2]
    assert found[3] == 1.0


def test_balanced_classes_weigh_the_same_together() -> None:
    found = weights_of_classes(COUNTS, "balanced") * COUNTS
    assert found[:3].tolist() == pytest.approx([found[0]] * 3, rel=1e-5)


@pytest.mark.reference
def test_the_loss_is_the_cross_entropy_of_adjusted_logits_against_smoothed_labels() -> None:
    torch = pytest.importorskip("torch", reason="losses are torch's, which comes with the train extra")
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    added = torch.tensor([0.1, -0.2, -1.0])
    found = losses(logits, torch.tensor([1, 2]), added, 0.1)
    logs = (logits + added).double().log_softmax(dim=1)
    wanted = [-(0.9 * logs[row, label] + 0.1 * logs[row].mean()) for row, label in ((0, 1), (1, 2))]
    assert found.tolist() == pytest.approx([float(each) for each in wanted], rel=1e-5)


@pytest.mark.reference
def test_with_the_adjustment_the_best_constant_logits_do_not_know_how_frequent_classes_are() -> None:
    torch = pytest.importorskip("torch", reason="losses are torch's, which comes with the train extra")
    labels = torch.tensor([0] * 90 + [1] * 10)
    added = torch.from_numpy(adjustment(np.array([90.0, 10.0]), 1.0))
    logits = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=50)

    def closure() -> float:
        optimiser.zero_grad()
        loss = losses(logits.expand(100, 2), labels, added, 0.0).mean()
        torch.autograd.backward([loss])
        return float(loss.detach())

    optimiser.step(closure)
    assert float(logits.detach().diff()) == pytest.approx(0.0, abs=0.12)
