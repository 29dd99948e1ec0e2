from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qwenops.engines.openvino.stepper import PagedStepper, open_stepper
from qwenops.engines.options import EngineOptions
from qwenops.models.artefact import Artefact
from qwenops.models.qwen_vocabulary import write_tokenizer
from qwenops.models.spec import Scheme

Open = Callable[..., PagedStepper]
EXACT: dict[str, Any] = {
    "prefill_precision": "f32",
    "decode_precision": "f32",
    "kv_precision": "f32",
    "dynamic_quantization": False,
}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true Qwen tokenizer, rebuilt from its public vocabulary."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def stepper_of(tiny_artefact: Callable[[Scheme], Artefact]) -> Open:
    """A function that opens a stepper over the tiny model; equal options give the same one, with nothing in flight."""

    @cache
    def open_cached(scheme: Scheme, given: tuple[tuple[str, Any], ...]) -> PagedStepper:
        defaults = {"context_tokens": 1024, "max_running": 8}
        options = EngineOptions(model_dir=tiny_artefact(scheme).folder, **{**defaults, **dict(given)})
        return open_stepper(options, lambda _progress, _doing: None, environ={})

    def opened(scheme: Scheme = Scheme.F32, **given: Any) -> PagedStepper:
        stepper = open_cached(scheme, tuple(sorted(given.items())))
        for name in tuple(stepper.scheduler.sequences):
            stepper.cancel(name)
        stepper.step()
        return stepper

    return opened
