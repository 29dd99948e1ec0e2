"""What the tests of the engines share."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from qwenops.models.artefact import Artefact
from qwenops.models.convert import convert
from qwenops.models.spec import Scheme
from tests.engines.trained import trained_folder


@pytest.fixture(scope="session")
def trained_checkpoint() -> Path:
    """Return the folder of a tiny Qwen3 that was trained; do not write into it.

    Training takes a minute, once: the result is kept in the user's cache folder until the training's code changes.
    """
    pytest.importorskip("torch", reason="training the test model needs the train extra")
    return trained_folder()


@pytest.fixture(scope="session")
def trained_artefact(
    trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Scheme], Artefact]:
    """Return a function that gives the trained model converted to a scheme."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def artefact(scheme: Scheme) -> Artefact:
        return convert(trained_checkpoint, folder / scheme.value, scheme, lambda _fraction, _what: None)

    return artefact
