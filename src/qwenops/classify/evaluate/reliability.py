"""Whether probabilities mean what they say: of the calls at 80 %, are 80 in 100 right?

Bins hold equally many calls, since the probabilities of a trained model crowd near 1; calls of equal confidence are
never in different bins, so the order of the data does not matter. Few calls look badly calibrated by chance alone,
so what a perfectly calibrated classifier would show on the same probabilities is simulated and stands beside it.
"""

import numpy as np

from qwenops.classify.answers import Answers, Flags
from qwenops.classify.evaluate.evaluation import SURE, Bin, Estimate, Reliability
from qwenops.statistics.clusters import Codes, share_interval
from qwenops.statistics.samples import Array, quantile

BINS = 15
FLOOR = 1e-12
"""A true class of probability 0 counts as this, so that one such call does not make a mean infinite."""
_SIMULATED = 400


def reliability(answers: Answers, *, seed: int) -> Reliability:
    """Return how well the probabilities of some answers are calibrated."""
    confidence, right = answers.confidence, answers.right
    bins = equal_mass_bins(confidence)
    chance = _by_chance(confidence, bins, seed)
    return Reliability(
        ece=calibration_error(confidence, right),
        ece_if_calibrated=float(chance.mean()),
        ece_if_calibrated_high=quantile(chance, SURE),
        class_wise_ece=class_wise_error(answers),
        brier=brier(answers),
        nll=nll(answers),
        bins=tuple(_bin(answers, np.flatnonzero(bins == each)) for each in np.unique(bins)),
    )


def equal_mass_bins(values: Array, num: int = BINS) -> Codes:
    """Return the bin of each value: equally many in each, as far as equal values, which stay together, allow."""
    ordered = np.sort(values)
    cuts = np.unique(ordered[[each * ordered.size // num for each in range(1, num)]])
    return np.searchsorted(cuts, values, side="right").astype(np.int64)


def calibration_error(probabilities: Array, happened: Flags) -> float:
    """Return the expected calibration error of the probabilities of something that happened or did not."""
    return _gap(probabilities, happened, equal_mass_bins(probabilities))


def class_wise_error(answers: Answers) -> float:
    """Return the mean calibration error over all classes."""
    errors = [
        calibration_error(answers.probabilities[:, each], answers.truth == each) for each in range(len(answers.classes))
    ]
    return float(np.mean(errors))


def brier(answers: Answers) -> float:
    """Return the mean squared difference of the probabilities from what is true, summed over classes."""
    squares = (answers.probabilities**2).sum(axis=1) - 2 * _of_truth(answers) + 1
    return float(squares.mean())


def nll(answers: Answers) -> float:
    """Return the mean negative logarithm of the true class's probability."""
    return float(-np.log(np.maximum(_of_truth(answers), FLOOR)).mean())


def _of_truth(answers: Answers) -> Array:
    return answers.probabilities[np.arange(answers.num_calls), answers.truth]


def _gap(probabilities: Array, happened: Flags, bins: Codes) -> float:
    """Return how far sums of probabilities are from what happened, bin by bin, for each call."""
    return float(np.abs(np.bincount(bins, weights=happened - probabilities)).sum()) / probabilities.size


def _by_chance(confidence: Array, bins: Codes, seed: int) -> Array:
    """Return calibration errors of a classifier that is right exactly as often as it says."""
    rng = np.random.default_rng(seed)
    return np.array([_gap(confidence, rng.random(confidence.size) < confidence, bins) for _ in range(_SIMULATED)])


def _bin(answers: Answers, rows: Codes) -> Bin:
    inside = answers.at(rows)
    hits = int(inside.right.sum())
    found = share_interval(hits, np.bincount(inside.groups))
    return Bin(
        confidence=float(inside.confidence.mean()),
        accuracy=Estimate(
            value=hits / inside.num_calls, low=found.low if found else None, high=found.high if found else None
        ),
        num_calls=inside.num_calls,
    )
