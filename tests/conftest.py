"""What all tests share."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from qwenops.models.artefact import Artefact
from qwenops.models.convert import convert
from qwenops.models.random import write_random_checkpoint
from qwenops.models.spec import TINY, Scheme
from tests.required import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 -- hooks of pytest

settings.register_profile("qwenops", deadline=None)  # a busy machine is no failure
settings.load_profile("qwenops")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Qwen3 with random weights and the true tokenizer; do not write into it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_random_checkpoint(folder, TINY)
    return folder


@pytest.fixture(scope="session")
def tiny_artefact(tiny_checkpoint: Path) -> Callable[[Scheme], Artefact]:
    """Return a function that gives the converted tiny model in a scheme; do not write into its folder."""

    @cache
    def artefact(scheme: Scheme) -> Artefact:
        target = tiny_checkpoint.parent / f"tiny-{scheme.value}"
        return convert(tiny_checkpoint, target, scheme, lambda _fraction, _what: None)

    return artefact
