"""Who turns tokens into tokens or label scores: one protocol (`seam`), one file each, and this table."""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import cast

from qwenops.engines.options import EngineOptions
from qwenops.engines.seam import Engine
from qwenops.errors import ConfigError
from qwenops.text import say

ENGINES: dict[str, str] = {
    "openvino": "qwenops.engines.openvino:open_engine",
    "fake": "qwenops.engines.fake:open_engine",
    "transformers": "qwenops.engines.transformers:open_engine",
    "openai": "qwenops.engines.openai:open_engine",
    "ollama": "qwenops.engines.ollama:open_engine",
}
"""Name to `module:function`; the function takes `EngineOptions` and is awaited for an `Engine`."""

READS_CONVERTED = frozenset({"openvino"})
"""The engines that open a converted model; the others read the checkpoint as it was published."""

OpenEngine = Callable[[EngineOptions], Awaitable[Engine]]


async def open_engine(name: str, options: EngineOptions) -> Engine:
    """Import and start the engine called `name`.

    It returns as soon as the engine exists; loading the model may go on in the background (`info.health.state`).

    Raises:
        ConfigError: There is no engine of that name.
        EngineUnavailableError: What it needs is not installed or not running.
        ModelLoadError: The model's files cannot be used.
    """
    try:
        module, _, function = ENGINES[name].partition(":")
    except KeyError:
        raise ConfigError(
            say("There is no engine called {name!r}.", name=name),
            hint=say("Use one of: {known}.", known=", ".join(sorted(ENGINES))),
        ) from None
    opener = cast("OpenEngine", getattr(import_module(module), function))
    return await opener(options)
