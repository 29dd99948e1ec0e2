"""What the tests of the classifier's engine share."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from qwenops.models.prefill import Prefill, PrefillScheme
from tests.models.prefilled import PREFIX, made

MODELS = Callable[..., Prefill]


@pytest.fixture(scope="session")
def models(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> MODELS:
    """Return a function that gives the tiny model in a scheme, with or without a prefix; do not write into it."""
    folder = tmp_path_factory.mktemp("classifiers")

    @cache
    def model(scheme: PrefillScheme, *, prefixed: bool = False) -> Prefill:
        name = f"{scheme.value}-{prefixed}"
        return made(tiny_checkpoint, folder / name, scheme, prefix=PREFIX if prefixed else ())

    return model
