"""What several tests of classification share."""

from pathlib import Path

import pytest

from tests.classify.adapted import Adapted, adapt


@pytest.fixture(scope="session")
def adapted(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    """Return an adapter of the tiny model with a head that classifies; do not write into its folder."""
    return adapt(tiny_checkpoint, tmp_path_factory.mktemp("adapted"))
