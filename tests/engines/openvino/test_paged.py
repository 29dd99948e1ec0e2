from collections.abc import Callable
from pathlib import Path

import pytest

from qwenops.engines.openvino.paged import read_paged_model
from qwenops.errors import ModelLoadError
from qwenops.models.artefact import Artefact
from qwenops.models.spec import Scheme


@pytest.mark.slow
def test_a_damaged_graph_is_refused_with_its_path(tmp_path: Path, tiny_artefact: Callable[[Scheme], Artefact]) -> None:
    whole = tiny_artefact(Scheme.F32).model_xml
    cut = tmp_path / "openvino_model.xml"
    cut.write_bytes(whole.read_bytes()[:2000])
    cut.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"openvino_model\.xml"):
        read_paged_model(cut)
