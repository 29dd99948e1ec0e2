import json

import pytest

from qwenops.classify.calibrate import Calibration, Quality, Temperature, VectorScaling
from qwenops.classify.plain import from_plain, to_plain

QUALITY = Quality(ece=0.1, class_wise_ece=0.02, brier=0.3, nll=0.9)


@pytest.mark.parametrize(
    "scaling", [Temperature(value=1 / 3), VectorScaling(scales=(0.1, 1.0), shifts=(0.0, -2.5))], ids=["one", "each"]
)
def test_a_result_comes_back_as_what_it_was(scaling: Temperature | VectorScaling) -> None:
    went = Calibration(scaling=scaling, before=QUALITY, after=None, num_calls=10, seed=1)
    came = from_plain(Calibration, json.loads(json.dumps(to_plain(went))))
    assert came == went
    assert type(came.scaling) is type(scaling)


def test_what_is_no_such_result_is_refused_with_its_field() -> None:
    went = to_plain(Calibration(scaling=Temperature(), before=QUALITY, after=None, num_calls=10, seed=1))
    with pytest.raises(ValueError, match="num_calls"):
        from_plain(Calibration, {**went, "num_calls": "many"})
    with pytest.raises(ValueError, match="magic"):
        from_plain(Calibration, {**went, "scaling": {"kind": "magic"}})
