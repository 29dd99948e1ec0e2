import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qwenops.engines.parity import Parity, compare, hold, write_parity
from qwenops.errors import ConversionError
from qwenops.models.artefact import Artefact, open_artefact
from qwenops.models.spec import TINY, Scheme

NAMES = ("right", "judged")


def constant(*rows: Sequence[float]) -> "LogitsOf":
    return LogitsOf(np.array(rows, dtype=np.float32))


class LogitsOf:
    """Gives the same logits whatever it reads."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows = rows

    def __call__(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        assert len(token_ids) == len(self.rows)
        return self.rows


def test_equal_logits_have_no_error_and_agree_everywhere() -> None:
    rng = np.random.default_rng(0)
    same = LogitsOf(rng.normal(size=(70, 50)).astype(np.float32))
    found = compare(same, same, [range(70), range(70)], names=NAMES)
    assert (found.num_sequences, found.num_positions) == (2, 140)
    assert (found.relative_error, found.top1_agreement, found.kl_mean, found.kl_max) == (0, 1, 0, 0)


def test_the_numbers_are_those_of_the_definitions() -> None:
    half = constant([0.0, math.log(3.0)], [5.0, 0.0])
    other = constant([0.0, 0.0], [5.0, 0.0])
    found = compare(half, other, [[1, 2]], names=NAMES)
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert found.kl_max == pytest.approx(divergence, rel=1e-6)
    assert found.kl_mean == pytest.approx(divergence / 2, rel=1e-6)
    assert found.relative_error == pytest.approx(math.log(3) / math.sqrt(math.log(3) ** 2 + 25), rel=1e-6)
    assert found.top1_agreement == 0.5  # of two equal logits the first counts


def test_a_tie_of_the_reference_counts_as_agreed_and_is_counted_apart() -> None:
    found = compare(constant([10.0, 9.999]), constant([9.0, 10.0]), [[1]], names=NAMES)
    assert (found.num_ties, found.top1_agreement) == (1, 1.0)


@pytest.mark.parametrize("judged", [constant([1.0, 2.0, 3.0]), constant([math.nan, 1.0])])
def test_logits_of_another_shape_or_none_at_all_are_refused(judged: LogitsOf) -> None:
    with pytest.raises(ConversionError, match="judged"):
        compare(constant([1.0, 2.0]), judged, [[1]], names=NAMES)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ConversionError, match="no text"):
        compare(constant([1.0, 2.0]), constant([1.0, 2.0]), [], names=NAMES)


def test_a_floor_is_held() -> None:
    found = compare(constant([0.0, 1.0], [1.0, 0.0]), constant([1.0, 0.0], [1.0, 0.0]), [[1, 2]], names=NAMES)
    hold(found, top1_agreement=0.5, relative_error=1.1)
    with pytest.raises(ConversionError, match=r"50\.00% of 2 positions; at least 98%"):
        hold(found, top1_agreement=0.98)
    with pytest.raises(ConversionError, match=r"differ from right by 1\.00e\+00; at most 1\.00e-03"):
        hold(found, relative_error=1e-3)


def test_results_stay_in_the_artefacts_manifest(tmp_path: Path) -> None:
    manifest = {"format": 1, "scheme": "int8", "source": {"sha256": "x"}, "files": {}, "tensors": []}
    artefact = Artefact(folder=tmp_path, spec=TINY, scheme=Scheme.INT8, sha256="x", manifest=manifest)
    found = compare(constant([1.0, 2.0]), constant([1.0, 2.0]), [[1]], names=NAMES)
    write_parity(write_parity(artefact, {"weights": found}), {"kv u8": found})
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_config()))
    parity = open_artefact(tmp_path).manifest["parity"]
    assert Parity(**parity["weights"]) == Parity(**parity["kv u8"]) == found
